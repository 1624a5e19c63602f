"""Post-training static quantization of exported graphs to int8, by onnxruntime, as QDQ graphs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception_core.configuration import ConfigurationError

#: Operators whose arithmetic becomes integer; what lies between two of them follows.
_QUANTIZED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "MaxPool")
_WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class NothingToQuantizeError(ValueError):
    """A graph has no operator that quantization would speed up."""


class RecordedArguments:
    """Arguments of a graph, kept in files: those of many frames do not fit into memory.

    It is also onnxruntime's `CalibrationDataReader`.
    """

    def __init__(self, folder: Path, inputs: Sequence[str]) -> None:
        """Takes an empty folder and the names of the graph's inputs."""
        self._folder, self._inputs = folder, tuple(inputs)
        self._count = self._next = 0

    def __len__(self) -> int:
        return self._count

    def add(self, arguments: Iterable[np.ndarray]) -> None:
        """Keeps the arguments of one call, in the order of the inputs."""
        named = dict(zip(self._inputs, arguments, strict=True))
        np.savez(self._folder / f"{self._count:06d}.npz", **named)
        self._count += 1

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next call's arguments by input, None after the last."""
        if self._next == self._count:
            return None
        with np.load(self._folder / f"{self._next:06d}.npz") as stored:
            arguments = {name: stored[name] for name in self._inputs}
        self._next += 1
        return arguments

    def rewind(self) -> None:
        """Begins anew."""
        self._next = 0


def graph_inputs(graph: Path) -> tuple[str, ...]:
    """Returns the names of a graph's inputs."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    return tuple(item.name for item in model.graph.input)


def quantize_graph(graph: Path, arguments: RecordedArguments, path: Path) -> None:
    """Writes a graph's int8 version: weights by output channel, activations by tensor, MinMax ranges.

    Layers after which nothing is quantized any more stay in fp32: they give positions, sizes and scores,
    whose whole range 256 steps are too few for.

    Args:
        graph: ONNX graph in fp32.
        arguments: What it is calibrated on, at least one call.
        path: File to write.

    Raises:
        NothingToQuantizeError: It has no operator that is quantized.
        ConfigurationError: A package is missing, or onnxruntime cannot quantize it.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise ConfigurationError(f"int8 variants need the packages onnx and onnxruntime: {error}") from error
    if not len(arguments):
        raise ConfigurationError(f"{graph}: no frame reaches this graph, so it cannot be calibrated")
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
            model = onnx.load(prepared)
            for index, node in enumerate(model.graph.node):
                node.name = node.name or f"unnamed_{index}"  # onnxruntime's optimizer leaves some without
            onnx.save(model, prepared)
            kept = last_layers(model.graph)
            arguments.rewind()
            quantize_static(
                str(prepared),
                str(path),
                arguments,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTIZED),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # Weights of 7 bits: processors without VNNI add two products in 16 bits, which 8 bits would
                # overflow, and a bundle does not know where it will run.
                reduce_range=True,
                nodes_to_exclude=kept,
                calibrate_method=CalibrationMethod.MinMax,
                # A product of two activations (attention) has no weights, and little to win.
                extra_options={"MatMulConstBOnly": True},
            )
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise ConfigurationError(f"{graph}: onnxruntime cannot quantize this graph: {error}") from error
    quantized = onnx.load(path)
    if not any(node.op_type == "QuantizeLinear" for node in quantized.graph.node):
        path.unlink()
        raise NothingToQuantizeError(
            f"{graph.name}: no layer that would be quantized, beside the last, which stay in fp32"
        )
    path.write_bytes(quantized.SerializeToString(deterministic=True))


def last_layers(graph: Any) -> list[str]:
    """Returns the names of the layers with weights that no other layer with weights comes after.

    Args:
        graph: `onnx.GraphProto`, its nodes named and in the order in which they run, as ONNX asks for.
    """
    leads_on: set[str] = set()  # tensors that a layer with weights will be computed from
    last: list[str] = []
    for node in reversed(graph.node):
        weighted = node.op_type in _WITH_WEIGHTS
        follows = any(output in leads_on for output in node.output)
        if weighted and not follows:
            last.append(node.name)
        if weighted or follows:
            leads_on.update(name for name in node.input if name)
    return last[::-1]
