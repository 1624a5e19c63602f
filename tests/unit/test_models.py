"""Every registered model keeps its signature, and lives without any of its sensors."""

from __future__ import annotations

import math

import pytest
import torch

from perception_core.backends.example_inputs import example_frame
from perception_core.bundle import FRAME_TENSORS, BundleSpec, ModelReference, TrainingRecord
from perception_core.bundle_writer import create_seeded_model
from perception_core.configuration import ConfigurationError
from perception_core.models import create_model, list_models
from perception_core.models.profile import MultiplyAddCounter, profile_model

#: FULLER with every part small, for what need not be tried at full size.
SMALL = {
    "grid": {"x_min": -12.8, "x_max": 12.8, "y_min": -12.8, "y_max": 12.8, "cell_size": 0.8},
    "camera": {"image_height": 32, "image_width": 64, "depth_bins": 12, "depth_max": 16.0},
    "detection": {"queries": 16},
    "control": {"enabled": True},
}


#: Registered models that are too large to be tried whole, with their parts made small.
SHRUNK = {
    "fuller_full": {
        "grid": {"x_min": -25.6, "x_max": 25.6, "y_min": -25.6, "y_max": 25.6, "cell_size": 1.6},
        "camera": {"image_height": 64, "image_width": 96, "depth_bins": 16, "depth_max": 24.0},
        "fuser": {"layer_blocks": (1, 1), "fused_channels": 64, "layer_channels": (32, 48)},
        "detection": {"queries": 32},
        "map_segmentation": {"mask_channels": 64, "hidden_channels": 64},
        "control": {"enabled": True},
        "foreground_segmentation": {"enabled": True, "mask_channels": 64, "hidden_channels": 64},
    },
    "fuller_base": {
        "grid": {"x_min": -25.6, "x_max": 25.6, "y_min": -25.6, "y_max": 25.6, "cell_size": 1.6},
        "camera": {"image_height": 64, "image_width": 96, "depth_bins": 16, "depth_max": 24.0},
        "detection": {"queries": 32},
    },
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Monocular models and combinations have tests of their own: test_tag_model.py, test_model_combination.py.
@pytest.fixture(scope="module", params=[name for name in list_models() if name.startswith("fuller")])
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str):
    return create_seeded_model(name, 0, **SHRUNK.get(name, {}))


@pytest.fixture(scope="module")
def small():
    return create_seeded_model("fuller_tiny", seed=0, **SMALL)


def run(model, frame):
    with torch.inference_mode():
        return model(frame)


def assert_fits(model, outputs) -> None:
    """Every output has the type its model's signature gives and only finite values."""
    specs = model.tensor_specs()
    assert set(outputs) == set(specs)
    for name, tensor in outputs.items():
        assert str(tensor.dtype) == f"torch.{specs[name].dtype}", name
        assert tuple(tensor.shape) == specs[name].shape, name
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize(
    ("cameras", "points"), [(0, 0), (1, 0), (0, 2000), (3, 500), (6, 20_000)], ids=lambda value: str(value)
)
def test_outputs_fit_the_signature(model, cameras: int, points: int) -> None:
    frame = example_frame(model.bundle_input(), cameras, points)
    outputs = run(model, frame)
    assert_fits(model, outputs)


def test_everything_masked_is_the_same_as_nothing_there(model) -> None:
    frame = example_frame(model.bundle_input(), cameras=3, points=1000)
    frame["lidar_valid"][:] = False
    frame["camera_valid_v"][:] = False
    masked = run(model, frame)
    absent = run(model, example_frame(model.bundle_input(), cameras=0, points=0))
    for name, tensor in masked.items():
        assert torch.equal(tensor, absent[name]), name


def test_sensors_matter(model) -> None:
    """So that the tests of masking cannot pass because nothing ever has an effect."""
    full = example_frame(model.bundle_input(), cameras=2, points=3000)
    outputs = run(model, full)
    for mask in ("lidar_valid", "camera_valid_v"):
        masked = run(model, {**full, mask: torch.zeros_like(full[mask])})
        heads = [spec.outputs[0] for spec in model.component_specs().values() if spec.task]
        assert any(not torch.allclose(outputs[name], masked[name]) for name in heads), mask


def test_a_masked_camera_contributes_nothing(model) -> None:
    frame = example_frame(model.bundle_input(), cameras=3, points=1000)
    frame["camera_valid_v"][1] = False
    outputs = run(model, frame)
    spoilt = {name: tensor.clone() for name, tensor in frame.items()}
    spoilt["images_vhwc"][1] = 0
    spoilt["intrinsics_v33"][1] = float("nan")
    spoilt["camera_from_ego_v44"][1] = 0.0
    per_camera = ("images_vhwc", "camera_valid_v", "intrinsics_v33", "camera_from_ego_v44")
    removed = {name: tensor[[0, 2]] if name in per_camera else tensor for name, tensor in frame.items()}
    for other in (run(model, spoilt), run(model, removed)):
        for name, tensor in outputs.items():
            assert torch.equal(tensor, other[name]), name


def test_a_changed_calibration_is_noticed(model) -> None:
    """The geometry of earlier frames is remembered; it must not be used for other cameras."""
    frame = example_frame(model.bundle_input(), cameras=2, points=0)
    turned = {**frame, "camera_from_ego_v44": frame["camera_from_ego_v44"].flip(0)}
    first, other, again = run(model, frame), run(model, turned), run(model, frame)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name


def test_points_that_are_not_points_do_no_harm(model) -> None:
    frame = example_frame(model.bundle_input(), cameras=0, points=2000)
    clean = run(model, frame)
    bad = torch.tensor(
        [
            [float("nan"), 1, 0, 0.5, 0],
            [1, float("inf"), 0, 0.5, 0],
            [1, 1, -float("inf"), 0.5, 0],
            [1e30, -1e30, 0, 0.5, 0],
            [1, 1, 500.0, 0.5, 0],
        ]
    )
    dirty = run(model, {**frame, "points_nc": torch.cat((frame["points_nc"], bad))})
    for name, tensor in clean.items():
        assert torch.equal(tensor, dirty[name]), name
    odd = frame["points_nc"].clone()
    odd[:100, 3:] = float("nan")
    odd[100:200, 3:] = 1e30
    assert_fits(model, run(model, {**frame, "points_nc": odd}))


def test_a_valid_camera_with_broken_calibration_does_no_harm(model) -> None:
    frame = example_frame(model.bundle_input(), cameras=2, points=100)
    frame["intrinsics_v33"][0] = 0.0
    frame["camera_from_ego_v44"][1] = float("nan")
    assert_fits(model, run(model, frame))


def test_components_own_all_weights_and_form_a_whole_graph(model) -> None:
    specs = model.component_specs()
    assert list(specs) == list(model.components)
    assert {name.split(".", 1)[0] for name in model.state_dict()} <= set(specs)
    graph = BundleSpec(  # its validation refuses a graph with holes
        format=1,
        name="x",
        model=ModelReference(name="x"),
        input=model.bundle_input(),
        tensors=model.tensor_specs(),
        components=specs,
        labels=model.labels(),
        weights_sha256="",
        training=TrainingRecord(trained=False, seed=0),
    )
    available = set(FRAME_TENSORS)
    for component in graph.components.values():  # in an order in which they can run
        assert set(component.inputs) <= available
        available |= set(component.outputs)
    for spec in specs.values():
        if spec.decoder in ("boxes3d", "map_layers"):
            assert spec.task in model.labels()


def test_the_configuration_builds_the_same_model_again(name: str, model) -> None:
    again = create_seeded_model(name, 0, **model.configuration())
    assert again.configuration() == model.configuration()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


def test_a_seed_decides_all_weights_and_disturbs_nobody() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = create_seeded_model("fuller_tiny", 1, **SMALL).state_dict()
    assert torch.equal(torch.rand(1), expected)
    second = create_seeded_model("fuller_tiny", 1, **SMALL).state_dict()
    other = create_seeded_model("fuller_tiny", 2, **SMALL).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_an_untrained_detector_is_silent(model) -> None:
    spec = model.component_specs()["detection3d_head"]
    outputs = run(model, example_frame(model.bundle_input(), 2, 5000))
    assert (outputs["detection_scores_q"] < spec.decoder_options["score_threshold"]).all()
    assert (outputs["detection_scores_q"] > 0).any()
    assert (outputs["detection_scores_q"].diff() <= 0).all()


def test_fuller_tiny_stays_within_its_budget() -> None:
    profiles = profile_model(create_model("fuller_tiny"), cameras=6, points=30_000)
    assert 4.0e9 < sum(profile.multiply_adds for profile in profiles.values()) <= 5.0e9


def test_multiply_adds_are_those_of_the_definition() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), torch.nn.Flatten(2)
    )
    query, key = torch.rand(2, 3, 5, 8), torch.rand(2, 3, 7, 8)
    with torch.no_grad():
        with MultiplyAddCounter() as counter:
            feature = network(torch.rand(1, 4, 10, 12))  # to (1, 6, 5 * 6)
        assert counter.total == 6 * 5 * 6 * (2 * 3 * 3)
        with MultiplyAddCounter() as counter:
            torch.nn.Linear(30, 7)(feature)
        assert counter.total == 6 * 30 * 7
        with MultiplyAddCounter() as counter:
            torch.nn.functional.scaled_dot_product_attention(query, key, key)
        assert counter.total == 2 * (2 * 3 * 5 * 7 * 8)
        with MultiplyAddCounter() as counter:
            torch.einsum("bkc,bcq->bkq", torch.rand(2, 3, 4), torch.rand(2, 4, 5))
        assert counter.total == 2 * 3 * 4 * 5


def test_a_batch_gives_what_its_frames_give(small) -> None:
    frames = [example_frame(small.bundle_input(), 2, points) for points in (400, 0, 900)]
    frames[0]["camera_valid_v"][0] = False
    frames[2]["camera_valid_v"][:] = False
    frames[1]["camera_from_ego_v44"] = frames[1]["camera_from_ego_v44"].flip(0)

    def stacked(name: str) -> torch.Tensor:
        return torch.stack([frame[name] for frame in frames])

    with torch.inference_mode():
        points_nc = torch.cat([frame["points_nc"] for frame in frames])
        counts = torch.tensor([frame["points_nc"].shape[0] for frame in frames])
        lidar = small.lidar_net(points_nc, torch.arange(3).repeat_interleave(counts), 3)
        camera = small.camera_net(
            stacked("images_vhwc"),
            stacked("camera_valid_v"),
            stacked("intrinsics_v33"),
            stacked("camera_from_ego_v44"),
        )
        fused = small.bev_fuser(lidar, camera)
        masks = small.map_segmentation_head(fused).sigmoid()
        boxes, scores, labels = small.detection3d_head.decode(small.detection3d_head(fused))
    for index, frame in enumerate(frames):
        single = run(small, frame)
        assert torch.allclose(lidar[index], single["lidar_bev_bchw"][0], atol=1e-5)
        assert torch.allclose(camera[index], single["camera_bev_bchw"][0], atol=1e-4)
        assert torch.allclose(masks[index], single["map_probability_khw"], atol=1e-5)
        assert torch.allclose(scores[index], single["detection_scores_q"], atol=1e-5)
        assert torch.equal(labels[index], single["detection_labels_q"])
        assert torch.allclose(boxes[index], single["detection_boxes_q9"], atol=1e-3)


def test_every_weight_learns() -> None:
    """In training mode a loss on all outputs sends a gradient to every parameter."""
    model = create_seeded_model("fuller_tiny", 0, **SMALL).train()
    frame = example_frame(model.bundle_input(), 2, 800)
    lidar = model.lidar_net(frame["points_nc"], torch.arange(800) % 2, 2)
    camera = model.camera_net(
        *(
            frame[name].expand(2, *frame[name].shape)
            for name in ("images_vhwc", "camera_valid_v", "intrinsics_v33", "camera_from_ego_v44")
        )
    )
    fused = model.bev_fuser(lidar, camera)
    detection = model.detection3d_head(fused)
    control = model.control_head(fused, frame["ego_motion_c"].expand(2, 3))
    loss = sum(
        (tensor**2).sum()
        for tensor in (
            detection.heatmap_logits_bkhw,
            detection.class_logits_bqk,
            detection.code_bqe,
            model.map_segmentation_head(fused),
            *control,
        )
    )
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    without = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    # A key's bias shifts all of a query's attention scores alike, which softmax undoes.
    assert all(name.endswith("attention.key.bias") for name in without), without


def test_a_detection_lies_where_its_query_lies(small) -> None:
    """A cell made hot in the heat map gives a box at that cell, of that class."""
    head = small.detection3d_head
    cell = 5 * head.grid.columns + 20  # row 5, column 20
    logits = torch.full((1, len(head.config.classes), head.grid.rows, head.grid.columns), -8.0)
    logits[0, 3, 5, 20] = 4.0
    tokens = torch.zeros(1, 64, head.grid.rows // 2, head.grid.columns // 2)
    handle = head.heatmap_net.register_forward_hook(lambda *_: (logits, tokens))
    try:
        with torch.inference_mode():
            output = head(torch.zeros(1, 64, head.grid.rows, head.grid.columns))
    finally:
        handle.remove()
    assert output.query_class_bq[0, 0] == 3
    assert torch.equal(output.query_position_bq2[0, 0], head.grid.cell_centre(torch.tensor(cell)))
    expected = torch.tensor([head.grid.x_min + 20.5 * 0.8, head.grid.y_min + 5.5 * 0.8])
    assert torch.allclose(output.query_position_bq2[0, 0], expected, atol=1e-4)


@pytest.mark.parametrize("motion", [(0.0, 0.0, 0.0), (12.0, 0.3, 1.0), (math.nan, math.inf, 1.0)])
def test_the_control_head_stays_within_its_limits(small, motion) -> None:
    frame = example_frame(small.bundle_input(), 1, 200)
    outputs = run(small, {**frame, "ego_motion_c": torch.tensor(motion)})
    assert_fits(small, outputs)
    assert outputs["control_steering"].abs().item() <= small.config.control.max_steering_angle_rad
    assert outputs["control_speed"].item() >= 0


def test_stale_odometry_counts_as_none(small) -> None:
    frame = example_frame(small.bundle_input(), 1, 200)
    stale = run(small, {**frame, "ego_motion_c": torch.tensor([9.0, 0.4, 0.0])})
    none = run(small, {**frame, "ego_motion_c": torch.zeros(3)})
    fresh = run(small, {**frame, "ego_motion_c": torch.tensor([9.0, 0.4, 1.0])})
    assert torch.equal(stale["control_waypoints_k2"], none["control_waypoints_k2"])
    assert not torch.equal(fresh["control_waypoints_k2"], none["control_waypoints_k2"])


def test_map_cells_can_be_finer_than_the_grid() -> None:
    fine = create_seeded_model("fuller_tiny", 0, **{**SMALL, "map_segmentation": {"cell_subdivision": 2}})
    outputs = run(fine, example_frame(fine.bundle_input(), 1, 200))
    assert_fits(fine, outputs)
    assert outputs["map_probability_khw"].shape == (6, 64, 64)
    assert fine.component_specs()["map_segmentation_head"].decoder_options["resolution_m"] == 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"detecton": {}}, "did you mean 'detection'"),
        ({"camera": {"depth_bin": 3}}, "camera.depth_bin'; did you mean 'depth_bins'"),
        ({"camera": {"image_width": 100}}, "camera.image_width"),
        ({"detection": {"point_like_classes": ["pedestrain"]}}, "did you mean 'pedestrian'"),
        ({"grid": {"cell_size": 0.7}}, "whole number"),
    ],
)
def test_wrong_arguments_are_named(arguments, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_model("fuller_tiny", **arguments)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'fuller_tiny'"):
        create_model("fuler_tiny")
