"""Exports the dense parts of components to ONNX for runtimes other than torch."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch

from perception_core.configuration import ConfigurationError
from perception_core.models import Component


def export_dense_part(component: Component, inputs: list[torch.Tensor], path: Path) -> None:
    """Writes the ONNX graph of a component's dense part, normalization folded, weights inside.

    Args:
        component: In evaluation mode, on the CPU.
        inputs: Example inputs of the component; the dense part is traced with what reaches it from these.
        path: File to write. The same component gives the same bytes.

    Raises:
        ConfigurationError: The packages onnx and onnxscript are missing.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"exporting graphs needs the packages onnx and onnxscript: {error}"
        ) from error
    part = component.dense_part
    arguments = _arguments_reaching(component, part, inputs)
    shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in component.dense_dynamic)
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter prints its progress
        program = torch.onnx.export(
            part,
            arguments,
            dynamo=True,
            dynamic_shapes=shapes if any(shapes) else None,
            input_names=[f"input_{index}" for index in range(len(arguments))],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _strip_traces(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _arguments_reaching(
    component: Component, part: torch.nn.Module, inputs: list[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Runs the component once and returns the arguments its dense part is called with."""
    seen: list[tuple[torch.Tensor, ...]] = []
    handle = part.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    try:
        with torch.no_grad():
            component(*inputs)
    finally:
        handle.remove()
    return tuple(argument.contiguous() for argument in seen[0])


def _strip_traces(proto: Any) -> None:
    """Removes stack traces and paths, which would differ from machine to machine."""
    for item in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
        value.doc_string = ""
