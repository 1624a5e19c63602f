"""The objective (Eq. 1-7), the controllers, and studies that end as if never killed."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest
import torch
from ednas_fixtures import OBJECTIVE, SyntheticProxy
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.configuration import ConfigurationError
from perception_core.models.edge.architecture import EDGE_BASE
from training.losses.jared import jared_loss
from training.search.ednas.controllers import CONTROLLERS, make_controller
from training.search.ednas.objective import Objective
from training.search.ednas.space import CANDIDATES, decisions_of
from training.search.ednas.store import StudyStore
from training.search.ednas.study import StudyConfig, StudyResult, run_study
from training.search.ednas.trial import TrialOutcome, TrialRequest

CONFIG = StudyConfig(trials=40, population=8, tournament=3, seed=3, stop_after=6)


def test_objective_is_equations_4_to_7() -> None:
    objective = Objective(
        metrics={
            "semantic_segmentation": {"miou": 2.0, "pixel_accuracy": 1.0},
            "depth": {"abs_error": 1.0, "rel_error": 1.0},
        },
        latency_target_ms=10.0,
        beta_met=-0.07,
        beta_missed=-0.5,
    )
    metrics = {
        "semantic_segmentation": {"miou": 0.4, "pixel_accuracy": 0.8},
        "depth": {"abs_error": 0.02, "rel_error": 0.3},
    }
    segmentation = (0.4**2 * 0.8) ** (1 / 3)
    depth = (1 / 0.02 * 1 / 0.3) ** 0.5
    accuracy = math.sqrt(segmentation * depth)
    assert objective.accuracy(metrics) == pytest.approx(accuracy)
    assert objective.reward(metrics, 5.0) == pytest.approx(accuracy * 0.5**-0.07)
    assert objective.reward(metrics, 10.0) == pytest.approx(accuracy)
    assert objective.reward(metrics, 20.0) == pytest.approx(accuracy * 2**-0.5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    miou=st.floats(0.01, 0.9),
    error=st.floats(0.001, 10.0),
    better=st.floats(1.01, 3.0),
    latency=st.floats(0.1, 1000.0),
)
def test_better_is_never_worth_less(miou: float, error: float, better: float, latency: float) -> None:
    def reward(m: float, e: float, time: float) -> float:
        return OBJECTIVE.reward({"semantic_segmentation": {"miou": m}, "depth": {"abs_error": e}}, time)

    base = reward(miou, error, latency)
    assert reward(miou * better, error, latency) > base
    assert reward(miou, error / better, latency) > base
    assert reward(miou, error, latency / better) >= base


def test_objective_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="did you mean 'miou'"):
        Objective(metrics={"semantic_segmentation": {"mio": 1.0}}, latency_target_ms=1.0)
    with pytest.raises(ValueError, match="positive weights"):
        Objective(metrics={"depth": {"rmse": 0.0}}, latency_target_ms=1.0)
    with pytest.raises(ConfigurationError, match="no task depth"):
        OBJECTIVE.accuracy({"semantic_segmentation": {"miou": 0.5}})
    with pytest.raises(ConfigurationError, match="impossible"):
        OBJECTIVE.reward({"semantic_segmentation": {"miou": 0.5}, "depth": {"abs_error": 1.0}}, 0.0)


def test_metrics_that_are_zero_or_not_measured_are_worth_nothing() -> None:
    for miou in (0.0, math.nan):
        metrics = {"semantic_segmentation": {"miou": miou}, "depth": {"abs_error": 0.1}}
        assert OBJECTIVE.reward(metrics, 10.0) == 0.0
    perfect = {"semantic_segmentation": {"miou": 0.5}, "depth": {"abs_error": 0.0}}
    assert math.isfinite(OBJECTIVE.reward(perfect, 10.0))


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_controllers_repeat_and_begin_with_the_base(name: str) -> None:
    def proposals(seed: int) -> list[tuple[int, ...]]:
        controller = make_controller(name, seed, population=5, tournament=2)
        found = []
        for number in range(20):
            found.append(controller.propose())
            controller.feedback(float(sum(found[-1])) + 0.01 * number)
        return found

    assert proposals(1) == proposals(1)
    assert proposals(1) != proposals(2)
    assert proposals(1)[0] == decisions_of(EDGE_BASE)
    sizes = [len(values) for values in CANDIDATES] * 16
    for decisions in proposals(1):
        assert len(decisions) == 64
        assert all(0 <= value < size for value, size in zip(decisions, sizes, strict=True))


def test_unknown_controller_and_odd_tournament_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'evolution'"):
        make_controller("evolutoin", 0)
    with pytest.raises(ConfigurationError, match="a tournament of 9"):
        make_controller("evolution", 0, population=5, tournament=9)


def study(store: Path | None, proxy: SyntheticProxy | None = None, **changes: object) -> StudyResult:
    config = CONFIG.model_copy(update=changes)
    return run_study(proxy or SyntheticProxy(), OBJECTIVE, config, store)


@pytest.mark.parametrize("controller", sorted(CONTROLLERS))
@pytest.mark.parametrize("parallel", [1, 4])
def test_killed_study_ends_as_an_uninterrupted_one(tmp_path: Path, controller: str, parallel: int) -> None:
    changes = {"controller": controller, "parallel": parallel}
    expected = study(None, **changes)
    path = tmp_path / "study.jsonl"
    first = SyntheticProxy(die_at=17)
    with pytest.raises(KeyboardInterrupt):
        study(path, first, **changes)
    # A second kill, in the middle of writing a line.
    second = SyntheticProxy(die_at=29)
    with pytest.raises(KeyboardInterrupt):
        study(path, second, **changes)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"id": 29, "decisions": [0, 1')
    third = SyntheticProxy()
    resumed = study(path, third, **changes)
    assert resumed.trials == expected.trials
    assert resumed.best == expected.best
    ran = [*first.ran, *second.ran, *third.ran]
    assert sorted(ran) == list(range(CONFIG.trials))


def test_longer_study_continues_a_shorter_one(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    study(path, trials=15)
    proxy = SyntheticProxy()
    longer = study(path, proxy)
    assert proxy.ran == list(range(15, 40))
    assert longer.trials == study(None).trials


def test_order_of_finishing_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    expected = study(path, parallel=4)
    lines = path.read_text(encoding="utf-8").splitlines()
    shuffled = [lines[0], *reversed(lines[1:20])]
    path.write_text("\n".join(shuffled) + "\n", encoding="utf-8")
    assert study(path, parallel=4).trials == expected.trials


def test_study_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    study(path)
    with pytest.raises(ConfigurationError, match="another seed"):
        study(path, seed=4)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [(3, "{not json", r"study\.jsonl:3: is no trial"), (1, "{}", r"study\.jsonl:1: is no trial")],
)
def test_broken_store_is_named_by_line(tmp_path: Path, line: int, text: str, message: str) -> None:
    path = tmp_path / "study.jsonl"
    study(path, trials=5)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=message):
        study(path)
    assert path.read_bytes() == before


def test_store_of_other_proposals_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    study(path, trials=5)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[3]["decisions"][5] = 1 - min(1, lines[3]["decisions"][5])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="trial 2 is not what the controller proposes"):
        study(path)


def test_a_trial_is_never_entered_twice() -> None:
    store = StudyStore(None, {})
    trial = study(None, trials=5).trials[0]
    store.add(trial)
    with pytest.raises(ValueError, match="trial 0 is there already"):
        store.add(trial)


def test_evolution_finds_more_than_chance() -> None:
    seeds = range(4)
    best = {
        name: statistics.mean(
            study(None, controller=name, seed=seed, trials=120, stop_early=False).best.reward
            for seed in seeds
        )
        for name in ("evolution", "random")
    }
    assert best["evolution"] > best["random"] * 1.01


def test_trials_that_lag_behind_are_stopped() -> None:
    result = study(None)
    stopped = [trial for trial in result.trials if trial.outcome.stopped_early]
    assert len(stopped) > 3
    assert all(trial.id >= CONFIG.stop_after for trial in stopped)
    assert not any(trial.outcome.stopped_early for trial in study(None, stop_early=False).trials)
    assert not result.best.outcome.stopped_early


def test_failed_trial_is_worth_nothing_and_does_not_end_the_study() -> None:
    def proxy(request: TrialRequest) -> TrialOutcome:
        if request.id % 3 == 1:
            return TrialOutcome({}, 1.0, failure="loss of task 'depth' is nan")
        return SyntheticProxy()(request)

    result = run_study(proxy, OBJECTIVE, CONFIG)
    assert [trial.reward for trial in result.trials if trial.outcome.failure] == [0.0] * 13
    assert not result.best.outcome.failure


def test_pareto_front_has_what_nothing_beats() -> None:
    result = study(None)
    front = result.pareto_front()
    assert len(front) > 1
    for trial in front:
        assert not any(
            other.accuracy >= trial.accuracy and other.outcome.latency_ms < trial.outcome.latency_ms
            for other in result.trials
        )
    assert [t.outcome.latency_ms for t in front] == sorted(t.outcome.latency_ms for t in front)


def test_missing_ray_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'ray\[tune\]'"):
        run_study(SyntheticProxy(), OBJECTIVE, CONFIG, workers="ray")


@pytest.mark.slow
def test_processes_give_what_one_process_gives(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"trials": 8, "parallel": 2})
    expected = run_study(SyntheticProxy(), OBJECTIVE, config)
    found = run_study(SyntheticProxy(), OBJECTIVE, config, tmp_path / "s.jsonl", workers="processes")
    assert found.trials == expected.trials


def test_jared_is_equation_8() -> None:
    truth = torch.tensor([2.0, 4.0])
    prediction = torch.tensor([1.0, 5.0], requires_grad=True)
    loss = jared_loss(prediction, truth, weight=0.5)
    assert float(loss.detach()) == pytest.approx(1.0 + 0.5 * (0.5 + 0.25) / 2)
    loss.backward()
    assert prediction.grad is not None
    expected = torch.tensor([-(0.5 + 0.5 * 0.25), 0.5 + 0.5 * 0.125])
    torch.testing.assert_close(prediction.grad, expected)
