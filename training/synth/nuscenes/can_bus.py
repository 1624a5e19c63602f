"""CAN bus messages of a drive, in the files and units of nuScenes' CAN bus expansion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import quaternion_from_yaw
from training.synth.world.ego import STEERING_RATIO, EgoState
from training.synth.world.world import World

Message = dict[str, Any]
FloatArray = NDArray[np.float64]

_GRAVITY = 9.81
_WHEEL_CIRCUMFERENCE_M = 1.94
_ROUTE_STEP_M = 2.0
_KMH = 3.6


def write_can_bus(
    folder: Path, scene_name: str, world: World, origin: tuple[float, float], begin_us: int, seconds: float
) -> None:
    """Writes all messages of a scene.

    Args:
        folder: `can_bus` of the data set.
        scene_name: scene-0000.
        world: Its drive.
        origin: Where the town lies on the map, metres.
        begin_us: Time stamp of the drive's beginning.
        seconds: Length.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rates = {
        "pose": 50.0,
        "ms_imu": 100.0,
        "steeranglefeedback": 100.0,
        "vehicle_monitor": 2.0,
        "zoesensors": 100.0,
        "zoe_veh_info": 100.0,
    }
    meta: dict[str, Any] = {}
    for name, rate in rates.items():
        count = int(np.floor(seconds * rate + 1e-6)) + 1
        times = np.arange(count) / rate
        messages = [
            {"utime": begin_us + round(float(time) * 1e6)}
            | _MAKERS[name](world, float(time), world.ego_state(float(time)), origin)
            for time in times
        ]
        meta[name] = _statistics(messages, rate)
        _write(folder / f"{scene_name}_{name}.json", messages)
    _write(folder / f"{scene_name}_meta.json", meta)
    _write(folder / f"{scene_name}_route.json", _route(world, origin, seconds))


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _pose(world: World, time_s: float, state: EgoState, origin: tuple[float, float]) -> Message:
    x, y, z, w = quaternion_from_yaw(state.yaw)
    at = state.position_2 + np.array(origin)
    return {
        "accel": [state.acceleration, state.speed * state.yaw_rate, _GRAVITY],
        "orientation": [float(w), float(x), float(y), float(z)],
        "pos": [float(at[0]), float(at[1]), 0.0],
        "rotation_rate": [0.0, 0.0, state.yaw_rate],
        "vel": [state.speed, 0.0, 0.0],
    }


def _ms_imu(world: World, time_s: float, state: EgoState, origin: tuple[float, float]) -> Message:
    x, y, z, w = quaternion_from_yaw(state.yaw)
    return {
        "linear_accel": [state.acceleration, state.speed * state.yaw_rate, _GRAVITY],
        "q": [float(w), float(x), float(y), float(z)],
        "rotation_rate": [0.0, 0.0, state.yaw_rate],
    }


def _steer_angle(world: World, time_s: float, state: EgoState, origin: tuple[float, float]) -> Message:
    return {"value": state.steering * STEERING_RATIO}


def _pedals(state: EgoState) -> tuple[float, float]:
    """Returns throttle and brake 0..1: what it takes against rolling resistance and inertia."""
    needed = state.acceleration + 0.12 + 0.002 * state.speed**2
    return float(np.clip(needed / 3.5, 0.0, 1.0)), float(np.clip(-needed / 6.0, 0.0, 1.0))


def _vehicle_monitor(world: World, time_s: float, state: EgoState, origin: tuple[float, float]) -> Message:
    throttle, brake = _pedals(state)
    before = world.ego_state(max(time_s - 0.1, 0.0)).steering
    wheel = np.degrees(state.steering * STEERING_RATIO)
    rotation = state.speed / _WHEEL_CIRCUMFERENCE_M * 60.0
    return {
        "available_distance": 180,
        "battery_level": 78,
        "brake": round(brake * 126),
        "brake_switch": 1 if brake == 0 else 2,
        "gear_position": 7,
        "left_signal": int(state.yaw_rate > 0.15),
        "rear_left_rpm": rotation,
        "rear_right_rpm": rotation,
        "right_signal": int(state.yaw_rate < -0.15),
        "steering": float(wheel),
        "steering_speed": float(np.degrees((state.steering - before) * STEERING_RATIO) / 0.1),
        "throttle": round(throttle * 1000),
        "vehicle_speed": state.speed * _KMH,
        "yaw_rate": float(np.degrees(state.yaw_rate)),
    }


def _zoesensors(world: World, time_s: float, state: EgoState, origin: tuple[float, float]) -> Message:
    throttle, brake = _pedals(state)
    return {
        "brake_sensor": 0.166 + 0.6 * brake,
        "steering_sensor": state.steering * STEERING_RATIO,
        "throttle_sensor": 0.105 + 0.8 * throttle,
    }


def _zoe_veh_info(world: World, time_s: float, state: EgoState, origin: tuple[float, float]) -> Message:
    throttle, brake = _pedals(state)
    rotation = state.speed / _WHEEL_CIRCUMFERENCE_M * 60.0
    wheel = float(np.degrees(state.steering * STEERING_RATIO))
    return {
        "FL_wheel_speed": rotation,
        "FR_wheel_speed": rotation,
        "RL_wheel_speed": rotation,
        "RR_wheel_speed": rotation,
        "left_solar": 0,
        "longitudinal_accel": state.acceleration,
        "meanEffTorque": 400.0 + 220.0 * (throttle - brake),
        "odom": 1000.0 + state.travelled_m,
        "odom_speed": state.speed * _KMH,
        "pedal_cc": throttle * 100.0,
        "regen": brake * 10.0,
        "requestedTorqueAfterProc": 400.0 + 220.0 * (throttle - brake),
        "right_solar": 0,
        "steer_corrected": wheel,
        "steer_offset_can": 0.0,
        "steer_raw": wheel,
        "transversal_accel": state.speed * state.yaw_rate,
    }


_MAKERS = {
    "pose": _pose,
    "ms_imu": _ms_imu,
    "steeranglefeedback": _steer_angle,
    "vehicle_monitor": _vehicle_monitor,
    "zoesensors": _zoesensors,
    "zoe_veh_info": _zoe_veh_info,
}


def _statistics(messages: list[Message], rate: float) -> dict[str, Any]:
    """Returns what nuScenes' meta files say about one kind of message."""
    fields: dict[str, Any] = {}
    for key in messages[0]:
        values = np.array([message[key] for message in messages], dtype=np.float64)
        fields[key] = {
            name: np.asarray(function(values, axis=0)).tolist()
            for name, function in (("max", np.max), ("mean", np.mean), ("min", np.min), ("std", np.std))
        }
    return {
        "message_count": len(messages),
        "message_freq": rate,
        "timespan": (messages[-1]["utime"] - messages[0]["utime"]) * 1e-6,
        "var_info": fields,
    }


def _route(world: World, origin: tuple[float, float], seconds: float) -> list[list[float]]:
    """Returns the path the vehicle is to take, from a little before the drive to beyond its end."""
    curve = world.ego.curve
    begin = curve.nearest_arc(world.ego_state(0.0).position_2)
    end = curve.nearest_arc(world.ego_state(seconds).position_2)
    arcs = np.arange(max(0.0, begin - 20.0), min(curve.length, end + 50.0), _ROUTE_STEP_M)
    points: list[list[float]] = (curve.at(arcs) + np.array(origin)).tolist()
    return points
