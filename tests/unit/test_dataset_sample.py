"""The typed sample and its collation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from perception_core.bundle import FRAME_TENSORS
from perception_core.models import create_model
from perception_core.ops.bev_grid import BevGrid
from training.datasets.batch import Batch, collate
from training.datasets.sample import (
    IGNORED_CLASS,
    TASKS,
    BevMasks,
    BoxLabels,
    CameraImages,
    ControlTargets,
    DenseLabel,
    DenseLabels,
    Provenance,
    Sample,
    SampleError,
)

GRID = BevGrid(x_min=-8, x_max=8, y_min=-4, y_max=4, cell_size=1)
FORWARD = np.array([[0.0, -1, 0, 0], [0, 0, -1, 1.5], [1, 0, 0, 0], [0, 0, 0, 1]])


def cameras(views: int, width: int = 32, height: int = 16) -> CameraImages:
    random = np.random.default_rng(views)
    return CameraImages(
        names=tuple(f"camera_{view}" for view in range(views)),
        images_vhwc=random.integers(0, 255, (views, height, width, 3), dtype=np.uint8),
        valid_v=np.ones(views, dtype=bool),
        intrinsics_v33=np.tile([[20.0, 0, 15], [0, 20, 8], [0, 0, 1]], (views, 1, 1)),
        camera_from_ego_v44=np.tile(FORWARD, (views, 1, 1)),
        image_from_original_v33=np.tile(np.eye(3), (views, 1, 1)),
        original_size_v2=np.tile(np.array([width, height]), (views, 1)),
    )


def driving_sample(token: str, points: int, views: int = 2) -> Sample:
    random = np.random.default_rng(points)
    return Sample(
        provenance=Provenance("test", token),
        cameras=cameras(views),
        points_nc=random.normal(size=(points, 5)).astype(np.float32),
        lidar_valid=True,
        boxes=BoxLabels(
            np.array([[4.0, 1, 0.5, 4, 2, 1.5, 0.3, np.nan, np.nan]]),
            np.array([1]),
            np.array([7]),
            ("car", "bus"),
        ),
        map_masks=BevMasks(random.random((2, 8, 16)) > 0.5, ("drivable_area", "divider"), GRID),
        control=ControlTargets(0.1, 5.0, np.ones((3, 2)), np.array([True, True, False])),
        labels_present=frozenset({"detection3d", "map_segmentation", "control"}),
    )


def street_sample(token: str) -> Sample:
    random = np.random.default_rng(3)
    valid = random.random((1, 16, 32)) > 0.2
    semantic = np.where(valid, 3, IGNORED_CLASS).astype(np.uint8)
    return Sample(
        provenance=Provenance("street", token),
        cameras=cameras(1),
        dense=DenseLabels(
            semantic_segmentation=DenseLabel(semantic, valid),
            depth=DenseLabel((valid * 5.0).astype(np.float32), valid),
            semantic_classes=("sky", "building", "pole", "road"),
        ),
        labels_present=frozenset({"semantic_segmentation", "depth"}),
    )


def test_points_of_a_batch_know_their_sample() -> None:
    first, second = driving_sample("a", 5), driving_sample("b", 3)
    batch = collate([first, second])
    assert batch.batch_index_n.tolist() == [0] * 5 + [1] * 3
    assert torch.equal(batch.points_nc[batch.batch_index_n == 1], torch.from_numpy(second.points_nc))
    assert len(batch) == 2


def test_samples_with_different_labels_share_a_batch() -> None:
    batch = collate([driving_sample("a", 5), street_sample("b")])
    assert {task for task in TASKS if batch.has(task)} == {
        *("detection3d", "map_segmentation", "control", "semantic_segmentation", "depth")
    }
    assert batch.present["detection3d"].tolist() == [True, False]
    assert batch.present["depth"].tolist() == [False, True]
    assert batch.boxes[1] is None
    # The street's sample has one camera, the other two: its second view is masked.
    assert batch.cameras is not None
    assert batch.cameras.camera_valid_bv.tolist() == [[True, True], [True, False]]
    depth = batch.dense["depth"]
    assert not depth.valid_bvhw[0].any()
    assert not depth.valid_bvhw[1, 1].any()
    assert depth.valid_bvhw[1, 0].any()
    semantic = batch.dense["semantic_segmentation"]
    assert (semantic.value[~semantic.valid_bvhw] == IGNORED_CLASS).all()


def test_a_batch_of_samples_runs_through_the_network() -> None:
    """The fields of a batch are what the batched networks take, and a frame is what the vehicle's takes."""
    model = create_model("fuller_tiny").eval()
    sample = dataclasses.replace(driving_sample("a", 50), cameras=cameras(2, 352, 128))
    batch = collate([sample, sample])
    assert batch.cameras is not None
    networks = {name: component.network for name, component in model.components.items()}
    with torch.no_grad():
        lidar = networks["lidar_net"](batch.points_nc, batch.batch_index_n, len(batch))
        camera = networks["camera_net"](
            batch.cameras.images_bvhwc,
            batch.cameras.camera_valid_bv,
            batch.cameras.intrinsics_bv33,
            batch.cameras.camera_from_ego_bv44,
        )
        frame = sample.frame()
        outputs = model(frame)
    torch.testing.assert_close(outputs["lidar_bev_bchw"][0], lidar[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["camera_bev_bchw"][0], camera[1], rtol=1e-4, atol=1e-5)
    assert set(frame) == set(FRAME_TENSORS)
    for name, (kind, shape) in FRAME_TENSORS.items():
        assert str(frame[name].dtype) == f"torch.{kind}"
        assert frame[name].ndim == len(shape)


def test_moving_a_batch_keeps_everything() -> None:
    batch = collate([driving_sample("a", 5), street_sample("b")])
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert moved.points_nc.is_meta
    assert moved.boxes[0] is not None
    assert moved.boxes[0].boxes_b9.is_meta
    assert moved.dense["depth"].value.is_meta
    assert moved.present["depth"].is_meta
    assert moved.provenance == batch.provenance


def test_keeping_labels_drops_the_others_data() -> None:
    sample = driving_sample("a", 5).keeping(["map_segmentation", "depth"])
    assert sample.labels_present == {"map_segmentation"}
    assert sample.boxes is None
    assert sample.control is None
    assert sample.map_masks is not None
    with pytest.raises(SampleError, match="did you mean 'depth'"):
        sample.keeping(["depht"])


def test_a_label_that_is_claimed_must_be_there() -> None:
    with pytest.raises(SampleError, match="'control' is claimed"):
        dataclasses.replace(driving_sample("a", 5), control=None)
    with pytest.raises(SampleError, match="does not fit images"):
        dataclasses.replace(street_sample("b"), cameras=cameras(1, 64, 32))
    with pytest.raises(SampleError, match="not valid"):
        dataclasses.replace(driving_sample("a", 5), lidar_valid=False)
    with pytest.raises(SampleError, match=r"points_nc must be float32 of shape \?x5, got float64"):
        Sample(Provenance("test", "a"), points_nc=np.zeros((3, 5)))  # type: ignore[arg-type]


def test_samples_that_do_not_fit_together_are_named() -> None:
    small = dataclasses.replace(driving_sample("a", 5), cameras=cameras(2, 64, 32))
    with pytest.raises(SampleError, match=r"image size: test a has .64, 32., test b has .32, 16\)"):
        collate([small, driving_sample("b", 5)])
    with pytest.raises(SampleError, match="at least one"):
        collate([])
