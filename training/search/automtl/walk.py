"""Runs a backbone's graph for several tasks at once and computes nothing twice.

Two tasks whose policies agreed on everything that leads to a value have the same value, computed once. This
one rule says what is shared, for the supermodel (whose values are tensors) and for the compact model (whose
values are nodes of a new graph), so that both are the same network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.fx.node import map_arg

from training.search.automtl.policy import Option


@dataclass(frozen=True)
class Value:
    """A value of the graph.

    Attributes:
        item: The tensor, the node of a new graph, or whatever else the graph hands on.
        number: Values with the same number are the same.
    """

    item: Any
    number: int


#: Computes a node: the node, the option (None for what has no parameters), the task the option is specific
#: to (else None), and its arguments.
Perform = Callable[[fx.Node, Option | None, str | None, tuple[Any, ...], dict[str, Any]], Any]


class Walk:
    """One pass through a graph.

    Args:
        graph: Of `TracedBackbone`.
        tasks: Names.
        identity_skips: Operators whose skip connection hands its input on.
        perform: Computes a node.
    """

    def __init__(
        self, graph: fx.Graph, tasks: Sequence[str], identity_skips: frozenset[str], perform: Perform
    ) -> None:
        self._graph, self._tasks = graph, tuple(tasks)
        self._identity_skips, self._perform = identity_skips, perform
        self._numbers = itertools.count()
        self._known: dict[Hashable, Value] = {}
        self._values: dict[fx.Node, dict[str, Value]] = {}

    def run(
        self,
        inputs: Mapping[str, Any],
        operator_value: Callable[[Walk, fx.Node, str], Value],
    ) -> dict[str, Any]:
        """Walks through the graph.

        Args:
            inputs: Value of each placeholder by name.
            operator_value: Gives the value of an operator for a task, by `option` and `new_value`.

        Returns:
            The graph's output by task.
        """
        result: dict[str, Any] = {}
        for node in self._graph.nodes:
            if node.op == "placeholder":
                value = self.new_value(inputs[node.name])
                self._values[node] = dict.fromkeys(self._tasks, value)
            elif node.op == "output":
                for task in self._tasks:
                    result[task] = self._arguments(node, task)[0][0]
            elif node.op == "call_module" and node.meta.get("operator"):
                self._values[node] = {task: operator_value(self, node, task) for task in self._tasks}
            else:
                self._values[node] = {task: self._compute(node, None, task) for task in self._tasks}
        return result

    def new_value(self, item: Any) -> Value:
        """Returns a value that is like no other."""
        return Value(item, next(self._numbers))

    def option(self, node: fx.Node, option: Option, task: str) -> Value:
        """Returns what one option of an operator gives for a task."""
        if option is Option.SKIP and node.target in self._identity_skips:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            return self._values[source][task]
        return self._compute(node, option, task)

    def _compute(self, node: fx.Node, option: Option | None, task: str) -> Value:
        owner = task if option is Option.SPECIFIC else None
        numbers = tuple(self._values[source][task].number for source in node.all_input_nodes)
        key = (node.name, option, owner, numbers)
        if key not in self._known:
            args, kwargs = self._arguments(node, task)
            self._known[key] = self.new_value(self._perform(node, option, owner, args, kwargs))
        return self._known[key]

    def _arguments(self, node: fx.Node, task: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def item(source: fx.Node) -> Any:
            return self._values[source][task].item

        return tuple(map_arg(node.args, item)), dict(map_arg(node.kwargs, item))
