"""From a module to its graph of operators, or a clear refusal."""

from __future__ import annotations

import inspect
import operator
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from training.search.automtl.errors import UnsupportedOperatorError
from training.search.automtl.skip import SUPPORTED

_TORCH = Path(torch.__file__).parent

#: Functions that change their first argument, and what gives the same without.
_WITHOUT_SIDE_EFFECT: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


@dataclass
class TracedBackbone:
    """A backbone as a graph without side effects.

    Attributes:
        graph: Nodes `call_module` whose target is a key of `operators` or of `free_modules`, functions,
            methods and attributes.
        operators: By name, the modules with parameters or state that one operator consists of.
        free_modules: Modules without either.
        attributes: Tensors the graph reads that are no parameters.
    """

    graph: fx.Graph
    operators: dict[str, tuple[nn.Module, ...]] = field(default_factory=dict)
    free_modules: dict[str, nn.Module] = field(default_factory=dict)
    attributes: dict[str, torch.Tensor] = field(default_factory=dict)


class _Tracer(fx.Tracer):
    """Takes torch's layers, and modules without parts and parameters, as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.failed_in = ""

    def _filter_traceback_frames(self, user_stack_summary: traceback.StackSummary) -> traceback.StackSummary:
        # torch's own filter imports sympy, half a minute on a slow machine; `_own_lines` filters here.
        return user_stack_summary

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if super().is_leaf_module(m, module_qualified_name):
            return True
        # E.g. stochastic depth, which asks whether it is being trained: traced, the answer would be frozen.
        stateless = not (m._parameters or m._buffers or m._modules)
        return stateless and not isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict))

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or self.path_of_module(m)
            raise


def trace(backbone: nn.Module, fold_normalization: bool = True) -> TracedBackbone:
    """Reads a backbone's operators.

    Args:
        backbone: Not changed.
        fold_normalization: A normalization that directly follows a convolution or linear layer is one
            operator with it, as inference runtimes execute it.

    Raises:
        UnsupportedOperatorError: It has control flow that depends on data, parameters outside of layers,
            layers that are not supported, or no convolution.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(backbone)
    except Exception as error:  # whatever the backbone's own code raises when it meets a proxy
        built = getattr(tracer, "graph", None)
        last = next(reversed(built.nodes), None) if built is not None else None
        behind = f" (behind node '{last.name}')" if last is not None else ""
        raise UnsupportedOperatorError(
            tracer.failed_in or type(backbone).__name__,
            f"cannot be traced{behind}: {type(error).__name__}: {error}. The computation must not depend on "
            "the values of tensors; move such control flow out of the backbone, or into a module of its own "
            "without parameters",
            _line_of_error(error),
        ) from error
    modules = dict(backbone.named_modules(remove_duplicate=False))
    traced = TracedBackbone(graph)
    _remove_side_effects(backbone, graph, modules)
    for node in graph.nodes:
        if node.op == "call_module":
            _enter_module(backbone, node, modules[node.target], traced)
        elif node.op == "get_attr":
            _enter_attribute(backbone, node, traced)
    _refuse_tied_parameters(traced)
    if not any(isinstance(module, nn.Conv2d) for parts in traced.operators.values() for module in parts):
        raise UnsupportedOperatorError(
            "", "has no convolution (torch.nn.Conv2d); AutoMTL shares the operators of convolutional networks"
        )
    if fold_normalization:
        _fold_normalization(traced)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    graph.lint()
    alive = {node.target for node in graph.nodes if node.op == "call_module"}
    traced.operators = {name: parts for name, parts in traced.operators.items() if name in alive}
    return traced


def _enter_module(backbone: nn.Module, node: fx.Node, module: nn.Module, traced: TracedBackbone) -> None:
    name = str(node.target)
    has_state = any(True for _ in module.parameters()) or any(True for _ in module.buffers())
    if not has_state:
        traced.free_modules[name] = module
        return
    if not isinstance(module, SUPPORTED) or isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
        raise UnsupportedOperatorError(
            node.name,
            f"layer '{name}' of type {type(module).__name__} has parameters but is not supported; supported "
            f"are {', '.join(kind.__name__ for kind in SUPPORTED)}",
            source_of(backbone, node.name),
        )
    if len(node.args) != 1 or node.kwargs:
        raise UnsupportedOperatorError(
            node.name,
            f"layer '{name}' must be called with its input alone",
            source_of(backbone, node.name),
        )
    traced.operators[name] = (module,)


def _enter_attribute(backbone: nn.Module, node: fx.Node, traced: TracedBackbone) -> None:
    name = str(node.target)
    value: Any = backbone
    for part in name.split("."):
        value = getattr(value, part)
    if isinstance(value, nn.Parameter):
        raise UnsupportedOperatorError(
            node.name,
            f"parameter '{name}' is used outside of a layer, so it cannot be given to tasks one by one; make "
            "it part of a supported layer",
            source_of(backbone, node.name),
        )
    if isinstance(value, torch.Tensor):
        traced.attributes[name] = value


def _refuse_tied_parameters(traced: TracedBackbone) -> None:
    owner: dict[int, str] = {}
    for name, parts in traced.operators.items():
        for part in parts:
            for parameter in part.parameters():
                first = owner.setdefault(id(parameter), name)
                if first != name:
                    raise UnsupportedOperatorError(
                        name, f"shares a parameter with '{first}'; give each layer its own"
                    )


def _remove_side_effects(backbone: nn.Module, graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Replaces what works in place, since several tasks may read the same tensor.

    What reads the changed tensor afterwards is made to read the result instead, so nothing else differs.
    Modules lose their `inplace` when they are copied.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not _made_pure(backbone, node, modules):
            continue
        changed = node.args[0] if node.args else None
        if isinstance(changed, fx.Node):
            for user in list(changed.users):
                if user is not node and order[user] > order[node]:
                    user.replace_input_with(changed, node)


def _made_pure(backbone: nn.Module, node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Turns a node into one without side effect; tells whether it had one."""
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op == "call_method":
        name = str(node.target)
        if not name.endswith("_") or name.endswith("__"):
            return False
        if not hasattr(torch.Tensor, name[:-1]):
            raise UnsupportedOperatorError(
                node.name, f"'{name}' changes a tensor in place", source_of(backbone, node.name)
            )
        node.target = name[:-1]
        return True
    if node.op != "call_function":
        return False
    function: Any = node.target
    if function in _WITHOUT_SIDE_EFFECT:
        node.target = _WITHOUT_SIDE_EFFECT[function]
        return True
    if function is operator.setitem:
        raise UnsupportedOperatorError(
            node.name, "writing into a part of a tensor is not supported", source_of(backbone, node.name)
        )
    name = getattr(function, "__name__", "")
    if name.endswith("_") and not name.endswith("__") and hasattr(torch, name[:-1]):
        node.target = getattr(torch, name[:-1])
        return True
    if getattr(function, "__module__", "") == "torch.nn.functional":
        return _without_inplace_argument(node, function)
    return False


def _without_inplace_argument(node: fx.Node, function: Callable[..., Any]) -> bool:
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:  # built in, without a signature
        return False
    if "inplace" not in names:
        return False
    position = names.index("inplace")
    if len(node.args) <= position or not node.args[position]:
        return False
    node.args = (*node.args[:position], False, *node.args[position + 1 :])
    return True


_NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def _fold_normalization(traced: TracedBackbone) -> None:
    uses: dict[str, int] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            uses[node.target] = uses.get(node.target, 0) + 1
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or node.target not in traced.operators or len(node.users) != 1:
            continue
        follower = next(iter(node.users))
        if follower.op != "call_module" or follower.target not in traced.operators:
            continue
        own, following = traced.operators[node.target], traced.operators[follower.target]
        foldable = isinstance(own[0], (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and len(own) == 1
        if not (foldable and isinstance(following[0], _NORMALIZATIONS)):
            continue
        if uses[node.target] > 1 or uses[follower.target] > 1:
            continue
        traced.operators[node.target] = (*own, *following)
        del traced.operators[follower.target]
        follower.replace_all_uses_with(node)
        traced.graph.erase_node(follower)


def source_of(backbone: nn.Module, node_name: str) -> str:
    """Returns `file:line: code` of what made a node, empty where it is not known.

    Traces once more, with stacks; only errors ask for it.
    """
    tracer = _Tracer()
    tracer.record_stack_traces = True
    for node in tracer.trace(backbone).nodes:
        if node.name == node_name and node.stack_trace:
            return next(_own_lines(node.stack_trace), "")
    return ""


def _own_lines(stack: str) -> Iterator[str]:
    """Yields the places of a printed stack that are not torch's, innermost first."""
    found = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)', stack)
    for file, line, code in reversed(found):
        if not Path(file).is_relative_to(_TORCH) and file != __file__:
            yield f"{file}:{line}: {code.strip()}"


def _line_of_error(error: BaseException) -> str:
    return next(_own_lines("".join(traceback.format_tb(error.__traceback__))), "")
