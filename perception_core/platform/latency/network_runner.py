"""Whole networks as a backend runs them, to be measured against what latency models predict."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from perception_core.configuration import ConfigurationError


def network_call(
    network: nn.Module, shape: tuple[int, ...], backend: str, threads: int = 1
) -> Callable[[], object]:
    """Returns what runs a network once.

    Args:
        network: One image in; put into evaluation mode, normalization folded.
        shape: Of its input.
        backend: torch, onnxruntime or openvino.
        threads: It may use.

    Raises:
        ConfigurationError: The backend is unknown or its packages are missing.
    """
    network = network.eval()
    image = torch.rand(shape)
    if backend == "torch":
        fused = fuse(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        image = image.contiguous(memory_format=torch.channels_last)

        def run() -> object:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                return fused(image)

        return run
    if backend not in ("onnxruntime", "openvino"):
        raise ConfigurationError(f"networks cannot be measured with '{backend}'")
    graph = _onnx_graph(network, image)
    array = image.numpy()
    if backend == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        feed: dict[str, np.ndarray] = {session.get_inputs()[0].name: array}
        return lambda: session.run(None, feed)
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(graph),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_NUM_THREADS": threads,
        },
    )
    request = compiled.create_infer_request()
    return lambda: request.infer([array], share_inputs=True, share_outputs=True)


def _onnx_graph(network: nn.Module, image: torch.Tensor) -> bytes:
    """Returns the ONNX model of a network, weights inside.

    Raises:
        ConfigurationError: The packages onnx and onnxscript are missing.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"exporting graphs needs the packages onnx and onnxscript: {error}"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter prints its progress
        program = torch.onnx.export(network, (image,), dynamo=True, verbose=False)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content
