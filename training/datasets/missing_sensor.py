"""A data set as if a sensor had failed: what a network does without cameras or LiDAR (FULLER, Fig. 7)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from training.datasets.dataset import SampleDataset
from training.datasets.sample import Sample

Sensor = Literal["camera", "lidar"]


def without_sensor(sample: Sample, sensor: Sensor) -> Sample:
    """Returns a sample as `sensor_fusion` would hand it over without a sensor; labels stay.

    Args:
        sample: The sample.
        sensor: `camera`: every image masked and black; `lidar`: no points.
    """
    if sensor == "lidar":
        return dataclasses.replace(sample, points_nc=np.zeros((0, 5), dtype=np.float32), lidar_valid=False)
    if sample.cameras is None:
        return sample
    cameras = dataclasses.replace(
        sample.cameras,
        images_vhwc=np.zeros_like(sample.cameras.images_vhwc),
        valid_v=np.zeros_like(sample.cameras.valid_v),
    )
    return dataclasses.replace(sample, cameras=cameras)


class MissingSensor(SampleDataset):
    """A data set of which every sample lacks one sensor."""

    def __init__(self, dataset: SampleDataset, sensor: Sensor) -> None:
        """Wraps a data set."""
        self.dataset, self.sensor, self.name = dataset, sensor, dataset.name

    def __len__(self) -> int:
        return len(self.dataset)

    def labels_of(self, index: int) -> frozenset[str]:
        """Those of the data set."""
        return self.dataset.labels_of(index)

    def token(self, index: int) -> str:
        """Returns the data set's token."""
        return self.dataset.token(index)

    def __getitem__(self, index: int) -> Sample:
        return without_sensor(self.dataset[index], self.sensor)
