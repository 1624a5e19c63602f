"""FULLER's Algorithm 1 on a network whose imbalance is known."""

from __future__ import annotations

import math

import pytest
import torch
from gradient_calibration_fixtures import POINTS, TASKS, TwoBranches, toy, toy_losses
from hypothesis import given
from hypothesis import strategies as st

from perception_core.bundle_writer import create_seeded_model
from perception_core.configuration import ConfigurationError
from training.gradient_calibration import (
    Branch,
    BranchGatingConfig,
    CalibrationPoints,
    GradientCalibrationConfig,
    GradientCalibrator,
    NonFiniteGradientError,
    PrimaryTaskConfig,
)
from training.gradient_calibration.branch_gating import BranchGates, gate
from training.gradient_calibration.fuller_points import fuller_points


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def plain_gradients(model: TwoBranches, weights: dict[str, float], seed: int) -> dict[str, torch.Tensor]:
    """Gradients of the weighted sum of losses, without any calibrator."""
    model.zero_grad()
    losses = toy_losses(model, torch.Generator().manual_seed(seed))
    sum(weights[task] * loss for task, loss in losses.items()).backward()
    return gradients_of(model)


class TestGate:
    @given(x=st.floats(1e-6, 1e6), y=st.floats(1e-6, 1e6))
    def test_is_equation_6(self, x: float, y: float) -> None:
        expected = 1 - math.tanh(0.1 * x / y) if x / y > 1 else 1.0
        assert gate(x, y, 0.1) == pytest.approx(expected, abs=1e-9)
        assert min(gate(x, y, 0.1), gate(y, x, 0.1)) <= 1 - math.tanh(0.1) + 1e-12 or x == y
        assert max(gate(x, y, 0.1), gate(y, x, 0.1)) == 1

    def test_momentum_is_equation_7(self) -> None:
        gates = BranchGates(("lidar", "camera"), BranchGatingConfig())
        expected = 1.0
        for lidar in (3.0, 7.0, 0.5):
            expected = 0.2 * expected + 0.8 * gate(lidar, 1.0, 0.1)
            assert gates.update({"lidar": lidar, "camera": 1.0})["lidar"] == pytest.approx(expected)

    def test_a_missing_sensor_stops_nobody(self) -> None:
        gates = BranchGates(("lidar", "camera"), BranchGatingConfig())
        gates.update({"lidar": 4.0, "camera": 1.0})
        before = dict(gates.gates)
        assert gates.update({"lidar": 4.0, "camera": 0.0}) == before

    def test_three_branches_are_held_against_the_slowest(self) -> None:
        gates = BranchGates(("a", "b", "c"), BranchGatingConfig(momentum=0.0))
        found = gates.update({"a": 2.0, "b": 1.0, "c": 5.0})
        assert found == pytest.approx({"a": gate(2, 1, 0.1), "b": 1.0, "c": gate(5, 1, 0.1)})


class TestInter:
    def test_weights_multiply_the_losses_and_train_everything(self) -> None:
        model, calibrator = toy(intra=False)
        record = calibrator.backward(toy_losses(model, torch.Generator().manual_seed(3)))
        found = gradients_of(model)
        expected = plain_gradients(model, record.weights, seed=3)
        assert record.weights["segmentation"] > record.weights["detection"]
        for name, gradient in expected.items():
            assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-6), name

    def test_gamma_task_is_equation_2_and_becomes_one(self) -> None:
        model, calibrator = toy()
        losses = toy_losses(model, torch.Generator().manual_seed(3))
        weight = model.shared.weight
        norms = [torch.autograd.grad(losses[task], weight, retain_graph=True)[0].norm() for task in TASKS]
        _, record = calibrator.weigh(losses)
        assert record.task_ratios["detection:segmentation"] == pytest.approx(
            float(norms[0] / norms[1]), rel=1e-5
        )
        assert record.calibrated_task_ratios["detection:segmentation"] == pytest.approx(1, rel=1e-4)

    def test_a_fixed_factor_cancels_under_imtl_g(self) -> None:
        """Why MMMT's λ cannot simply multiply a loss that is calibrated."""
        gradients = []
        for factor in (1.0, 10.0):
            model, calibrator = toy(initial_weights={"segmentation": factor})
            record = calibrator.backward(toy_losses(model, torch.Generator().manual_seed(3)))
            total = {
                task: record.weights[task] * (factor if task == "segmentation" else 1.0) for task in TASKS
            }
            gradients.append(total["segmentation"] / total["detection"])
        assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)
        # Plain weighing is where it counts.
        model, calibrator = toy("plain", initial_weights={"segmentation": 10.0})
        _, record = calibrator.weigh(toy_losses(model, torch.Generator().manual_seed(3)))
        ratios = (
            record.task_ratios["detection:segmentation"],
            record.calibrated_task_ratios["detection:segmentation"],
        )
        assert ratios[1] == pytest.approx(ratios[0] / 10, rel=1e-5)

    def test_without_measuring_the_plain_method_takes_no_gradients(self) -> None:
        model, calibrator = toy("plain", measure_gradients=False)
        _, record = calibrator.weigh(toy_losses(model, torch.Generator().manual_seed(3)))
        assert record.gradient_norms == {}
        assert record.weights == {"detection": 1.0, "segmentation": 1.0}

    def test_a_task_without_labels_leaves_the_others_alone(self) -> None:
        model, calibrator = toy()
        losses = toy_losses(model, torch.Generator().manual_seed(3))
        losses["detection"] = losses["detection"] * 0
        record = calibrator.backward(losses)
        assert record.weights["segmentation"] == pytest.approx(1)
        assert record.task_ratios == {}
        assert torch.isfinite(model.shared.weight.grad).all()
        # Left out altogether it is the same.
        alone = {"segmentation": toy_losses(model, torch.Generator().manual_seed(3))["segmentation"]}
        assert calibrator.weigh(alone)[1].weights["segmentation"] == pytest.approx(1)


class TestPrimary:
    TASKS = ("control", "detection", "segmentation")

    def test_control_stands_outside(self) -> None:
        primary = PrimaryTaskConfig(task="control", auxiliary_weight=0.3)
        model, calibrator = toy(tasks=self.TASKS, primary=primary)
        _, record = calibrator.weigh(toy_losses(model, torch.Generator().manual_seed(3)))
        assert record.weights["control"] == 1
        assert record.weights["detection"] + record.weights["segmentation"] == pytest.approx(0.3 * 2)
        magnitudes = [record.weights[t] * record.gradient_norms[t] for t in ("detection", "segmentation")]
        assert magnitudes[0] == pytest.approx(magnitudes[1], rel=1e-4)

    @pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
    def test_lambda_can_be_a_share_of_the_gradient(self, scale: float) -> None:
        primary = PrimaryTaskConfig(task="control", auxiliary_weight=0.5, measured_in="gradient")
        model, calibrator = toy(tasks=self.TASKS, primary=primary, intra=False)
        losses = toy_losses(model, torch.Generator().manual_seed(3), scale)
        _, record = calibrator.weigh(losses)
        auxiliary = sum(record.weights[task] * losses[task] for task in self.TASKS[1:])
        gradient = torch.autograd.grad(auxiliary, model.shared.weight, retain_graph=True)[0]
        leading = torch.autograd.grad(losses["control"], model.shared.weight)[0]
        assert (gradient.norm() / leading.norm()).item() == pytest.approx(0.5, rel=1e-4)


class TestIntra:
    def test_branches_are_scaled_by_their_gates_and_nothing_else(self) -> None:
        model, calibrator = toy("plain")
        record = calibrator.backward(toy_losses(model, torch.Generator().manual_seed(3)))
        found = gradients_of(model)
        expected = plain_gradients(model, {"detection": 1.0, "segmentation": 1.0}, seed=3)
        assert record.modal_ratios["lidar:camera"] > 2
        assert record.gates["lidar"] < record.gates["camera"] == 1
        for name, gradient in expected.items():
            factor = record.gates.get(name.split(".")[0], 1.0)
            assert torch.allclose(found[name], factor * gradient, rtol=1e-5, atol=1e-7), name

    def test_gamma_modal_is_equation_4(self) -> None:
        model, calibrator = toy("plain")
        record = calibrator.backward(toy_losses(model, torch.Generator().manual_seed(3)))
        weight = plain_gradients(model, {"detection": 1.0, "segmentation": 1.0}, seed=3)["fusion.weight"]
        expected = float(weight[:, :6].norm() / weight[:, 6:].norm())
        assert record.modal_ratios["lidar:camera"] == pytest.approx(expected, rel=1e-5)
        after = expected * record.gates["lidar"] / record.gates["camera"]
        assert record.calibrated_modal_ratios["lidar:camera"] == pytest.approx(after, rel=1e-5)

    def test_a_learning_rate_can_be_gated_instead(self) -> None:
        intra = BranchGatingConfig(apply_to="learning_rate")
        model, calibrator = toy("plain", intra=intra)
        optimizer = torch.optim.AdamW(calibrator.parameter_groups(list(model.parameters())), lr=0.1)
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
        record = calibrator.backward(toy_losses(model, torch.Generator().manual_seed(3)))
        seen = {}
        with calibrator.gated_learning_rates(optimizer):
            seen = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
            optimizer.step()
        assert seen[id(model.lidar.weight)] == pytest.approx(0.1 * record.gates["lidar"])
        assert seen[id(model.shared.weight)] == 0.1
        assert {group["lr"] for group in optimizer.param_groups} == {0.1}
        whole = torch.optim.AdamW(model.parameters(), lr=0.1)
        with (
            pytest.raises(ConfigurationError, match="camera, lidar, the rest"),
            calibrator.gated_learning_rates(whole),
        ):
            pass

    def test_adam_undoes_a_constant_gate(self) -> None:
        """Said in the documentation, and the reason why learning rates can be gated."""
        steps = []
        for factor in (1.0, 0.3):
            parameter = torch.nn.Parameter(torch.zeros(1))
            optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.0)
            for _ in range(5):
                parameter.grad = torch.full((1,), 0.7 * factor)
                optimizer.step()
            steps.append(parameter.item())
        assert steps[0] == pytest.approx(steps[1], rel=1e-5)


def train(method: str, intra: bool, steps: int = 60) -> dict[str, float]:
    """Trains the toy network; returns means over the second half of how far each ratio is from balance."""
    model, calibrator = toy(method, intra)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    task, modal = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        record = calibrator.backward(toy_losses(model, generator))
        optimizer.step()
        task.append(abs(math.log(record.calibrated_task_ratios["detection:segmentation"])))
        modal.append(abs(math.log(record.calibrated_modal_ratios["lidar:camera"])))
    half = steps // 2
    return {"task": sum(task[half:]) / half, "modal": sum(modal[half:]) / half}


def test_both_imbalances_shrink_in_training() -> None:
    """Table 4 of FULLER in small: either calibration balances its ratio, both together balance both."""
    plain, both = train("plain", False), train("imtl_g", True)
    assert train("imtl_g", False)["task"] < 0.05 < plain["task"]
    assert train("plain", True)["modal"] < 0.8 * plain["modal"]
    assert both["task"] < 0.05
    assert both["modal"] < 0.8 * plain["modal"]


def test_two_steps_resume_as_if_never_stopped() -> None:
    def run(calibrator: GradientCalibrator, model: TwoBranches, seeds: range) -> list[dict[str, float]]:
        records = []
        for seed in seeds:
            model.zero_grad()
            losses = toy_losses(model, torch.Generator().manual_seed(seed))
            records.append(calibrator.backward(losses).scalars())
        return records

    model, first = toy("gradnorm")
    run(first, model, range(4))
    resumed = GradientCalibrator(model, POINTS, TASKS, first.config)
    resumed.load_state_dict(first.state_dict())
    assert run(resumed, model, range(4, 7)) == run(first, model, range(4, 7))


def test_state_of_another_run_is_refused() -> None:
    _, first = toy("gradnorm")
    _, second = toy("dwa")
    with pytest.raises(ValueError, match="method gradnorm, this run has dwa"):
        second.load_state_dict(first.state_dict())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_named(bad: float) -> None:
    model, calibrator = toy()
    losses = toy_losses(model, torch.Generator().manual_seed(3))
    losses["segmentation"] = losses["segmentation"] * bad
    with pytest.raises(NonFiniteGradientError, match="segmentation"):
        calibrator.backward(losses)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_gradient_that_is_no_number_is_named() -> None:
    model, calibrator = toy()
    losses = toy_losses(model, torch.Generator().manual_seed(3))
    losses["detection"] = losses["detection"] + (model.shared.weight * 0).abs().sqrt().sum()
    with pytest.raises(NonFiniteGradientError, match="'detection' at shared layer 'shared'"):
        calibrator.backward(losses)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (CalibrationPoints("shard", "fusion", POINTS.branches), "did you mean 'shared'"),
        (CalibrationPoints("shared", "heads", POINTS.branches), "no weight"),
        (CalibrationPoints("shared", "fusion", (Branch("x", "lidar", 4, 7),)), "10 input channels"),
        (CalibrationPoints("shared", "fusion", (Branch("x", "lidr", 0, 6),)), "did you mean 'lidar'"),
    ],
)
def test_wrong_places_are_named(points: CalibrationPoints, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GradientCalibrator(TwoBranches(), points, TASKS, GradientCalibrationConfig())


def test_wrong_tasks_are_named() -> None:
    model, calibrator = toy()
    with pytest.raises(ConfigurationError, match="did you mean 'detection'"):
        calibrator.weigh({"detectoin": torch.zeros(())})
    with pytest.raises(ConfigurationError, match="did you mean 'segmentation'"):
        GradientCalibrator(
            model, POINTS, TASKS, GradientCalibrationConfig(initial_weights={"segmentaton": 2.0})
        )


def test_scalars_name_every_number() -> None:
    model, calibrator = toy()
    scalars = calibrator.backward(toy_losses(model, torch.Generator().manual_seed(3))).scalars()
    for name in (
        *("loss/detection", "loss_weight/segmentation", "gamma_task/detection:segmentation"),
        *("gamma_modal/lidar:camera", "gate/lidar", "gate/camera", "gamma_modal_calibrated/lidar:camera"),
    ):
        assert math.isfinite(scalars[name]), name


@pytest.mark.parametrize(
    "arguments", [{}, {"bev_encoder": "separate"}, {"modalities": ["camera"]}, {"fuser": {"kind": "second"}}]
)
def test_the_points_of_fuller_exist(arguments) -> None:
    model = create_seeded_model("fuller_micro", 0, **arguments)
    points = fuller_points(model)
    weight = points.fusion_weight(model)
    assert sum(branch.channels for branch in points.branches) == weight.shape[1]
    assert all(points.branch_parameters(model).values())
    assert points.shared_weights(model)
    if "bev_encoder" in arguments:  # nothing but the fusion layer is shared
        assert points.shared_weights(model) == [weight]


def _distributed_step(rank: int, port: int, folder: str) -> None:
    """One process of two: each has other data, and the second has no labels of detection."""
    import torch.distributed

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    model, calibrator = toy()
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    losses = toy_losses(wrapped, torch.Generator().manual_seed(rank))
    if rank == 1:
        losses["detection"] = losses["detection"] * 0
    record = calibrator.backward(losses)
    torch.save((record.weights, record.gates, model.lidar.weight.grad), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_processes_of_a_distributed_run_agree(tmp_path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_distributed_step, args=(port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first[0] == second[0]
    assert first[1] == second[1]
    assert torch.equal(first[2], second[2])
    assert first[0]["detection"] != 1
