"""The operators a network executes, with the shapes they work on: what every latency model takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

Kind = Literal[
    "convolution",
    "linear",
    "pooling",
    "resize",
    "concatenation",
    "elementwise",
    "normalization",
    "activation",
]

KINDS: tuple[Kind, ...] = (
    *("convolution", "linear", "pooling", "resize", "concatenation"),
    *("elementwise", "normalization", "activation"),
)

#: What runtimes fold into the operator before it: it costs nothing of its own.
FOLDED: tuple[Kind, ...] = ("normalization", "activation")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """One operator of a network.

    Attributes:
        kind: What it does.
        inputs: Shapes of its tensors, batch first; weights not among them.
        output: Shape of its result.
        kernel, stride, padding, dilation: Of convolution and pooling, rows and columns.
        groups: Of a convolution; as many as channels: depthwise.
        detail: Which one of its kind, e.g. `bilinear`, `max`, `add`.
    """

    kind: Kind
    inputs: tuple[Shape, ...]
    output: Shape
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    detail: str = ""

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved on its own."""
        return self.kind == "convolution" and self.groups > 1 and self.groups == self.inputs[0][1]

    @property
    def input_elements(self) -> int:
        """Number of values read, weights not counted."""
        return sum(math.prod(shape) for shape in self.inputs)

    @property
    def output_elements(self) -> int:
        """Number of values written."""
        return math.prod(self.output)

    @property
    def weight_elements(self) -> int:
        """Number of weights, biases not counted."""
        if self.kind == "convolution":
            channels = self.inputs[0][1]
            return channels // self.groups * self.output[1] * math.prod(self.kernel)
        if self.kind == "linear":
            return self.inputs[0][-1] * self.output[-1]
        return 0

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds of convolutions and linear operators; 0 for others."""
        if self.kind == "convolution" and self.detail == "transposed":
            return self.input_elements * (self.weight_elements // self.inputs[0][1])
        if self.kind == "convolution":
            return self.output_elements * (self.weight_elements // self.output[1])
        if self.kind == "linear":
            return self.output_elements * self.inputs[0][-1]
        return 0

    @property
    def key(self) -> str:
        """Names it: operators with the same key cost the same."""

        def by_x(values: Sequence[int]) -> str:
            return "x".join(map(str, values))

        shapes = "+".join(by_x(shape) for shape in self.inputs)
        parts = [self.kind, self.detail, f"{shapes}>{by_x(self.output)}"]
        if self.kind in ("convolution", "pooling"):
            parts.append(f"k{by_x(self.kernel)} s{by_x(self.stride)} p{by_x(self.padding)}")
            parts.append(f"d{by_x(self.dilation)} g{self.groups}")
        return " ".join(part for part in parts if part)


#: Operators of torch by what they are here. What only looks at a tensor in another way costs nothing.
_NORMALIZATION = ("batch_norm", "group_norm", "layer_norm", "instance_norm")
_ACTIVATION = {
    *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "silu", "sigmoid", "hardswish", "hardsigmoid"),
    *("gelu", "leaky_relu", "elu", "tanh", "prelu", "_prelu_kernel", "softplus"),
}
_FREE = {
    *("view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze"),
    *("slice", "select", "split", "split_with_sizes", "alias", "detach", "as_strided", "empty", "zeros"),
    *("ones", "full", "arange", "scalar_tensor", "_to_copy", "empty_like", "lift_fresh", "unbind", "chunk"),
    *("clone", "copy", "dropout", "native_dropout", "is_same_size", "sym_size", "contiguous"),
}


class _Recorder(TorchDispatchMode):
    """Writes down every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Operator] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs an operator and writes it down."""
        output = func(*args, **(kwargs or {}))
        result = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(result, torch.Tensor):
            found = _operator_of(func.overloadpacket.__name__.rstrip("_"), args, result)
            if found is not None:
                self.operators.append(found)
        return output


def _operator_of(name: str, args: tuple[Any, ...], output: torch.Tensor) -> Operator | None:
    shape = tuple(output.shape)
    if name in _FREE:
        return None
    if name == "convolution":
        x, weight = args[0], args[1]
        return Operator(
            "convolution",
            (tuple(x.shape),),
            shape,
            _pair(weight.shape[2:]),
            _pair(args[3]),
            _pair(args[4]),
            _pair(args[5]),
            int(args[8]),
            "transposed" if args[6] else "",
        )
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        first = args[1] if name in ("addmm", "baddbmm") else args[0]
        return Operator("linear", (tuple(first.shape),), shape)
    if any(part in name for part in _NORMALIZATION):
        return Operator("normalization", (tuple(args[0].shape),), shape)
    if name in _ACTIVATION:
        return Operator("activation", (tuple(args[0].shape),), shape, detail=name)
    if "pool" in name:
        detail = "max" if "max" in name else "average"
        if "adaptive" in name:
            return Operator("pooling", (tuple(args[0].shape),), shape, detail=f"adaptive {detail}")
        stride = args[2] if len(args) > 2 and args[2] else args[1]
        padding = args[3] if len(args) > 3 else (0, 0)
        return Operator(
            "pooling", (tuple(args[0].shape),), shape, _pair(args[1]), _pair(stride), _pair(padding),
            detail=detail,
        )  # fmt: skip
    if name == "mean" and args[0].ndim == 4 and output.numel() <= args[0].numel() // 2:
        return Operator("pooling", (tuple(args[0].shape),), shape, detail="adaptive average")
    if name.startswith("upsample"):
        detail = "bilinear" if "bilinear" in name else "nearest" if "nearest" in name else "other"
        return Operator("resize", (tuple(args[0].shape),), shape, detail=detail)
    if name == "cat":
        return Operator("concatenation", tuple(tuple(part.shape) for part in args[0]), shape)
    inputs = tuple(tuple(part.shape) for part in args if isinstance(part, torch.Tensor))
    return Operator("elementwise", inputs, shape, detail=name)


def _pair(values: Any) -> tuple[int, int]:
    listed = [int(value) for value in values] if isinstance(values, Sequence) else [int(values)]
    return listed[0], listed[-1]


def list_operators(
    module: nn.Module, *inputs: torch.Tensor | Shape, fold: bool = True
) -> tuple[Operator, ...]:
    """Runs a network once on tensors without values and lists its operators in order.

    Args:
        module: On the meta device, so that nothing is computed; put into evaluation mode. (Build it under
            `torch.device("meta")`, or `copy.deepcopy(module).to("meta")`.)
        inputs: Its inputs, or their shapes.
        fold: Leave out normalization and activations, which runtimes fold into convolutions.
    """
    tensors = [
        value.to("meta") if isinstance(value, torch.Tensor) else torch.empty(value, device="meta")
        for value in inputs
    ]
    with torch.no_grad(), _Recorder() as recorder:
        module.eval()(*tensors)
    return tuple(op for op in recorder.operators if not (fold and op.kind in FOLDED))
