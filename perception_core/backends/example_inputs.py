"""Tensors of the right types for a component: to warm it up, to trace it, to count its operations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from perception_core.bundle import SENSOR_TENSORS, BundleInput, ComponentSpec, MonoInput, TensorSpec


def example_frame(
    bundle_input: BundleInput, cameras: int = 6, points: int = 30_000
) -> dict[str, torch.Tensor]:
    """Returns the frame tensors of a level street: cameras evenly around the vehicle and points around it.

    The same in every run.

    Args:
        bundle_input: What the model needs; gives the image size.
        cameras: Number V of cameras.
        points: Number N of points.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = (bundle_input.image.height, bundle_input.image.width) if bundle_input.image else (1, 1)
    azimuth_n = torch.rand(points, generator=generator) * 2 * math.pi
    range_n = (
        2.0 + 48.0 * torch.rand(points, generator=generator) ** 2
    )  # denser near the vehicle, as a sweep is
    points_nc = torch.stack(
        (
            range_n * azimuth_n.cos(),
            range_n * azimuth_n.sin(),
            2.0 * torch.rand(points, generator=generator),
            torch.rand(points, generator=generator),
            0.05 * torch.rand(points, generator=generator),
        ),
        dim=1,
    )
    focal = 0.8 * width
    intrinsics_33 = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    camera_from_ego_v44 = torch.eye(4).repeat(cameras, 1, 1)
    for view in range(cameras):
        cosine, sine = math.cos(2 * math.pi * view / cameras), math.sin(2 * math.pi * view / cameras)
        # Rows: the camera's right, down and forward axes in the ego frame.
        rotation_33 = torch.tensor([[sine, -cosine, 0.0], [0.0, 0.0, -1.0], [cosine, sine, 0.0]])
        camera_from_ego_v44[view, :3, :3] = rotation_33
        camera_from_ego_v44[view, :3, 3] = -rotation_33 @ torch.tensor([cosine, sine, 1.6])
    frame = {
        "points_nc": points_nc,
        "lidar_valid": torch.ones(1, dtype=torch.bool),
        "images_vhwc": torch.randint(
            0, 256, (cameras, height, width, 3), dtype=torch.uint8, generator=generator
        ),
        "camera_valid_v": torch.ones(cameras, dtype=torch.bool),
        "intrinsics_v33": intrinsics_33.repeat(cameras, 1, 1),
        "camera_from_ego_v44": camera_from_ego_v44,
        "ego_motion_c": torch.tensor([8.0, 0.02, 1.0]),
    }
    if bundle_input.mono is not None:
        frame |= _example_mono(bundle_input.mono)
    return frame


def _example_mono(mono: MonoInput) -> dict[str, torch.Tensor]:
    """The tensors of one camera that looks ahead from 1.6 m above the road."""
    generator = torch.Generator().manual_seed(1)
    focal = 0.8 * mono.width
    size = (mono.height, mono.width, 3)
    return {
        "mono_image_hwc": torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),
        "mono_valid": torch.ones(1, dtype=torch.bool),
        "mono_intrinsics_33": torch.tensor(
            [[focal, 0.0, mono.width / 2], [0.0, focal, mono.height / 2], [0.0, 0.0, 1.0]]
        ),
        "mono_camera_from_ego_44": torch.tensor(
            [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 1.6], [1.0, 0.0, 0.0, -1.5], [0.0, 0.0, 0.0, 1.0]]
        ),
    }


def example_inputs(
    bundle_input: BundleInput, tensors: Mapping[str, TensorSpec], component: ComponentSpec, cameras: int = 6
) -> dict[str, torch.Tensor]:
    """Returns example inputs of one component.

    Args:
        bundle_input: What the model needs of a rig.
        tensors: Types of the tensors that components output.
        component: The component.
        cameras: Number V of cameras.
    """
    frame = example_frame(bundle_input, cameras)
    generator = torch.Generator().manual_seed(0)
    inputs = {}
    for name in component.inputs:
        if name in SENSOR_TENSORS:
            inputs[name] = frame[name]
            continue
        shape = [size if isinstance(size, int) else 1 for size in tensors[name].shape]
        inputs[name] = torch.randn(shape, generator=generator).to(getattr(torch, tensors[name].dtype))
    return inputs
