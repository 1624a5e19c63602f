"""MTS-Compiler: from a backbone and tasks to the multi-task supermodel (AutoMTL, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from perception_core.configuration import ConfigurationError
from training.search.automtl.supermodel import Supermodel
from training.search.automtl.tracing import TracedBackbone, trace
from training.search.automtl.virtual_node import VirtualComputationNode, copy_operator
from training.search.tasks.task import DenseTask


def compile(
    backbone: nn.Module, tasks: Sequence[str | DenseTask], fold_normalization: bool = True
) -> Supermodel:
    """Turns a convolutional backbone into a multi-task supermodel of the same topology.

    Args:
        backbone: Any convolutional network that torch.fx can trace, e.g. what `read_prototxt` gives. Its
            parameters are copied; it is not changed. Trace it in the mode (`train()`, `eval()`) it will be
            trained in where its code, rather than its layers, asks for the mode.
        tasks: Names of the tasks, or the tasks.
        fold_normalization: See `trace`.

    Raises:
        UnsupportedOperatorError: The backbone has what cannot be shared operator by operator.
        ConfigurationError: There are no tasks, or two of one name.
    """
    names = [task if isinstance(task, str) else task.name for task in tasks]
    if not names:
        raise ConfigurationError("a multi-task model needs at least one task")
    if len(set(names)) != len(names):
        raise ConfigurationError(f"tasks must differ, got {', '.join(names)}")
    traced = trace(backbone, fold_normalization)
    sources = _operators_behind(traced)
    nodes = []
    depths: dict[str, int] = {}
    for index, (name, parts) in enumerate(_in_order(traced)):
        parents = sources[name]
        depths[name] = 1 + max((depths[parent] for parent in parents if parent in depths), default=0)
        nodes.append(VirtualComputationNode(name, index, depths[name], parents, parts, names))
    free = {name: copy_operator([module]) for name, module in traced.free_modules.items()}
    supermodel = Supermodel(traced.graph, nodes, free, traced.attributes, names)
    return supermodel.train(backbone.training)


def _in_order(traced: TracedBackbone) -> list[tuple[str, tuple[nn.Module, ...]]]:
    """Returns the operators in the order of their first use, and marks their nodes."""
    ordered: dict[str, tuple[nn.Module, ...]] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module" and node.target in traced.operators:
            node.meta["operator"] = True
            ordered.setdefault(str(node.target), traced.operators[str(node.target)])
    return list(ordered.items())


def _operators_behind(traced: TracedBackbone) -> dict[str, tuple[str, ...]]:
    """Returns, for each operator, the operators whose outputs reach it with no other operator between."""
    reaching: dict[fx.Node, dict[str, None]] = {}
    parents: dict[str, dict[str, None]] = {name: {} for name in traced.operators}
    for node in traced.graph.nodes:
        found: dict[str, None] = {}
        for source in node.all_input_nodes:
            found.update(reaching[source])
        if node.op == "call_module" and node.target in traced.operators:
            parents[str(node.target)].update(found)
            reaching[node] = {str(node.target): None}
        else:
            reaching[node] = found
    return {name: tuple(found) for name, found in parents.items()}
