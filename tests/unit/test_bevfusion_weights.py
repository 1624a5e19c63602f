"""Backbones of BEVFusion checkpoints: names, turned kernels, and a report of what became of every tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from perception_core.bundle_writer import create_seeded_model
from perception_core.configuration import ConfigurationError
from perception_core.models.fuller import FullerModel, fuller_configuration
from training.mmdet3d_extension.bevfusion_configuration import fuller_arguments
from training.mmdet3d_extension.bevfusion_weights import (
    bev_kernel,
    first_layer,
    load_backbone_state,
    load_bevfusion_backbones,
    merging,
    sparse_kernel,
)

ARGUMENTS: dict[str, Any] = {
    "grid": {"x_min": -25.6, "x_max": 25.6, "y_min": -25.6, "y_max": 25.6, "cell_size": 3.2},
    "modalities": ("lidar",),
    "lidar": {"kind": "voxels", "stage_channels": (4, 6, 8, 10), "bev_channels": 16},
    "fuser": {
        "kind": "second",
        "fused_channels": 8,
        "layer_channels": (8, 12),
        "layer_blocks": (1, 1),
        "out_channels": 16,
    },
    "detection": {"queries": 8},
}


def network() -> FullerModel:
    built = create_seeded_model("fuller_base", 0, **ARGUMENTS)
    assert isinstance(built, FullerModel)
    return built


def bevfusion_state(order: str = "xyz") -> dict[str, torch.Tensor]:
    """What mmdet3d's encoder and backbone of these channels would save."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    state: dict[str, torch.Tensor] = {}

    def norm(name: str, channels: int) -> None:
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{tensor}"] = random(channels).abs()
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    channels = ARGUMENTS["lidar"]["stage_channels"]
    encoder = "pts_middle_encoder"
    state[f"{encoder}.conv_input.0.weight"] = random(channels[0], 3, 3, 3, 5)
    norm(f"{encoder}.conv_input.1", channels[0])
    for stage, width in enumerate(channels):
        for block in range(2):
            where = f"{encoder}.encoder_layers.encoder_layer{stage + 1}.{block}"
            for half in (1, 2):
                state[f"{where}.conv{half}.weight"] = random(width, 3, 3, 3, width)
                norm(f"{where}.bn{half}", width)
        if stage < 3:
            where = f"{encoder}.encoder_layers.encoder_layer{stage + 1}.2"
            state[f"{where}.0.weight"] = random(channels[stage + 1], 3, 3, 3, width)
            norm(f"{where}.1", channels[stage + 1])
    last = (1, 1, 3) if order == "xyz" else (3, 1, 1)
    state[f"{encoder}.conv_out.0.weight"] = random(8, *last, channels[-1])
    norm(f"{encoder}.conv_out.1", 8)
    width = 8
    for layer, wider in enumerate((8, 12)):
        for place in range(2):
            state[f"pts_backbone.blocks.{layer}.{3 * place}.weight"] = random(wider, width, 3, 3)
            norm(f"pts_backbone.blocks.{layer}.{3 * place + 1}", wider)
            width = wider
    state["pts_neck.deblocks.0.0.weight"] = random(8, 8, 1, 1)
    norm("pts_neck.deblocks.0.1", 8)
    state["pts_neck.deblocks.1.0.weight"] = random(12, 8, 2, 2)
    norm("pts_neck.deblocks.1.1", 8)
    state["bbox_head.shared_conv.weight"] = random(4, 16, 3, 3)
    return state


def backbones(model: FullerModel) -> set[str]:
    prefixes = ("lidar_net.backbone.", "bev_fuser.encoder.")
    return {
        name
        for name in model.state_dict()
        if name.startswith(prefixes) and not name.endswith("num_batches_tracked")
    }


def test_every_tensor_of_the_backbones_is_loaded_and_nothing_else() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_backbone_state(model, bevfusion_state(), "test")
    assert set(report.loaded) == backbones(model)
    assert report.missing == ()
    assert report.mismatched == {}
    assert report.unexpected == ("bbox_head.shared_conv.weight",)
    assert "bbox_head (1)" in report.summary()
    after = model.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == (name not in report.loaded), name
    state = bevfusion_state()
    for own, theirs in (
        ("lidar_net.backbone.stages.4.second.normalization.running_var", "encoder_layer2.1.bn2.running_var"),
        ("lidar_net.backbone.stages.2.normalization.bias", "encoder_layer1.2.1.bias"),
    ):
        assert torch.equal(after[own], state[f"pts_middle_encoder.encoder_layers.{theirs}"])


def test_the_authors_names_and_spconv_1_s_layout_give_the_same() -> None:
    state = bevfusion_state()
    renamed = {}
    for name, value in state.items():
        theirs = name.replace("pts_middle_encoder.", "encoders.lidar.backbone.")
        theirs = theirs.replace("pts_backbone.", "decoder.backbone.").replace("pts_neck.", "decoder.neck.")
        renamed[theirs] = value.permute(1, 2, 3, 4, 0) if value.ndim == 5 else value
    first, second = network(), network()
    load_backbone_state(first, state, "test")
    load_backbone_state(second, renamed, "test")
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_what_is_missing_or_does_not_fit_is_named_and_kept() -> None:
    model, state = network(), bevfusion_state()
    before = model.lidar_net.backbone.stem.normalization.bias.detach().clone()
    kept = model.bev_fuser.encoder.coarse[0].convolution.weight.detach().clone()
    del state["pts_middle_encoder.conv_input.1.bias"]
    state["pts_backbone.blocks.1.0.weight"] = torch.zeros(12, 9, 3, 3)
    report = load_backbone_state(model, state, "test")
    assert report.missing == ("lidar_net.backbone.stem.normalization.bias",)
    assert set(report.mismatched) == {"bev_fuser.encoder.coarse.0.convolution.weight"}
    assert "(12, 9, 3, 3)" in report.mismatched["bev_fuser.encoder.coarse.0.convolution.weight"]
    assert torch.equal(model.lidar_net.backbone.stem.normalization.bias, before)
    assert torch.equal(model.bev_fuser.encoder.coarse[0].convolution.weight, kept)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="it holds layer1"):
        load_backbone_state(network(), {"layer1.weight": torch.zeros(3)}, "resnet.pth")
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_bevfusion_backbones(network(), damaged)
    with pytest.raises(ConfigurationError, match="no such checkpoint"):
        load_bevfusion_backbones(network(), tmp_path / "none.pth")
    torch.save({"state_dict": bevfusion_state()}, tmp_path / "good.pth")
    assert load_bevfusion_backbones(network(), tmp_path / "good.pth").missing == ()


def to_ego(volume_bcxyz: torch.Tensor) -> torch.Tensor:
    """Cells of the LiDAR frame (x right, y ahead, z up) as cells of the ego frame, ordered z, y, x."""
    # Ego x = LiDAR y; ego y = -LiDAR x.
    return volume_bcxyz.flip(2).permute(0, 1, 4, 2, 3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.sampled_from(["xyz", "zyx"]))
def test_a_turned_kernel_sees_the_turned_world_the_same(seed: int, order: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    volume_bcxyz = torch.randn((1, 2, 5, 6, 7), generator=generator)
    kernel_oixyz = torch.randn((4, 2, 3, 3, 3), generator=generator)
    expected = to_ego(functional.conv3d(volume_bcxyz, kernel_oixyz, padding=1))
    stored = kernel_oixyz if order == "xyz" else kernel_oixyz.permute(0, 1, 4, 3, 2)
    turned = sparse_kernel(stored.permute(0, 2, 3, 4, 1), order).permute(0, 4, 1, 2, 3)
    assert torch.allclose(functional.conv3d(to_ego(volume_bcxyz), turned, padding=1), expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_turned_kernel_on_the_bev_sees_the_turned_world_the_same(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    plane_bcxy = torch.randn((1, 2, 8, 6), generator=generator)
    kernel = torch.randn((3, 2, 3, 3), generator=generator)
    expected = functional.conv2d(plane_bcxy, kernel, padding=1).flip(2)
    found = functional.conv2d(plane_bcxy.flip(2), bev_kernel(kernel, "xyz"), padding=1)
    assert torch.allclose(found, expected, atol=1e-5)
    coarse = torch.randn((2, 3, 2, 2), generator=generator)
    expected = functional.conv_transpose2d(plane_bcxy, coarse, stride=2).flip(2)
    found = functional.conv_transpose2d(plane_bcxy.flip(2), bev_kernel(coarse, "xyz"), stride=2)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(bev_kernel(kernel.transpose(-1, -2), "zyx"), bev_kernel(kernel, "xyz"))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_first_layer_says_the_same_of_our_channels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn((4, 1, 1, 1, 5), generator=generator)
    theirs = torch.tensor([3.0, -7.0, 1.0, 120.0, 0.45])  # right, ahead, up, 0..255, age
    ours = torch.tensor([-7.0, -3.0, 1.0, 120.0 / 255.0, -0.45])  # ahead, left, up, 0..1, time
    scale = (0.02, 0.02, 0.2, 1.0, 2.0)
    found = first_layer(kernel, scale).flatten(1) @ (ours * torch.tensor(scale))
    assert torch.allclose(found, kernel.flatten(1) @ theirs, rtol=1e-4, atol=1e-3)


def test_merged_patches_are_permuted() -> None:
    """Against both ways of merging a 2 x 2 patch, written out."""
    patch_hwc = torch.arange(8.0).reshape(2, 2, 2)
    unfolded = patch_hwc.permute(2, 0, 1).reshape(-1)  # mmdet: channel, row, column
    ours = torch.cat((patch_hwc[0, 0], patch_hwc[1, 0], patch_hwc[0, 1], patch_hwc[1, 1]))  # torchvision
    assert torch.equal(merging(unfolded), ours)


CONFIG: dict[str, Any] = {
    "voxel_size": [0.075, 0.075, 0.2],
    "point_cloud_range": [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0],
    "class_names": ["car", "pedestrian", "traffic_cone"],
    "model": {
        "img_backbone": {"type": "mmdet.SwinTransformer"},
        "view_transform": {
            "image_size": [256, 704],
            "dbound": [1.0, 60.0, 0.5],
            "out_channels": 80,
            "downsample": 2,
        },
        "pts_middle_encoder": {"encoder_channels": ((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128))},
        "bbox_head": {"num_proposals": 200, "hidden_channel": 128},
    },
}


def test_a_config_of_bevfusion_is_read() -> None:
    arguments = fuller_arguments(CONFIG)
    config = fuller_configuration("fuller_full", **arguments)
    assert config.grid.cell_size == pytest.approx(0.6)
    assert (config.grid.rows, config.grid.columns) == (180, 180)
    assert config.z_range == (-3.2, 4.8)
    assert config.lidar.stage_channels == (16, 32, 64, 128)
    assert config.camera.depth_bins == 118
    assert config.camera.depth_max == pytest.approx(59.5)
    assert config.detection.classes == ("car", "pedestrian", "traffic_cone")
    lidar_only = {**CONFIG, "model": {"pts_middle_encoder": {}}}
    assert fuller_arguments(lidar_only)["modalities"] == ("lidar",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"point_cloud_range": [0, 1]}, "point_cloud_range should be 6 numbers"),
        ({"voxel_size": [0.1, 0.2, 0.2]}, "ours are square"),
        ({"class_names": []}, "class_names should list"),
        ({"model": {}}, "neither pts_middle_encoder nor img_backbone"),
        ({"model": {"img_backbone": {"type": "mmdet.ResNet"}}}, "is ResNet; ours"),
        ({"model": {"img_backbone": {"type": "SwinTransformer"}}}, "no view_transform"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fuller_arguments({**CONFIG, **change}, "bevfusion.py")
