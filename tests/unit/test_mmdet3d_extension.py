"""FULLER inside mmdet3d, trained by mmengine's own Runner; skipped where mmdet3d is not installed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fuller_training_fixtures import SMALL, write_driving_set

from perception_core.configuration import ConfigurationError
from training.mmdet3d_extension.requirements import mmdet3d_available

AVAILABLE, WHY = mmdet3d_available()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not AVAILABLE, reason=WHY)]

CONFIG = """
custom_imports = dict(imports=["training.mmdet3d_extension.registration"], allow_failed_imports=False)
default_scope = "mmdet3d"
size, arguments = "fuller_micro", {arguments}
model = dict(type="FullerDetector3D", size=size, arguments=arguments, seed=3)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="fuller_collate"),
    dataset=dict(type="FullerDrivingSet", root={root!r}, size=size, arguments=arguments),
)
train_cfg = dict(by_epoch=False, max_iters=2)
log_processor = dict(by_epoch=False)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=35, norm_type=2),
)
custom_hooks = [dict(type="GradientCalibrationHook", inter=dict(method="imtl_g"))]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1),
    checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=False),
)
work_dir = {work!r}
"""


def small_arguments() -> dict[str, Any]:
    """The smallest network's settings as arguments, from those of recipes."""
    import yaml

    arguments: dict[str, Any] = {}
    for setting in SMALL:
        key, _, value = setting.partition("=")
        if key.startswith("network."):
            *groups, last = key.removeprefix("network.").split(".")
            target = arguments
            for group in groups:
                target = target.setdefault(group, {})
            target[last] = yaml.safe_load(value)
    return arguments


def runner(tmp_path: Path) -> Any:
    from training.mmdet3d_extension.requirements import import_mmdet3d

    import_mmdet3d()
    from mmengine.config import Config
    from mmengine.runner import Runner

    root = write_driving_set(tmp_path / "set")
    file = tmp_path / "config.py"
    file.write_text(
        CONFIG.format(arguments=repr(small_arguments()), root=str(root), work=str(tmp_path / "work"))
    )
    return Runner.from_cfg(Config.fromfile(file))


def test_the_runner_trains_two_calibrated_steps(tmp_path: Path) -> None:
    trained = runner(tmp_path)
    before = {name: value.clone() for name, value in trained.model.named_parameters()}
    trained.train()
    assert trained.iter == 2
    moved = [name for name, value in trained.model.named_parameters() if not torch.equal(before[name], value)]
    for component in ("lidar_net", "camera_net", "bev_fuser", "detection3d_head", "map_segmentation_head"):
        assert any(name.startswith(f"network.{component}.") for name in moved), component
    record = trained.model.record
    assert set(record.weights) == {"detection3d", "map_segmentation"}
    assert all(math.isfinite(value) for value in record.scalars().values())
    assert set(record.gates) == {"lidar", "camera"}
    logged = trained.message_hub.log_scalars
    assert any(name.startswith("train/calibration/") for name in logged)
    assert math.isfinite(logged["train/loss_detection3d"].current())
    checkpoint = torch.load(tmp_path / "work" / "iter_2.pth", weights_only=False)
    assert checkpoint["gradient_calibration"]["method"] == "imtl_g"
    assert set(checkpoint["state_dict"]) == set(trained.model.state_dict())
    # What was trained predicts, through mmengine's own step.
    batch = next(iter(trained.train_dataloader))
    trained.model.eval()
    with torch.no_grad():
        predictions = trained.model.val_step(batch)
    assert len(predictions) == 2
    assert predictions[0].pred_instances_3d.bboxes_3d.tensor.shape == (16, 9)


def test_heads_are_built_from_the_registry() -> None:
    from training.mmdet3d_extension import registration
    from mmdet3d.registry import MODELS  # isort: skip

    grid = {"x_min": -12.8, "x_max": 12.8, "y_min": -12.8, "y_max": 12.8, "cell_size": 0.8}
    for name in registration.HEADS:
        assert MODELS.build({"type": name, "in_channels": 32, "grid": grid}).training
    detector = MODELS.build(
        {
            "type": "FullerDetector3D",
            "size": "fuller_micro",
            "arguments": small_arguments(),
            "heads": {
                "map_segmentation": {
                    "type": "FullerDenseMapHead",
                    "in_channels": 32,
                    "grid": small_arguments()["grid"],
                }
            },
        }
    )
    assert type(detector.network.map_segmentation_head).__name__ == "DenseMapHead"


def test_a_setting_of_the_hook_that_is_none_is_refused() -> None:
    from training.mmdet3d_extension.registration import GradientCalibrationHook

    with pytest.raises(ConfigurationError, match="alhpa"):
        GradientCalibrationHook(intra={"alhpa": 0.1})


def test_mmdet_s_swin_gives_the_same_features_after_loading() -> None:
    from training.mmdet3d_extension.bevfusion_weights import load_backbone_state
    from training.mmdet3d_extension.requirements import import_mmdet3d

    import_mmdet3d()
    from mmdet.models.backbones import SwinTransformer

    from perception_core.bundle_writer import create_seeded_model
    from perception_core.models.fuller.camera_net import IMAGE_DEVIATION, IMAGE_MEAN

    torch.manual_seed(5)
    theirs = SwinTransformer(out_indices=(1, 2, 3), drop_path_rate=0.0)
    theirs.eval()  # returns nothing, unlike torch's own
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    network = create_seeded_model(
        "fuller_micro", 0, modalities=("camera",), camera={"kind": "swin", "bev_channels": 24}
    ).eval()
    state = {f"img_backbone.{name}": value for name, value in theirs.state_dict().items()}
    report = load_backbone_state(network, state, "swin")
    assert not report.mismatched
    assert not [name for name in report.missing if name.startswith("camera_net.image_encoder.")]
    assert not report.unexpected
    encoder: Any = network.camera_net.image_encoder
    # So large that the last stage has several windows: of a single one, mmdet is shifted, torchvision is not.
    images_mhwc = torch.randint(0, 256, (1, 256, 288, 3), dtype=torch.uint8)
    seen: list[list[torch.Tensor]] = []
    encoder.pyramid.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    normalized = (images_mhwc.permute(0, 3, 1, 2) - torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1)) / torch.tensor(
        IMAGE_DEVIATION
    ).view(1, 3, 1, 1)
    with torch.no_grad():
        encoder(images_mhwc)
        expected = theirs(normalized)
    for found, wanted in zip(seen[0], expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-3 * float(wanted.abs().max()))
