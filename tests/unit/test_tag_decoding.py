"""3D boxes to what the head predicts and back, and reading objects out of maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mono_fixtures import CLASSES, INTRINSICS, SIZE, USUAL, as_tensors, camera_pose, make_codec

from perception_core.geometry import project_points
from perception_core.models.tag.configuration import MonoDetectionConfig
from perception_core.models.tag.decoding import angles_of_rotation, rotation_of_angles, wrapped
from perception_core.models.tag.depth_points import depth_points
from perception_core.models.tag.heads import MonoDetectionOutput, detection_channels
from perception_core.models.tag.reading import confidence_of, depth_of, read_objects
from training.datasets.box_frames import rotation_of

#: Boxes in front of the vehicle, tilted by less than what makes yaw and roll the same turn.
boxes = st.tuples(
    *(st.floats(4.0, 90.0), st.floats(-40.0, 40.0), st.floats(-2.0, 4.0)),
    *(st.floats(0.2, 15.0), st.floats(0.2, 3.0), st.floats(0.2, 4.0)),
    *(st.floats(-3.14, 3.14), st.floats(-1.2, 1.2), st.floats(-3.14, 3.14)),
)
turns = st.tuples(st.floats(-0.6, 0.6), st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))


def encoded(rows, pose, codec=None, labels=None):
    codec = codec or make_codec()
    array = np.array(rows, dtype=np.float64).reshape(-1, 9)
    box_n9 = np.concatenate([array[:, :7], np.zeros((len(array), 2))], axis=1)
    box_t, tilt_t, k_t, pose_t = as_tensors(box_n9, array[:, 7:], INTRINSICS, pose)
    label_t = torch.zeros(len(array), dtype=torch.int64) if labels is None else labels
    code, kept = codec.encode(box_t, tilt_t, label_t, k_t, pose_t)
    return code, kept, box_t, tilt_t, k_t, pose_t


@settings(max_examples=80, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=4), turns, st.sampled_from([None, 0.5, 1.3]))
def test_encoding_and_decoding_give_the_box_again(rows, turn, reference_focal) -> None:
    codec = make_codec(reference_focal)
    code, kept, box_t, tilt_t, k_t, pose_t = encoded(rows, camera_pose(*turn), codec)
    found, tilt = codec.decode(code, k_t, pose_t)
    assert torch.allclose(found[:, :6], box_t[kept, :6], atol=1e-6)
    ours = rotation_of_angles(torch.cat((found[:, 6:7], tilt), dim=1))
    theirs = rotation_of_angles(torch.cat((box_t[kept, 6:7], tilt_t[kept]), dim=1))
    assert torch.allclose(ours, theirs, atol=1e-6)
    columns, lines = codec.feature_size
    assert ((code.cell_n2 >= 0) & (code.cell_n2 < torch.tensor([columns, lines]))).all()
    assert (code.heading_residual_n.abs() <= math.pi / 12 + 1e-9).all()
    assert ((code.heading_bin_n >= 0) & (code.heading_bin_n < 12)).all()
    assert (code.tilt_n2.abs() <= math.pi / 2 + 1e-9).all()
    assert (code.size_2d_n2 > 0).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=4), turns)
def test_what_is_left_out_is_not_in_sight(rows, turn) -> None:
    """Every box whose centre the camera sees is kept, and its cell is the one its centre falls into."""
    pose = camera_pose(*turn)
    code, kept, box_t, *_ = encoded(rows, pose)
    projection = project_points(box_t[:, :3].numpy(), pose, INTRINSICS, SIZE)
    inside = (
        (projection.depth >= 0.5)
        & (projection.pixels >= 0).all(axis=1)
        & (projection.pixels[:, 0] <= SIZE[0] - 1)
        & (projection.pixels[:, 1] <= SIZE[1] - 1)
    )
    assert set(np.flatnonzero(inside)) <= set(kept.tolist())
    for row, index in enumerate(kept.tolist()):
        if inside[index]:
            cell = np.floor((projection.pixels[index] + 0.5) / 8)
            place = (projection.pixels[index] + 0.5) / 8 - 0.5
            if np.abs(place - np.round(place)).max() < 0.499:  # on the border between cells either is right
                assert code.cell_n2[row].tolist() == cell.tolist()


def test_a_box_beside_the_camera_is_found_where_its_visible_part_is() -> None:
    # A car just left of the vehicle's front: its centre projects left of the image.
    code, kept, *_ = encoded([[5.0, 3.2, 0.8, 4.2, 1.8, 1.6, 0.0, 0.0, 0.0]], camera_pose())
    assert kept.tolist() == [0]
    assert code.cell_n2[0, 0] < 16
    assert code.offset_3d_n2[0, 0] < -1


def test_boxes_behind_far_aside_or_without_extent_are_left_out() -> None:
    rows = [
        [-10.0, 0.0, 0.8, 4.2, 1.8, 1.6, 0.0, 0.0, 0.0],
        [10.0, 40.0, 0.8, 4.2, 1.8, 1.6, 0.0, 0.0, 0.0],
        [10.0, 0.0, 0.8, 0.0, 1.8, 1.6, 0.0, 0.0, 0.0],
        [10.0, 0.0, 0.8, 4.2, 1.8, 1.6, 0.0, 0.0, 0.0],
    ]
    _, kept, *_ = encoded(rows, camera_pose())
    assert kept.tolist() == [3]


def test_the_observation_angle_is_what_the_object_shows() -> None:
    """Two cars that drive along their lines of sight look alike, wherever they are."""
    rows = []
    for y in (-6.0, 0.0, 7.0):
        bearing = math.atan2(y, 20.0 - 1.5)  # seen from the camera
        rows.append([20.0, y, 0.8, 4.2, 1.8, 1.6, bearing, 0.0, 0.0])
    code, _, *_ = encoded(rows, camera_pose())
    assert code.heading_bin_n.tolist() == [0, 0, 0]
    assert torch.allclose(code.heading_residual_n, torch.zeros(3, dtype=torch.float64), atol=1e-9)


def test_a_longer_lens_sees_the_same_depth_nearer() -> None:
    """Depth is learned for one lens: what looks alike through another is farther by the ratio."""
    codec = make_codec(reference_focal=0.5)
    code, *_ = encoded([[21.5, 0.0, 1.6, 4.2, 1.8, 1.6, 0.0, 0.0, 0.0]], camera_pose(), codec)
    assert float(code.depth_n[0]) == pytest.approx(20.0 / (512 / (0.5 * 512)))


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1)))
def test_rotations_are_those_of_the_data_sets(angles) -> None:
    ours = rotation_of_angles(torch.tensor([angles], dtype=torch.float64))
    np.testing.assert_allclose(ours.numpy(), rotation_of([angles]), atol=1e-12)
    assert torch.allclose(angles_of_rotation(ours)[0], torch.tensor(angles, dtype=torch.float64), atol=1e-6)
    assert -math.pi <= float(wrapped(torch.tensor(angles[0] * 7))) < math.pi


HEAD = MonoDetectionConfig(classes=CLASSES, usual_sizes=dict(zip(CLASSES, USUAL, strict=True)), objects=5)


def maps_of(rows, pose, heat: float = 4.0) -> tuple[MonoDetectionOutput, torch.Tensor, torch.Tensor]:
    """Maps that say exactly what an encoder says of some boxes."""
    codec = make_codec()
    code, _, _, _, k_t, pose_t = encoded(rows, pose, codec)
    columns, lines = codec.feature_size
    sizes = detection_channels(HEAD)
    heatmap = torch.full((1, len(CLASSES), lines, columns), -8.0)
    maps = torch.zeros(1, sum(sizes.values()) - len(CLASSES), lines, columns)
    bins = HEAD.heading_bins
    for row in range(len(code.labels_n)):
        column, line = code.cell_n2[row].tolist()
        heatmap[0, code.labels_n[row], line, column] = heat
        heading = torch.full((2 * bins,), -5.0)
        heading[code.heading_bin_n[row]] = 5.0
        heading[bins + code.heading_bin_n[row]] = float(code.heading_residual_n[row])
        tilts = []
        for axis in range(2):
            direction = torch.tensor([5.0, -5.0])
            direction = direction.flip(0) if code.tilt_direction_n2[row, axis] else direction
            tilts += [code.tilt_n2[row, axis : axis + 1].float(), direction]
        depth = torch.tensor([-math.log(float(code.depth_n[row])), -1.0])
        values = torch.cat(
            (
                code.offset_2d_n2[row].float(),
                code.size_2d_n2[row].float(),
                code.offset_3d_n2[row].float(),
                code.size_3d_n3[row].float(),
                depth,
                heading,
                *tilts,
            )
        )
        maps[0, :, line, column] = values
    return MonoDetectionOutput(heatmap, maps), k_t.float().unsqueeze(0), pose_t.float().unsqueeze(0)


def test_objects_are_read_where_the_maps_say_they_are() -> None:
    rows = [
        [15.0, 1.0, 0.8, 4.5, 1.9, 1.5, 0.4, 0.05, -0.03],
        [30.0, -5.0, 0.9, 4.0, 1.7, 1.6, -2.8, 0.0, 0.0],
    ]
    output, k_t, pose_t = maps_of(rows, camera_pose(0.1, 0.02, -0.01))
    found, scores, labels, tilts = read_objects(output, HEAD, make_codec(), k_t, pose_t, torch.tensor([True]))
    assert found.shape == (1, 5, 9)
    assert scores[0, :2].tolist() == pytest.approx([1 / (1 + math.exp(-4))] * 2, rel=1e-5)
    assert (scores[0, 2:] < 0.01).all()
    assert (scores[0].diff() <= 0).all()
    order = found[0, :2, 0].argsort()
    expected = torch.tensor(rows, dtype=torch.float32)
    assert torch.allclose(found[0, :2][order][:, :7], expected[:, :7], atol=2e-3)
    assert torch.allclose(tilts[0, :2][order], expected[:, 7:], atol=2e-3)
    assert labels[0, :2].tolist() == [0, 0]


@pytest.mark.parametrize("trouble", ["masked", "focal", "nan pose", "nan maps"])
def test_nothing_is_found_without_camera_or_calibration(trouble: str) -> None:
    output, k_t, pose_t = maps_of([[15.0, 1.0, 0.8, 4.5, 1.9, 1.5, 0.4, 0.0, 0.0]], camera_pose())
    valid = torch.tensor([trouble != "masked"])
    if trouble == "focal":
        k_t[:] = 0.0
    elif trouble == "nan pose":
        pose_t[:] = float("nan")
    elif trouble == "nan maps":
        output.code_behw[:] = float("nan")
    found, scores, _, tilts = read_objects(output, HEAD, make_codec(), k_t, pose_t, valid)
    assert (scores == 0).all()
    assert torch.isfinite(found).all()
    assert torch.isfinite(tilts).all()


def test_depth_and_confidence_keep_their_range() -> None:
    raw = torch.tensor([-1e4, -2.0, 0.0, 3.0, 1e4])
    depth = depth_of(raw)
    assert depth[1:4].tolist() == pytest.approx([math.exp(2), 1.0, math.exp(-3)], rel=1e-5)
    assert depth[0] == pytest.approx(500.0, rel=1e-4)
    assert depth[4] == pytest.approx(1 / 500.0, rel=1e-4)
    heat = torch.tensor([0.9, 0.9, 0.9])
    confidence = confidence_of(heat, torch.tensor([-3.0, 0.0, 2.0]))
    assert confidence.tolist() == pytest.approx([0.9, 0.9, 0.9 * math.exp(-2)])


@settings(max_examples=30, deadline=None)
@given(turns)
def test_depth_points_project_onto_their_pixels(turn) -> None:
    pose = camera_pose(*turn)
    depth = torch.rand(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 40 + 1
    k_t, pose_t = as_tensors(INTRINSICS, pose)
    points = depth_points(depth, 64, k_t, pose_t)
    projection = project_points(points.numpy(), pose, INTRINSICS, SIZE)
    np.testing.assert_allclose(projection.depth, depth.flatten().numpy(), rtol=1e-9)
    expected = [((c + 0.5) * 64 - 0.5, (r + 0.5) * 64 - 0.5) for r in range(4) for c in range(8)]
    np.testing.assert_allclose(projection.pixels, expected, atol=1e-6)
