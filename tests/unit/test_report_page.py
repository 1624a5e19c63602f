"""The page: whole whatever is missing, self-contained, and with boxes where they belong."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_run_fixtures import command, diagnostic, facts, frame_timings, fusion, resolve, run_of

from perception_core.deployment import ResolvedDeployment
from perception_core.geometry import rotation_about_z, transform_of
from perception_nodes.report.bev_view import bev_view
from perception_nodes.report.camera_view import camera_view, mosaic
from perception_nodes.report.control_judge import judge_commands
from perception_nodes.report.frame_scene import FrameScene, SceneCamera, SceneMap, SceneObject, arc
from perception_nodes.report.page import render_page, spread
from perception_nodes.report.path_samples import path_records
from perception_nodes.report.recorded_run import RecordedRun
from perception_nodes.report.summary import summarize
from perception_nodes.report.svg import nice_ceiling, nice_ticks

VOID = {"meta", "br", "input", "img", "hr", "link"}


class Balanced(HTMLParser):
    """Notes tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)


def page_of(run: RecordedRun, resolved: ResolvedDeployment, scenes: list[FrameScene]) -> str:
    paths = path_records(run, resolved.bundle.spec, resolved.rig, resolved.deployment.budgets_ms)
    unsafe = judge_commands(run, resolved)
    summary = summarize(run, facts(), resolved, paths, unsafe)
    page = render_page(summary, run, resolved, paths, scenes, unsafe)
    balance = Balanced()
    balance.feed(page)
    assert balance.problems == []
    assert balance.open == []
    return page


def camera_looking(yaw: float, name: str = "camera_front") -> SceneCamera:
    """A camera 1.5 m above the ego origin that looks along `yaw`."""
    optical_from_level = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    camera_from_ego = transform_of(optical_from_level) @ transform_of(rotation_about_z(-yaw), None)
    camera_from_ego = camera_from_ego @ transform_of(None, [0.0, 0.0, -1.5])
    intrinsics = np.array([[250.0, 0, 160], [0, 250, 90], [0, 0, 1]])
    return SceneCamera(name, np.full((180, 320, 3), 80, np.uint8), camera_from_ego, intrinsics)


def whole_scene() -> FrameScene:
    box = SceneObject("car", 0.8, (15.0, 2.0, 0.8, 4.2, 1.8, 1.6, 0.3), (3.0, 0.0))
    probability = np.zeros((2, 40, 60), np.float32)
    probability[0, 10:30] = 0.9
    return FrameScene(
        trace_id=5,
        time_s=2.0,
        points_n3=np.random.default_rng(0).uniform(-30, 30, (500, 3)).astype(np.float32),
        cameras=(camera_looking(0.0), SceneCamera("camera_back", None)),
        objects={"detection3d": (box,)},
        ground_truth=(box,),
        map=SceneMap(("drivable_area", "divider"), probability, 1.0, (-10.0, -20.0)),
        path_xy=arc(0.1, 2.7, 20.0),
    )


def whole_run(resolved: ResolvedDeployment) -> RecordedRun:
    timings = [item for trace in range(1, 31) for item in frame_timings(resolved, trace, 80.0 + trace)]
    commands = [command(number, 0.05 * number) for number in range(1, 61)]
    faults = [diagnostic(1.0, "sensor_fusion: <script>alert(1)</script>", b"\x02", 2)]
    return run_of(timings, commands=commands, fusion=[fusion(3, 32, 30, 4)], diagnostics=faults)


def test_a_whole_run_shows_everything(tmp_path: Path) -> None:
    resolved = resolve(tmp_path)
    page = page_of(whole_run(resolved), resolved, [whole_scene()])
    for part in (
        "bev-points",
        "bev-map",
        "bev-truth",
        "bev-detections",
        "bev-path",
        "cam-truth",
        "Untrained weights",
    ):
        assert part in page, part
    assert page.count('class="chart"') == 2  # detection and map
    assert "budget 400 ms" in page
    assert "not in this frame" in page
    assert "<script>alert" not in page


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    resolved = resolve(tmp_path)
    page = page_of(whole_run(resolved), resolved, [whole_scene()])
    page = page.replace("http://www.w3.org/2000/svg", "")  # a name, not an address that is fetched
    assert re.findall(r"https?://", page) == []
    assert set(re.findall(r'href="(.{5})', page)) == {"data:"}


@pytest.mark.parametrize("rig", ["no_camera", "no_lidar", "whole"])
def test_an_empty_recording_still_gives_a_page(tmp_path: Path, rig: str) -> None:
    resolved = resolve(tmp_path, rig)
    page = page_of(RecordedRun(missing=["messages.log: there is none"]), resolved, [])
    assert "No frame came in" in page
    assert "No control command was recorded" in page
    assert "messages.log: there is none" in page


def test_a_rig_without_cameras(tmp_path: Path) -> None:
    resolved = resolve(tmp_path, "no_camera")
    scene = FrameScene(trace_id=1, time_s=1.0, points_n3=np.zeros((3, 3), np.float32))
    assert "The rig has no camera." in page_of(whole_run(resolved), resolved, [scene])


def test_a_run_without_control_and_without_lidar(tmp_path: Path) -> None:
    resolved = resolve(tmp_path, "no_lidar")
    timings = [item for trace in range(1, 11) for item in frame_timings(resolved, trace, 90.0)]
    scene = FrameScene(trace_id=1, time_s=1.0, cameras=(camera_looking(0.0),), notes=("lidar: cut off",))
    page = page_of(run_of(timings), resolved, [scene])
    assert "camera_front → detection3d" in page
    assert "lidar: cut off" in page


def test_commands_that_are_not_finite_do_not_spoil_the_chart(tmp_path: Path) -> None:
    resolved = resolve(tmp_path)
    commands = [command(1, 0.1), command(2, 0.2, speed=math.nan), command(3, 0.3, reaction_time=math.inf)]
    page = page_of(run_of([], commands=commands), resolved, [])
    assert "unsafe at" in page
    assert not re.search(r'="[^"]*\b(nan|inf)\b', page)


def polygon_centres(svg: str, group: str) -> list[tuple[float, float]]:
    tree = ElementTree.fromstring(svg)
    found = []
    for element in tree.iter("{http://www.w3.org/2000/svg}g"):
        if element.get("class") == group:
            for polygon in element.iter("{http://www.w3.org/2000/svg}polygon"):
                points = [
                    tuple(map(float, pair.split(","))) for pair in (polygon.get("points") or "").split()
                ]
                found.append(tuple(float(value) for value in np.mean(points, axis=0)))
    return found


def test_forward_is_up_and_left_is_left_in_the_birds_eye_view(tmp_path: Path) -> None:
    vehicle = resolve(tmp_path).rig.vehicle
    ahead_left = SceneObject("car", 1.0, (20.0, 10.0, 0.8, 4.0, 2.0, 1.5, 0.0))
    svg = bev_view(FrameScene(1, 0.0, ground_truth=(ahead_left,)), vehicle, extent_m=50.0)
    ((u, v),) = polygon_centres(svg, "bev-truth")
    assert (u, v) == pytest.approx((400.0, 300.0))


def path_points(svg: str) -> np.ndarray:
    numbers = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", svg.split('class="cam-truth"')[1])
    return np.array(numbers, dtype=float)


def test_boxes_are_projected_where_the_camera_sees_them() -> None:
    camera = camera_looking(0.0)
    left = SceneObject("car", 1.0, (20.0, 4.0, 1.5, 4.0, 2.0, 2.0, 0.0))
    points = path_points(camera_view(camera, FrameScene(1, 0.0, ground_truth=(left,))))
    expected_near_corner = 160 - 250 * 3.0 / 18.0  # right edge of the face at 18 m
    assert points[:, 0].max() < 160
    assert np.abs(points[:, 0] - expected_near_corner).min() < 0.01
    assert points[:, 1].min() == pytest.approx(90 - 250 * 1.0 / 18.0, abs=0.01)


def test_a_box_behind_the_camera_is_not_drawn() -> None:
    behind = SceneObject("car", 1.0, (-20.0, 0.0, 1.5, 4.0, 2.0, 2.0, 0.0))
    assert not path_points(camera_view(camera_looking(0.0), FrameScene(1, 0.0, ground_truth=(behind,)))).size


def test_six_cameras_stand_as_on_the_vehicle() -> None:
    degrees = {
        "back": 180,
        "front_left": 55,
        "back_right": -110,
        "front": 0,
        "front_right": -55,
        "back_left": 110,
    }
    cameras = [camera_looking(math.radians(angle), f"camera_{name}") for name, angle in degrees.items()]
    rows = [[camera.name.removeprefix("camera_") for camera in row] for row in mosaic(cameras)]
    assert rows == [["front_left", "front", "front_right"], ["back_left", "back", "back_right"]]


def test_cameras_without_calibration_are_shown_too() -> None:
    cameras = [camera_looking(0.0), SceneCamera("camera_a", None), SceneCamera("camera_b", None)]
    assert sorted(camera.name for row in mosaic(cameras) for camera in row) == [
        "camera_a",
        "camera_b",
        "camera_front",
    ]
    assert mosaic([]) == []


def test_ticks_are_round_and_cover_the_range() -> None:
    assert nice_ticks(0.0, 1.0, 5) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert nice_ticks(0.0, 0.0) == [0.0]
    assert nice_ceiling(183.0) == 200.0
    assert nice_ceiling(math.nan) == 1.0


def test_spread_keeps_first_and_last() -> None:
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 4) == [1, 2]
    assert spread(list(range(5)), 1) == [2]
