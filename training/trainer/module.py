"""The training step: losses, their calibration, clipping, the optimizer; all under Lightning's manual
optimization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from perception_core.configuration import ConfigurationError
from training.datasets.batch import Batch
from training.gradient_calibration import (
    CalibrationRecord,
    GradientCalibrationConfig,
    NonFiniteGradientError,
)
from training.losses import TaskLoss
from training.trainer.configuration import TrainingConfig
from training.trainer.learner import Learner
from training.trainer.lightning_import import lightning
from training.trainer.optimization import create_optimizer, learning_rate_ratio
from training.trainer.sampling import BatchPlan, epoch_seed
from training.trainer.weighing import create_weighing

#: Where a checkpoint holds what is ours; the rest of its keys are Lightning's.
CHECKPOINT_KEY = "mmmt"
CHECKPOINT_FORMAT = 1

#: Samples named in a message.
_NAMED_SAMPLES = 32


class TrainingDivergedError(FloatingPointError):
    """A loss or gradient is not finite; the message names the step, the samples and the last checkpoint.

    Attributes:
        tokens: Data set and token of every sample of the step.
        checkpoint: The last checkpoint, which holds finite weights; None: there is none yet.
    """

    def __init__(self, message: str, tokens: tuple[str, ...], checkpoint: Path | None) -> None:
        super().__init__(message)
        self.tokens, self.checkpoint = tokens, checkpoint


class MultiTaskModule(lightning.LightningModule):
    """Trains a learner.

    Attributes:
        learner: What is trained.
        weighing: Calibrates gradients, or adds losses as they are.
        last_checkpoint: Where the last checkpoint lies.
        results: Headline numbers of the last evaluation by `task/metric`.
        run_record: Plain values kept in every checkpoint: recipe, data, commit.
        shown_losses: Losses of the last step as the progress bar shows them.
    """

    learner: Learner

    def __init__(
        self,
        learner: Learner,
        config: TrainingConfig,
        calibration: GradientCalibrationConfig | None,
        plan: BatchPlan,
        total_steps: int,
        run_record: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        # A learner may be a module; registered here, its weights would be in the state dict twice.
        object.__setattr__(self, "learner", learner)
        self.network = learner.network
        self.config, self.plan, self.total_steps = config, plan, total_steps
        self.weighing = create_weighing(learner, calibration)
        self.run_record = dict(run_record)
        self.last_checkpoint: Path | None = None
        self.results: dict[str, float] = {}
        self.shown_losses = ""
        self._tokens: list[str] = []

    # ------------------------------------------------------------------ Lightning's hooks

    def configure_optimizers(self) -> Any:
        """Builds AdamW and its schedule, which `training_step` moves on."""
        optimizer = create_optimizer(self.network, self.config.optimizer, self.weighing)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, learning_rate_ratio(self.config.schedule, self.total_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_epoch_start(self) -> None:
        """Leaves the mode of an evaluation."""
        self.network.train()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draws what is random inside the network anew each epoch, from seed, epoch and process alone.

        Not at the epoch's start: a loader draws from torch's generator too when it is begun, which comes
        before that where a run is resumed, and after it where it is not.
        """
        if batch_idx == 0:
            torch.manual_seed(epoch_seed(self.config.seed, self.current_epoch, self.global_rank))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch."""
        return batch.to(device, non_blocking=True) if isinstance(batch, Batch) else batch

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Runs one pass; the last pass of a step updates the weights.

        Raises:
            TrainingDivergedError: A loss or gradient is not finite. The weights are those of the step before.
        """
        optimizer = self.optimizers()
        assert isinstance(optimizer, lightning.core.optimizer.LightningOptimizer)
        if batch_idx % self.plan.passes == 0:
            optimizer.zero_grad()
            self._tokens = []
        self._tokens += [f"{origin.dataset}:{origin.token}" for origin in batch.provenance]
        try:
            losses = self.learner.losses(batch)
            total, record = self.weighing.weigh({task: loss.total for task, loss in losses.tasks.items()})
            auxiliary = _finite_sum(losses.auxiliary)
            if auxiliary is not None:
                total = total + auxiliary
            self.manual_backward(total / self.plan.passes)
            if (batch_idx + 1) % self.plan.passes:
                return
            self.weighing.gate_branches(record)
            norm = self._clip()
        except FloatingPointError as error:
            raise self._diverged(error) from error
        rate = float(optimizer.param_groups[0]["lr"])
        with self.weighing.gated_learning_rates(optimizer.optimizer):
            optimizer.step()
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)
        schedule.step()
        self._log(record, losses.tasks, losses.auxiliary, {"gradient_norm": norm, "learning_rate": rate})

    def on_train_epoch_end(self) -> None:
        """Tells methods that look at epochs."""
        self.weighing.end_epoch()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what resuming and exporting need beside Lightning's own."""
        checkpoint[CHECKPOINT_KEY] = {
            "format": CHECKPOINT_FORMAT,
            "learner": self.learner.describe(),
            "seed": self.config.seed,
            # `current_epoch` only moves on after the hooks in which checkpoints are written.
            "epochs_done": self.trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
            "samples_a_step": self.plan.samples_a_step,
            "weighing": self.weighing.state_dict(),
            "results": dict(self.results),
            "run": self.run_record,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the weighing's memory.

        Raises:
            ConfigurationError: It is of another method or of other tasks.
        """
        state = checkpoint[CHECKPOINT_KEY]
        try:
            self.weighing.load_state_dict(state["weighing"])
        except ValueError as error:
            raise ConfigurationError(f"the run cannot be resumed: {error}") from error
        self.results = dict(state["results"])

    # ------------------------------------------------------------------ parts of a step

    def _clip(self) -> float:
        """Clips the step's gradient and returns its norm before.

        Raises:
            NonFiniteGradientError: The norm is not finite; nothing was clipped that could be used.
        """
        limit = self.config.gradient_clip
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), math.inf if limit is None else limit)
        )
        if not math.isfinite(norm):
            names = [
                name
                for name, parameter in self.network.named_parameters()
                if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
            ]
            raise NonFiniteGradientError(
                f"the gradient's norm is {norm}" + (f", first at '{names[0]}'" if names else "")
            )
        return norm

    def _diverged(self, error: FloatingPointError) -> TrainingDivergedError:
        tokens = tuple(self._tokens)
        named = ", ".join(tokens[:_NAMED_SAMPLES])
        more = f" and {len(tokens) - _NAMED_SAMPLES} more" if len(tokens) > _NAMED_SAMPLES else ""
        kept = (
            f"the last good checkpoint is {self.last_checkpoint}"
            if self.last_checkpoint is not None
            else "no epoch was finished, so there is no checkpoint yet"
        )
        return TrainingDivergedError(
            f"training stopped in epoch {self.current_epoch + 1} at step {self.global_step + 1}: {error}; "
            f"samples of the step: {named}{more}; {kept}. Look at these samples (mmmt data overlay), lower "
            "training.optimizer.learning_rate or set training.gradient_clip",
            tokens,
            self.last_checkpoint,
        )

    def _log(
        self,
        record: CalibrationRecord,
        tasks: Mapping[str, TaskLoss],
        auxiliary: Mapping[str, TaskLoss],
        further: Mapping[str, float],
    ) -> None:
        self.shown_losses = "  ".join(f"{task} {value:.3f}" for task, value in record.losses.items())
        if self.global_step % self.config.log_every:
            return
        values = {**record.scalars(), **further, "epoch": self.current_epoch}
        for task, loss in {**tasks, **auxiliary}.items():
            values.update({f"term/{task}/{name}": float(term) for name, term in loss.terms.items()})
        values.update({f"loss/{task}": float(loss.total.detach()) for task, loss in auxiliary.items()})
        for logger in self.loggers:
            logger.log_metrics(values, step=self.global_step)


def _finite_sum(losses: Mapping[str, TaskLoss]) -> torch.Tensor | None:
    for name, loss in losses.items():
        if not bool(torch.isfinite(loss.total)):
            raise NonFiniteGradientError(f"auxiliary loss '{name}' is {float(loss.total.detach())}")
    return torch.stack([loss.total for loss in losses.values()]).sum() if losses else None
