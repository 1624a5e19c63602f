"""Control with two detection tasks: the monocular one stands in while the BEV model is silent."""

from __future__ import annotations

from control_fixtures import RANGES, STRAIGHT, Inspector

from perception_core.bundle import BundleSpec
from perception_core.bundle_writer import create_seeded_model
from perception_core.control.controller import Controller, ControllerOptions
from perception_core.control.inbox import DetectionOutput, EgoMotion, LatencyFigures, ReferenceLine
from perception_core.control.safety_envelope import DrivingState
from perception_core.control.sight_distance import Footprint
from perception_core.control.tasks import detection_tasks, modalities_of, required_tasks, stand_in_tasks
from perception_core.platform.stage_report import SensorShare
from perception_core.rig import Rig, VehicleLimits

BEV, MONO = "detection3d", "mono_detection3d"
CAMERA = ("camera_front",)


def make(stand_in: bool = True) -> Controller:
    options = ControllerOptions(
        required_tasks=(BEV,), detection_tasks=(BEV, MONO), stand_in_tasks=(MONO,) if stand_in else ()
    )
    return Controller(VehicleLimits(), RANGES, options)


def output(
    task: str, now_s: float, trace: int, alive, footprints=(), latency_s: float = 0.2
) -> DetectionOutput:
    stamp_ns = round((now_s - latency_s) * 1e9)
    sensors = tuple(SensorShare(name, True, stamp_ns, 0) for name in alive)
    return DetectionOutput(task, trace, now_s, latency_s, sensors, tuple(footprints))


def surroundings(control: Controller, now_s: float, speed: float) -> None:
    worst = {("lidar", BEV): 0.2, ("camera_front", BEV): 0.2, ("camera_front", MONO): 0.25}
    control.accept_latency(LatencyFigures(now_s, worst))
    assert control.accept_motion(EgoMotion(now_s, speed, 0.0)) == ""
    assert control.accept_reference(ReferenceLine(now_s, STRAIGHT)) == ""


class Drive:
    """A controller and the judge that sees all of its commands."""

    def __init__(self, stand_in: bool = True) -> None:
        self.control, self.inspector = make(stand_in), Inspector()


def drive(run: Drive, seconds: float, start_s: float, *, bev: bool, mono: bool, speed: float = 8.0):
    """Ticks at 20 Hz with outputs at 10 Hz; returns the commands and the time after the last."""
    control, commands, now = run.control, [], start_s
    for tick in range(round(seconds * 20)):
        now = start_s + 0.05 * tick
        trace = round(now * 20) + 1
        if tick % 2 == 0:
            if bev:
                control.accept_detections(output(BEV, now, trace, ("lidar", "camera_front")))
            if mono:
                control.accept_detections(output(MONO, now, trace, CAMERA))
        surroundings(control, now, speed)
        if not control.machine.engaged:
            control.engage(now)
        command = control.tick(now)
        if control.machine.engaged:
            run.inspector.inspect(now, command)
        commands.append(command)
    return commands, now + 0.05


def test_driving_goes_on_at_the_cameras_range_when_the_bev_model_dies() -> None:
    run = Drive()
    before, now = drive(run, 2.0, 100.0, bev=True, mono=True)
    assert before[-1].state == DrivingState.DRIVING
    after, _ = drive(run, 3.0, now, bev=False, mono=True)
    assert {command.state for command in after} == {DrivingState.DRIVING}
    last = after[-1]
    # 40 m of the camera instead of 50 m of the LiDAR, from the front bumper.
    assert last.sight_distance <= 40.0 - 3.7 + 1e-6
    assert last.speed_limit < before[-1].speed_limit
    assert last.basis is not None
    assert last.basis.task == MONO
    assert "detection3d silent, on mono_detection3d alone" in last.reason


def test_without_a_stand_in_the_vehicle_stops_as_before() -> None:
    run = Drive(stand_in=False)
    _, now = drive(run, 2.0, 100.0, bev=True, mono=True)
    after, _ = drive(run, 3.0, now, bev=False, mono=True)
    assert after[-1].state == DrivingState.FULL_STOP


def test_both_silent_is_a_full_stop() -> None:
    run = Drive()
    _, now = drive(run, 2.0, 100.0, bev=True, mono=True)
    after, _ = drive(run, 3.0, now, bev=False, mono=False)
    assert after[-1].state == DrivingState.FULL_STOP


def test_the_bev_model_takes_over_again() -> None:
    run = Drive()
    _, now = drive(run, 2.0, 100.0, bev=True, mono=True)
    _, now = drive(run, 2.0, now, bev=False, mono=True)
    again, _ = drive(run, 2.0, now, bev=True, mono=True)
    assert again[-1].basis is not None
    assert again[-1].basis.task == BEV
    assert "alone" not in again[-1].reason


def test_a_stand_in_does_not_set_a_vehicle_going() -> None:
    run = Drive()
    _, now = drive(run, 1.0, 100.0, bev=False, mono=True, speed=0.0)
    assert not run.control.machine.engaged
    assert "perception" in run.control.engage(now)


def test_a_camera_that_does_not_look_ahead_cannot_stand_in() -> None:
    run = Drive()
    _, now = drive(run, 2.0, 100.0, bev=True, mono=True)
    for tick in range(40):
        at = now + 0.05 * tick
        run.control.accept_detections(output(MONO, at, 10_000 + tick, ("camera_back",)))
        surroundings(run.control, at, 8.0)
        command = run.control.tick(at)
    assert command.state == DrivingState.FULL_STOP


def sight(bev_objects, mono_objects, bev_alive=("lidar",), mono_alive=CAMERA) -> float:
    control = make()
    now = 100.0
    control.accept_detections(output(BEV, now, 1, bev_alive, bev_objects))
    control.accept_detections(output(MONO, now, 1, mono_alive, mono_objects))
    surroundings(control, now, 0.0)
    control.engage(now)
    return control.tick(now).sight_distance


def car(x: float, y: float = 0.0) -> Footprint:
    return Footprint(x, y, 4.0, 1.8, 0.0)


def test_one_list_of_objects() -> None:
    nothing = sight([], [])
    measured = sight([car(30.0)], [])
    assert measured < nothing
    # The camera guesses the same car 3 m nearer: it is the LiDAR's car, where the LiDAR saw it.
    assert sight([car(30.0)], [car(27.0)]) == measured
    # A car the LiDAR does not see counts, wherever the camera guesses it.
    assert sight([], [car(27.0)]) < measured
    assert sight([car(30.0)], [car(18.0)]) < sight([], [car(27.0)])


def test_without_a_measuring_sensor_both_guesses_count() -> None:
    only_cameras = ("camera_front",)
    assert sight([car(30.0)], [car(27.0)], bev_alive=only_cameras) < sight(
        [car(30.0)], [], bev_alive=only_cameras
    )


def test_tasks_and_modalities_of_a_bundle_of_both_models() -> None:
    small = {"grid": {"x_min": -12.8, "x_max": 12.8, "y_min": -12.8, "y_max": 12.8, "cell_size": 0.8}}
    model = create_seeded_model(
        "combined",
        0,
        models={
            "bev": {"name": "fuller_micro", "arguments": small},
            "mono": {"name": "tag_micro"},
        },
    )
    spec = BundleSpec.model_validate(
        {
            "format": 1,
            "name": "both",
            "model": {"name": "combined"},
            "input": model.bundle_input(),
            "tensors": model.tensor_specs(),
            "components": model.component_specs(),
            "weights_sha256": "",
            "training": {"trained": False, "seed": 0},
        }
    )
    rig = Rig.model_validate(
        {
            "name": "x",
            "lidar": {"topic": "/l"},
            "cameras": {"camera_front": {"topic": "/f/image"}, "camera_back": {"topic": "/b/image"}},
        }
    )
    assert detection_tasks(spec) == (BEV, MONO)
    assert required_tasks(spec) == (BEV,)
    assert stand_in_tasks(spec) == (MONO,)
    assert modalities_of(spec, rig, BEV) == {"lidar", "camera_front", "camera_back"}
    assert modalities_of(spec, rig, MONO) == {"camera_front"}
