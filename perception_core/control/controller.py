"""The controller: from what was last received, and how old that is, to a command. Pure logic; the control
node gives it ears and a clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from perception_core.control.centre_line import centre_line
from perception_core.control.inbox import (
    DetectionInbox,
    DetectionOutput,
    EgoMotion,
    LatencyFigures,
    LearnedProposal,
    MapOutput,
    ReferenceLine,
)
from perception_core.control.lateral import PursuitOptions, pure_pursuit
from perception_core.control.longitudinal import LongitudinalOptions, follow_speed
from perception_core.control.object_fusion import FusionOptions, footprints_later, unexplained
from perception_core.control.path import FloatArray, PlanarPath, arc_path, frame_moved, path_from_ego
from perception_core.control.safety_envelope import (
    CommandLimiter,
    DrivingState,
    EnvelopeOptions,
    Health,
    SafetyStateMachine,
)
from perception_core.control.sight_distance import Footprint, free_distance, trusted_range
from perception_core.control.speed_limit import (
    needed_deceleration,
    ramp_delay_s,
    speed_limit,
    stopping_distance,
)
from perception_core.rig import VehicleLimits

#: Stands for an unknown reaction time or age where a finite number must be said.
LONG_S = 60.0
#: Faster than any road vehicle: such odometry is not believed.
ABSURD_SPEED_MPS = 100.0
ABSURD_YAW_RATE_RPS = 5.0


@dataclass(frozen=True)
class ControllerOptions:
    """Settings of the controller; see docs/control.md for each.

    Attributes:
        period_s: Time between ticks.
        required_tasks: Detection tasks without which the vehicle does not drive.
        detection_tasks: All detection tasks whose objects are heeded.
        stand_in_tasks: Detection tasks the vehicle drives on while a required one is silent, at what their
            own range and latency allow; the first that is fresh.
        measuring_modalities: Sensors that measure ranges: while one of them is in a required output, other
            tasks' objects that it explains are not heeded twice.
        fusion: When two tasks' objects are the same one.
        odometry_age_s: Older odometry is no odometry.
        max_output_latency_s: A detection output with older sensor data is no new perception.
        reference_age_s: An older reference path is dropped.
        proposal_age_s: An older learned proposal is dropped.
        corridor_margin_m: Space wanted on either side of the vehicle.
        object_gap_m: Gap kept to an object, and to the end of the path, when standing.
        law_deceleration_mps2: Deceleration the speed limit counts on; None: the vehicle's comfortable one.
        max_lateral_acceleration_mps2: Sets the speed in curves.
        creep_mps: A target speed below this is a stop; driving on needs more than twice as much.
    """

    period_s: float = 0.05
    required_tasks: tuple[str, ...] = ("detection3d",)
    detection_tasks: tuple[str, ...] = ("detection3d",)
    stand_in_tasks: tuple[str, ...] = ()
    measuring_modalities: tuple[str, ...] = ("lidar",)
    fusion: FusionOptions = field(default_factory=FusionOptions)
    odometry_age_s: float = 0.5
    max_output_latency_s: float = 2.0
    reference_age_s: float = 1.0
    proposal_age_s: float = 0.3
    corridor_margin_m: float = 0.3
    object_gap_m: float = 2.0
    law_deceleration_mps2: float | None = None
    max_lateral_acceleration_mps2: float = 2.0
    creep_mps: float = 0.3
    envelope: EnvelopeOptions = field(default_factory=EnvelopeOptions)
    pursuit: PursuitOptions = field(default_factory=PursuitOptions)
    longitudinal: LongitudinalOptions = field(default_factory=LongitudinalOptions)


@dataclass(frozen=True)
class Command:
    """One tick's command; the fields of mmmt_msgs/ControlCommand, every one finite."""

    state: DrivingState
    reason: str
    basis: DetectionOutput | None
    steering_angle: float
    steering_rate: float
    speed: float
    acceleration: float
    measured_speed: float
    speed_limit: float
    sight_distance: float
    reaction_time: float
    perception_age: float


@dataclass(frozen=True)
class _Sight:
    """How far is seen and how late, and what decides it."""

    distance_m: float
    reaction_s: float
    limited_by: str


def _sensed_s(output: DetectionOutput) -> float:
    """Returns when an output's oldest sensor data was taken, steady clock."""
    return output.received_s - (output.latency_s or 0.0)


class Controller:
    """Holds the newest inputs and turns them into one command a tick. Time is any steady clock in seconds."""

    def __init__(
        self, vehicle: VehicleLimits, trusted_range_m: Mapping[str, float], options: ControllerOptions
    ) -> None:
        """Creates a controller.

        Args:
            vehicle: Limits.
            trusted_range_m: Range each modality is trusted to, from the ego origin; 0 where it does not look
                ahead.
            options: Settings.
        """
        self.vehicle = vehicle
        self.options = options
        self._ranges = dict(trusted_range_m)
        self._law_mps2 = options.law_deceleration_mps2 or vehicle.comfortable_deceleration_mps2
        if not 0.0 < self._law_mps2 <= vehicle.full_deceleration_mps2:
            raise ValueError(
                f"law_deceleration_mps2 {self._law_mps2} must be positive and not above the vehicle's"
                f" full deceleration {vehicle.full_deceleration_mps2}"
            )
        self.machine = SafetyStateMachine(options.envelope)
        self._limiter = CommandLimiter(vehicle)
        self._detections = DetectionInbox(
            options.detection_tasks, options.max_output_latency_s, options.envelope.comfortable_stop_age_s
        )
        self._map: MapOutput | None = None
        self._map_line: FloatArray | None = None
        self._reference: ReferenceLine | None = None
        self._proposal: LearnedProposal | None = None
        self._motion: EgoMotion | None = None
        self._latency: LatencyFigures | None = None
        self._last_tick_s: float | None = None
        self._travelled: deque[tuple[float, float]] = deque([(-math.inf, 0.0)], maxlen=4096)
        self._last_speed_mps: float | None = None
        self._stopping = True
        self._starting = False
        self._overridden = False

    # -- inputs ----------------------------------------------------------------------------------------------

    def accept_detections(self, output: DetectionOutput) -> str:
        """Takes a detection output; returns why it is not used, empty where it is."""
        return self._detections.accept(output)

    def accept_map(self, output: MapOutput) -> None:
        """Takes a map."""
        self._map = output
        front = self.vehicle.front_overhang_m
        self._map_line = centre_line(output.grid, self.vehicle.width_m, start_search_m=front + 4.0)

    def accept_motion(self, motion: EgoMotion) -> str:
        """Takes odometry; returns why it is not used, empty where it is."""
        if not (
            abs(motion.speed_mps) <= ABSURD_SPEED_MPS and abs(motion.yaw_rate_rps) <= ABSURD_YAW_RATE_RPS
        ):
            return f"speed {motion.speed_mps} m/s and yaw rate {motion.yaw_rate_rps} rad/s are not believable"
        self._motion = motion
        return ""

    def accept_reference(self, reference: ReferenceLine | None) -> str:
        """Takes a reference path, None withdraws it; returns why it is not used, empty where it is."""
        if reference is not None:
            try:
                PlanarPath(reference.points_n2)
            except ValueError as error:
                return str(error)
        self._reference = reference
        return ""

    def accept_proposal(self, proposal: LearnedProposal) -> str:
        """Takes the learned head's proposal; returns why it is not used, empty where it is."""
        if not proposal.is_finite():
            return "it is not finite"
        if proposal.latency_s is not None and not proposal.latency_s <= self.options.max_output_latency_s:
            return f"its sensor data was {proposal.latency_s:.2f} s old when it arrived"
        self._proposal = proposal
        return ""

    def accept_latency(self, latency: LatencyFigures) -> None:
        """Takes the latency monitor's status."""
        self._latency = latency

    # -- engaging --------------------------------------------------------------------------------------------

    def engage(self, now_s: float) -> str:
        """Engages; returns why not, empty where it did."""
        if self._overridden:
            return "the driver is overriding"
        if self.machine.engaged:
            return ""
        # What stands in keeps a vehicle driving; it does not set one going.
        refusal = self.machine.engage(self._health(now_s, self.options.required_tasks))
        if not refusal:
            self._limiter.reset(self._present_steering())
            self._stopping = self._starting = True
        return refusal

    def disengage(self, reason: str) -> None:
        """Stops commanding at once."""
        self.machine.disengage(reason)

    def override(self, active: bool) -> None:
        """The driver takes over (disengages at once) or lets go (does not engage)."""
        self._overridden = active
        if active:
            self.machine.disengage("driver override")

    def _present_steering(self) -> float:
        """Steering angle that explains the measured yaw rate: where the limiter starts when engaging a
        rolling vehicle.
        """
        motion = self._motion
        if motion is None or abs(motion.speed_mps) < 1.0:
            return 0.0
        return math.atan(self.vehicle.wheelbase_m * motion.yaw_rate_rps / motion.speed_mps)

    # -- the tick --------------------------------------------------------------------------------------------

    def health(self, now_s: float) -> Health:
        """Returns what the state depends on."""
        return self._health(now_s, self._resting_on(now_s))

    def tick(self, now_s: float) -> Command:
        """Computes this tick's command; not to be published while the state is DISENGAGED.

        Args:
            now_s: Steady time, not smaller than at the last tick.
        """
        period_s = self.options.period_s if self._last_tick_s is None else max(0.0, now_s - self._last_tick_s)
        self._last_tick_s = now_s
        if self._starting:  # the limits of rate begin here: what came before was not commanded
            period_s, self._starting = self.options.period_s, False
        speed = self._speed(now_s)
        self._note_travelled(now_s, speed, period_s)

        resting_on = self._resting_on(now_s)
        health = self._health(now_s, resting_on)
        path, proposal = self._choose_path(now_s)
        if not health.stop_reason and path is None:
            health = Health(health.perception_age_s, health.monitor_age_s, "no path to follow")
        state = self.machine.update(health, now_s)

        sight = self._sight(now_s, speed, path, resting_on)
        law = speed_limit(max(0.0, sight.distance_m), sight.reaction_s, self._law_mps2)
        limit = min(law, self.vehicle.max_speed_mps)
        need = needed_deceleration(
            speed, sight.distance_m, sight.reaction_s, self.vehicle.full_deceleration_mps2
        )
        if limit <= 0.0 and speed <= self.options.longitudinal.standstill_mps:
            need = min(need, self.vehicle.comfortable_deceleration_mps2)  # holding, not stopping
        target = self._target_speed(state, limit, speed, path, proposal)
        wanted = self._wanted_acceleration(state, speed, target, limit, need)

        # Unlike the brake, the steering gets no more than a usual tick's change after a hold-up of this
        # process.
        steering_before = self._limiter.steering_rad
        steering_time_s = min(period_s, 2.0 * self.options.period_s)
        steering = self._limiter.steer(self._wanted_steering(state, speed, path, proposal), steering_time_s)
        acceleration = self._limiter.accelerate(wanted, period_s)
        return Command(
            state=state,
            reason=self._reason(state, limit, sight, resting_on),
            basis=self._basis(resting_on),
            steering_angle=steering,
            steering_rate=(steering - steering_before) / steering_time_s if steering_time_s > 1e-6 else 0.0,
            speed=target,
            acceleration=acceleration,
            measured_speed=speed,
            speed_limit=limit,
            sight_distance=max(0.0, sight.distance_m),
            reaction_time=sight.reaction_s,
            perception_age=min(health.perception_age_s, LONG_S),
        )

    def _reason(self, state: DrivingState, limit: float, sight: _Sight, resting_on: tuple[str, ...]) -> str:
        if state == DrivingState.DRIVING:
            reason = sight.limited_by if limit < self.vehicle.max_speed_mps else ""
            if resting_on != self.options.required_tasks:
                silent = ", ".join(self.options.required_tasks)
                reason = f"{reason or 'driving'}; {silent} silent, on {', '.join(resting_on)} alone"
            return reason
        return self.machine.reason

    def _basis(self, resting_on: tuple[str, ...]) -> DetectionOutput | None:
        """The newest output of the tasks the command rests on."""
        outputs = [output for task in resting_on if (output := self._detections.newest(task)) is not None]
        return max(outputs, key=lambda output: output.received_s, default=None)

    # -- speed and distance ----------------------------------------------------------------------------------

    def _fresh_motion(self, now_s: float) -> EgoMotion | None:
        motion = self._motion
        if motion is None or now_s - motion.received_s > self.options.odometry_age_s:
            return None
        return motion

    def _speed(self, now_s: float) -> float:
        """Returns the speed to reckon with: odometry, else the last one known, else the largest possible.

        A vehicle that rolls backward is as hard to stop as one that rolls forward, hence the magnitude.
        """
        motion = self._fresh_motion(now_s)
        if motion is not None:
            self._last_speed_mps = abs(motion.speed_mps)
        return self.vehicle.max_speed_mps if self._last_speed_mps is None else self._last_speed_mps

    def _note_travelled(self, now_s: float, speed: float, period_s: float) -> None:
        self._travelled.append((now_s, self._travelled[-1][1] + speed * period_s))

    def _travelled_since(self, time_s: float) -> float:
        """Returns an upper bound of the distance covered since a time: from the last tick before it."""
        total = self._travelled[-1][1]
        for tick_s, distance in reversed(self._travelled):
            if tick_s <= time_s:
                return total - distance
        return total - self._travelled[0][1]

    # -- sight -----------------------------------------------------------------------------------------------

    def _resting_on(self, now_s: float) -> tuple[str, ...]:
        """Returns the tasks the vehicle drives on: the required ones or, while one of them is silent, the
        first stand-in that is not and whose sensors look ahead.
        """
        required, stale_s = self.options.required_tasks, self.options.envelope.comfortable_stop_age_s
        if self._detections.age_s(required, now_s) <= stale_s:
            return required
        for task in self.options.stand_in_tasks:
            output = self._detections.newest(task)
            if output is not None and now_s - output.received_s <= stale_s:
                if trusted_range(output.alive, self._ranges) > 0.0:
                    return (task,)
        return required

    def _health(self, now_s: float, resting_on: tuple[str, ...]) -> Health:
        latency_age = math.inf if self._latency is None else max(0.0, now_s - self._latency.received_s)
        reason = "" if self._fresh_motion(now_s) is not None else "speed unknown: no fresh odometry"
        return Health(self._detections.age_s(resting_on, now_s), latency_age, reason)

    def _heeded(self, now_s: float, resting_on: tuple[str, ...]) -> list[DetectionOutput]:
        """Outputs whose objects count: those rested on, however old, and the others' while fresh."""
        stale_s = self.options.envelope.comfortable_stop_age_s
        outputs = []
        for task in self.options.detection_tasks:
            output = self._detections.newest(task)
            if output is None:
                continue
            if task in resting_on or now_s - output.received_s <= stale_s:
                outputs.append(output)
        return outputs

    def _output_latency_s(self, output: DetectionOutput) -> float:
        """Returns the latency to reckon with for an output: the worst path's p99 or newest, or what this
        very output showed.
        """
        known = [] if output.latency_s is None else [output.latency_s]
        if self._latency is not None:
            known += [
                worst
                for (modality, task), worst in self._latency.worst_s.items()
                if task == output.task and modality in output.alive
            ]
        finite = [value for value in known if math.isfinite(value) and value >= 0.0]
        return min(max(finite), LONG_S) if finite and len(finite) == len(known) else LONG_S

    def _sight(
        self, now_s: float, speed: float, path: PlanarPath | None, resting_on: tuple[str, ...]
    ) -> _Sight:
        """Applies the law's left and right side to every heeded output and keeps the worst of each."""
        front = self.vehicle.front_overhang_m
        outputs = self._heeded(now_s, resting_on)
        missing = any(self._detections.newest(task) is None for task in resting_on)
        actuation = self.vehicle.actuation_delay_s + ramp_delay_s(
            self._limiter.acceleration_mps2, self._law_mps2, self.vehicle.max_jerk_mps3
        )
        if missing or not outputs:
            return _Sight(0.0, LONG_S, "no perception")
        distance, reaction, limited_by = math.inf, 0.0, ""
        for output in outputs:
            latency = self._output_latency_s(output)
            # Between two outputs the age grows up to the interval: reckoned with from the start, else the
            # limit would saw.
            age = max(
                now_s - output.received_s, min(self._detections.longest_interval_s(output.task), LONG_S)
            )
            reaction = max(reaction, min(latency + age, LONG_S))
            sensed_s = _sensed_s(output)
            # v T supposes the present speed since the stamp; a vehicle that has slowed down came further.
            further = max(0.0, self._travelled_since(sensed_s) - speed * (latency + age))
            if output.task in resting_on:
                trusted = trusted_range(output.alive, self._ranges) - front - further
                if trusted < distance:
                    distance, limited_by = (
                        trusted,
                        "sight" if trusted > 0.0 else "no living sensor looks ahead",
                    )
            footprints = self._unexplained(output, outputs)
            for corridor in self._corridors(path, speed, latency + age, now_s - sensed_s):
                free = free_distance(
                    corridor, footprints, self.vehicle.width_m, self.options.corridor_margin_m, front
                )
                free -= self.options.object_gap_m + further
                if free < distance:
                    distance, limited_by = free, "object on the path"
        if path is not None:
            end = (
                path.length_m
                - front
                - self.options.object_gap_m
                + speed * (reaction if reaction < LONG_S else 0.0)
            )
            if end < distance:
                distance, limited_by = end, "end of the path"
        return _Sight(max(0.0, distance), min(reaction + actuation, LONG_S), limited_by)

    def _unexplained(
        self, output: DetectionOutput, outputs: Sequence[DetectionOutput]
    ) -> tuple[Footprint, ...]:
        """Returns an output's objects without those that a measuring output lists too, where that measured
        them (late fusion, see `object_fusion`).
        """
        measuring = set(self.options.measuring_modalities)
        if measuring & output.alive or not output.footprints:
            return output.footprints
        motion = self._motion
        speed, yaw_rate = (0.0, 0.0) if motion is None else (motion.speed_mps, motion.yaw_rate_rps)
        kept = output.footprints
        for other in outputs:
            if other is not output and measuring & other.alive:
                later_s = _sensed_s(output) - _sensed_s(other)
                there = footprints_later(other.footprints, speed, yaw_rate, later_s)
                kept = unexplained(there, kept, self.options.fusion)
        return kept

    def _corridors(
        self, path: PlanarPath | None, speed: float, seen_ago_s: float, since_stamp_s: float
    ) -> list[PlanarPath]:
        """Returns where the vehicle goes, in the ego frame of the output's stamp: its path, and the arc it
        steers at present.

        The arc is heeded as far as the vehicle needs to stop: before that it follows its path again.
        """
        corridors = []
        if path is not None:
            motion = self._motion
            yaw_rate = motion.yaw_rate_rps if motion is not None else 0.0
            behind = frame_moved(path.points_n2, speed, yaw_rate, -min(since_stamp_s, 2.0))
            try:
                from_stamp = path_from_ego(PlanarPath(behind))
            except ValueError:
                from_stamp = None
            if from_stamp is not None:
                corridors.append(from_stamp)
        reach = stopping_distance(speed, seen_ago_s + self.vehicle.actuation_delay_s, self._law_mps2)
        curvature = math.tan(self._limiter.steering_rad) / self.vehicle.wheelbase_m
        corridors.append(arc_path(curvature, min(reach, 100.0) + self.vehicle.front_overhang_m))
        return corridors

    # -- path, speed and steering ----------------------------------------------------------------------------

    def _choose_path(self, now_s: float) -> tuple[PlanarPath | None, LearnedProposal | None]:
        """Returns the path ahead in the present ego frame and the learned proposal, where there is a fresh
        one to follow.
        """
        proposal = self._proposal
        if proposal is not None and now_s - proposal.received_s <= self.options.proposal_age_s:
            points = proposal.waypoints_n2
            if len(points) >= 2:
                path = self._as_path(points, now_s - proposal.received_s + (proposal.latency_s or 0.0))
            else:
                limit = self.vehicle.max_steering_angle_rad
                curvature = (
                    math.tan(min(max(proposal.steering_rad, -limit), limit)) / self.vehicle.wheelbase_m
                )
                path = arc_path(curvature, max(self._ranges.values(), default=0.0))
            if path is not None:
                return path, proposal
        reference = self._reference
        if reference is not None and now_s - reference.received_s <= self.options.reference_age_s:
            path = self._as_path(reference.points_n2, now_s - reference.received_s)
            if path is not None:
                return path, None
        drivable, line = self._map, self._map_line
        if drivable is not None and line is not None:
            age = now_s - drivable.received_s
            if age <= self.options.envelope.comfortable_stop_age_s:
                return self._as_path(line, age + (drivable.latency_s or 0.0)), None
        return None, None

    def _as_path(self, points_n2: FloatArray, age_s: float) -> PlanarPath | None:
        """Moves points into the present ego frame and begins them at the vehicle."""
        motion = self._motion
        if motion is not None:
            points_n2 = frame_moved(
                points_n2, motion.speed_mps, motion.yaw_rate_rps, min(max(age_s, 0.0), 2.0)
            )
        try:
            return path_from_ego(PlanarPath(points_n2))
        except ValueError:
            return None

    def _target_speed(
        self,
        state: DrivingState,
        limit: float,
        speed: float,
        path: PlanarPath | None,
        proposal: LearnedProposal | None,
    ) -> float:
        if state != DrivingState.DRIVING or path is None:
            self._stopping = True
            return 0.0
        target = min(limit, self.vehicle.max_speed_mps)
        horizon = stopping_distance(max(speed, target), 0.5, self._law_mps2)
        curvature = path.largest_curvature(0.0, horizon)
        if curvature > 1e-6:
            target = min(target, math.sqrt(self.options.max_lateral_acceleration_mps2 / curvature))
        if proposal is not None:
            target = min(target, max(0.0, proposal.speed_mps))
        creep = self.options.creep_mps
        self._stopping = target < (2.0 * creep if self._stopping else creep)
        return 0.0 if self._stopping else target

    def _wanted_acceleration(
        self, state: DrivingState, speed: float, target: float, limit: float, need: float
    ) -> float:
        vehicle = self.vehicle
        if state == DrivingState.FULL_STOP:
            return -vehicle.full_deceleration_mps2
        if state == DrivingState.COMFORTABLE_STOP:
            return -max(vehicle.comfortable_deceleration_mps2, need)
        return follow_speed(
            speed,
            target,
            limit,
            need,
            self._law_mps2,
            vehicle.max_acceleration_mps2,
            vehicle.comfortable_deceleration_mps2,
            self.options.longitudinal,
        )

    def _wanted_steering(
        self, state: DrivingState, speed: float, path: PlanarPath | None, proposal: LearnedProposal | None
    ) -> float:
        """Follows the path also while stopping comfortably; a full stop, or nothing to follow, holds the
        wheel.
        """
        if path is None or state in (DrivingState.FULL_STOP, DrivingState.DISENGAGED):
            return self._limiter.steering_rad
        if proposal is not None:
            return proposal.steering_rad
        return pure_pursuit(path, speed, self.vehicle.wheelbase_m, self.options.pursuit)
