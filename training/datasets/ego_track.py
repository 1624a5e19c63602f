"""The way a vehicle drove through a scene, and the control targets of its moments."""

from __future__ import annotations

import numpy as np
import pydantic
from numpy.typing import ArrayLike, NDArray

from perception_core.configuration import StrictModel
from perception_core.geometry import FloatArray, rotation_about_z
from training.datasets.sample import ControlTargets

#: Speed and yaw rate are taken over this time around a moment; poses of nuScenes jitter by centimetres.
_DIFFERENCE_S = 0.3

#: Below this speed the curvature of the way, and with it the steering angle, cannot be told from poses.
_CRAWL_MPS = 1.0


class ControlTargetsConfig(StrictModel):
    """What control targets are.

    Attributes:
        waypoints: Number of waypoints.
        spacing_s: Time between waypoints; the first lies one such time ahead.
        speed_horizon_s: The target speed is the one driven this much later.
        wheelbase_m: Of the recording vehicle; turns the way's curvature into a steering angle.
    """

    waypoints: int = pydantic.Field(default=8, gt=0)
    spacing_s: float = pydantic.Field(default=0.5, gt=0)
    speed_horizon_s: float = pydantic.Field(default=0.5, ge=0)
    wheelbase_m: float = pydantic.Field(default=2.588, gt=0)


class EgoTrack:
    """Poses of the ego frame over time, with position and heading in between.

    Attributes:
        start_s, end_s: First and last time.
    """

    def __init__(self, times_s: ArrayLike, world_from_ego_t44: ArrayLike) -> None:
        """Creates the track.

        Args:
            times_s: Ascending.
            world_from_ego_t44: A pose at each time.

        Raises:
            ValueError: There is no pose, or times do not ascend.
        """
        self._times = np.asarray(times_s, dtype=np.float64)
        poses = np.asarray(world_from_ego_t44, dtype=np.float64)
        if len(self._times) == 0 or (np.diff(self._times) <= 0).any():
            raise ValueError("a track needs poses at ascending times")
        self._position = poses[:, :2, 3]
        self._heading = np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
        self.start_s, self.end_s = float(self._times[0]), float(self._times[-1])

    def position(self, time_s: ArrayLike) -> FloatArray:
        """Returns x y in the world [..., 2]; beyond the ends, the ends."""
        time = np.asarray(time_s, dtype=np.float64)
        return np.stack([np.interp(time, self._times, self._position[:, axis]) for axis in (0, 1)], axis=-1)

    def heading(self, time_s: ArrayLike) -> NDArray[np.float64]:
        """Returns the heading in radians, continuous over time."""
        return np.asarray(np.interp(np.asarray(time_s, dtype=np.float64), self._times, self._heading))

    def motion(self, time_s: float) -> tuple[float, float] | None:
        """Returns speed [m/s] along the heading, negative backwards, and yaw rate [rad/s]; None for a track
        of one pose.
        """
        if self.end_s <= self.start_s:
            return None
        first = max(self.start_s, min(time_s - _DIFFERENCE_S / 2, self.end_s - _DIFFERENCE_S))
        last = min(self.end_s, first + _DIFFERENCE_S)
        elapsed = last - first
        way = self.position(last) - self.position(first)
        heading = float(self.heading((first + last) / 2))
        along = float(way @ [np.cos(heading), np.sin(heading)])
        return along / elapsed, float(self.heading(last) - self.heading(first)) / elapsed

    def control_targets(
        self, time_s: float, config: ControlTargetsConfig, steering_rad: float | None = None
    ) -> ControlTargets | None:
        """Returns what was driven from a moment on.

        Args:
            time_s: The moment.
            config: What targets are.
            steering_rad: Measured angle of the front wheels; None: by the way's curvature (kinematic bicycle
                model, tan(angle) = wheelbase * yaw rate / speed), which is not valid for a vehicle that
                hardly moves.

        Returns:
            Targets in the ego frame of that moment; None where not even the first waypoint was recorded.
        """
        times = time_s + config.spacing_s * np.arange(1, config.waypoints + 1)
        # Half a period of the slowest LiDAR: a scene's end must not lose its last waypoint to rounding.
        valid = times <= self.end_s + 0.025
        motion = self.motion(time_s)
        if not valid[0] or motion is None:
            return None
        turn = rotation_about_z(float(self.heading(time_s)))[:2, :2]
        waypoints = (self.position(times) - self.position(time_s)) @ turn
        waypoints[~valid] = 0
        later = self.motion(min(time_s + config.speed_horizon_s, self.end_s))
        assert later is not None
        speed, yaw_rate = motion
        is_known = steering_rad is not None or abs(speed) >= _CRAWL_MPS
        if steering_rad is None:
            steering_rad = float(np.arctan(config.wheelbase_m * yaw_rate / speed)) if is_known else 0.0
        return ControlTargets(steering_rad, max(0.0, later[0]), waypoints, valid, is_known)
