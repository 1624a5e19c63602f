"""The coordinator of moves: takes requests to move a component of the running stack to another device,
carries them out, and asks for moves itself where it is told to watch the budgets.

It lives in a process of its own, never in that of latency monitor and control. See docs/replacement.md.
"""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

from mmmt_msgs.msg import LatencyStatus, MoveStatus, StageTiming
from mmmt_msgs.srv import MoveComponent
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType

from perception_core.bundle import SENSOR_FUSION
from perception_core.configuration import ConfigurationError
from perception_core.movable import ComponentMove, Home, first_homes, plan_move, possible_homes
from perception_core.platform.component_latency import FirstKnownLatency
from perception_core.platform.component_work import work_of_bundle
from perception_core.platform.frame_watch import FrameWatch
from perception_core.platform.measured_table import MeasuredTable
from perception_core.platform.move_proposal import RunningStages, propose_move
from perception_core.platform.move_protocol import HostRequest, Operation, Phase
from perception_core.platform.move_runner import MoveRunner
from perception_core.platform.replacement import MoveError, MoveLimits, MoveRequest, MoveState, Step
from perception_core.platform.replacement_policy import PathHealth, PolicySettings, ReplacementPolicy
from perception_nodes import topics
from perception_nodes.nodes.number_parameter import declare_number
from perception_nodes.runtime.drain import drained
from perception_nodes.runtime.host_clients import HostClients
from perception_nodes.runtime.placement_record import PlacementRecord
from perception_nodes.runtime.stack_node import ProcessContext, StackNode

NODE_NAME = "move_coordinator"
_TIMING_DEPTH = 512
_POLICY_PERIOD_S = 1.0


class MoveCoordinatorNode(StackNode):
    """Offers `move_component`, publishes `move_status`."""

    def __init__(self, context: ProcessContext) -> None:
        super().__init__(context, NODE_NAME)
        limits, policy = MoveLimits(), PolicySettings()
        self._limits = MoveLimits(
            warm_s=declare_number(
                self, "warm_s", limits.warm_s, "time for loading the new node [s]", 1.0, 600.0
            ),
            first_output_s=declare_number(
                self, "first_output_s", limits.first_output_s, "time to its first output [s]", 0.5, 60.0
            ),
            drain_s=declare_number(
                self, "drain_s", limits.drain_s, "time for the old node to end its work [s]", 0.1, 60.0
            ),
            lead=int(
                declare_number(self, "lead_s", limits.lead * 1e-9, "lead of the switch frame [s]", 0.01, 10.0)
                * 1e9
            ),
        )
        self._silent_s = declare_number(
            self,
            "silent_s",
            10.0,
            "a process that must answer and is silent so long is ended [s]",
            2.0,
            300.0,
        )
        descriptor = ParameterDescriptor(description="ask for moves when a budget is missed", read_only=True)
        enabled = bool(self.declare_parameter("policy_enabled", policy.enabled, descriptor).value)
        self._policy = ReplacementPolicy(
            PolicySettings(
                enabled=enabled,
                missed_share=declare_number(
                    self, "missed_share", policy.missed_share, "share of misses that is trouble", 0.01, 1.0
                ),
                missed_for_s=declare_number(
                    self, "missed_for_s", policy.missed_for_s, "time in trouble before a move [s]", 1.0, 600.0
                ),
                gain=declare_number(self, "gain", policy.gain, "least gain of a move, a share", 0.0, 1.0),
                cool_down_s=declare_number(
                    self, "cool_down_s", policy.cool_down_s, "time between moves [s]", 0.0, 86400.0
                ),
                failed_cool_down_s=declare_number(
                    self,
                    "failed_cool_down_s",
                    policy.failed_cool_down_s,
                    "time after a move that was taken back [s]",
                    0.0,
                    86400.0,
                ),
            )
        )
        self.declare_parameter(
            "measured",
            "",
            ParameterDescriptor(
                description="table of `mmmt profile` for devices a component was not seen on, empty: none"
            ),
        )
        deployment = context.deployment
        self._possible = possible_homes(deployment, context.processes)
        self._homes = first_homes(deployment, context.processes)
        self._work = work_of_bundle(context.bundle, context.rig)
        self._frames = FrameWatch(time.time_ns)  # sensor_fusion numbers frames by this clock
        self._stages = RunningStages()
        self._record = PlacementRecord(context.run_id)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._move: ComponentMove | None = None
        self._latency: LatencyStatus | None = None
        self._base: Any = None
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)

    # -- lifecycle -------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Creates clients and the status publisher, and reads the measurements."""
        processes = dict.fromkeys(home.process for homes in self._possible.values() for home in homes)
        self._hosts = HostClients(self, processes)
        self._runner = MoveRunner(
            self._hosts,
            self._frames,
            self._record,
            self._limits,
            silent_s=self._silent_s,
            on_change=self._publish_status,
        )
        self._status_publisher = self.create_publisher(MoveStatus, topics.MOVE_STATUS, topics.latched())
        measured = str(self.get_parameter("measured").value)
        if measured:
            table = MeasuredTable.load(Path(measured).expanduser(), self.process_context.bundle)
            self._base = FirstKnownLatency([table])

    def start(self) -> None:
        """Begins to listen; first ends what an earlier coordinator of this run has left unfinished."""
        self._subscription = self.create_subscription(
            StageTiming, topics.TIMING, self._on_timing, topics.reliable(_TIMING_DEPTH)
        )
        self._latency_subscription = self.create_subscription(
            LatencyStatus, topics.LATENCY_STATUS, self._on_latency, topics.reliable()
        )
        self._service = self.create_service(MoveComponent, topics.MOVE_COMPONENT, self._on_request)
        self._timer = self.create_timer(_POLICY_PERIOD_S, self._consider, clock=self._steady_clock)
        recorded = self._record.read()
        if recorded:
            self._homes |= recorded
            self._begin(lambda: self._recover(recorded))

    def stop(self) -> None:
        """Takes no more requests; a move that is under way is ended by the next coordinator."""
        self.destroy_timer(self._timer)
        self.destroy_service(self._service)
        self.destroy_subscription(self._latency_subscription)
        self.destroy_subscription(self._subscription)

    # -- requests --------------------------------------------------------------------------------------------

    def _on_request(self, request: Any, response: Any) -> Any:
        try:
            self.request(request.component, request.device)
            response.accepted = True
        except MoveError as error:
            response.accepted, response.message = False, str(error)
        return response

    def request(self, component: str, device: str) -> None:
        """Begins a move, or takes back the one that is under way where `device` is the one it began from.

        Raises:
            MoveError: It cannot be; says why.
        """
        under_way = self._move
        if self._is_busy() and under_way is not None:
            if (component, device) == (under_way.component, under_way.source.device):
                self._runner.cancel()
                return
            raise MoveError(
                f"{component} cannot be moved now: {under_way.component} is being moved to "
                f"{under_way.target.device} ({self._runner.state.step.value})"
            )
        memory_mb = {name: work.memory_mb for name, work in self._work.items()}
        deployment = self.process_context.deployment
        move = plan_move(deployment, self._possible, self._homes, memory_mb, component, device)
        self._move = move
        self._begin(lambda: self._carry_out(move))

    def _is_busy(self) -> bool:
        with self._lock:
            return self._thread is not None and self._thread.is_alive()

    def _begin(self, work: Any) -> None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise MoveError("an earlier coordinator's move is being ended; ask again in a few seconds")
            self._thread = threading.Thread(target=work, name="move", daemon=True)
            self._thread.start()

    def _carry_out(self, move: ComponentMove) -> None:
        try:
            state = self._runner.run(move)
        except OSError as error:
            self.fault("move", f"{move.component} stays on {move.source.device}: {error}")
            self._policy.moved(time.monotonic(), False)
            asked = MoveRequest(move.component, move.source.device, move.target.device)
            self._publish_status(MoveState(request=asked, step=Step.ABORTED, reason=str(error)))
            return
        done = state.step is Step.DONE
        if done:
            self._homes[move.component] = move.target
            self.get_logger().info(
                f"{move.component} moved from {move.source.device} to {move.target.device} at frame "
                f"{state.switch_frame}"
            )
        else:
            self.fault("move", f"{move.component} stays on {move.source.device}: {state.reason}", error=False)
        self._policy.moved(time.monotonic(), done)

    def _recover(self, recorded: dict[str, Home]) -> None:
        """Ends the second nodes of components that a coordinator which died was moving."""
        for component, owner in recorded.items():
            for home in self._possible.get(component, ()):
                if home == owner:
                    continue
                reply = self._hosts.ask(home.process, HostRequest(Operation.STATUS, component, home.device))
                if reply is not None and reply.phase is not Phase.ABSENT:
                    self._runner.recover(component, owner, home)

    def _publish_status(self, state: MoveState) -> None:
        request = state.request
        message = MoveStatus(
            component=request.component if request else "",
            source=request.source if request else "",
            target=request.target if request else "",
            step=state.step.value,
            busy=state.busy,
            switch_frame=max(0, state.switch_frame),
            reason=state.reason,
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._status_publisher.publish(message)

    # -- watching --------------------------------------------------------------------------------------------

    def _on_timing(self, first: StageTiming) -> None:
        for message in drained(self._subscription, first):
            if message.outcome != StageTiming.OUTCOME_DONE:
                continue
            if message.stage == SENSOR_FUSION:
                self._frames.begun(message.trace_id)
            elif message.stage in self._possible:
                self._frames.output(message.stage, message.device, message.trace_id)
            if self._policy.settings.enabled:
                run_ms = (message.done_ns - message.started_ns) * 1e-6
                self._stages.add(message.stage, message.device, run_ms)

    def _on_latency(self, message: LatencyStatus) -> None:
        self._latency = message

    def _consider(self) -> None:
        """Asks for a move where a path has missed its budget for a while and a move would mend it."""
        latency, self._latency = self._latency, None
        if latency is None or not self._policy.settings.enabled:
            return
        health = {
            f"{path.modality}->{path.task}": PathHealth(
                path.count, path.deadline_misses, path.p50_ms, path.budget_ms
            )
            for path in latency.paths
            if math.isfinite(path.budget_ms)
        }
        troubled = self._policy.observe(time.monotonic(), health)
        if troubled is None or self._is_busy():
            return
        try:
            self._mend(troubled, health, {f"{p.modality}->{p.task}": p.p50_ms for p in latency.paths})
        except (MoveError, ConfigurationError) as error:
            self.fault(
                "policy", f"path {troubled} misses its budget and cannot be mended: {error}", error=False
            )

    def _mend(self, path: str, health: dict[str, PathHealth], path_ms: dict[str, float]) -> None:
        context = self.process_context
        seen_ms = {name: value for name, value in path_ms.items() if math.isfinite(value) and value > 0}
        proposal = propose_move(
            context.deployment,
            context.bundle.spec,
            context.rig,
            self._work,
            self._stages.observations(context.bundle.spec.name, seen_ms),
            {name: [home.device for home in homes] for name, homes in self._possible.items()},
            path,
            self._base,
        )
        if proposal is None:
            self.fault("policy", f"path {path} misses its budget; no move is known to help", error=False)
        elif self._policy.accepts(health[path], proposal.before_ms, proposal.after_ms):
            self.get_logger().warning(
                f"path {path} misses its budget: moving {proposal.component} to {proposal.device}, predicted "
                f"{proposal.before_ms:.1f} to {proposal.after_ms:.1f} ms"
            )
            self.request(proposal.component, proposal.device)
