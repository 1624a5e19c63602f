"""Measures single operators on the processor at hand, through the backends the vehicle uses."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from perception_core.configuration import ConfigurationError, nearest
from perception_core.platform.latency.operators import Operator
from perception_core.platform.latency.table import processor_name


class _TimedRunner(ABC):
    """Median of calls, each long enough for the clock.

    Args:
        threads: Threads the backend may use.
        repeats: Measurements, of which the median counts.
        least_ms: Shorter operators are called several times a measurement, so that it lasts so long.
    """

    backend = ""

    def __init__(self, threads: int = 1, repeats: int = 9, least_ms: float = 1.0) -> None:
        self.threads, self._repeats, self._least_ms = threads, repeats, least_ms

    @property
    def device(self) -> str:
        """Processor, backend and threads."""
        return f"{processor_name()}, {self.backend}, {self.threads} threads"

    @abstractmethod
    def prepared(self, operator: Operator) -> Callable[[], object]:
        """Returns what executes the operator once."""

    def measure_ms(self, operator: Operator) -> float:
        """Returns the median milliseconds of an operator."""
        return self.measure_call_ms(self.prepared(operator))

    def measure_call_ms(self, call: Callable[[], object]) -> float:
        """Returns the median milliseconds of a call."""
        for _ in range(2):
            call()
        start = time.perf_counter()
        call()
        once_ms = (time.perf_counter() - start) * 1e3
        calls = max(1, min(1000, round(self._least_ms / max(once_ms, 1e-4))))
        times = []
        for _ in range(self._repeats):
            start = time.perf_counter()
            for _ in range(calls):
                call()
            times.append((time.perf_counter() - start) * 1e3 / calls)
        return statistics.median(times)


class TorchOperatorRunner(_TimedRunner):
    """Eager torch in channels-last memory, as the torch backend runs components."""

    backend = "torch"

    def prepared(self, operator: Operator) -> Callable[[], object]:
        """Returns what executes the operator once."""
        inputs = [
            t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t
            for t in (torch.rand(shape) for shape in operator.inputs)
        ]
        call = _torch_call(operator)

        def run() -> object:
            if torch.get_num_threads() != self.threads:
                torch.set_num_threads(self.threads)
            with torch.inference_mode():
                return call(*inputs)

        return run


def _torch_call(operator: Operator) -> Callable[..., object]:
    size = operator.output[2:]
    if operator.kind == "convolution":
        kind = nn.ConvTranspose2d if operator.detail == "transposed" else nn.Conv2d
        module = kind(
            operator.inputs[0][1],
            operator.output[1],
            operator.kernel,
            operator.stride,
            operator.padding,
            groups=operator.groups,
            dilation=operator.dilation,
        )
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
    if operator.kind == "linear":
        weight = torch.rand(operator.output[-1], operator.inputs[0][-1])
        return lambda x: functional.linear(x, weight)
    if operator.kind == "pooling":
        if operator.detail.startswith("adaptive"):
            return lambda x: functional.adaptive_avg_pool2d(x, list(size) or [1, 1])  # type: ignore[arg-type]
        pool: Any = functional.max_pool2d if operator.detail == "max" else functional.avg_pool2d
        return lambda x: pool(
            x, operator.kernel, operator.stride, operator.padding, ceil_mode=_rounds_up(operator)
        )
    if operator.kind == "resize":
        if operator.detail == "bilinear":
            return lambda x: functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return lambda x: functional.interpolate(x, size=size, mode="nearest")
    if operator.kind == "concatenation":
        return lambda *parts: torch.cat(parts, dim=_joined_axis(operator))
    if len(operator.inputs) > 1:
        return torch.mul if operator.detail == "mul" else torch.add
    return functional.relu6


def _rounds_up(operator: Operator) -> bool:
    for axis in (0, 1):
        side, out = operator.inputs[0][2 + axis], operator.output[2 + axis]
        span = side + 2 * operator.padding[axis] - operator.kernel[axis]
        if out != span // operator.stride[axis] + 1:
            return True
    return False


def _joined_axis(operator: Operator) -> int:
    first = operator.inputs[0]
    differing = [axis for axis in range(len(first)) if operator.output[axis] != first[axis]]
    return differing[0] if differing else 1


class OnnxRuntimeOperatorRunner(_TimedRunner):
    """onnxruntime, with the options of the onnxruntime backend."""

    backend = "onnxruntime"

    def prepared(self, operator: Operator) -> Callable[[], object]:
        """Returns what executes the operator once."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            operator_graph(operator), options, providers=["CPUExecutionProvider"]
        )
        feed = {
            item.name: np.random.default_rng(0).random(shape, dtype=np.float32)
            for item, shape in zip(session.get_inputs(), operator.inputs, strict=True)
        }
        return lambda: session.run(None, feed)


class OpenVinoOperatorRunner(_TimedRunner):
    """OpenVINO, with the properties of the openvino backend."""

    backend = "openvino"

    def prepared(self, operator: Operator) -> Callable[[], object]:
        """Returns what executes the operator once."""
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(operator_graph(operator)),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": "f32",
                "ENABLE_CPU_PINNING": False,
                "INFERENCE_NUM_THREADS": self.threads,
            },
        )
        request = compiled.create_infer_request()
        generator = np.random.default_rng(0)
        arrays = [generator.random(shape, dtype=np.float32) for shape in operator.inputs]
        return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)


def operator_graph(operator: Operator) -> bytes:
    """Returns an ONNX model of one operator, with weights inside.

    Raises:
        ConfigurationError: The package onnx is missing.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ConfigurationError(f"measuring with other runtimes needs the package onnx: {error}") from error
    generator = np.random.default_rng(0)
    constants = []

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    def weights(name: str, *shape: int) -> str:
        return constant(name, generator.standard_normal(shape).astype(np.float32))

    names = [f"x{index}" for index in range(len(operator.inputs))]
    four = [*operator.padding, *operator.padding]
    attributes: dict[str, Any] = {}
    if operator.kind == "convolution":
        channels, out = operator.inputs[0][1], operator.output[1]
        transposed = operator.detail == "transposed"
        kind = "ConvTranspose" if transposed else "Conv"
        first, second = (channels, out) if transposed else (out, channels)
        names += [weights("w", first, second // operator.groups, *operator.kernel), weights("b", out)]
        attributes = {
            "kernel_shape": operator.kernel,
            "strides": operator.stride,
            "pads": four,
            "dilations": operator.dilation,
            "group": operator.groups,
        }
    elif operator.kind == "linear":
        kind = "MatMul"
        names.append(weights("w", operator.inputs[0][-1], operator.output[-1]))
    elif operator.kind == "pooling" and operator.detail.startswith("adaptive"):
        kind = "GlobalAveragePool"
    elif operator.kind == "pooling":
        kind = "MaxPool" if operator.detail == "max" else "AveragePool"
        attributes = {
            "kernel_shape": operator.kernel,
            "strides": operator.stride,
            "pads": four,
            "ceil_mode": int(_rounds_up(operator)),
        }
    elif operator.kind == "resize":
        kind = "Resize"
        names += ["", "", constant("sizes", np.array(operator.output, np.int64))]
        bilinear = operator.detail == "bilinear"
        attributes = {
            "mode": "linear" if bilinear else "nearest",
            "coordinate_transformation_mode": "half_pixel" if bilinear else "asymmetric",
        }
        if not bilinear:
            attributes["nearest_mode"] = "floor"
    elif operator.kind == "concatenation":
        kind, attributes = "Concat", {"axis": _joined_axis(operator)}
    elif len(operator.inputs) > 1:
        kind = "Mul" if operator.detail == "mul" else "Add"
    else:
        kind = "Relu"
    inputs = [
        helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, shape)
        for index, shape in enumerate(operator.inputs)
    ]
    # Not every one of these operators gives exactly the recorded shape (adaptive pooling): left open.
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["y"], **attributes)], "operator", inputs, [output], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


RUNNERS: dict[str, type[_TimedRunner]] = {
    runner.backend: runner
    for runner in (TorchOperatorRunner, OnnxRuntimeOperatorRunner, OpenVinoOperatorRunner)
}


def operator_runner(backend: str, threads: int = 1) -> _TimedRunner:
    """Returns what measures operators with a backend.

    Raises:
        ConfigurationError: There is no such backend, or its package is missing.
    """
    from perception_core.host import is_importable

    if backend not in RUNNERS:
        raise ConfigurationError(f"operators cannot be measured with '{backend}'" + nearest(backend, RUNNERS))
    if not is_importable(backend):
        raise ConfigurationError(f"package {backend} is not installed; pip install {backend}")
    return RUNNERS[backend](threads)
