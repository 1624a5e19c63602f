"""Judges every recorded control command by the rules of perception_core.control.judge."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mmmt_msgs.msg import ControlCommand

from perception_core.control.judge import JudgedCommand, JudgeOptions, unsafe_reasons
from perception_core.deployment import ResolvedDeployment
from perception_nodes.report.recorded_run import RecordedRun

#: Of control, where the deployment does not say otherwise.
_DEFAULT_RATE_HZ = 20.0


@dataclass(frozen=True)
class UnsafeTicks:
    """Commands that broke a rule.

    Attributes:
        ticks: How many commands broke at least one.
        reasons: How many broke each kind of rule; figures within a reason are left out.
        times_s: When, seconds since the recording began.
        examples: The first few, in full.
    """

    ticks: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    times_s: tuple[float, ...] = ()
    examples: tuple[str, ...] = ()


def judge_commands(run: RecordedRun, resolved: ResolvedDeployment) -> UnsafeTicks:
    """Judges all commands in order."""
    options = judge_options(resolved)
    period_s = control_period_s(resolved)
    reasons: Counter[str] = Counter()
    times: list[float] = []
    examples: list[str] = []
    previous: ControlCommand | None = None
    for item in run.commands:
        command = item.message
        dt = _seconds_between(previous, command)
        # Control counts from 1 again whenever it is engaged; a pause alone (a busy machine) excuses nothing.
        if previous is not None and (dt <= 0.0 or command.sequence <= previous.sequence):
            previous = None
        broken = unsafe_reasons(
            None if previous is None else judged(previous),
            judged(command),
            dt if previous is not None else period_s,
            resolved.rig.vehicle,
            options,
        )
        if broken:
            times.append(round(run.seconds(item.received_ns), 3))
            reasons.update({kind_of(reason) for reason in broken})
            if len(examples) < 5:
                examples.append(f"{times[-1]:.2f} s: {'; '.join(broken)}")
        previous = command
    return UnsafeTicks(len(times), dict(reasons.most_common()), tuple(times), tuple(examples))


def judged(command: ControlCommand) -> JudgedCommand:
    """The part of a command that the judge looks at."""
    return JudgedCommand(
        **{item.name: getattr(command, item.name) for item in dataclasses.fields(JudgedCommand)}
    )


def judge_options(resolved: ResolvedDeployment) -> JudgeOptions:
    """The judge's limits: those the deployment gives the control node, else the defaults both share."""
    given = {
        **resolved.deployment.parameters.get("all", {}),
        **resolved.deployment.parameters.get("control", {}),
    }
    known = {item.name for item in dataclasses.fields(JudgeOptions)}
    options: dict[str, Any] = {key: float(value) for key, value in given.items() if key in known}
    if not options.get("law_deceleration_mps2"):
        options.pop(
            "law_deceleration_mps2", None
        )  # control takes 0 for the vehicle's comfortable deceleration
    return JudgeOptions(**options)


def kind_of(reason: str) -> str:
    """A reason without its figures, so that equal kinds can be counted."""
    words = [word for word in reason.split() if not any(character.isdigit() for character in word)]
    return " ".join(words)


def _seconds_between(previous: ControlCommand | None, current: ControlCommand) -> float:
    if previous is None:
        return 0.0
    before, now = previous.header.stamp, current.header.stamp
    return (now.sec - before.sec) + (now.nanosec - before.nanosec) * 1e-9


def control_period_s(resolved: ResolvedDeployment) -> float:
    """The period that control runs at, which is the step its first command is computed for.

    Gaps between recorded commands would not do: on a machine that is too slow they are longer.
    """
    parameters = resolved.deployment.parameters
    given = {**parameters.get("all", {}), **parameters.get("control", {})}
    return 1.0 / float(given.get("rate_hz", _DEFAULT_RATE_HZ))
