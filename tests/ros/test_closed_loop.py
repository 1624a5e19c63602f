"""The whole story: a slow component lowers the speed limit, a killed one stops the vehicle, its return lets
it drive.
"""

from __future__ import annotations

import os
import signal
import statistics
import time

import pytest
from mmmt_msgs.msg import ControlCommand, LatencyStatus
from patient_stack import PATIENCE_S, PERIOD_S, patient_overrides
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_feed import SensorFeed
from stack_fixtures import RunningStack, running_stack


def set_parameter(stack: RunningStack, component: str, name: str, value: float) -> None:
    node = stack.probe.node
    client = node.create_client(SetParameters, f"/mmmt/{component}/set_parameters")
    assert client.wait_for_service(PATIENCE_S)
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    future = client.call_async(request)
    stack.probe.wait_for(future.done, PATIENCE_S, f"{component}.{name} to be set")
    assert future.result().results[0].successful, future.result()


def newest_limits(stack: RunningStack, since: float) -> list[float]:
    return [
        command.speed_limit
        for at, command in list(stack.probe.commands)
        if at >= since and command.state == ControlCommand.STATE_DRIVING
    ]


@pytest.mark.timeout(900)
def test_slow_then_killed_then_recovered() -> None:
    overrides = (*patient_overrides(), "budgets_ms.lidar->detection3d:=1500")
    with running_stack("cpu-isolated", overrides) as stack, SensorFeed(stack.resolved.rig, PERIOD_S):
        probe = stack.probe
        probe.wait_for_state(ControlCommand.STATE_DRIVING, PATIENCE_S)
        began = time.monotonic()
        probe.wait_for_outputs(10, PATIENCE_S, since=began)
        usual_limits = newest_limits(stack, began)
        assert usual_limits, probe.describe()
        usual_limit = statistics.median(usual_limits)
        assert usual_limit > 0.0

        # Slower than anything seen so far: the monitor says so within a second of the first late frame.
        slow_s = 2.0
        slowed = time.monotonic()
        set_parameter(stack, "bev_fuser", "slow_down_ms", slow_s * 1e3)

        def first_slow_report() -> float | None:
            return next(
                (at for at, t in list(probe.timings) if t.stage == "detection3d_head" and t.task
                 and at > slowed and t.outcome == t.OUTCOME_DONE
                 and t.started_ns - t.sensors[0].received_ns > slow_s * 1e9),
                None,
            )  # fmt: skip

        def warning() -> tuple[float, LatencyStatus] | None:
            return next(
                ((at, s) for at, s in list(probe.latency) if at > slowed and s.level > LatencyStatus.OK
                 and any(p.modality == "lidar" and p.task == "detection3d" and p.last_ms > slow_s * 1e3
                         for p in s.paths)),
                None,
            )  # fmt: skip

        first_slow = probe.wait_for(first_slow_report, PATIENCE_S, "a frame that took longer")
        warned_at, status = probe.wait_for(warning, PATIENCE_S, "the monitor's warning")
        assert warned_at - first_slow < 1.0 + stack.stalls.stalled_s(first_slow), status
        assert "detection3d" in status.message

        # The law v T + v^2 / (2 a) <= sight turns the larger T into a lower limit.
        probe.wait_for(
            lambda: (limits := newest_limits(stack, warned_at)) and limits[-1] < 0.8 * usual_limit,
            PATIENCE_S,
            f"a speed limit below {0.8 * usual_limit:.2f} m/s",
        )
        set_parameter(stack, "bev_fuser", "slow_down_ms", 0.0)

        # Killed: the vehicle stops, and nothing else dies.
        before = dict(stack.supervisor.pids)
        victim = next(name for name in before if name.endswith("bev_fuser"))
        killed = time.monotonic()
        os.kill(before[victim], signal.SIGKILL)
        probe.wait_for_state(ControlCommand.STATE_FULL_STOP, PATIENCE_S, since=killed)
        stopping = probe.wait_for(
            lambda: next(
                (c for at, c in list(probe.commands) if at > killed and c.acceleration <= -4.9), None
            ),
            PATIENCE_S,
            "full braking",
        )
        assert stopping.speed == 0.0

        # Recovered: the component was started again, and the vehicle drives.
        recovered = time.monotonic()
        probe.wait_for_state(ControlCommand.STATE_DRIVING, PATIENCE_S, since=recovered)
        after = stack.supervisor.pids
        assert stack.supervisor.restart_counts[victim] == 1
        assert after[victim] not in (None, before[victim])
        assert {name: pid for name, pid in after.items() if name != victim} == {
            name: pid for name, pid in before.items() if name != victim
        }
        assert probe.finite_commands()
        assert stack.judge() == []
