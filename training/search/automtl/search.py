"""Architecture search on the supermodel, and training of what it finds (AutoMTL, section 3.2).

pre-train ─► policy-train ─► sample ─► post-train
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perception_core.configuration import ConfigurationError
from training.search.automtl.compact import compact, reset_parameters
from training.search.automtl.configuration import SearchConfig
from training.search.automtl.policy import Option, Policy, policy_regularizer, soft_policy
from training.search.automtl.supermodel import Supermodel
from training.search.stages import RandomState, Stage, StageProgress, StageRecord, Stateful
from training.search.tasks.batches import BatchSource
from training.search.tasks.heads import aspp_heads, feature_channels
from training.search.tasks.network import MultiTaskNetwork, task_losses, total_loss
from training.search.tasks.task import DenseTask


@dataclass(frozen=True)
class SearchResult:
    """What policy-training found.

    Attributes:
        supermodel: With trained weights and policies.
        tasks: The tasks.
        heads: Their trained heads.
        stages: What it cost.
        config: Settings.
    """

    supermodel: Supermodel
    tasks: tuple[DenseTask, ...]
    heads: nn.ModuleDict
    stages: tuple[StageRecord, ...]
    config: SearchConfig


def search(
    supermodel: Supermodel,
    tasks: Sequence[DenseTask],
    batches: BatchSource,
    config: SearchConfig | None = None,
    folder: str | Path | None = None,
    *,
    policy_batches: BatchSource | None = None,
    heads: Mapping[str, nn.Module] | None = None,
    progress: StageProgress | None = None,
) -> SearchResult:
    """Pre-trains the supermodel, then trains weights and policies in turns.

    Args:
        supermodel: Of `compile`, with the tasks' names; trained in place, on its device.
        tasks: The tasks.
        batches: What weights are trained on.
        config: Settings; None: the defaults.
        folder: For checkpoints; a search that was killed goes on from them. None: none are written.
        policy_batches: What policies are trained on; None: `batches` too.
        heads: By task; None: ASPP heads, drawn from the configuration's seed.
        progress: Told of each step.

    Raises:
        ConfigurationError: Tasks differ from the supermodel's, labels are missing, or the folder has
            checkpoints of another search.
    """
    config = config or SearchConfig()
    folder = None if folder is None else Path(folder)
    names = tuple(task.name for task in tasks)
    if names != supermodel.tasks:
        raise ConfigurationError(
            f"the supermodel was compiled for {', '.join(supermodel.tasks)}, not for {', '.join(names)}"
        )
    for source in (batches, policy_batches or batches):
        missing = [name for name in names if name not in source.tasks]
        if missing:
            raise ConfigurationError(
                f"the batches have no labels of {', '.join(missing)}; they have {', '.join(source.tasks)}"
            )
    if heads is None:
        heads = _new_heads(supermodel, tasks, config)
    device = supermodel.policy_logits_tl3.device
    network = MultiTaskNetwork(supermodel, heads).to(device).train()
    weights = [*supermodel.weight_parameters(), *network.heads.parameters()]
    weight_optimizer = torch.optim.Adam(weights, config.learning_rate, weight_decay=config.weight_decay)
    policy_optimizer = torch.optim.Adam([supermodel.policy_logits_tl3], config.policy_learning_rate)
    noise = RandomState(config.seed)
    states: dict[str, Stateful] = {
        "network": network,
        "weights": weight_optimizer,
        "policy": policy_optimizer,
        "noise": noise,
    }
    fingerprint = _fingerprint(config, names, supermodel.operators)

    def losses_of(source: BatchSource, step: int, **choice: Any) -> torch.Tensor:
        batch = source.train_batch(step).to(device)
        losses = task_losses(network(batch.image_bchw, **choice), batch, tasks)
        return total_loss(losses, config.task_weights)

    def train_weights(loss: torch.Tensor) -> None:
        weight_optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, config.clip_gradient)
        weight_optimizer.step()

    def pretrain_step(step: int) -> None:
        train_weights(losses_of(batches, step))

    def policy_step(step: int) -> None:
        turn, within = divmod(step, config.weight_turn + config.policy_turn)
        temperature = config.temperature.at(turn * config.policy_turn)
        soft_tl3 = soft_policy(supermodel.policy_logits_tl3, temperature, noise.generator)
        if within < config.weight_turn:
            batch = config.pretrain_steps + turn * config.weight_turn + within
            train_weights(losses_of(batches, batch, weights_tl3=soft_tl3.detach()))
            return
        batch = turn * config.policy_turn + within - config.weight_turn
        loss = losses_of(policy_batches or batches, batch, weights_tl3=soft_tl3)
        loss = loss + config.regularization * policy_regularizer(soft_tl3, supermodel.depths)
        policy_optimizer.zero_grad()
        loss.backward()
        policy_optimizer.step()

    records = []
    for name, steps, step in (
        ("pretrain", config.pretrain_steps, pretrain_step),
        ("policy", config.policy_steps, policy_step),
    ):
        stage = Stage(name, steps, states, fingerprint, folder, config.checkpoint_every)
        records.append(stage.run(step, config.seed, progress))
    network.zero_grad()
    return SearchResult(supermodel, tuple(tasks), network.heads, tuple(records), config)


def sample(supermodel: Supermodel, seed: int | None = None) -> Policy:
    """Draws a policy from the learned distribution π.

    Args:
        supermodel: With trained policies.
        seed: Of the draw; None: take the most probable option everywhere.
    """
    probabilities_tl3 = supermodel.probabilities_tl3().cpu()
    if seed is None:
        index_tl = probabilities_tl3.argmax(dim=-1)
    else:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(probabilities_tl3.flatten(0, 1), 1, generator=generator)
        index_tl = drawn.view(probabilities_tl3.shape[:2])
    return Policy.of_indices(supermodel.tasks, supermodel.operators, index_tl)


def build(
    found: SearchResult, policy: Policy | None = None, seed: int = 0, from_scratch: bool = True
) -> MultiTaskNetwork:
    """Builds the multi-task network of a policy, heads included, as a plain compact module.

    Args:
        found: Of `search`.
        policy: None: drawn from what was learned, with the seed.
        seed: Of the policy where none is given, and of new weights.
        from_scratch: Draw new weights, as the paper's post-training does; False: take the supermodel's.
    """
    policy = sample(found.supermodel, seed) if policy is None else policy
    backbone = compact(found.supermodel, policy)
    heads = _new_heads(found.supermodel, found.tasks, found.config)
    if from_scratch:
        reset_parameters(backbone, seed)
    else:
        for task, head in found.heads.items():
            heads[task].load_state_dict(head.state_dict())
    return MultiTaskNetwork(backbone, heads).to(found.supermodel.policy_logits_tl3.device)


def posttrain(
    network: nn.Module,
    tasks: Sequence[DenseTask],
    batches: BatchSource,
    config: SearchConfig | None = None,
    folder: str | Path | None = None,
    progress: StageProgress | None = None,
    name: str = "posttrain",
) -> StageRecord:
    """Trains a network whose policy is fixed; baselines too, so that all are trained alike.

    Args:
        network: Of `build`, or any that maps images to predictions by task; trained in place.
        tasks: The tasks.
        batches: What it is trained on.
        config: Settings; None: the defaults. The learning rate falls along a cosine to 0.
        folder: For the checkpoint, None: none is written.
        progress: Told of each step.
        name: Of the stage and its checkpoint.

    Raises:
        ConfigurationError: The folder has a checkpoint of another search.
    """
    config = config or SearchConfig()
    folder = None if folder is None else Path(folder)
    device = next(network.parameters()).device
    weights = list(network.parameters())
    optimizer = torch.optim.Adam(weights, config.learning_rate, weight_decay=config.weight_decay)
    network.train()

    def step(number: int) -> None:
        share = number / max(1, config.posttrain_steps)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
        batch = batches.train_batch(number).to(device)
        losses = task_losses(network(batch.image_bchw), batch, tasks)
        optimizer.zero_grad()
        total_loss(losses, config.task_weights).backward()
        nn.utils.clip_grad_norm_(weights, config.clip_gradient)
        optimizer.step()

    layers = tuple(f"{key} {tuple(value.shape)}" for key, value in network.state_dict().items())
    fingerprint = _fingerprint(config, tuple(task.name for task in tasks), layers)
    states: dict[str, Stateful] = {"network": network, "optimizer": optimizer}
    stage = Stage(name, config.posttrain_steps, states, fingerprint, folder, config.checkpoint_every)
    record = stage.run(step, config.seed, progress)
    network.eval()
    return record


def option_shares(policy: Policy) -> dict[str, dict[str, float]]:
    """Returns, by task, the share of operators that take each option."""
    return {
        task: {
            option.name.lower(): sum(choice is option for choice in row) / max(1, len(row))
            for option in Option
        }
        for task, row in zip(policy.tasks, policy.choices, strict=True)
    }


def _new_heads(
    supermodel: Supermodel, tasks: Sequence[DenseTask], config: SearchConfig
) -> dict[str, nn.Module]:
    with torch.no_grad():
        channels = feature_channels(supermodel)
    heads = aspp_heads(tasks, channels, config.head_channels, config.head_rates)
    for index, head in enumerate(heads.values()):
        reset_parameters(head, config.seed * 1009 + index)
    return heads


def _fingerprint(config: SearchConfig, tasks: tuple[str, ...], layers: tuple[str, ...]) -> dict[str, Any]:
    settings = config.model_dump(mode="json", exclude={"checkpoint_every"})
    return {**settings, "tasks": list(tasks), "operators": list(layers)}
