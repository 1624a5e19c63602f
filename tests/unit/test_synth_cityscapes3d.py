"""The Cityscapes-3D writer: the official scripts read what it writes, and find truth perfect."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from perception_core.configuration import ConfigurationError
from perception_core.geometry import inverse, points_in_box, rotation_from_quaternion, transform_of
from training.datasets.cityscapes import CITYSCAPES_TASKS, Cityscapes
from training.datasets.files import read_label_image
from training.datasets.frame_input import FrameInput
from training.datasets.opening import open_dataset
from training.datasets.overlay import draw_sample
from training.evaluation.cityscapes3d_detection import CLASSES, evaluate_folder
from training.evaluation.cityscapes_scripts import quiet_scripts
from training.synth.cityscapes3d.dataset import CityscapesOptions, Summary, render_sequence, write_dataset
from training.synth.cityscapes3d.plan import make_plan
from training.synth.image_scale import ImageScale
from training.synth.world.presets import Preset

pytest.importorskip("open3d", reason="Open3D casts the rays and is not installed")
pytest.importorskip("cityscapesscripts", reason="cityscapesscripts is the judge and is not installed")

OPTIONS = CityscapesOptions(
    scenes=2, seed=7, scale=ImageScale(name="test", keyframes=2, image_width=320, image_height=160)
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return write_dataset(tmp_path_factory.mktemp("synth") / "data", OPTIONS, processes=1)


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def annotations(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    files = sorted((folder / "gtBbox3d").rglob("*_gtBbox3d.json"))
    return [(file, json.loads(file.read_text())) for file in files]


def beside(file: Path, top: str, ending: str) -> Path:
    """Returns another file of the same picture."""
    root = file.parents[3]
    name = file.name.replace("_gtBbox3d.json", f"_{ending}")
    return root / top / file.parent.parent.name / file.parent.name / name


def test_our_loader_reads_every_label(written: Summary) -> None:
    assert written.images == {"train": 2, "val": 2}
    for split in ("train", "val"):
        data = Cityscapes(written.folder, split)
        assert len(data) == 2
        for sample in (data[index] for index in range(2)):
            assert sample.labels_present == set(CITYSCAPES_TASKS)
            semantic, depth, boxes = sample.dense.semantic_segmentation, sample.dense.depth, sample.boxes
            assert semantic is not None
            assert depth is not None
            assert boxes is not None
            assert semantic.valid.mean() > 0.8
            names = {sample.dense.semantic_classes[i] for i in np.unique(semantic.value[semantic.valid])}
            assert {"road", "sky", "vegetation"} <= names
            assert depth.valid.mean() > 0.4
            # the sky is nowhere near
            sky = semantic.value == sample.dense.semantic_classes.index("sky")
            assert not depth.valid[sky].any()
            road = depth.value[(semantic.value == 0) & depth.valid]
            assert 2.0 < road.min() < 8.0
    assert open_dataset(written.folder, FrameInput(image=None)).name == "cityscapes"


def test_boxes_are_tilted_as_the_ground_is(written: Summary) -> None:
    tilts = []
    for split in ("train", "val"):
        data = Cityscapes(written.folder, split)
        for index in range(len(data)):
            boxes = data[index].boxes
            assert boxes is not None
            tilts.append(np.degrees(np.abs(boxes.pitch_roll_b2)))
    tilt = np.concatenate(tilts)
    assert len(tilt) > 4
    assert (tilt.max(axis=0) > 0.3).all()  # both pitch and roll occur
    assert tilt.max() < 12.0


def test_boxes_hold_the_points_of_their_pixels(written: Summary) -> None:
    """Disparity, calibration, instance ids and boxes agree: back-projected pixels lie in their box."""
    checked = 0
    for file, truth in annotations(written.folder):
        sensor = truth["sensor"]
        instances = read_label_image(beside(file, "gtFine", "gtFine_instanceIds.png"))
        stored = read_label_image(beside(file, "disparity", "disparity.png")).astype(np.float64)
        ego_from_camera = inverse(np.vstack([sensor["sensor_T_ISO_8855"], [0, 0, 0, 1]]))
        for item in truth["objects"]:
            rows, columns = np.nonzero((instances == item["instanceId"]) & (stored > 1))
            left, top, width, height = item["2d"]["modal"]
            assert left <= columns.min()
            assert columns.max() <= left + width
            assert top <= rows.min()
            assert rows.max() <= top + height
            depth = sensor["baseline"] * sensor["fx"] / ((stored[rows, columns] - 1) / 256)
            # axes of ISO 8855: forward, left, up
            left_m = -(columns - sensor["u0"]) / sensor["fx"] * depth
            up_m = -(rows - sensor["v0"]) / sensor["fy"] * depth
            points = np.stack([depth, left_m, up_m, np.ones_like(depth)], axis=1) @ ego_from_camera.T
            w, x, y, z = item["3d"]["rotation"]
            pose = transform_of(rotation_from_quaternion([x, y, z, w]), item["3d"]["center"])
            local = points @ inverse(pose).T
            # disparity comes in steps
            margin_m = 0.3 + 0.008 * float(np.linalg.norm(item["3d"]["center"]))
            size = np.array(item["3d"]["dimensions"]) + margin_m
            assert points_in_box(local[:, :3], [0, 0, 0, *size, 0]).mean() > 0.97, (file.name, item["label"])
            checked += 1
    assert checked > 4


def test_hidden_shares_are_shares(written: Summary) -> None:
    objects = [item for _, truth in annotations(written.folder) for item in truth["objects"]]
    assert all(0 <= item[key] <= 1 for item in objects for key in ("occlusion", "truncation"))
    assert any(item["occlusion"] < 0.2 for item in objects)
    assert any(item["occlusion"] > 0.2 for item in objects)


def truth_as_predictions(folder: Path, out: Path) -> Path:
    out.mkdir()
    for file, truth in annotations(folder):
        name = file.name.replace("_gtBbox3d", "_predBbox3d")
        (out / name).write_text(json.dumps({"objects": truth["objects"]}))
    return out


def test_truth_is_a_perfect_detection(
    written: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official evaluator reads the files as they are, without our copy of them."""
    monkeypatch.chdir(tmp_path)
    predictions = truth_as_predictions(written.folder, tmp_path / "predictions")
    with quiet_scripts():
        from cityscapesscripts.evaluation.evalObjectDetection3d import Box3dEvaluator
        from cityscapesscripts.evaluation.objectDetectionHelpers import EvaluationParameters

        judge = Box3dEvaluator(EvaluationParameters(list(CLASSES)))
        judge.loadGT(str(written.folder / "gtBbox3d"))
        judge.loadPredictions(str(predictions))
        judge.evaluate()
    counts = {name: sum(c.boxes for c in written.classes if c.label == name) for name in CLASSES}
    assert dict(judge.results["GT_stats"]) == counts
    there = [name for name in CLASSES if counts[name]]
    assert "car" in there
    perfect = 0
    for name in there:
        assert judge.results["AP"][name]["auc"] == pytest.approx(1.0, abs=1e-9)
        parts = ("Center_Dist", "Size_Similarity", "OS_Yaw", "OS_Pitch_Roll")
        values = [judge.results[part][name]["auc"] for part in parts]
        # as the scripts define them, similarities are 0 for a class at one depth
        depths = len(judge.results["Center_Dist"][name]["data"])
        expected = 1.0 if depths > 1 else 0.0
        assert values == pytest.approx([expected] * 4, abs=1e-9)
        assert judge.results["Detection_Score"][name] == pytest.approx(expected, abs=1e-9)
        perfect += depths > 1
    assert perfect >= 1
    ours = evaluate_folder(written.folder / "gtBbox3d", predictions)
    assert ours.average_precision == pytest.approx(1.0, abs=1e-9)
    assert ours.detection_score == pytest.approx(judge.results["mDetection_Score"], abs=1e-12)
    assert ours.truth_boxes == counts


def test_depths_are_counted_as_the_scripts_count_them(written: Summary) -> None:
    for split in ("train", "val"):
        found: dict[str, set[int]] = {name: set() for name in CLASSES}
        for file, truth in annotations(written.folder):
            if file.parent.parent.name == split:
                for item in truth["objects"]:
                    if item["label"] in found:
                        distance = int(np.hypot(*item["3d"]["center"][:2]))
                        found[item["label"]].add(distance // 5 * 5)
        for count in written.classes:
            if count.split == split:
                assert count.depths == len(found[count.label]), count
    assert all(entry.split(": ")[1] in CLASSES for entry in written.at_one_depth())


def test_truth_is_a_perfect_segmentation(
    written: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pixels, and of instances: the scripts write a file into the working folder."""
    monkeypatch.chdir(tmp_path)
    with quiet_scripts():
        from cityscapesscripts.helpers.labels import id2label

        scripts = "cityscapesscripts.evaluation.eval{}LevelSemanticLabeling"
        pixel_level, instance_level = (
            importlib.import_module(scripts.format(level)) for level in ("Pixel", "Instance")
        )

        images = sorted(str(path) for path in (written.folder / "gtFine").rglob("*_labelIds.png"))
        monkeypatch.setattr(pixel_level.args, "JSONOutput", False)
        monkeypatch.setattr(pixel_level.args, "quiet", True)
        result = pixel_level.evaluateImgLists(images, images, pixel_level.args)
        assert result["averageScoreClasses"] == pytest.approx(1.0, abs=1e-9)
        assert result["averageScoreInstClasses"] == pytest.approx(1.0, abs=1e-9)
        assert result["averageScoreCategories"] == pytest.approx(1.0, abs=1e-9)

        truths, predictions, found = [], [], set()
        for path in sorted((written.folder / "gtFine").rglob("*_instanceIds.png")):
            ids = read_label_image(path)
            assert set(np.unique(ids[ids < 1000])) <= set(id2label)
            lines = []
            for number in np.unique(ids[ids >= 1000]).tolist():
                label = id2label[number // 1000]
                assert label.hasInstances
                mask = f"{path.stem}_{number}.png"
                assert cv2.imwrite(str(tmp_path / mask), np.where(ids == number, 255, 0).astype(np.uint8))
                lines.append(f"{mask} {label.id} 1.0")
                found.add(label.name)
            (tmp_path / f"{path.stem}.txt").write_text("\n".join(lines))
            truths.append(str(path))
            predictions.append(str(tmp_path / f"{path.stem}.txt"))
        arguments = instance_level.args
        for name, value in (
            ("JSONOutput", False),
            ("quiet", True),
            ("predictionPath", str(tmp_path)),
            ("gtInstancesFile", str(tmp_path / "gtInstances.json")),
        ):
            monkeypatch.setattr(arguments, name, value)
        averages = instance_level.evaluateImgLists(predictions, truths, arguments)["averages"]
    assert averages["allAp"] == pytest.approx(1.0, abs=1e-9)
    assert "car" in found


def test_colours_are_those_of_the_labels(written: Summary) -> None:
    from cityscapesscripts.helpers.labels import id2label

    file, _ = annotations(written.folder)[0]
    ids = read_label_image(beside(file, "gtFine", "gtFine_labelIds.png"))
    colours = read_label_image(beside(file, "gtFine", "gtFine_color.png"))
    for number in np.unique(ids).tolist():
        assert (colours[ids == number] == id2label[number].color).all()


def test_vehicle_files_follow_the_drive(written: Summary) -> None:
    files = sorted((written.folder / "vehicle" / "train").rglob("*_vehicle.json"))
    first, second = (json.loads(file.read_text()) for file in files)
    north = (second["gpsLatitude"] - first["gpsLatitude"]) * 111_320.0
    east = (second["gpsLongitude"] - first["gpsLongitude"]) * 111_320.0 * np.cos(np.radians(48.78))
    assert np.hypot(north, east) == pytest.approx(first["speed"] * 8 / 17, rel=0.25, abs=0.1)
    if first["speed"] > 1.0:
        off = np.degrees(np.arctan2(east, north)) - first["gpsHeading"]
        assert abs((off + 180) % 360 - 180) < 12.0


def test_a_sample_can_be_drawn(written: Summary) -> None:
    drawn = draw_sample(Cityscapes(written.folder, "val")[0], 160)
    assert drawn.shape[2] == 3
    assert drawn.std() > 20


def test_a_finished_data_set_is_not_made_again(written: Summary) -> None:
    picture = next((written.folder / "leftImg8bit").rglob("*.png"))
    stamp = picture.stat().st_mtime_ns
    calls: list[tuple[int, int]] = []
    again = write_dataset(written.folder, OPTIONS, lambda *at: calls.append(at), processes=1)
    assert picture.stat().st_mtime_ns == stamp
    assert calls == [(4, 4)]
    assert again == written
    with pytest.raises(ConfigurationError, match=r"other options \(seed\)"):
        write_dataset(written.folder, OPTIONS.model_copy(update={"seed": 8}))


def test_killed_run_is_taken_up_and_ends_with_the_same_bytes(written: Summary, tmp_path: Path) -> None:
    """Which is also: two runs, in processes of their own, give the same bytes."""
    program = (
        "from pathlib import Path; import sys\n"
        "from training.synth.cityscapes3d.dataset import CityscapesOptions, write_dataset\n"
        "options = CityscapesOptions.model_validate_json(sys.argv[2])\n"
        "write_dataset(Path(sys.argv[1]), options, processes=1)\n"
    )
    killed = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", program, str(killed), OPTIONS.model_dump_json()]
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 300
    while not list(killed.glob(".synth/unfinished/*/leftImg8bit")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # the first sequence was being rendered: nothing of it counts or can be seen
    assert list(killed.glob(".synth/unfinished/*"))
    assert not list(killed.glob(".synth/scenes/*.json"))
    assert not (killed / "leftImg8bit").exists()
    summary = write_dataset(killed, OPTIONS, processes=1)
    assert summary.classes == written.classes
    assert content(killed) == content(written.folder)


def test_an_empty_street_has_empty_files(tmp_path: Path) -> None:
    deserted = Preset(name="deserted", traffic=0, walkers=0, parked=0, cast=False)
    short = OPTIONS.scale.model_copy(update={"keyframes": 1})
    options = CityscapesOptions(scenes=1, preset=deserted, scale=short, slope_m=0.0)
    calls: list[None] = []
    (tmp_path / "d").mkdir()
    render_sequence(tmp_path / "d", options, make_plan(1)[0], lambda: calls.append(None))
    assert len(calls) == 1
    ((_, truth),) = annotations(tmp_path / "d")
    assert truth["objects"] == truth["ignore"] == []
    boxes = Cityscapes(tmp_path / "d", "val")[0].boxes
    assert boxes is not None
    assert len(boxes.boxes_b9) == 0
