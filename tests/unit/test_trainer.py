"""The trainer on a learner of its own: resuming, divergence, accumulation, several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_fixtures import PointLearner, PointSet, point_config, weights_of

from perception_core.configuration import ConfigurationError
from training.gradient_calibration import (
    BranchGatingConfig,
    GradientCalibrationConfig,
    TaskWeightingConfig,
)
from training.trainer.checkpoints import read_checkpoint
from training.trainer.evaluating import evaluate
from training.trainer.fitting import FitOptions, FitResult, fit
from training.trainer.metrics_log import read_metrics, series
from training.trainer.module import CHECKPOINT_KEY, TrainingDivergedError
from training.trainer.optimization import create_optimizer, learning_rate_ratio
from training.trainer.sampling import BatchPlan, EpochBatches, EvaluationBatches, plan_batches
from training.trainer.weighing import create_weighing

#: DWA looks at epochs, so its memory must be in checkpoints.
CALIBRATION = GradientCalibrationConfig(inter=TaskWeightingConfig(method="dwa"))
PLAIN = GradientCalibrationConfig(
    inter=TaskWeightingConfig(method="plain"),
    intra=BranchGatingConfig(enabled=False),
    measure_gradients=False,
)


def run(
    out: Path,
    data: PointSet | None = None,
    resume: bool = False,
    learner: PointLearner | None = None,
    **config: Any,
) -> FitResult:
    calibration = config.pop("calibration", CALIBRATION)
    return fit(
        learner or PointLearner(),
        data or PointSet(16),
        PointSet(5),
        point_config(**config),
        out,
        calibration=calibration,
        options=FitOptions(accelerator="cpu", progress=False, resume=out / "last.ckpt" if resume else None),
        run_record={"recipe": "points"},
    )


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Compares checkpoints' contents bit by bit."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{where}[{index}]")
    else:
        assert found == expected, where


# -- resuming and divergence ---------------------------------------------------------------------------------


def test_divergence_keeps_the_last_epoch_and_resuming_goes_on_bit_by_bit(tmp_path: Path) -> None:
    """A NaN in the second epoch names its samples; resumed without it, the run ends as an unbroken one."""
    unbroken = run(tmp_path / "unbroken")
    broken = tmp_path / "broken"
    with pytest.raises(TrainingDivergedError) as caught:
        run(broken, PointSet(16, bad_sample=11, bad_epoch=1))
    message = str(caught.value)
    assert "points:sample-11" in caught.value.tokens
    assert len(caught.value.tokens) == 4
    assert "points:sample-11" in message
    assert "epoch 2" in message
    assert "loss of task 'left' is nan" in message
    assert caught.value.checkpoint == broken / "last.ckpt"
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(broken / "last.ckpt").values())
    assert read_checkpoint(broken / "last.ckpt")[CHECKPOINT_KEY]["epochs_done"] == 1
    resumed = run(broken, resume=True)
    assert resumed.steps == unbroken.steps == 12
    first, second = (read_checkpoint(result.checkpoint) for result in (unbroken, resumed))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", CHECKPOINT_KEY):
        assert_same(second[part], first[part], part)
    assert not list(broken.glob(".*partial*"))


def test_an_unbroken_run_learns_and_logs_every_step(tmp_path: Path) -> None:
    result = run(tmp_path, epochs=6, keep_checkpoints=2, calibration=GradientCalibrationConfig())
    rows = read_metrics(tmp_path)
    steps, losses = series(rows, "loss/left")
    assert steps == list(range(1, 25))
    assert sum(losses[-4:]) < sum(losses[:4])
    for name in ("gamma_task/left:right", "gamma_modal/lidar:camera", "gate/lidar", "loss_weight/right"):
        assert len(series(rows, name)[1]) == 24, name
    rates = series(rows, "learning_rate")[1]
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] < 1e-3
    assert sorted(path.name for path in tmp_path.glob("epoch-*.ckpt")) == [
        "epoch-0005.ckpt",
        "epoch-0006.ckpt",
    ]
    assert result.results["left"].scalars()["error"] > 0
    assert len(list((tmp_path / "evaluation").glob("epoch-*.json"))) == 6
    again = evaluate(PointLearner(), PointSet(5), batch_size=2)
    assert again["left"].to_json()["samples"] == 5


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    with pytest.raises(ConfigurationError, match="holds a run already"):
        run(tmp_path, epochs=1)
    with pytest.raises(ConfigurationError, match="leaves nothing to train"):
        run(tmp_path, epochs=1, resume=True)
    with pytest.raises(ConfigurationError, match="seed 0, this run has 3"):
        run(tmp_path, seed=3, resume=True)
    with pytest.raises(ConfigurationError, match="has method dwa, this run has imtl_g"):
        run(tmp_path, resume=True, calibration=GradientCalibrationConfig())


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    with pytest.raises(ConfigurationError) as caught:
        run(tmp_path, resume=True, learner=PointLearner(hidden=16))
    message = str(caught.value)
    assert "component 'fusion': 'weight' has shape (8, 10), this network's (16, 10)" in message
    (tmp_path / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigurationError, match="cannot be read as a checkpoint"):
        run(tmp_path, resume=True)


# -- a step --------------------------------------------------------------------------------------------------


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    states = []
    for at_once in (4, 2):
        result = run(
            tmp_path / str(at_once),
            learner=PointLearner(dropout=0.0),
            samples_a_pass=at_once,
            calibration=PLAIN,
            epochs=1,
        )
        states.append(weights_of(result.checkpoint))
        assert result.steps == 4
    for name, tensor in states[0].items():
        assert torch.allclose(states[1][name], tensor, rtol=1e-4, atol=1e-6), name


def test_a_learner_without_points_is_summed(tmp_path: Path) -> None:
    learner = PointLearner(calibrated=False)
    with pytest.raises(ConfigurationError, match="PointLearner names none"):
        run(tmp_path, learner=learner, calibration=GradientCalibrationConfig())
    weighted = PLAIN.model_copy(update={"initial_weights": {"right": 5.0}})
    run(tmp_path, learner=learner, calibration=weighted, epochs=1)
    assert set(series(read_metrics(tmp_path), "loss_weight/right")[1]) == {5.0}


def test_groups_of_the_optimizer() -> None:
    learner = PointLearner()
    config = point_config().optimizer.model_copy(
        update={"decay_all": False, "learning_rate_factors": {"camera": 0.1}}
    )
    weighing = create_weighing(learner, GradientCalibrationConfig())
    optimizer = create_optimizer(learner.network, config, weighing)
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(by_parameter) == len(list(learner.network.parameters()))
    assert by_parameter[id(learner.network.camera.weight)]["lr"] == pytest.approx(1e-3)
    assert by_parameter[id(learner.network.lidar.weight)]["lr"] == pytest.approx(1e-2)
    assert by_parameter[id(learner.network.lidar.bias)]["weight_decay"] == 0
    assert by_parameter[id(learner.network.lidar.weight)]["weight_decay"] == pytest.approx(1e-2)
    unknown = config.model_copy(update={"learning_rate_factors": {"camara": 0.1}})
    with pytest.raises(ConfigurationError, match="did you mean 'camera'"):
        create_optimizer(learner.network, unknown, weighing)


def test_the_schedule_warms_up_and_falls() -> None:
    ratio = learning_rate_ratio(point_config().schedule.model_copy(update={"warmup_steps": 10}), 100)
    values = [ratio(step) for step in range(100)]
    assert values[0] == pytest.approx(1 / 3)
    assert values[10] == 1
    assert values[:11] == sorted(values[:11])
    assert values[10:] == sorted(values[10:], reverse=True)
    assert ratio(100) == pytest.approx(1e-3)
    # a trial of three steps is not all warm-up
    assert learning_rate_ratio(point_config().schedule.model_copy(update={"warmup_steps": 500}), 3)(0) == 1


# -- order of samples ----------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    samples=st.integers(1, 60),
    processes=st.integers(1, 4),
    at_once=st.integers(1, 3),
    passes=st.integers(1, 3),
    epoch=st.integers(0, 5),
)
def test_processes_share_an_epoch(
    samples: int, processes: int, at_once: int, passes: int, epoch: int
) -> None:
    plan = BatchPlan(processes, at_once, passes)
    parts = []
    for rank in range(processes):
        batches = EpochBatches(samples, plan, seed=1, rank=rank)
        batches.set_epoch(epoch)
        parts.append(list(batches))
        assert len(parts[-1]) == len(batches) == batches.steps * passes
        assert all(len(batch) == at_once for batch in parts[-1])
        again = EpochBatches(samples, plan, seed=1, rank=rank)
        again.set_epoch(epoch)
        assert list(again) == parts[-1]
    drawn = [index for part in parts for batch in part for index in batch]
    assert set(drawn) <= set(range(samples))
    if samples >= plan.samples_a_step:
        assert len(set(drawn)) == len(drawn)
        assert samples - len(drawn) < plan.samples_a_step


@given(samples=st.integers(1, 40), processes=st.integers(1, 4), batch=st.integers(1, 5))
def test_evaluation_sees_every_sample_once(samples: int, processes: int, batch: int) -> None:
    seen = []
    for rank in range(processes):
        batches = EvaluationBatches(samples, batch, rank, processes)
        assert len(list(batches)) == len(batches)
        seen += [index for part in batches for index in part]
    assert sorted(seen) == list(range(samples))


def test_a_batch_must_divide() -> None:
    assert plan_batches(16, None, 8) == BatchPlan(8, 2, 1)
    assert plan_batches(16, 2, 1) == BatchPlan(1, 2, 8)
    assert plan_batches(16, 5, 4).passes == 1
    with pytest.raises(ConfigurationError, match="multiples of 3"):
        plan_batches(16, None, 3)
    with pytest.raises(ConfigurationError, match="divisors of 16"):
        plan_batches(16, 3, 1)


# -- several processes ---------------------------------------------------------------------------------------

_WORKER = """
import sys
from pathlib import Path
from trainer_fixtures import PointLearner, PointSet, point_config
from training.gradient_calibration import GradientCalibrationConfig
from training.trainer.fitting import FitOptions, fit
result = fit(PointLearner(dropout=0.0), PointSet(16), PointSet(5), point_config(epochs=2), Path(sys.argv[1]),
    calibration=GradientCalibrationConfig(),
    options=FitOptions(devices=2, accelerator="cpu", progress=False))
print("main" if result.is_main else "other", result.results["left"].samples)
"""


@pytest.mark.slow  # starts two more processes that import torch
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """torchrun's two processes with two samples each end where one process with four does."""
    script = tmp_path / "worker.py"
    script.write_text(_WORKER, encoding="utf-8")
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(str(script), str(tmp_path / "two")),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert sorted(done.stdout.split("\n")[:2]) == ["main 5", "other 5"]
    alone = fit(
        PointLearner(dropout=0.0),
        PointSet(16),
        PointSet(5),
        point_config(epochs=2),
        tmp_path / "one",
        calibration=GradientCalibrationConfig(),
        options=FitOptions(accelerator="cpu", progress=False),
    )
    together = weights_of(tmp_path / "two" / "last.ckpt")
    for name, tensor in weights_of(alone.checkpoint).items():
        assert torch.allclose(together[name], tensor, rtol=1e-3, atol=1e-5), name
