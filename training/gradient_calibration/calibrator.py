"""Multi-level gradient calibration of FULLER (Huang et al., ICCV 2023), its Algorithm 1, for any network."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from perception_core.configuration import ConfigurationError, nearest
from training.gradient_calibration.branch_gating import BranchGates
from training.gradient_calibration.configuration import GradientCalibrationConfig, TaskWeightingConfig
from training.gradient_calibration.gradient_weighting import GradNorm, ImtlG, Mgda, PcGrad
from training.gradient_calibration.points import CalibrationPoints
from training.gradient_calibration.record import CalibrationRecord, NonFiniteGradientError
from training.gradient_calibration.task_weighting import (
    DynamicWeightAverage,
    PlainWeighting,
    TaskSignals,
    TaskWeighting,
    UncertaintyWeighting,
)


def create_task_weighting(config: TaskWeightingConfig, tasks: int) -> TaskWeighting:
    """Builds the method that a configuration names, for this many tasks."""
    builders: dict[str, Callable[[], TaskWeighting]] = {
        "plain": lambda: PlainWeighting(tasks),
        "imtl_g": lambda: ImtlG(tasks, config.minimum_share, config.maximum_ratio),
        "gradnorm": lambda: GradNorm(tasks, config.gradnorm_asymmetry, config.gradnorm_learning_rate),
        "dwa": lambda: DynamicWeightAverage(tasks, config.dwa_temperature),
        "uncertainty": lambda: UncertaintyWeighting(tasks, config.uncertainty_learning_rate),
        "pcgrad": lambda: PcGrad(tasks, config.seed),
        "mgda": lambda: Mgda(tasks),
    }
    return builders[config.method]()


class GradientCalibrator:
    """Weighs tasks at the shared layer and gates modality branches at the fusion layer.

    One step, with everything else of the training loop the user's own:

        record = calibrator.backward(losses)      # Alg. 1, lines 2 to 10
        clip_gradients(…)
        with calibrator.gated_learning_rates(optimizer):
            optimizer.step()

    or, where gradients of several batches are accumulated, `weigh` and a backward pass for each and
    `gate_branches` once.

    Under torch.distributed the tasks' gradients are averaged over all processes before they are compared, so
    that every process finds the same weights; the gates follow from gradients that DistributedDataParallel
    has already averaged. Every process must hand over the same tasks.

    A fixed factor on a loss (`initial_weights`, or MMMT's λ) has no effect under IMTL-G: the weights are
    proportional to 1 / |g_i|, and a factor on L_i cancels. Hence a primary task stands outside: the others
    are calibrated among each other, their weights sum to their number, and λ multiplies their weighted sum.

    Args:
        model: The network; only named sub-modules are looked at.
        points: Where.
        tasks: Names of all tasks there will ever be losses of, in the order in which they are logged.
        config: How.

    Raises:
        ConfigurationError: A layer, branch or task does not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        points: CalibrationPoints,
        tasks: Sequence[str],
        config: GradientCalibrationConfig,
    ) -> None:
        self.config = config
        self.tasks = tuple(tasks)
        for name in (*config.initial_weights, *((config.primary.task,) if config.primary else ())):
            if name not in self.tasks:
                raise ConfigurationError(
                    f"gradient calibration: no task '{name}'" + nearest(name, self.tasks)
                )
        primary = config.primary.task if config.primary else None
        self._weighed = tuple(task for task in self.tasks if task != primary)
        self.weighting = create_task_weighting(config.inter, len(self._weighed))
        self.branch_gates = BranchGates([branch.name for branch in points.branches], config.intra)
        self._points = points
        self._shared_weights = points.shared_weights(model)
        self._branch_parameters = points.branch_parameters(model)
        self._fusion_weight = points.fusion_weight(model) if points.branches else None

    # ------------------------------------------------------------------ both levels at once

    def backward(
        self,
        losses: Mapping[str, torch.Tensor],
        backward: Callable[[torch.Tensor], Any] = torch.Tensor.backward,
    ) -> CalibrationRecord:
        """Runs one calibrated backward pass; gradients are in place afterwards.

        Args:
            losses: Scalar loss of each task, with graph; tasks without labels may be left out or be 0.
            backward: Runs the backward pass of the total; e.g. Lightning's `manual_backward`.

        Raises:
            NonFiniteGradientError: A task's loss or gradient is not finite; names the task. No gradient has
                been written.
        """
        total, record = self.weigh(losses)
        backward(total)
        self.gate_branches(record)
        return record

    # ------------------------------------------------------------------ between tasks

    def weigh(self, losses: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, CalibrationRecord]:
        """Returns the weighted total of the losses, to be back-propagated, and what was measured.

        Raises:
            NonFiniteGradientError: See `backward`.
            ConfigurationError: A loss is of an unknown task, or there is none at all.
        """
        for task in losses:
            if task not in self.tasks:
                raise ConfigurationError(f"loss of unknown task '{task}'" + nearest(task, self.tasks))
        if not losses:
            raise ConfigurationError("gradient calibration: no losses were given")
        initial = self.config.initial_weights
        scaled = {
            task: losses[task] * initial[task] if task in initial else losses[task]
            for task in self.tasks
            if task in losses
        }
        record = CalibrationRecord(losses=self._loss_values(losses))
        gram_tt = self._gram(scaled) if self._takes_gradients() else None
        if gram_tt is not None:
            norms = gram_tt.diagonal().sqrt().tolist()
            record.gradient_norms = dict(zip(self.tasks, norms, strict=True))
        record.weights = self._weights(scaled, record, gram_tt)
        total = sum((record.weights[task] * loss for task, loss in scaled.items()), start=torch.zeros(()))
        if gram_tt is not None:
            record.set_task_ratios(initial)
        return total, record

    def _takes_gradients(self) -> bool:
        config = self.config
        in_gradients = config.primary is not None and config.primary.measured_in == "gradient"
        return config.measure_gradients or self.weighting.needs_gradients or in_gradients

    def _loss_values(self, losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
        values = {task: float(losses[task].detach()) for task in self.tasks if task in losses}
        for task, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteGradientError(f"loss of task '{task}' is {value}")
        return values

    def _gram(self, scaled: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the inner products (T, T) of the tasks' gradients at the shared layer, zero where none."""
        size = sum(weight.numel() for weight in self._shared_weights)
        first = self._shared_weights[0]
        gradients_tp = first.new_zeros((len(self.tasks), size), dtype=torch.float32)
        for row, task in enumerate(self.tasks):
            if task not in scaled or not scaled[task].requires_grad:
                continue
            parts = torch.autograd.grad(
                scaled[task],
                self._shared_weights,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            torch.cat([part.detach().flatten().float() for part in parts], out=gradients_tp[row])
        if _is_distributed():
            torch.distributed.all_reduce(gradients_tp)
            gradients_tp /= torch.distributed.get_world_size()
        # In double precision: squares of small gradients would lose digits.
        gram_tt = (gradients_tp.double() @ gradients_tp.double().T).cpu()
        for row, task in enumerate(self.tasks):
            if not math.isfinite(float(gram_tt[row, row])):
                raise NonFiniteGradientError(
                    f"gradient of task '{task}' at shared layer '{self._points.shared_layer}' is not finite"
                )
        return gram_tt

    def _weights(
        self,
        scaled: Mapping[str, torch.Tensor],
        record: CalibrationRecord,
        gram_tt: torch.Tensor | None,
    ) -> dict[str, float]:
        """Returns each task's factor on its scaled loss."""
        values = [float(scaled[task].detach()) if task in scaled else 0.0 for task in self._weighed]
        losses_t = torch.tensor(values, dtype=torch.float64)
        if _is_distributed():
            on_device = losses_t.float().to(self._shared_weights[0].device)
            torch.distributed.all_reduce(on_device)
            losses_t = on_device.double().cpu() / torch.distributed.get_world_size()
        active_t = losses_t != 0  # a loss that has no labels in this batch is 0
        if gram_tt is not None:
            active_t &= torch.tensor([record.gradient_norms[task] > 0 for task in self._weighed])
        weighed_gram = None
        if gram_tt is not None:
            rows = [self.tasks.index(task) for task in self._weighed]
            weighed_gram = gram_tt[rows][:, rows]
        weights_t = self.weighting.weights(TaskSignals(losses_t, weighed_gram, active_t))
        factor = self._auxiliary_factor(weights_t, weighed_gram, record)
        weights = {
            task: factor * float(weight) for task, weight in zip(self._weighed, weights_t, strict=True)
        }
        if self.config.primary is not None:
            weights[self.config.primary.task] = 1.0
        return {task: weights[task] for task in self.tasks}

    def _auxiliary_factor(
        self, weights_t: torch.Tensor, gram_tt: torch.Tensor | None, record: CalibrationRecord
    ) -> float:
        """Returns the factor on all auxiliary losses, 1 without a primary task."""
        primary = self.config.primary
        if primary is None:
            return 1.0
        if primary.measured_in == "loss":
            return primary.auxiliary_weight
        assert gram_tt is not None
        auxiliary = math.sqrt(max(float(weights_t @ gram_tt @ weights_t), 0.0))
        leading = record.gradient_norms[primary.task]
        # Without either there is nothing to be measured against; the losses then count as in the paper.
        if auxiliary == 0 or leading == 0:
            return primary.auxiliary_weight
        return primary.auxiliary_weight * leading / auxiliary

    # ------------------------------------------------------------------ between modalities

    def gate_branches(self, record: CalibrationRecord) -> None:
        """Measures the branches at the fusion layer and gates their gradients; after the backward pass.

        Args:
            record: Of this step; norms, γ_modal and gates are added.

        Raises:
            NonFiniteGradientError: The gradient at the fusion layer is not finite.
        """
        gradient = None if self._fusion_weight is None else self._fusion_weight.grad
        if gradient is None:
            return
        for branch in self._points.branches:
            part = gradient.detach().narrow(1, branch.first_channel, branch.channels)
            norm = float(part.double().norm())
            if not math.isfinite(norm):
                raise NonFiniteGradientError(
                    f"gradient of branch '{branch.name}' at fusion layer '{self._points.fusion_layer}' is "
                    "not finite"
                )
            record.branch_norms[branch.name] = norm
        if self.config.intra.enabled:
            record.gates = self.branch_gates.update(record.branch_norms)
            if self.config.intra.apply_to == "gradient":
                for name, parameters in self._branch_parameters.items():
                    present = [parameter.grad for parameter in parameters if parameter.grad is not None]
                    if present:
                        torch._foreach_mul_(present, record.gates[name])
        record.set_modal_ratios()

    @contextlib.contextmanager
    def gated_learning_rates(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Scales the branches' learning rates while an optimizer steps, where the configuration says so.

        Raises:
            ConfigurationError: A parameter group holds parameters of a branch and others.
        """
        if not self.config.intra.enabled or self.config.intra.apply_to == "gradient":
            yield
            return
        owner = {id(p): name for name, parameters in self._branch_parameters.items() for p in parameters}
        rates = [group["lr"] for group in optimizer.param_groups]
        try:
            for group in optimizer.param_groups:
                names = {owner.get(id(parameter)) for parameter in group["params"]}
                if len(names) > 1:
                    listed = ", ".join(sorted(str(name or "the rest") for name in names))
                    raise ConfigurationError(
                        f"one parameter group of the optimizer holds parameters of {listed}: gating learning "
                        "rates needs a group for each branch (GradientCalibrator.parameter_groups)"
                    )
                name = names.pop() if names else None
                if name is not None:
                    group["lr"] = group["lr"] * self.branch_gates.gates[name]
            yield
        finally:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def parameter_groups(self, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        """Divides parameters by branch, the rest last, for an optimizer whose learning rates are gated."""
        owner = {id(p): name for name, members in self._branch_parameters.items() for p in members}
        groups: dict[str | None, list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault(owner.get(id(parameter)), []).append(parameter)
        ordered = sorted(groups.items(), key=lambda item: (item[0] is None, item[0] or ""))
        return [{"params": members} for _, members in ordered]

    # ------------------------------------------------------------------ state

    def end_epoch(self) -> None:
        """Says that an epoch is over; methods that look at epochs' mean losses need it."""
        self.weighting.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: the method's memory and the gates."""
        return {
            "method": self.config.inter.method,
            "tasks": list(self.tasks),
            "weighting": self.weighting.state_dict(),
            "gates": self.branch_gates.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            ValueError: It is of another method, of other tasks or of other branches.
        """
        for key, own in (("method", self.config.inter.method), ("tasks", list(self.tasks))):
            if state[key] != own:
                raise ValueError(f"gradient calibration's state has {key} {state[key]}, this run has {own}")
        self.weighting.load_state_dict(state["weighting"])
        self.branch_gates.load_state_dict(state["gates"])


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
