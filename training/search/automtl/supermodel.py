"""The multi-task supermodel: a backbone whose every operator is a virtual computation node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from perception_core.configuration import ConfigurationError
from training.search.automtl.policy import Option, Policy
from training.search.automtl.virtual_node import VirtualComputationNode
from training.search.automtl.walk import Value, Walk


class Supermodel(nn.Module):
    """All multi-task models of the search space in one network (AutoMTL, Fig. 1c).

    Built by `training.search.automtl.compile`. Called with a policy it computes exactly what the compact
    model of that policy computes.

    Args:
        graph: The backbone's graph; nodes of operators carry `meta["operator"]`.
        nodes: The virtual computation nodes in the order of the graph.
        free_modules: Modules without parameters, by their target in the graph.
        attributes: Constant tensors, by their target in the graph.
        tasks: Names of the tasks.

    Attributes:
        policy_logits_tl3: log π up to a constant: policy variables of N tasks and L operators.
    """

    def __init__(
        self,
        graph: fx.Graph,
        nodes: Sequence[VirtualComputationNode],
        free_modules: dict[str, nn.Module],
        attributes: dict[str, torch.Tensor],
        tasks: Sequence[str],
    ) -> None:
        super().__init__()
        self.graph, self.tasks = graph, tuple(tasks)
        self.nodes = nn.ModuleList(nodes)
        self.free_modules = nn.ModuleList(free_modules.values())
        self._free_targets = {target: index for index, target in enumerate(free_modules)}
        self._constant_names = {target: f"constant_{index}" for index, target in enumerate(attributes)}
        for target, tensor in attributes.items():
            self.register_buffer(self._constant_names[target], tensor.detach().clone(), persistent=False)
        self.policy_logits_tl3 = nn.Parameter(torch.zeros(len(self.tasks), len(nodes), len(Option)))
        self._index = {node.name: index for index, node in enumerate(nodes)}
        self.identity_skips = frozenset(node.name for node in nodes if node.skip.is_identity)

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the virtual computation nodes."""
        return tuple(self._index)

    @property
    def depths(self) -> tuple[int, ...]:
        """Depth l of each virtual computation node (Eq. 2)."""
        return tuple(node.depth for node in self.virtual_nodes())

    def virtual_nodes(self) -> list[VirtualComputationNode]:
        """Returns the virtual computation nodes in the order of the graph."""
        return [node for node in self.nodes if isinstance(node, VirtualComputationNode)]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Returns all parameters but the policy's."""
        return [p for p in self.parameters() if p is not self.policy_logits_tl3]

    def probabilities_tl3(self) -> torch.Tensor:
        """Returns the learned distribution π, without graph."""
        return self.policy_logits_tl3.detach().softmax(dim=-1)

    def all_shared(self) -> Policy:
        """Returns the policy of one backbone for all tasks."""
        return Policy.uniform(self.tasks, self.operators, Option.SHARED)

    def all_specific(self) -> Policy:
        """Returns the policy of a backbone for each task."""
        return Policy.uniform(self.tasks, self.operators, Option.SPECIFIC)

    def parameter_count(self, policy: Policy) -> int:
        """Returns the number of parameters of a policy's compact model, heads not counted."""
        self._check(policy)
        total = 0
        for node, column in zip(self.virtual_nodes(), zip(*policy.choices, strict=True), strict=True):
            copies = int(Option.SHARED in column) + sum(option is Option.SPECIFIC for option in column)
            total += copies * node.parameters_of_one
        return total

    def forward(
        self, *inputs: Any, policy: Policy | None = None, weights_tl3: torch.Tensor | None = None
    ) -> dict[str, Any]:
        """Runs the backbone for every task.

        Args:
            inputs: The backbone's.
            policy: Take one option at each operator.
            weights_tl3: Mix the three options at each operator with these weights (Eq. 1). Neither: their
                average, as in pre-training.

        Returns:
            The backbone's output by task.

        Raises:
            ConfigurationError: The policy is of other tasks or operators.
        """
        if policy is not None:
            self._check(policy)
            columns = zip(*policy.choices, strict=True)
            chosen = [dict(zip(policy.tasks, column, strict=True)) for column in columns]

        def operator_value(walk: Walk, node: fx.Node, task: str) -> Value:
            index = self._index[str(node.target)]
            if policy is not None:
                return walk.option(node, chosen[index][task], task)
            options = [walk.option(node, option, task).item for option in Option]
            if weights_tl3 is None:
                mixed = (options[0] + options[1] + options[2]) / 3.0
            else:
                weights = weights_tl3[self.tasks.index(task), index]
                mixed = weights[0] * options[0] + weights[1] * options[1] + weights[2] * options[2]
            return walk.new_value(mixed)

        walk = Walk(self.graph, self.tasks, self.identity_skips, self._perform)
        return walk.run(self._named_inputs(inputs), operator_value)

    def _perform(
        self,
        node: fx.Node,
        option: Option | None,
        task: str | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        target: Any = node.target
        if option is not None:
            virtual = self.nodes[self._index[target]]
            assert isinstance(virtual, VirtualComputationNode)
            return virtual.module_of(option, task)(*args)
        if node.op == "call_module":
            return self.free_modules[self._free_targets[target]](*args, **kwargs)
        if node.op == "call_function":
            return target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return getattr(self, self._constant_names[target])

    def _named_inputs(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
        places = [node for node in self.graph.nodes if node.op == "placeholder"]
        named = {}
        for index, place in enumerate(places):
            if index < len(inputs):
                named[place.name] = inputs[index]
            elif place.args:
                named[place.name] = place.args[0]  # the default
            else:
                raise TypeError(f"the backbone needs {len(places)} inputs, got {len(inputs)}")
        return named

    def _check(self, policy: Policy) -> None:
        if policy.tasks != self.tasks or policy.operators != self.operators:
            raise ConfigurationError(
                f"the policy is of tasks {', '.join(policy.tasks)} and {len(policy.operators)} operators, "
                f"the supermodel of {', '.join(self.tasks)} and {len(self.operators)}; policies fit only the "
                "backbone and tasks they were learned for"
            )
