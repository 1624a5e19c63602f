"""The writers in AdaShare's layouts: our loaders read back what the world was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from training.datasets.frame_input import FrameInput
from training.datasets.nyuv2 import NyuV2
from training.datasets.opening import open_dataset
from training.datasets.overlay import draw_sample
from training.datasets.sample import Sample
from training.datasets.taskonomy import Taskonomy
from training.evaluation.judges import dense_evaluator
from training.synth.adashare.cameras import view_cameras
from training.synth.adashare.classes import COARSE_CLASSES, STREET_CLASSES, TASKONOMY_STREET_CLASSES
from training.synth.adashare.dataset import AdaShareOptions, Summary, write_dataset
from training.synth.image_scale import ImageScale

pytest.importorskip("open3d", reason="Open3D casts the rays and is not installed")

from training.synth.world.world import make_world

NYUV2 = AdaShareOptions(
    layout="nyuv2", scenes=2, scale=ImageScale(name="test", keyframes=1, image_width=160, image_height=120)
)
TASKONOMY = AdaShareOptions(
    layout="taskonomy", scenes=1, scale=ImageScale(name="test", keyframes=1, image_width=96, image_height=96)
)


@pytest.fixture(scope="module")
def nyuv2(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return write_dataset(tmp_path_factory.mktemp("synth") / "nyuv2", NYUV2, processes=1)


@pytest.fixture(scope="module")
def taskonomy(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return write_dataset(tmp_path_factory.mktemp("synth") / "taskonomy", TASKONOMY, processes=1)


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _rays(intrinsics_33: NDArray[Any], size_hw: tuple[int, ...]) -> NDArray[np.float64]:
    """Unit vectors [h, w, 3] from the camera through the middle of each pixel, in the camera's frame."""
    rows, columns = np.indices(size_hw)
    pixels = np.stack((columns + 0.5, rows + 0.5, np.ones(size_hw)), axis=-1)
    rays = pixels @ np.linalg.inv(np.asarray(intrinsics_33, np.float64)).T
    directions: NDArray[np.float64] = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    return directions


def test_nyuv2_has_three_tasks(nyuv2: Summary) -> None:
    assert nyuv2.images == {"train": 2, "val": 2}
    for classes, names in ((40, STREET_CLASSES), (13, tuple(COARSE_CLASSES))):
        data = NyuV2(nyuv2.folder, "train", classes)
        assert data.class_names == names
        for sample in (data[0], data[1]):
            values = dict(sample.dense.items())
            assert set(values) == {"semantic_segmentation", "depth", "normals"}
            semantic, depth = values["semantic_segmentation"], values["depth"]
            there = {names[index] for index in np.unique(semantic.value[semantic.valid])}
            assert {"road", "sky"} <= there
            assert not depth.valid[semantic.value == names.index("sky")].any()
            normals = values["normals"]
            assert (normals.valid == depth.valid).mean() > 0.99
            # Towards the viewer: against the ray of each pixel, which at the picture's edge is not the axis.
            assert sample.cameras is not None
            rays_hwc = _rays(sample.cameras.intrinsics_v33[0], normals.valid[0].shape)
            facing = (normals.value[0] * rays_hwc).sum(axis=-1)[normals.valid[0]]
            assert facing.max() < 0.05
    assert open_dataset(nyuv2.folder, FrameInput(image=None)).name == "nyuv2"


def test_taskonomy_has_five_tasks(taskonomy: Summary) -> None:
    assert taskonomy.images == {"val": 2}
    data = Taskonomy(taskonomy.folder, "val")
    for sample in (data[0], data[1]):
        values = dict(sample.dense.items())
        assert set(values) == {"semantic_segmentation", "depth", "normals", "edges", "keypoints"}
        assert sample.dense.semantic_classes == TASKONOMY_STREET_CLASSES
        edges = values["edges"].value
        assert edges.max() == pytest.approx(1.0, abs=1e-3)
        assert 0.02 < edges.mean() < 0.6
        assert (values["depth"].valid == values["normals"].valid).mean() > 0.99
    assert max(data[index].dense.keypoints.value.max() for index in (0, 1)) > 0.5  # type: ignore[union-attr]
    assert open_dataset(taskonomy.folder, FrameInput(image=None)).labels_of(0) == data.labels_of(0)
    assert draw_sample(data[0], 100).shape[2] == 3


@pytest.mark.parametrize("layout", ["nyuv2", "taskonomy"])
def test_files_say_what_the_world_was(layout: str, request: pytest.FixtureRequest) -> None:
    """The same world rendered again: depth, normals and classes come back within what the files resolve."""
    options = {"nyuv2": NYUV2, "taskonomy": TASKONOMY}[layout]
    summary: Summary = request.getfixturevalue(layout)
    part = next(iter(summary.images))
    data = (NyuV2 if layout == "nyuv2" else Taskonomy)(summary.folder, part)
    town = 0 if part == "train" else 54
    world = make_world(options.preset, options.seed, 0, 0.1, town_number=town, slope_m=options.slope_m)
    size = (options.size.image_width, options.size.image_height)
    cameras = view_cameras(options.files.intrinsics(size), size, options.views)
    moment = world.at(0.1)
    for index, camera in enumerate(cameras):
        sample: Sample = data[index]
        view = world.render(camera, moment, keypoints=False)
        assert sample.cameras is not None
        np.testing.assert_array_equal(sample.cameras.images_vhwc[0], view.image_hwc)
        np.testing.assert_allclose(sample.cameras.intrinsics_v33[0], camera.matrix_33)
        depth, normals = sample.dense.depth, sample.dense.normals
        assert depth is not None
        assert normals is not None
        np.testing.assert_array_equal(depth.valid[0], view.depth_hw <= 120.0)
        at = depth.valid[0]
        np.testing.assert_allclose(depth.value[0][at], view.depth_hw[at], atol=0.002)
        cosine = (normals.value[0] * view.normal_hwc).sum(axis=-1)
        assert cosine[normals.valid[0]].min() > 0.999


def test_truth_is_a_perfect_prediction(nyuv2: Summary, taskonomy: Summary) -> None:
    for data in (NyuV2(nyuv2.folder, "val"), Taskonomy(taskonomy.folder, "val")):
        sample = data[0]
        for task, label in sample.dense.items():
            evaluator = dense_evaluator(task, sample.dense.semantic_classes)
            evaluator.update(label.value[0], label.value[0], label.valid[0])
            result = evaluator.compute()
            for name, metric in result.metrics.items():
                value = getattr(result, name)
                if not np.isfinite(value):
                    continue
                if metric.higher_is_better:
                    assert value == pytest.approx(1.0, abs=1e-9), (task, name)
                else:
                    assert value == pytest.approx(0.0, abs=1e-9), (task, name)


def test_two_processes_write_the_same_bytes_as_one(nyuv2: Summary, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    again = write_dataset(tmp_path / "again", NYUV2, lambda *at: calls.append(at), processes=2)
    assert again.images == nyuv2.images
    assert calls[0] == (0, 4)
    assert calls[-1] == (4, 4)
    assert content(again.folder) == content(nyuv2.folder)


def test_a_removed_record_is_rendered_again(taskonomy: Summary) -> None:
    """As after a kill between two scenes."""
    before = content(taskonomy.folder)
    (taskonomy.folder / ".synth" / "scenes" / "0000.json").unlink()
    (taskonomy.folder / "taskonomy.json").unlink()
    write_dataset(taskonomy.folder, TASKONOMY, processes=1)
    assert content(taskonomy.folder) == before
    groups = json.loads((taskonomy.folder / "taskonomy.json").read_text())
    assert [len(row) for row in groups["val"]] == [6, 6]
