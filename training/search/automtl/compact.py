"""The multi-task model of one policy as a plain module: nothing of the supermodel is left in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from training.search.automtl.policy import Option, Policy
from training.search.automtl.supermodel import Supermodel
from training.search.automtl.walk import Value, Walk


def compact(supermodel: Supermodel, policy: Policy) -> fx.GraphModule:
    """Builds the network a policy stands for.

    Operators all tasks share before they first differ are computed once; skipped ones are gone, or are what
    fits the size. The network has copies of the supermodel's weights and its mode.

    Args:
        supermodel: Not changed.
        policy: Of its tasks and operators.

    Returns:
        A module that maps the backbone's inputs to a dict of the backbone's output by task. Its parameters
        are named `shared.<operator>` and `specific.<task>.<operator>`.

    Raises:
        ConfigurationError: The policy is of other tasks or operators.
    """
    supermodel._check(policy)
    builder = _Builder(supermodel)
    chosen = policy.by_task()

    def operator_value(walk: Walk, node: fx.Node, task: str) -> Value:
        return walk.option(node, chosen[task][str(node.target)], task)

    inputs = {
        node.name: builder.graph.placeholder(node.name, default_value=node.args[0])
        if node.args
        else builder.graph.placeholder(node.name)
        for node in supermodel.graph.nodes
        if node.op == "placeholder"
    }
    walk = Walk(supermodel.graph, supermodel.tasks, supermodel.identity_skips, builder.perform)
    builder.graph.output(walk.run(inputs, operator_value))
    builder.graph.lint()
    module = fx.GraphModule(builder.members, builder.graph, class_name="MultiTaskBackbone")
    return module.train(supermodel.training)


class _Builder:
    """Collects the nodes and modules of the new network."""

    def __init__(self, supermodel: Supermodel) -> None:
        self.graph = fx.Graph()
        self.members: dict[str, Any] = {}
        self._supermodel = supermodel
        self._virtual = {node.name: node for node in supermodel.virtual_nodes()}

    def perform(
        self,
        node: fx.Node,
        option: Option | None,
        task: str | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> fx.Node:
        target: Any = node.target
        if option is not None:
            place = {
                Option.SHARED: f"shared.{target}",
                Option.SPECIFIC: f"specific.{task}.{target}",
                Option.SKIP: f"skip.{target}",
            }[option]
            self._enter(place, lambda: self._virtual[target].module_of(option, task))
            return self.graph.call_module(place, args)
        if node.op == "call_module":
            place = f"free.{target}"
            index = self._supermodel._free_targets[target]
            self._enter(place, lambda: self._supermodel.free_modules[index])
            return self.graph.call_module(place, args, kwargs)
        if node.op == "get_attr":
            place = f"constant.{target}"
            tensor: torch.Tensor = getattr(self._supermodel, self._supermodel._constant_names[target])
            self.members[place] = tensor.detach().clone()
            return self.graph.get_attr(place)
        return self.graph.create_node(node.op, target, args, kwargs)

    def _enter(self, place: str, module: Callable[[], nn.Module]) -> None:
        if place not in self.members:
            self.members[place] = copy.deepcopy(module())


def reset_parameters(module: nn.Module, seed: int) -> None:
    """Draws new weights for every layer: post-training starts from scratch.

    Convolutions are drawn as He et al. (2015) for their outputs, as the backbones here do; other layers as
    torch does by default. torch's global generator is left as it was.
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        for part in module.modules():
            if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            elif hasattr(part, "reset_parameters"):
                part.reset_parameters()  # type: ignore[operator]
    finally:
        torch.set_rng_state(state)
