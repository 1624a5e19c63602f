"""Checkpoints: written whole or not at all after every epoch, refused where they do not fit the network."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perception_core.configuration import ConfigurationError
from training.trainer.learner import Learner
from training.trainer.lightning_import import lightning
from training.trainer.module import CHECKPOINT_FORMAT, CHECKPOINT_KEY, MultiTaskModule

LAST = "last.ckpt"

#: What the network is called in the state dict of `MultiTaskModule`.
_PREFIX = "network."


class EpochCheckpoints(lightning.callbacks.Checkpoint):
    """Keeps the last epoch's checkpoint under `last.ckpt`, and some earlier ones under `epoch-0003.ckpt`.

    Written beside and moved: an interrupted write leaves the earlier checkpoint as it was.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Writes; called after the module and every other callback have ended the epoch."""
        staged, last = self.folder / f".{LAST}.partial", self.folder / LAST
        trainer.save_checkpoint(staged)  # every process takes part
        if trainer.is_global_zero:
            staged.replace(last)
            if self.keep:
                self._keep_copy(last, trainer.current_epoch + 1)
        trainer.strategy.barrier("epoch checkpoint")
        assert isinstance(pl_module, MultiTaskModule)
        pl_module.last_checkpoint = last

    def _keep_copy(self, last: Path, epoch: int) -> None:
        copy = self.folder / f"epoch-{epoch:04d}.ckpt"
        copy.unlink(missing_ok=True)
        try:
            os.link(last, copy)  # the next `last.ckpt` is another file, so this one stays what it is
        except OSError:
            shutil.copyfile(last, copy)
        for old in sorted(self.folder.glob("epoch-*.ckpt"))[: -self.keep]:
            old.unlink()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU. Only tensors and plain values are read, no code.

    Raises:
        ConfigurationError: There is no such file, it is damaged, or no checkpoint of this trainer.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: cannot be read as a checkpoint: {error}; it is damaged or of another program: go back "
            "to an earlier one (epoch-….ckpt) or train anew"
        ) from error
    ours = checkpoint.get(CHECKPOINT_KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(ours, dict) or "state_dict" not in checkpoint:
        raise ConfigurationError(f"{path}: is no checkpoint of `mmmt train`")
    if ours["format"] != CHECKPOINT_FORMAT:
        raise ConfigurationError(
            f"{path}: checkpoint of format {ours['format']}, this version reads {CHECKPOINT_FORMAT}"
        )
    return dict(checkpoint)


def network_state(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Returns the network's tensors of a checkpoint under the network's own names."""
    return {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(_PREFIX)
    }


def check_architecture(path: Path, checkpoint: dict[str, Any], learner: Learner) -> None:
    """Refuses a checkpoint whose weights are not those of a learner's network.

    Raises:
        ConfigurationError: Names the first component that differs, and how.
    """
    difference = first_difference(learner.network, network_state(checkpoint))
    if difference is None:
        return
    theirs, ours = checkpoint[CHECKPOINT_KEY]["learner"].get("name"), learner.describe().get("name")
    raise ConfigurationError(
        f"{path}: checkpoint of another architecture ({theirs}; this run trains {ours}): {difference}. "
        "Train with the recipe and settings the checkpoint was made with, or begin anew in another folder"
    )


def first_difference(network: nn.Module, state: dict[str, torch.Tensor]) -> str | None:
    """Says where weights first differ from a network's in name or shape, None where they do not."""
    own = network.state_dict()
    components = list(dict.fromkeys(name.split(".", 1)[0] for name in own))
    theirs = list(dict.fromkeys(name.split(".", 1)[0] for name in state))
    for component in components:
        if component not in theirs:
            return f"it has no component '{component}'"
        for name, tensor in own.items():
            if name.split(".", 1)[0] != component:
                continue
            inner = name.split(".", 1)[-1]
            if name not in state:
                return f"component '{component}': it lacks '{inner}' of shape {tuple(tensor.shape)}"
            if state[name].shape != tensor.shape:
                return (
                    f"component '{component}': '{inner}' has shape {tuple(state[name].shape)}, this "
                    f"network's {tuple(tensor.shape)}"
                )
        for name in state:
            if name.split(".", 1)[0] == component and name not in own:
                return f"component '{component}': it has '{name.split('.', 1)[-1]}', this network has not"
    extra = [component for component in theirs if component not in components]
    return f"it has a component '{extra[0]}', this network has not" if extra else None


def load_network(path: Path, checkpoint: dict[str, Any], learner: Learner) -> None:
    """Loads a checkpoint's weights into a learner's network.

    Raises:
        ConfigurationError: They do not fit.
    """
    check_architecture(path, checkpoint, learner)
    learner.network.load_state_dict(network_state(checkpoint))
