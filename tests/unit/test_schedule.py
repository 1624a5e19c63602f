"""Schedules of component graphs: by hand, by their invariants, and one scheduler against the other."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_fixtures import FAST, SLOW, problem_of, stack_problem

from perception_core.platform.placement.objective import PlacementObjective
from perception_core.platform.placement.problem import PlacementProblem, ProblemDevice, ProblemEdge
from perception_core.platform.placement.random_problem import random_problem
from perception_core.platform.schedule import (
    UnreachableError,
    _serial_schedule,
    schedule,
    simulate,
    slack_us,
)


def test_one_device_does_one_thing_after_the_other() -> None:
    found = schedule(stack_problem(), (0, 0, 0, 0, 0))
    # lidar 0-10, camera 10-22, fuser 22-30, then the heads in the graph's order
    assert [slot.start_us for slot in found.slots] == [0, 10_000, 22_000, 30_000, 36_000]
    assert found.path_ms == {"lidar->detection3d_head": 36.0, "lidar->map_segmentation_head": 38.0}
    assert found.critical_path == (
        "lidar_net", "camera_net", "bev_fuser", "detection3d_head", "map_segmentation_head"
    )  # fmt: skip
    assert all(slack == 0 for slack in found.slack_ms.values())
    assert found.load == {"gpu0": 1.0}
    assert found.power_w == 35.0
    assert found.energy_j == pytest.approx(0.038 * 35.0)
    assert found.max_rate_hz == pytest.approx(1 / 0.038)


def test_two_devices_work_side_by_side_and_hand_over() -> None:
    found = schedule(stack_problem(gamma2=0.5), (1, 0, 0, 0, 1))
    # camera 0-12 beside lidar 0-30, over the link at 31, fuser -39, detection -45, map from 40 to 45 on dla0
    assert [(s.start_us, s.end_us) for s in found.slots] == [
        (0, 30_000), (0, 12_000), (31_000, 39_000), (39_000, 45_000), (40_000, 45_000)
    ]  # fmt: skip
    assert found.slack_ms["camera_net"] == 19.0
    assert found.slack_ms["map_segmentation_head"] == 0.0
    assert found.power_w == 40.0
    assert found.loss_hw == 45.0 + 0.5 * 40.0  # Eq. 3
    # active devices draw idle power all the frame and the rest while at work
    assert found.energy_j == pytest.approx(1e-3 * (5 * 45 + 30 * 26 + 0.5 * 45 + 4.5 * 35))


def test_eq_3_takes_the_longest_path_and_counts_active_devices_only() -> None:
    problem = stack_problem(gamma2=2.0)
    objective = PlacementObjective(problem)
    assert objective.score((0, 0, 0, 0, 0)).loss_us == 38_000 + 2 * 35_000
    assert objective.score((0, 0, 0, 0, 1)).loss_us == 36_000 + 2 * 40_000


def test_average_power_counts_work_by_the_period() -> None:
    problem = stack_problem(gamma2=1.0, power="average", period_us=100_000)
    assert problem.power_w((0, 0, 0, 0, 0)) == pytest.approx(5 + 30 * 0.38)
    score = PlacementObjective(problem).score((0, 0, 0, 0, 0))
    assert score.loss_us == pytest.approx(38_000 + 1000 * (5 + 30 * 0.38), abs=5)


def test_off_the_critical_path_a_weak_device_costs_no_time() -> None:
    problem = stack_problem(gamma2=1.0, power="average", period_us=100_000)
    heavy = schedule(problem, (1, 0, 0, 0, 0))
    light = schedule(problem, (1, 0, 0, 0, 1))
    assert light.longest_path_ms <= heavy.longest_path_ms
    assert light.energy_j < heavy.energy_j


def test_a_device_shared_by_two_slows_both_down() -> None:
    gpu = ProblemDevice("gpu0", busy_w=10.0, concurrency=2, contention=0.5)
    problem = problem_of({"a": (10,), "b": (30,)}, (), (gpu,))
    slots = simulate(problem, (0, 0))
    # Side by side at 1/1.5 speed until a has done its 10 ms at 15, then b alone: 30 - 10 = 20 more.
    assert [slot.end_us for slot in slots] == [15_000, 35_000]


def test_older_frames_go_first() -> None:
    problem = problem_of({"a": (10,), "b": (10,)}, (("a", "b"),), (FAST,))
    slots = simulate(problem, (0, 0), frames=3, period_us=10_000)
    order = sorted(slots, key=lambda slot: slot.start_us)
    assert [(slot.frame, slot.stage) for slot in order] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_at_its_highest_rate_frames_do_not_pile_up() -> None:
    problem = stack_problem()
    placement = (1, 0, 0, 0, 1)
    period_us = round(1e6 / schedule(problem, placement).max_rate_hz)
    slots = simulate(problem, placement, frames=40, period_us=period_us)
    ends = [max(s.end_us for s in slots if s.frame == f) - f * period_us for f in range(40)]
    assert max(ends[20:]) <= max(ends[:20])


def test_no_link_is_said_and_avoided() -> None:
    problem = stack_problem()
    cut = tuple(ProblemEdge(edge.producer, edge.consumer, ((0, None), (None, 0))) for edge in problem.edges)
    problem = replace(problem, edges=cut)
    with pytest.raises(UnreachableError, match="no link from gpu0 to dla0"):
        schedule(problem, (0, 0, 1, 0, 0))
    assert not PlacementObjective(problem).score((0, 0, 1, 0, 0)).feasible


def test_what_is_broken_is_said() -> None:
    small = replace(SLOW, memory_mb=50.0)
    problem = problem_of(
        {"a": (10, 30), "b": (10, 30)},
        (("a", "b"),),
        (FAST, small),
        memory_mb={"a": 40.0, "b": 30.0},
        budgets_ms={"b": 45.0},
        period_us=40_000,
    )
    lines = PlacementObjective(problem).describe_broken((1, 1))
    assert lines[0] == "device dla0 would hold 20.0 MB more than its 50 MB"
    assert "dla0 needs 20.0 ms more" in lines[1]
    assert lines[2] == "path lidar->b would take 60.0 ms of its 45 ms"
    assert PlacementObjective(problem).describe_broken((0, 0)) == []


def _placement(problem: PlacementProblem, data: st.DataObject) -> tuple[int, ...]:
    return tuple(data.draw(st.sampled_from(devices)) for devices in problem.choices)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.data())
def test_schedules_keep_what_they_promise(seed: int, data: st.DataObject) -> None:
    problem = random_problem(seed)
    placement = _placement(problem, data)
    found = schedule(problem, placement)
    slots = found.slots
    for i, slot in enumerate(slots):
        assert slot.end_us - slot.start_us == problem.duration_us[i][placement[i]]
        assert slot.start_us >= slot.ready_us
        arrivals = [
            slots[edge.producer].end_us + edge.transfer_us[placement[edge.producer]][placement[i]]
            for edge in problem.feeding[i]
        ]
        assert slot.ready_us == max(arrivals, default=0)
    for d in range(len(problem.devices)):
        here = sorted((slot for slot in slots if slot.device == d), key=lambda slot: slot.start_us)
        for earlier, later in itertools.pairwise(here):
            assert earlier.end_us <= later.start_us  # one at a time
            assert earlier.ready_us <= later.ready_us  # in the order of readiness
    for slot in slots:
        if slot.start_us > slot.ready_us:  # it waited, so its device was at work all the while
            before = [s for s in slots if s.device == slot.device and s.end_us == slot.start_us]
            assert before
    assert all(value >= 0 for value in slack_us(problem, slots))
    assert all(found.slack_ms[name] == 0 for name in found.critical_path)
    ends = [slots[path.output].end_us for path in problem.paths]
    assert found.longest_path_ms == max(ends) / 1000
    score = PlacementObjective(problem).score(placement)
    assert score.loss_us / 1000 == pytest.approx(found.loss_hw, abs=0.1)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.data())
def test_both_schedulers_agree_where_both_apply(seed: int, data: st.DataObject) -> None:
    problem = random_problem(seed)
    placement = _placement(problem, data)
    assert _serial_schedule(problem, placement) == simulate(problem, placement, period_us=0)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.data())
def test_a_stage_may_take_its_slack_and_no_path_grows(seed: int, data: st.DataObject) -> None:
    problem = random_problem(seed)
    placement = _placement(problem, data)
    found = schedule(problem, placement)
    number = data.draw(st.integers(0, len(problem.stages) - 1))
    slack = round(found.slack_ms[problem.stages[number]] * 1000)
    device = placement[number]
    row = list(problem.duration_us[number])
    row[device] = (row[device] or 0) + slack
    rows = (*problem.duration_us[:number], tuple(row), *problem.duration_us[number + 1 :])
    slower = schedule(replace(problem, duration_us=rows), placement)
    same_order = [
        [s.stage for s in sorted(one.slots, key=lambda s: s.start_us) if s.device == d]
        for one in (found, slower)
        for d in range(len(problem.devices))
    ]
    half = len(same_order) // 2
    if same_order[:half] == same_order[half:]:  # slack is promised for the order there is
        assert slower.longest_path_ms == found.longest_path_ms
