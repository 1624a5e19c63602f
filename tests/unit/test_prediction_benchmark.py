"""What `mmmt bench prediction` says of figures whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.prediction import best_predicted, spaced


def row(predicted_ms: float, runs_ms: list[float]) -> dict[str, Any]:
    return {
        "longest_predicted_ms": predicted_ms,
        "longest_measured_ms": sorted(runs_ms)[len(runs_ms) // 2],
        "longest_of_runs_ms": sorted(runs_ms),
    }


def test_the_predicted_best_is_the_measured_best() -> None:
    rows = [row(100, [110, 112, 109]), row(90, [95, 96, 94]), row(150, [140, 141, 139])]
    assert best_predicted(rows) == {
        "best_predicted_rank": 1,
        "best_predicted_excess": 0.0,
        "best_predicted_within_spread": True,
    }


@pytest.mark.parametrize(("best_runs", "within"), [([90, 100, 112], True), ([99, 100, 101], False)])
def test_a_wrong_choice_is_said_and_by_how_much(best_runs: list[float], within: bool) -> None:
    found = best_predicted([row(80, [110, 110, 110]), row(90, best_runs)])
    assert found["best_predicted_rank"] == 2
    assert found["best_predicted_excess"] == pytest.approx(0.1)
    assert found["best_predicted_within_spread"] is within


def test_placements_are_taken_from_best_to_worst() -> None:
    assert spaced(15, 6)[0] == 0
    assert spaced(15, 6)[-1] == 14
    assert len(set(spaced(15, 6))) == 6
    assert spaced(6, 6) == list(range(6))
