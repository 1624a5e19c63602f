"""Builds a backbone from a prototxt file in Caffe's vocabulary, as AutoMTL takes them (section 3, Fig. 1b).

Where the dialect of AutoMTL's own files and Caffe's differ, both are read: batch normalization learns scale
and shift whether or not a `Scale` layer follows (Caffe leaves them to that layer); a first layer may read a
blob that is called otherwise than the only input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from perception_core.configuration import nearest
from training.search.automtl.prototxt import Message, PrototxtError, Scalar, parse_prototxt


def read_prototxt(path: str | Path) -> fx.GraphModule:
    """Reads a backbone.

    Args:
        path: Prototxt of a network with one input; its size decides only what linear layers expect.

    Returns:
        A module with one submodule a layer, under the layers' names, freshly initialized. It maps (B, C, H,
        W) to the blob no layer reads, or to a tuple of them in the file's order.

    Raises:
        PrototxtError: The file cannot be read, or has a layer that is not supported; names file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PrototxtError(f"{path}: cannot be read: {error}") from error
    return _Builder(str(path)).build(parse_prototxt(text, str(path)))


class _Builder:
    """Layer after layer, with the shapes known from meta tensors."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._graph = fx.Graph()
        self._members: dict[str, nn.Module] = {}
        #: Node, its value on the meta device, and whether any layer read it, by blob.
        self._blobs: dict[str, tuple[fx.Node, torch.Tensor]] = {}
        self._unread: dict[str, None] = {}
        self._input = ""

    def build(self, network: Message) -> fx.GraphModule:
        layers = [*network.messages("layer"), *network.messages("layers")]
        self._declare_input(network, layers)
        for layer in layers:
            if self._text(layer, "type") not in ("Input", "Data"):
                self._add(layer)
        outputs = tuple(self._blobs[name][0] for name in self._unread)
        self._graph.output(outputs[0] if len(outputs) == 1 else outputs)
        return fx.GraphModule(self._members, self._graph, class_name="PrototxtBackbone")

    def _declare_input(self, network: Message, layers: Sequence[Message]) -> None:
        shape: list[Scalar] = []
        for layer in layers:
            if self._text(layer, "type") in ("Input", "Data"):
                shape = layer.message("input_param").message("shape").scalars("dim")
                self._input = str(layer.scalars("top")[0])
                break
        else:
            names = network.scalars("input")
            if len(names) != 1:
                raise PrototxtError(f"{self._origin}: expected one input, found {len(names)}")
            self._input = str(names[0])
            shape = network.scalars("input_dim") or network.message("input_shape").scalars("dim")
        if len(shape) != 4 or not all(isinstance(side, int) and side > 0 for side in shape):
            raise PrototxtError(
                f"{self._origin}: the input needs four sizes (batch, channels, rows, columns)"
            )
        meta = torch.empty([int(side) for side in shape], device="meta")
        self._blobs[self._input] = (self._graph.placeholder("x"), meta)

    def _text(self, layer: Message, key: str) -> str:
        values = layer.scalars(key)
        if not values:
            raise PrototxtError(f"{self._origin}:{layer.line}: layer without '{key}'")
        return str(values[0])

    def _add(self, layer: Message) -> None:
        name, kind = self._text(layer, "name"), self._text(layer, "type")
        if kind not in _LAYERS and kind != "Scale":
            raise PrototxtError(
                f"{self._origin}:{layer.line}: layer '{name}' of type '{kind}' is not supported"
                + nearest(kind, _LAYERS)
            )
        bottoms = [self._resolve(str(bottom), layer, name) for bottom in layer.scalars("bottom")]
        if not bottoms:
            raise PrototxtError(f"{self._origin}:{layer.line}: layer '{name}' reads no blob ('bottom')")
        for bottom in bottoms:
            self._unread.pop(bottom, None)
        nodes, values = zip(*(self._blobs[bottom] for bottom in bottoms), strict=True)
        if kind == "Scale":
            self._alias_scale(layer, name, bottoms[0])
            return
        try:
            made = _LAYERS[kind](layer, list(values))
            with torch.no_grad():
                output = _on_meta(made, values)
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
            raise PrototxtError(
                f"{self._origin}:{layer.line}: layer '{name}' of type '{kind}' cannot be built for inputs of "
                f"shape {', '.join(str(tuple(value.shape)) for value in values)}: {error}"
            ) from error
        member = name.replace(".", "_").replace("/", "_").replace("-", "_")
        if member in self._members:
            raise PrototxtError(f"{self._origin}:{layer.line}: two layers are called '{name}'")
        self._members[member] = made
        self._write(layer, name, self._graph.call_module(member, tuple(nodes)), output)

    def _write(self, layer: Message, name: str, node: fx.Node, output: torch.Tensor) -> None:
        for top in layer.scalars("top") or [name]:
            self._blobs[str(top)] = (node, output)
            self._unread[str(top)] = None

    def _alias_scale(self, layer: Message, name: str, bottom: str) -> None:
        """Lets a Scale stand for the batch normalization before it, which scales already."""
        node, value = self._blobs[bottom]
        if not isinstance(self._members.get(str(node.target)), nn.BatchNorm2d):
            raise PrototxtError(
                f"{self._origin}:{layer.line}: layer '{name}' of type 'Scale' does not follow a BatchNorm; "
                "only there it is supported"
            )
        self._write(layer, name, node, value)

    def _resolve(self, bottom: str, layer: Message, name: str) -> str:
        if bottom in self._blobs:
            return bottom
        if len(self._blobs) == 1:  # nothing but the input exists yet
            return self._input
        raise PrototxtError(
            f"{self._origin}:{layer.line}: layer '{name}' reads '{bottom}', which no layer before it writes"
            + nearest(bottom, self._blobs)
        )


def _on_meta(module: nn.Module, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns what a module makes of meta tensors, without touching its weights or statistics."""
    state = {
        name: tensor.to("meta") for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }
    was_training = module.training
    output: torch.Tensor = torch.func.functional_call(module.eval(), state, tuple(values))
    module.train(was_training)
    return output


def _first(message: Message, key: str, default: Any) -> Any:
    values = message.scalars(key)
    return values[0] if values else default


def _sides(message: Message, key: str, default: int) -> tuple[int, int]:
    """Reads `kernel_size: 3`, `kernel_size: [3, 5]`, or `kernel_h` and `kernel_w`."""
    stem = key.removesuffix("_size")
    values = [int(value) for value in message.scalars(key)]
    if values:
        return (values[0], values[-1])
    return int(_first(message, f"{stem}_h", default)), int(_first(message, f"{stem}_w", default))


def _convolution(layer: Message, inputs: list[torch.Tensor]) -> nn.Module:
    options = layer.message("convolution_param")
    make = nn.ConvTranspose2d if layer.scalars("type")[0] == "Deconvolution" else nn.Conv2d
    channels = int(inputs[0].shape[1])
    groups = int(_first(options, "group", 1))
    if layer.scalars("type")[0] in ("DepthwiseConvolution", "ConvolutionDepthwise"):
        groups = channels
    convolution = make(
        channels,
        int(options.scalars("num_output")[0]),
        _sides(options, "kernel_size", 1),
        stride=_sides(options, "stride", 1),
        padding=_sides(options, "pad", 0),
        dilation=_sides(options, "dilation", 1),
        groups=groups,
        bias=bool(_first(options, "bias_term", True)),
    )
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _batch_norm(layer: Message, inputs: list[torch.Tensor]) -> nn.Module:
    options = layer.message("batch_norm_param")
    return nn.BatchNorm2d(
        int(inputs[0].shape[1]),
        eps=float(_first(options, "eps", 1e-5)),
        momentum=1.0 - float(_first(options, "moving_average_fraction", 0.9)),
    )


def _pooling(layer: Message, inputs: list[torch.Tensor]) -> nn.Module:
    options = layer.message("pooling_param")
    kind = str(_first(options, "pool", "MAX"))
    if kind not in ("MAX", "AVE"):
        raise ValueError(f"pooling '{kind}' is not supported; MAX and AVE are")
    if bool(_first(options, "global_pooling", False)):
        return nn.AdaptiveMaxPool2d(1) if kind == "MAX" else nn.AdaptiveAvgPool2d(1)
    kernel, stride = _sides(options, "kernel_size", 1), _sides(options, "stride", 1)
    padding = _sides(options, "pad", 0)
    ceil = str(_first(options, "round_mode", "CEIL")) == "CEIL"
    if kind == "MAX":
        return nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    return nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil)


def _relu(layer: Message, inputs: list[torch.Tensor]) -> nn.Module:
    slope = float(_first(layer.message("relu_param"), "negative_slope", 0.0))
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


def _inner_product(layer: Message, inputs: list[torch.Tensor]) -> nn.Module:
    options = layer.message("inner_product_param")
    linear = nn.Linear(
        inputs[0][0].numel(),
        int(options.scalars("num_output")[0]),
        bias=bool(_first(options, "bias_term", True)),
    )
    return linear if inputs[0].ndim == 2 else nn.Sequential(nn.Flatten(), linear)


def _eltwise(layer: Message, inputs: list[torch.Tensor]) -> nn.Module:
    options = layer.message("eltwise_param")
    return Eltwise(
        str(_first(options, "operation", "SUM")), [float(value) for value in options.scalars("coeff")]
    )


class Eltwise(nn.Module):
    """Caffe's Eltwise: sum with coefficients, product or maximum of tensors of one shape."""

    def __init__(self, operation: str, coefficients: Sequence[float] = ()) -> None:
        super().__init__()
        if operation not in ("SUM", "PROD", "MAX"):
            raise ValueError(f"operation '{operation}' is not supported; SUM, PROD and MAX are")
        self.operation, self.coefficients = operation, tuple(coefficients)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Combines the tensors from the left to the right."""
        if self.coefficients:
            tensors = tuple(c * tensor for c, tensor in zip(self.coefficients, tensors, strict=True))
        result = tensors[0]
        for tensor in tensors[1:]:
            if self.operation == "SUM":
                result = result + tensor
            else:
                result = result * tensor if self.operation == "PROD" else torch.maximum(result, tensor)
        return result


class Concatenation(nn.Module):
    """Caffe's Concat."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Joins the tensors along the axis."""
        return torch.cat(tensors, dim=self.axis)


class Interpolation(nn.Module):
    """Interp of the segmentation forks of Caffe: bilinear, by a factor or to a size."""

    def __init__(self, factor: int, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.factor, self.size = factor, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Resizes."""
        if self.size is not None:
            return functional.interpolate(x, size=self.size, mode="bilinear", align_corners=True)
        return functional.interpolate(x, scale_factor=float(self.factor), mode="bilinear", align_corners=True)


def _interpolation(layer: Message, inputs: list[torch.Tensor]) -> nn.Module:
    options = layer.message("interp_param")
    if options.scalars("height"):
        return Interpolation(1, (int(options.scalars("height")[0]), int(options.scalars("width")[0])))
    return Interpolation(int(_first(options, "zoom_factor", 1)), None)


_LAYERS: dict[str, Callable[[Message, list[torch.Tensor]], nn.Module]] = {
    "Convolution": _convolution,
    "DepthwiseConvolution": _convolution,
    "ConvolutionDepthwise": _convolution,
    "Deconvolution": _convolution,
    "BatchNorm": _batch_norm,
    "ReLU": _relu,
    "ReLU6": lambda layer, inputs: nn.ReLU6(),
    "PReLU": lambda layer, inputs: nn.PReLU(int(inputs[0].shape[1])),
    "Sigmoid": lambda layer, inputs: nn.Sigmoid(),
    "TanH": lambda layer, inputs: nn.Tanh(),
    "Pooling": _pooling,
    "Eltwise": _eltwise,
    "Concat": lambda layer, inputs: Concatenation(int(_first(layer.message("concat_param"), "axis", 1))),
    "InnerProduct": _inner_product,
    "Dropout": lambda layer, inputs: nn.Dropout(
        float(_first(layer.message("dropout_param"), "dropout_ratio", 0.5))
    ),
    "Flatten": lambda layer, inputs: nn.Flatten(),
    "Softmax": lambda layer, inputs: nn.Softmax(dim=1),
    "Interp": _interpolation,
}
