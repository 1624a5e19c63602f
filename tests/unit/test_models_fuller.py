"""FULLER at full size, and the ways its network can be varied."""

from __future__ import annotations

import pytest
import torch

from perception_core.backends.example_inputs import example_frame
from perception_core.bundle import Bundle, TrainingRecord
from perception_core.bundle_writer import create_seeded_model, write_bundle
from perception_core.configuration import ConfigurationError
from perception_core.models import create_model
from perception_core.models.fuller import FINE_GRID
from perception_core.models.fuller.configuration import SwinCameraNetConfig
from perception_core.models.fuller.swin_encoder import SwinImageEncoder

#: FULLER with every part small.
SMALL = {
    "grid": {"x_min": -12.8, "x_max": 12.8, "y_min": -12.8, "y_max": 12.8, "cell_size": 0.8},
    "camera": {"image_height": 32, "image_width": 64, "depth_bins": 12, "depth_max": 16.0},
    "detection": {"queries": 16},
}

#: The parts of the full-size network, each of few channels.
SMALL_FULL = {
    "grid": SMALL["grid"],
    "camera": {"kind": "swin", **SMALL["camera"], "neck_channels": 16, "bev_channels": 8},
    "lidar": {"kind": "voxels", "stage_channels": (4, 4, 8, 8), "stage_blocks": 1, "bev_channels": 16},
    "fuser": {"kind": "second", "layer_blocks": (1, 1), "layer_channels": (8, 16), "fused_channels": 8},
    "detection": {"queries": 16, "channels": 16, "heads": 2},
    "map_segmentation": {"mask_channels": 16},
    "foreground_segmentation": {"enabled": True, "mask_channels": 16},
    "control": {"enabled": True, "channels": 8},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def full():
    """Without memory behind its weights: they are only counted."""
    with torch.device("meta"):
        return create_model("fuller_full")


class TestFullSize:
    def test_has_the_papers_parameters(self, full) -> None:
        """FULLER's Tab. 5: 44.12 M for both tasks, 81.97 M for two networks of one task each."""
        both = parameters(full)
        heads = {task: parameters(head) for task, head in full.heads.items()}
        assert set(heads) == {"detection3d", "map_segmentation"}
        shared = both - sum(heads.values())
        assert both == pytest.approx(44.12e6, rel=0.05)
        assert 2 * shared + sum(heads.values()) == pytest.approx(81.97e6, rel=0.05)

    def test_query_heads_save_what_the_paper_says(self, full) -> None:
        """About 40 % against BEVFusion's dense heads."""
        with torch.device("meta"):
            dense = create_model(
                "fuller_full", detection={"kind": "dense"}, map_segmentation={"kind": "dense"}
            )
        query = sum(parameters(head) for head in full.heads.values())
        saved = 1 - query / sum(parameters(head) for head in dense.heads.values())
        assert 0.35 < saved < 0.5

    def test_voxels_are_those_of_the_paper(self, full) -> None:
        assert full.lidar_net.voxel_grid.cell_size == pytest.approx(0.1)
        assert (full.config.grid.rows, full.config.grid.columns) == (128, 128)
        with torch.device("meta"):
            fine = create_model("fuller_full", grid=FINE_GRID)
        assert fine.lidar_net.voxel_grid.cell_size == pytest.approx(0.075)
        assert (fine.config.grid.rows, fine.config.grid.columns) == (180, 180)

    @pytest.mark.slow
    def test_takes_published_swin_weights(self) -> None:
        encoder = SwinImageEncoder(SwinCameraNetConfig())
        state = {
            f"features.{name}": torch.full_like(value, index)
            for index, (name, value) in enumerate(encoder.backbone.state_dict().items())
        }
        encoder.load_backbone({**state, "head.weight": torch.zeros(1000, 768)}, "swin.pth")
        for name, value in encoder.backbone.state_dict().items():
            assert torch.equal(value, state[f"features.{name}"])
        with pytest.raises(ConfigurationError, match=r"resnet.pth: no weights of torchvision's swin_t"):
            encoder.load_backbone({"conv1.weight": torch.zeros(1)}, "resnet.pth")
        state["features.0.0.weight"] = torch.zeros(3)
        with pytest.raises(ConfigurationError, match=r"'features.0.0.weight' has shape \(3,\)"):
            encoder.load_backbone(state, "swin.pth")


@pytest.fixture(scope="module")
def small_full():
    return create_seeded_model("fuller_tiny", 0, **SMALL_FULL)


def run(model, frame):
    with torch.inference_mode():
        return model(frame)


def assert_fits(model, outputs) -> None:
    specs = model.tensor_specs()
    assert set(outputs) == set(specs)
    for name, tensor in outputs.items():
        assert tuple(tensor.shape) == specs[name].shape, name
        assert torch.isfinite(tensor).all(), name


def encode(model, frames) -> torch.Tensor:
    """Fused feature of a batch of frames, as training computes it."""

    def stacked(name: str) -> torch.Tensor:
        return torch.stack([frame[name] for frame in frames])

    counts = torch.tensor([frame["points_nc"].shape[0] for frame in frames])
    lidar = model.lidar_net(
        torch.cat([frame["points_nc"] for frame in frames]),
        torch.arange(len(frames)).repeat_interleave(counts),
        len(frames),
    )
    names = ("images_vhwc", "camera_valid_v", "intrinsics_v33", "camera_from_ego_v44")
    return model.bev_fuser(lidar, model.camera_net(*(stacked(name) for name in names)))


def test_a_batch_gives_what_its_frames_give(small_full) -> None:
    frames = [example_frame(small_full.bundle_input(), 2, points) for points in (400, 0, 900)]
    frames[0]["camera_valid_v"][0] = False
    frames[2]["camera_valid_v"][:] = False
    with torch.inference_mode():
        fused = encode(small_full, frames)
    for index, frame in enumerate(frames):
        assert torch.allclose(fused[index], run(small_full, frame)["bev_feature_bchw"][0], atol=1e-4)


@pytest.mark.parametrize(
    "arguments", [SMALL_FULL, {**SMALL_FULL, "bev_encoder": "separate"}], ids=["share", "sep"]
)
def test_every_weight_of_the_full_structure_learns(arguments) -> None:
    model = create_seeded_model("fuller_tiny", 0, **arguments).train()
    frames = [example_frame(model.bundle_input(), 2, points) for points in (600, 900)]
    fused = encode(model, frames)
    detection = model.detection3d_head(fused)
    control = model.control_head(fused, torch.stack([frame["ego_motion_c"] for frame in frames]))
    masks = (model.map_segmentation_head(fused), model.foreground_segmentation_head(fused))
    outputs = (
        detection.heatmap_logits_bkhw,
        detection.class_logits_bqk,
        detection.code_bqe,
        *masks,
        *control,
    )
    sum((tensor**2).sum() for tensor in outputs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


class TestVariants:
    def test_heads_can_have_encoders_of_their_own(self) -> None:
        shared = create_seeded_model("fuller_tiny", 0, **SMALL)
        separate = create_seeded_model("fuller_tiny", 0, **SMALL, bev_encoder="separate")
        frame = example_frame(separate.bundle_input(), 2, 500)
        assert_fits(separate, run(separate, frame))
        encoder = parameters(shared.bev_fuser) - parameters(shared.bev_fuser.first)
        assert parameters(separate.bev_fuser) == parameters(shared.bev_fuser.first)
        assert parameters(separate) == parameters(shared) + encoder  # two of them instead of one
        assert set(separate.state_dict()) >= {
            "detection3d_head.encoder.merge.lateral.convolution.weight",
            "map_segmentation_head.encoder.merge.lateral.convolution.weight",
        }

    def test_a_model_can_have_one_task(self) -> None:
        for off, task in (("detection", "map_segmentation"), ("map_segmentation", "detection3d")):
            arguments = {**SMALL, off: {**SMALL.get(off, {}), "enabled": False}}
            model = create_seeded_model("fuller_tiny", 0, **arguments)
            assert model.config.tasks == (task,)
            assert set(model.labels()) == {task}
            assert_fits(model, run(model, example_frame(model.bundle_input(), 2, 500)))
        with pytest.raises(ConfigurationError, match="no head is enabled"):
            create_model("fuller_tiny", detection={"enabled": False}, map_segmentation={"enabled": False})

    @pytest.mark.parametrize("modality", ["lidar", "camera"])
    def test_a_model_can_have_one_modality(self, modality: str) -> None:
        model = create_seeded_model("fuller_tiny", 0, **SMALL, modalities=(modality,))
        assert f"{modality}_net" in model.components
        assert len(model.components) == 4
        assert (model.bundle_input().max_points > 0) == (modality == "lidar")
        assert (model.bundle_input().image is not None) == (modality == "camera")
        frame = example_frame(model.bundle_input(), 2, 500)
        outputs = run(model, frame)
        assert_fits(model, outputs)
        other = {**frame, "points_nc": frame["points_nc"][:0], "images_vhwc": frame["images_vhwc"] * 0}
        assert not torch.equal(outputs["map_probability_khw"], run(model, other)["map_probability_khw"])

    def test_foreground_segmentation_is_a_third_task(self) -> None:
        model = create_seeded_model("fuller_tiny", 0, **SMALL, foreground_segmentation={"enabled": True})
        outputs = run(model, example_frame(model.bundle_input(), 1, 300))
        assert_fits(model, outputs)
        assert outputs["foreground_probability_khw"].shape == (10, 32, 32)
        spec = model.component_specs()["foreground_segmentation_head"]
        assert (spec.task, spec.decoder) == ("foreground_segmentation", "map_layers")

    def test_dense_heads_take_the_place_of_query_heads(self) -> None:
        arguments = {
            **SMALL,
            "detection": {"kind": "dense", "queries": 16, "channels": 8},
            "map_segmentation": {"kind": "dense", "cell_subdivision": 2},
        }
        model = create_seeded_model("fuller_tiny", 0, **arguments)
        outputs = run(model, example_frame(model.bundle_input(), 1, 300))
        assert_fits(model, outputs)
        assert outputs["map_probability_khw"].shape == (6, 64, 64)
        assert (outputs["detection_scores_q"].diff() <= 0).all()

    def test_a_dense_detection_lies_where_its_peak_lies(self) -> None:
        arguments = {**SMALL, "detection": {"kind": "dense", "queries": 4, "channels": 8}}
        head = create_seeded_model("fuller_tiny", 0, **arguments).detection3d_head
        with torch.inference_mode():
            output = head(torch.zeros(1, 64, 32, 32))
        label = head.config.classes.index("bus")
        logits = torch.full_like(output.heatmap_logits_bkhw, -8.0)
        logits[0, label, 5, 20] = 4.0
        code = torch.zeros_like(output.code_bgehw)
        code[0, head.group_of_class[label], :, 5, 20] = torch.tensor([0.5, 0, 1, 2, 0, 0, 0, 1, 3, 0])
        boxes, scores, labels = head.decode(type(output)(logits, code, output.group_of_class))
        assert labels[0, 0] == label
        assert scores[0, 0] > 0.9
        expected = [head.grid.x_min + 21.0 * 0.8, head.grid.y_min + 5.5 * 0.8, 1.0]
        assert boxes[0, 0, :3].tolist() == pytest.approx(expected, abs=1e-4)
        assert boxes[0, 0, 7].item() == 3

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"camera": {"kind": "swim"}}, "camera.kind': no kind 'swim'; did you mean 'swin'"),
            ({"camera": {"kind": "swin", "stem_channels": 3}}, "unknown argument 'camera.stem_channels'"),
            ({"lidar": {"kind": "voxels", "voxel_hight": 3}}, "did you mean 'voxel_height'"),
            ({"detection": {"kind": "dense", "groups": (("car",),)}}, "class 'truck' is in 0 groups"),
            ({"modalities": ()}, "modalities"),
            ({"bev_encoder": "both"}, "bev_encoder"),
        ],
    )
    def test_wrong_arguments_are_named(self, arguments, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            create_model("fuller_tiny", **arguments)


@pytest.mark.slow
def test_sparse_components_are_left_to_torch_in_an_exported_bundle(tmp_path) -> None:
    pytest.importorskip("onnxscript")
    arguments = {**SMALL_FULL, "camera": SMALL["camera"], "modalities": ("lidar",)}
    model = create_seeded_model("fuller_tiny", 0, **arguments)
    write_bundle(
        model, "fuller_tiny", tmp_path / "voxels", TrainingRecord(trained=False, seed=0), graphs=True
    )
    specs = Bundle.open(tmp_path / "voxels").spec.components
    assert specs["lidar_net"].exported == {"onnxruntime": "torch", "openvino": "torch"}
    assert specs["bev_fuser"].exported["onnxruntime"] == "bev_fuser.onnx"


def test_the_depth_distribution_can_be_supervised(small_full) -> None:
    frame = example_frame(small_full.bundle_input(), 2, 0)
    names = ("images_vhwc", "camera_valid_v", "intrinsics_v33", "camera_from_ego_v44")
    with torch.inference_mode():
        bev, depth = small_full.camera_net.lift(*(frame[name].unsqueeze(0) for name in names))
        assert torch.equal(bev, small_full.camera_net(*(frame[name].unsqueeze(0) for name in names)))
    assert depth.shape == (2, 4, 8, 12)
    assert torch.allclose(depth.sum(dim=-1), torch.ones(2, 4, 8), atol=1e-5)
