"""What a monocular bundle takes of a sample: one camera's view, as `sensor_fusion` would hand it over."""

from __future__ import annotations

import numpy as np
import torch

from perception_core.bundle import MonoInput
from training.datasets.sample import Sample
from training.evaluation.result import EvaluationError


def mono_view(sample: Sample, mono: MonoInput) -> int | None:
    """Returns the index of the camera a monocular model takes, None where the sample does not have it.

    A data set with one camera calls it what it likes: that one is taken.
    """
    if sample.cameras is None:
        return None
    if mono.camera in sample.cameras.names:
        return sample.cameras.names.index(mono.camera)
    return 0 if len(sample.cameras) == 1 else None


def mono_tensors(sample: Sample, mono: MonoInput) -> dict[str, torch.Tensor]:
    """Returns the tensors of `perception_core.bundle.MONO_TENSORS`, masked where the camera is not there.

    Raises:
        EvaluationError: The sample's images have another size than the model takes.
    """
    view = mono_view(sample, mono)
    if view is None or sample.cameras is None:
        return {
            "mono_image_hwc": torch.zeros((mono.height, mono.width, 3), dtype=torch.uint8),
            "mono_valid": torch.zeros(1, dtype=torch.bool),
            "mono_intrinsics_33": torch.eye(3),
            "mono_camera_from_ego_44": torch.eye(4),
        }
    cameras = sample.cameras
    image_hwc = cameras.images_vhwc[view]
    if image_hwc.shape[:2] != (mono.height, mono.width):
        raise EvaluationError(
            f"sample {sample.provenance.token} has images of {image_hwc.shape[0]} x {image_hwc.shape[1]}, "
            f"the monocular model takes {mono.height} x {mono.width}; a bundle of a BEV and a monocular "
            "model cannot be evaluated in one pass: evaluate the two it was combined of"
        )
    return {
        "mono_image_hwc": torch.from_numpy(np.ascontiguousarray(image_hwc)),
        "mono_valid": torch.tensor([bool(cameras.valid_v[view])]),
        "mono_intrinsics_33": torch.from_numpy(cameras.intrinsics_v33[view].astype(np.float32)),
        "mono_camera_from_ego_44": torch.from_numpy(cameras.camera_from_ego_v44[view].astype(np.float32)),
    }
