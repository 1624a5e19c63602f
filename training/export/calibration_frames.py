"""Frames on which variants are calibrated and compared: of a data set, or generated ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from perception_core.backends.example_inputs import example_frame
from perception_core.bundle import Bundle
from perception_core.configuration import ConfigurationError
from training.datasets.dataset import SampleDataset
from training.evaluation.bundle_evaluation import DataChoice, open_for_bundle
from training.evaluation.mono_frame import mono_tensors

Frame = dict[str, torch.Tensor]

_EXAMPLE_CAMERAS = 6


@dataclass(frozen=True)
class FrameChoice:
    """Which frames.

    Attributes:
        data: Data set; None: generated example frames, whose images are noise.
        calibration: Number of frames that integers are calibrated on.
        comparison: Number of other frames that errors are measured on.
    """

    data: DataChoice | None = None
    calibration: int = 32
    comparison: int = 4


class CalibrationFrames:
    """The chosen frames, read one at a time.

    Attributes:
        description: What they are, for the bundle.
    """

    def __init__(self, bundle: Bundle, choice: FrameChoice) -> None:
        """Opens the data set, if one is named.

        Raises:
            ConfigurationError: It has too few samples.
            DataError, EvaluationError: It cannot be opened.
        """
        if choice.calibration < 1 or choice.comparison < 1:
            raise ConfigurationError(
                "a variant needs at least one frame to be calibrated on and one to compare"
            )
        self._bundle, self._choice = bundle, choice
        self._dataset: SampleDataset | None = None
        count = choice.calibration + choice.comparison
        if choice.data is None:
            self.description = f"{choice.calibration} generated example frames"
            self._indices = list(range(count))
        else:
            self._dataset = open_for_bundle(bundle, (), choice.data)
            samples = len(self._dataset)
            if samples < 2:
                raise ConfigurationError(
                    f"{choice.data.root}: {samples} samples are too few; some calibrate, others compare"
                )
            count = min(count, samples)
            # Evenly over the data: neighbours in time show nearly the same.
            self._indices = [round(number * (samples - 1) / (count - 1)) for number in range(count)]
            calibrated = len(self._indices) - len(self._compared())
            split = f", split {choice.data.split}" if choice.data.is_nuscenes else ""
            self.description = f"{calibrated} frames of {choice.data.root.name}{split}"

    def _compared(self) -> set[int]:
        """Places, among the chosen frames, of those that are compared: spread evenly."""
        count = len(self._indices)
        compared = min(self._choice.comparison, max(count // 2, 1))
        return {round((number + 0.5) * count / compared) % count for number in range(compared)}

    def calibration(self) -> Iterator[Frame]:
        """The frames to calibrate on."""
        compared = self._compared()
        return (self._frame(index) for place, index in enumerate(self._indices) if place not in compared)

    def comparison(self) -> Iterator[Frame]:
        """The other frames."""
        compared = self._compared()
        return (self._frame(index) for place, index in enumerate(self._indices) if place in compared)

    def _frame(self, index: int) -> Frame:
        needs = self._bundle.spec.input
        if self._dataset is None:
            # Clouds of different size, as on the road, no two alike; the same frames in every run.
            most = needs.max_points or 40_000
            points = most // 4 + (index * 7919) % (most - most // 4)
            return example_frame(needs, _EXAMPLE_CAMERAS, points)
        sample = self._dataset[index]
        frame = dict(sample.frame())
        if needs.mono is not None:
            frame |= mono_tensors(sample, needs.mono)
        return frame
