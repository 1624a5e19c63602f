"""The nuScenes writer: the official devkit reads what it writes, and its evaluation finds truth perfect."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception_core.configuration import ConfigurationError
from perception_core.labels import NUSCENES_DETECTION_CLASSES
from training.synth.nuscenes.plan import TILE_M, make_plan
from training.synth.nuscenes.vocabulary import LOCATIONS, VISIBILITY, visibility_token
from training.synth.world.presets import PRESETS, Preset, Scale

pytest.importorskip("open3d", reason="Open3D casts the rays and is not installed")
pytest.importorskip("nuscenes", reason="nuscenes-devkit is the judge and is not installed")

from nuscenes.can_bus.can_bus_api import NuScenesCanBus
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.map_expansion.map_api import NuScenesMap
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import create_splits_scenes

from training.synth.nuscenes.dataset import DatasetOptions, Summary, render_scene, write_dataset
from training.synth.world.town import make_town

SMALLEST = Scale(name="test", keyframes=2, image_width=96, image_height=54, lidar_columns=240)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    folder = tmp_path_factory.mktemp("synth") / "data"
    return write_dataset(folder, DatasetOptions(scenes=1, seed=7, scale=SMALLEST), processes=1)


@pytest.fixture(scope="module")
def nusc(written: Summary) -> NuScenes:
    return NuScenes(written.version, str(written.folder), verbose=False)


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_names_are_those_of_the_devkits_splits() -> None:
    splits = create_splits_scenes()
    for count, version, train, val in (
        (1, "v1.0-mini", 0, 1),
        (4, "v1.0-mini", 3, 1),
        (40, "v1.0-trainval", 32, 8),
    ):
        plan = make_plan(count)
        assert plan.version == version
        names = (
            {"train": "mini_train", "val": "mini_val"}
            if "mini" in version
            else {"train": "train", "val": "val"}
        )
        for split, expected in (("train", train), ("val", val)):
            of_split = [scene.name for scene in plan.scenes if scene.split == split]
            assert len(of_split) == len(set(of_split)) == expected
            assert set(of_split) <= set(splits[names[split]])
        towns = {
            s: {scene.town_number for scene in plan.scenes if scene.split == s} for s in ("train", "val")
        }
        assert not towns["train"] & towns["val"]
    many = make_plan(700)
    places = {(scene.location, scene.origin) for scene in many.scenes}
    assert len(places) == len({scene.town_number for scene in many.scenes}) == 64
    assert {scene.location for scene in many.scenes} == set(LOCATIONS)
    with pytest.raises(ValueError, match="at most"):
        make_plan(2000)


def test_towns_fit_their_tiles() -> None:
    for seed in range(4):
        for layout in ("straight", "curved", "junctions"):
            assert max(make_town(seed, layout).extent) < TILE_M


def test_visibility_levels() -> None:
    assert [visibility_token(share) for share in (0.0, 0.39, 0.4, 0.7, 0.8, 1.0)] == list("112344")
    assert set(VISIBILITY) == set("1234")


def test_devkit_reads_all_tables_and_files(nusc: NuScenes, written: Summary) -> None:
    assert len(nusc.sample) == written.keyframes == SMALLEST.keyframes
    assert len(nusc.sensor) == len(nusc.calibrated_sensor) == 7
    for sample in nusc.sample:
        assert set(sample["data"]) == {s["channel"] for s in nusc.sensor}
        for channel, name in sample["data"].items():
            path, boxes, intrinsic = nusc.get_sample_data(name)
            if channel == "LIDAR_TOP":
                cloud = LidarPointCloud.from_file(path)
                assert cloud.points.shape[1] > 2000
                assert len(np.fromfile(path, np.float32)) % 5 == 0
                assert len(boxes) == len(sample["anns"])
            else:
                assert cv2.imread(path).shape == (SMALLEST.image_height, SMALLEST.image_width, 3)
                assert intrinsic.shape == (3, 3)
    # 20 Hz LiDAR, chained
    sweep = nusc.get("sample_data", nusc.sample[0]["data"]["LIDAR_TOP"])
    stamps = [sweep["timestamp"]]
    while sweep["next"]:
        following = nusc.get("sample_data", sweep["next"])
        assert following["prev"] == sweep["token"]
        sweep = following
        stamps.append(sweep["timestamp"])
    assert set(np.diff(stamps)) == {50_000}
    assert len(stamps) == 10 * (SMALLEST.keyframes - 1) + 1


def test_points_in_boxes_are_those_the_devkit_counts(nusc: NuScenes) -> None:
    for sample in nusc.sample:
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3].astype(np.float64)
        for box in boxes:
            count = int(points_in_box(box, points).sum())
            # the table has six decimals, a point may lie on the very face
            assert abs(count - nusc.get("sample_annotation", box.token)["num_lidar_pts"]) <= 1
            assert nusc.get("sample_annotation", box.token)["num_lidar_pts"] > 0


def test_instances_are_chained_and_move_as_their_velocity_says(nusc: NuScenes) -> None:
    for instance in nusc.instance:
        name, seen = instance["first_annotation_token"], 0
        previous = ""
        while name:
            record = nusc.get("sample_annotation", name)
            assert record["prev"] == previous
            assert record["instance_token"] == instance["token"]
            previous, name, seen = name, record["next"], seen + 1
        assert seen == instance["nbr_annotations"]
        assert previous == instance["last_annotation_token"]
    speeds = {}
    for record in nusc.sample_annotation:
        velocity = nusc.box_velocity(record["token"])
        if np.isfinite(velocity).all():
            attribute = [nusc.get("attribute", a)["name"] for a in record["attribute_tokens"]]
            speeds.setdefault(attribute[0] if attribute else "", []).append(
                float(np.linalg.norm(velocity[:2]))
            )
    assert max(speeds["vehicle.parked"] + speeds["pedestrian.standing"]) < 0.05
    assert np.median(speeds["pedestrian.moving"]) == pytest.approx(1.3, abs=0.3)


def test_map_expansion_and_mask_agree(nusc: NuScenes, written: Summary) -> None:
    log = nusc.get("log", nusc.scene[0]["log_token"])
    town_map = NuScenesMap(str(written.folder), log["location"])
    pose = nusc.get(
        "ego_pose", nusc.get("sample_data", nusc.sample[0]["data"]["LIDAR_TOP"])["ego_pose_token"]
    )
    x, y = pose["translation"][:2]
    layers = town_map.layers_on_point(x, y)
    assert layers["drivable_area"]
    assert layers["lane"]
    patch = (x, y, 60.0, 60.0)
    names = ["drivable_area", "walkway", "carpark_area", "lane_divider", "road_divider", "lane"]
    masks = town_map.get_map_mask(patch, 0.0, names, (240, 240))
    assert (masks.reshape(len(names), -1).mean(axis=1) > 0.001).all()
    lane = town_map.get_closest_lane(x, y, radius=3.0)
    assert lane
    centre = town_map.discretize_lanes([lane], 0.5)[lane]
    assert min(np.hypot(px - x, py - y) for px, py, _ in centre) < 1.0
    assert len({town_map.get_outgoing_lane_ids(lane)[0]}) == 1
    mask = nusc.get("map", log["map_token"])["mask"]
    assert mask.is_on_mask(x, y, dilation=0)
    for location in LOCATIONS:
        NuScenesMap(str(written.folder), location)


def test_can_bus_agrees_with_the_drive(nusc: NuScenes, written: Summary) -> None:
    bus = NuScenesCanBus(str(written.folder))
    scene = nusc.scene[0]["name"]
    for name in bus.can_messages:
        assert bus.get_messages(scene, name)
    route, pose = bus.get_pose_and_route(scene)
    assert np.linalg.norm(route[:, None] - pose[None], axis=-1).min(axis=0).max() < 2.0
    assert set(bus.get_messages(scene, "meta")) == set(bus.can_messages)
    messages = bus.get_messages(scene, "pose")
    for sample in nusc.sample:
        data = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        at = min(messages, key=lambda m: abs(m["utime"] - data["timestamp"]))
        ego = nusc.get("ego_pose", data["ego_pose_token"])["translation"]
        assert np.linalg.norm(np.array(at["pos"][:2]) - ego[:2]) < 0.02 * at["vel"][0] + 0.01
    assert nusc.scene[0]["nbr_samples"] == SMALLEST.keyframes


def truth_as_predictions(nusc: NuScenes, path: Path) -> None:
    from nuscenes.eval.common.loaders import load_gt
    from nuscenes.eval.detection.data_classes import DetectionBox

    truth = load_gt(nusc, "mini_val", DetectionBox, verbose=False)
    results = truth.serialize()
    for boxes in results.values():
        for box in boxes:
            box["detection_score"] = 1.0
            box["velocity"] = np.nan_to_num(box["velocity"]).tolist()
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    path.write_text(json.dumps({"results": results, "meta": meta}))


def test_truth_is_a_perfect_detection(nusc: NuScenes, tmp_path: Path, written: Summary) -> None:
    assert written.missing() == []
    assert {count.label for count in written.classes} == set(NUSCENES_DETECTION_CLASSES)
    truth_as_predictions(nusc, tmp_path / "results.json")
    configuration = config_factory("detection_cvpr_2019")
    for split in ("mini_val", "synth_val"):  # the devkit's own, and the one of splits.json
        judge = DetectionEval(
            nusc, configuration, str(tmp_path / "results.json"), split, str(tmp_path / split), verbose=False
        )
        metrics, _ = judge.evaluate()
        assert metrics.mean_ap == pytest.approx(1.0, abs=1e-9)
        assert metrics.nd_score == pytest.approx(1.0, abs=0.01)


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(written: Summary, tmp_path: Path) -> None:
    short = SMALLEST.model_copy(update={"keyframes": 1})
    options = DatasetOptions(scenes=1, seed=7, scale=short)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        write_dataset(folder, options, processes=1)
    first, second = content(folders[0]), content(folders[1])
    assert first == second
    # and the first keyframe does not depend on how long the scene is
    cloud = next(name for name in first if name.endswith(".pcd.bin"))
    assert (written.folder / cloud).is_file()


@pytest.mark.slow
def test_empty_scene(tmp_path: Path) -> None:
    deserted = Preset(name="deserted", traffic=0, walkers=0, parked=0, cast=False)
    short = SMALLEST.model_copy(update={"keyframes": 1})
    summary = write_dataset(
        tmp_path / "d", DatasetOptions(scenes=1, preset=deserted, scale=short), processes=1
    )
    nusc = NuScenes(summary.version, str(summary.folder), verbose=False)
    assert len(nusc.sample) == 1
    assert nusc.sample_annotation == []
    assert nusc.instance == []
    assert len(summary.missing()) == 10


def test_folders_of_others_and_other_options_are_refused(written: Summary, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    options = DatasetOptions(scenes=1, scale=SMALLEST)
    with pytest.raises(ConfigurationError, match="holds something else"):
        write_dataset(tmp_path, options, processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigurationError, match=r"other options \(seed\)"):
        write_dataset(written.folder, DatasetOptions(scenes=1, seed=8, scale=SMALLEST), processes=1)


def test_a_finished_data_set_is_not_made_again(written: Summary) -> None:
    picture = next((written.folder / "samples" / "CAM_FRONT").iterdir())
    stamp = picture.stat().st_mtime_ns
    calls: list[tuple[int, int]] = []
    again = write_dataset(
        written.folder,
        DatasetOptions(scenes=1, seed=7, scale=SMALLEST),
        lambda *at: calls.append(at),
        processes=1,
    )
    assert picture.stat().st_mtime_ns == stamp
    assert calls == [(SMALLEST.keyframes, SMALLEST.keyframes)]
    assert again == written


def test_interrupted_scene_leaves_nothing_that_counts(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    options = DatasetOptions(scenes=1, scale=SMALLEST)
    scene = make_plan(1).scenes[0]
    with pytest.raises(StopError):
        render_scene(tmp_path, options, scene, stop)
    assert not (tmp_path / "samples").exists()
    assert not (tmp_path / ".synth" / "scenes" / f"{scene.name}.json").exists()


@pytest.mark.slow
def test_killed_run_is_taken_up_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; import sys\n"
        "from training.synth.nuscenes.dataset import DatasetOptions, write_dataset\n"
        "from training.synth.world.presets import Scale\n"
        f"scale = Scale(**{SMALLEST.model_dump()!r})\n"
        "write_dataset(Path(sys.argv[1]), DatasetOptions(scenes=2, seed=5, scale=scale), processes=1)\n"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*command, str(killed)], env=environment)
    deadline = time.monotonic() + 300
    while not list(killed.glob(".synth/scenes/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(killed.glob(".synth/scenes/*.json"))) == 1
    assert not list(killed.glob("v1.0-*"))
    for folder in (killed, whole):
        subprocess.run([*command, str(folder)], env=environment, check=True)
    assert content(killed) == content(whole)


def test_hard_and_easy_are_what_they_say() -> None:
    easy, standard, hard = (PRESETS[name] for name in ("easy", "standard", "hard"))
    assert easy.dropout < standard.dropout < hard.dropout
    assert easy.parked < standard.parked < hard.parked
    assert set(easy.conditions) < set(standard.conditions)
