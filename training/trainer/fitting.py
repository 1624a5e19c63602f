"""Trains a learner: loaders, Lightning's trainer with its callbacks, resuming, and what is left on disk.

OUT/run.json              recipe, data, command, commit, machine
OUT/last.ckpt             the last finished epoch
OUT/log/version_0/…       every step, metrics.csv or TensorBoard events; a resumed run adds version_1
OUT/evaluation/epoch-….json
"""

from __future__ import annotations

import importlib.util
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception_core.configuration import ConfigurationError
from training.datasets.dataset import SampleDataset
from training.datasets.loading import make_loader
from training.evaluation.result import Result, write_json
from training.gradient_calibration import GradientCalibrationConfig
from training.provenance import describe_origin
from training.trainer.checkpoints import LAST, EpochCheckpoints, check_architecture, read_checkpoint
from training.trainer.configuration import TrainingConfig
from training.trainer.evaluating import EpochEvaluation
from training.trainer.learner import Learner
from training.trainer.lightning_import import lightning
from training.trainer.metrics_log import LOG_FOLDER
from training.trainer.module import CHECKPOINT_KEY, MultiTaskModule
from training.trainer.progress import TrainingProgress
from training.trainer.sampling import EpochBatches, plan_batches

RUN_FILE = "run.json"


@dataclass(frozen=True)
class FitOptions:
    """How a run is started, as opposed to what it trains.

    Attributes:
        devices: Devices of each node that train together.
        nodes: Machines that train together.
        accelerator: Lightning's name of the kind of device: `auto`, `cpu`, `gpu`.
        limit: Steps of an epoch, and batches of an evaluation, at most; for trials.
        resume: Checkpoint to go on from; None: begin.
        progress: Show a bar.
    """

    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"
    limit: int | None = None
    resume: Path | None = None
    progress: bool = True


@dataclass(frozen=True)
class FitResult:
    """What a run left.

    Attributes:
        checkpoint: Of the last epoch.
        results: Of the last evaluation; empty where there was none.
        steps: Steps done, those before a resumption included.
        wall_s: Seconds this process trained and evaluated.
        is_main: This is the process that writes files and speaks; others of a distributed run shall not.
    """

    checkpoint: Path
    results: dict[str, Result] = field(default_factory=dict)
    steps: int = 0
    wall_s: float = 0.0
    is_main: bool = True


class _Order(lightning.Callback):
    """Gives the sampler its process, and sampler and data set the epoch before the loader's workers start."""

    def __init__(self, batches: EpochBatches, dataset: SampleDataset) -> None:
        self.batches, self.dataset = batches, dataset

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.batches.rank = trainer.global_rank

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.begin(trainer.current_epoch)

    def begin(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)
        set_epoch = getattr(self.dataset, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)


class _RunFile(lightning.Callback):
    """Writes what the run is before it begins."""

    def __init__(self, out: Path, about: Mapping[str, Any]) -> None:
        self.out, self.about = out, about

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if trainer.is_global_zero:
            write_json(self.out / RUN_FILE, {**self.about, "origin": describe_origin()})


def fit(
    learner: Learner,
    training_set: SampleDataset,
    validation_set: SampleDataset | None,
    config: TrainingConfig,
    out: Path,
    *,
    calibration: GradientCalibrationConfig | None = None,
    options: FitOptions | None = None,
    run_record: Mapping[str, Any] | None = None,
) -> FitResult:
    """Trains, evaluates and writes checkpoints.

    On a CPU a run that was stopped after an epoch and resumed ends with the very weights an unbroken one ends
    with: order, augmentation and dropout follow from seed and epoch.

    Args:
        learner: What is trained; its initial weights are the caller's, drawn from `config.seed`.
        training_set: With augmentation, if any, outermost (its `set_epoch` is called).
        validation_set: None: nothing is evaluated.
        config: How.
        out: Folder of the run.
        calibration: Of gradients; None: losses are added.
        options: How it is started.
        run_record: Plain values for `run.json` and checkpoints.

    Raises:
        ConfigurationError: The folder holds another run, the checkpoint does not fit, or the batch cannot be
            divided over the devices.
        TrainingDivergedError: A loss or gradient is not finite; the last checkpoint is kept.
    """
    options = options or FitOptions()
    processes = options.devices * options.nodes
    plan = plan_batches(config.batch_size, config.samples_a_pass, processes)
    batches = EpochBatches(len(training_set), plan, config.seed)
    steps = batches.steps if options.limit is None else min(options.limit, batches.steps)
    order = _Order(batches, training_set)
    done = _epochs_done(learner, options.resume, config, plan.samples_a_step)
    if options.resume is None:
        _refuse_used_folder(out)
    order.begin(done)
    record = dict(run_record or {})
    module = MultiTaskModule(learner, config, calibration, plan, config.epochs * steps, record)
    module.last_checkpoint = options.resume
    learner.network.train()
    bar = TrainingProgress() if options.progress else None
    about = {**record, "devices": processes, "limit": options.limit}
    callbacks: list[Any] = [order, _RunFile(out, about), EpochCheckpoints(out, config.keep_checkpoints)]
    evaluation = None
    if validation_set is not None:
        evaluation = EpochEvaluation(
            validation_set,
            out / "evaluation",
            every=config.evaluate_every,
            epochs=config.epochs,
            batch_size=plan.samples_a_pass,
            workers=config.workers,
            limit=options.limit,
            progress=bar.begin if bar else None,
        )
        callbacks.append(evaluation)
    if bar is not None:
        callbacks.append(bar)
    _quiet_lightning()
    trainer = lightning.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy=_strategy(processes),
        precision=config.precision,
        max_epochs=config.epochs,
        limit_train_batches=steps * plan.passes,
        logger=_logger(config.logger, out),
        callbacks=callbacks,
        default_root_dir=out,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    loader = make_loader(
        training_set,
        workers=config.workers,
        sampler=batches,
        pin_memory=trainer.strategy.root_device.type == "cuda",
    )
    begin = time.monotonic()
    trainer.fit(module, loader, ckpt_path=options.resume, weights_only=True)
    return FitResult(
        checkpoint=out / LAST,
        results=(evaluation.results if evaluation else None) or {},
        steps=trainer.global_step,
        wall_s=time.monotonic() - begin,
        is_main=trainer.is_global_zero,
    )


def _epochs_done(learner: Learner, resume: Path | None, config: TrainingConfig, samples_a_step: int) -> int:
    """Reads how far a checkpoint has come, and refuses one that cannot be gone on from.

    Raises:
        ConfigurationError: See above.
    """
    if resume is None:
        return 0
    checkpoint = read_checkpoint(resume)
    check_architecture(resume, checkpoint, learner)
    state = checkpoint[CHECKPOINT_KEY]
    for what, theirs, ours in (
        ("training.seed", state["seed"], config.seed),
        ("samples a step", state["samples_a_step"], samples_a_step),
    ):
        if theirs != ours:
            raise ConfigurationError(
                f"{resume}: was trained with {what} {theirs}, this run has {ours}: it would go on in another "
                "order; resume with the settings it was begun with"
            )
    done = int(state["epochs_done"])
    if done >= config.epochs:
        raise ConfigurationError(
            f"{resume}: all {done} epochs are done; training.epochs={config.epochs} leaves nothing to train"
        )
    return done


def _refuse_used_folder(out: Path) -> None:
    if (out / LAST).exists():
        raise ConfigurationError(
            f"{out}: holds a run already ({LAST}); resume it with --resume, or choose another folder"
        )


def _strategy(processes: int) -> Any:
    if processes == 1:
        return "auto"
    # Branches of missing sensors and heads of tasks without labels get no gradient in some batches.
    return lightning.strategies.DDPStrategy(find_unused_parameters=True)


def _logger(kind: str, out: Path) -> Any:
    if kind == "csv":
        return lightning.loggers.CSVLogger(out, name=LOG_FOLDER, flush_logs_every_n_steps=20)
    if importlib.util.find_spec("tensorboard") is None and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigurationError(
            "training.logger=tensorboard needs the package tensorboard, which is not installed; install it, "
            "or choose training.logger=csv"
        )
    return lightning.loggers.TensorBoardLogger(out, name=LOG_FOLDER)


def _quiet_lightning() -> None:
    """Leaves out Lightning's advertisements and its advice on numbers of workers; warnings stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
