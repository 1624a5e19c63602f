"""Adds variants in other precisions to a bundle's components, and measures how far they lie from fp32."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from perception_core.backends import available_backends
from perception_core.backends.exported_graph import RUN_IN_TORCH, ExportedGraph, graph_of
from perception_core.backends.onnxruntime_backend import OnnxRuntimeGraph
from perception_core.backends.openvino_backend import OpenVinoGraph
from perception_core.backends.reduced_precision import TORCH_DTYPES, ReducedPrecision
from perception_core.backends.torch_backend import build_component
from perception_core.bundle import Bundle, OutputError, VariantSpec
from perception_core.bundle_writer import write_spec
from perception_core.configuration import ConfigurationError, nearest
from perception_core.deployment import Device
from perception_core.host import available_cores
from perception_core.precision import REDUCED_PRECISIONS, Precision
from perception_core.weights import sha256_of
from training.export.calibration_frames import CalibrationFrames, Frame
from training.export.dense_calls import DenseCall, DensePartRecorder, output_names
from training.export.quantization import (
    NothingToQuantizeError,
    RecordedArguments,
    graph_inputs,
    quantize_graph,
)

#: Told what is being done.
Say = Callable[[str], None]
#: Component and precision.
Key = tuple[str, Precision]

_GRAPH_BACKENDS = ("onnxruntime", "openvino")
_GRAPHS: Mapping[str, Callable[[Path, Device], ExportedGraph]] = {
    "onnxruntime": OnnxRuntimeGraph,
    "openvino": OpenVinoGraph,
}
#: The backend whose calibration and errors every int8 variant has.
_QUANTIZER = "onnxruntime"


@dataclass(frozen=True)
class VariantReport:
    """What became of one component in one precision.

    Attributes:
        component: Name.
        precision: Precision.
        variant: What the bundle now says of it; None: there is none.
        notes: Why there is none, or which backend could not be measured here.
    """

    component: str
    precision: Precision
    variant: VariantSpec | None
    notes: tuple[str, ...] = ()


def add_variants(
    bundle: Bundle,
    precisions: Sequence[str],
    frames: CalibrationFrames,
    components: Sequence[str] | None = None,
    say: Say = lambda text: None,
) -> tuple[Bundle, tuple[VariantReport, ...]]:
    """Makes variants of components and writes them into the bundle's folder; earlier ones are replaced.

    Integers are made of the exported graph and run with onnxruntime and OpenVINO. Floats of 16 bits need no
    graph of their own: torch converts the network, OpenVINO the graph in fp32.

    Args:
        bundle: With graphs, where `int8` is asked for.
        precisions: Some of REDUCED_PRECISIONS.
        frames: What integers are calibrated on and errors are measured on.
        components: Names; None: all.
        say: Told what is being done.

    Returns:
        The bundle, opened anew, and what became of each component and precision.

    Raises:
        ConfigurationError: A precision or component is unknown, the bundle lacks its graphs, or a package is
            missing.
    """
    wanted = _checked(bundle, precisions, components)
    chosen = tuple(components or bundle.spec.components)
    keys = [(name, precision) for precision in wanted for name in chosen]
    notes: dict[Key, list[str]] = {key: [] for key in keys}
    with tempfile.TemporaryDirectory(dir=bundle.path.parent, prefix=f".{bundle.path.name}-") as folder:
        recorded: dict[str, RecordedArguments] = {}
        if "int8" in wanted:
            recorded = _record(bundle, chosen, frames.calibration(), Path(folder), say)
        # In a copy: what fails leaves the bundle as it was.
        trial = Bundle.open(shutil.copytree(bundle.path, Path(folder) / "bundle"))
        made: dict[Key, VariantSpec] = {}
        for name, precision in keys:
            say(f"making {precision} of {name}")
            try:
                made[name, precision] = _make(trial, name, precision, recorded, frames.description)
            except _NoVariantError as why:
                notes[name, precision].append(str(why))
        trial = _write(trial, made)
        recorder = DensePartRecorder(trial)
        calls = [recorder.run(frame) for frame in frames.comparison()]
        kept: dict[Key, VariantSpec] = {}
        for (name, precision), variant in made.items():
            say(f"comparing {precision} of {name}")
            reached = [call[name] for call in calls if name in call]
            measured, said = _compare(trial, name, precision, variant, reached)
            notes[name, precision] += said
            if measured.exported:
                kept[name, precision] = measured
        files = {file for variant in kept.values() for file in variant.exported.values()}
        for file in sorted(files - {RUN_IN_TORCH}):
            (trial.path / file).replace(bundle.path / file)
        result = _write(bundle, kept)
    reports = tuple(
        VariantReport(name, precision, kept.get((name, precision)), tuple(notes[name, precision]))
        for name, precision in keys
    )
    return result, reports


class _NoVariantError(ValueError):
    """A component cannot have a variant; says why."""


def _checked(bundle: Bundle, precisions: Sequence[str], components: Sequence[str] | None) -> list[Precision]:
    for name in precisions:
        if name not in REDUCED_PRECISIONS:
            raise ConfigurationError(f"no variant '{name}'" + nearest(name, REDUCED_PRECISIONS))
    for name in components or ():
        if name not in bundle.spec.components:
            raise ConfigurationError(
                f"{bundle.path}: no component '{name}'" + nearest(name, bundle.spec.components)
            )
    wanted = [precision for precision in REDUCED_PRECISIONS if precision in precisions]
    if "int8" in wanted:
        for name in components or bundle.spec.components:
            graph_of(bundle, name, _QUANTIZER)  # says what to do where there is none
        there, why = available_backends()[_QUANTIZER]
        if not there:
            raise ConfigurationError(f"int8 variants are made with onnxruntime: {why}")
    return wanted


def _record(
    bundle: Bundle, components: Iterable[str], frames: Iterable[Frame], folder: Path, say: Say
) -> dict[str, RecordedArguments]:
    """Runs the calibration frames and keeps what reaches the graph of each component that has one."""
    recorded = {}
    for name in components:
        graph = graph_of(bundle, name, _QUANTIZER)
        if graph is not None:
            (folder / name).mkdir()
            recorded[name] = RecordedArguments(folder / name, graph_inputs(graph))
    recorder = DensePartRecorder(bundle)
    for index, frame in enumerate(frames):
        say(f"calibration frame {index + 1}")
        for name, call in recorder.run(frame).items():
            if name in recorded:
                recorded[name].add(argument.numpy() for argument in call.arguments)
    return recorded


def _make(
    bundle: Bundle, name: str, precision: Precision, recorded: Mapping[str, RecordedArguments], frames: str
) -> VariantSpec:
    """Writes the graph of one variant, if it has one, into the bundle; returns what describes the variant."""
    component, spec = build_component(bundle, name)
    if not component.exportable:
        raise _NoVariantError("its operators are sparse and run in torch in fp32 only")
    if precision != "int8":
        exported = dict.fromkeys(("torch", "torch_compile"), RUN_IN_TORCH)
        if spec.exported.get("openvino", RUN_IN_TORCH) != RUN_IN_TORCH:
            exported["openvino"] = spec.exported["openvino"]
        return VariantSpec(exported=exported)
    graph = graph_of(bundle, name, _QUANTIZER)
    if graph is None:
        raise _NoVariantError(f"bundle.yaml lets it run in torch on devices with backend {_QUANTIZER}")
    path = bundle.path / f"{name}.{precision}.onnx"
    path.unlink(missing_ok=True)
    try:
        quantize_graph(graph, recorded[name], path)
    except NothingToQuantizeError as error:
        raise _NoVariantError(str(error)) from error
    calibration = f"{frames}, {len(recorded[name])} of which reached it; MinMax, by output channel"
    return VariantSpec(exported=dict.fromkeys(_GRAPH_BACKENDS, path.name), calibration=calibration)


def _write(bundle: Bundle, variants: Mapping[Key, VariantSpec]) -> Bundle:
    """Writes variants, whose graphs are there, into bundle.yaml."""
    files = {file for variant in variants.values() for file in variant.exported.values()} - {RUN_IN_TORCH}
    components = {
        name: spec.model_copy(
            update={
                "variants": {
                    **spec.variants,
                    **{precision: made for (owner, precision), made in variants.items() if owner == name},
                }
            }
        )
        for name, spec in bundle.spec.components.items()
    }
    digests = {
        **bundle.spec.exported_sha256,
        **{file: sha256_of(bundle.path / file) for file in sorted(files)},
    }
    changed = bundle.spec.model_copy(update={"components": components, "exported_sha256": digests})
    write_spec(bundle.path, changed)
    return Bundle.open(bundle.path)


def _compare(
    bundle: Bundle, name: str, precision: Precision, variant: VariantSpec, calls: Sequence[DenseCall]
) -> tuple[VariantSpec, list[str]]:
    """Compares a variant with the network in fp32, with every backend that can run it on this machine's CPU.

    Returns:
        The variant with its errors and without the backends it turned out not to work with, and notes.
    """
    if not calls:
        return variant, ["not compared: no frame of the comparison reaches it"]
    notes: list[str] = []
    errors: dict[str, dict[str, OutputError]] = {}
    exported = dict(variant.exported)
    usable = available_backends()
    component, _ = build_component(bundle, name)
    names = output_names(bundle, name, component.dense_name, len(calls[0].outputs))
    for backend in variant.exported:
        if backend == "torch_compile":
            continue  # the same operators as torch's
        there, why = usable[backend]
        try:
            if not there:
                raise ConfigurationError(why)
            run = _runner(bundle, name, precision, backend)
        except ConfigurationError as error:
            notes.append(f"not compared with {backend}: {error}")
            continue
        try:
            found = compared([call.outputs for call in calls], [run(call) for call in calls])
        except (RuntimeError, ArithmeticError) as error:
            notes.append(f"does not work with {backend}, which is left out: {error}")
            for left_out in (backend, "torch_compile") if backend == "torch" else (backend,):
                exported.pop(left_out, None)
            continue
        errors[backend] = dict(zip(names, found, strict=True))
    return variant.model_copy(update={"exported": exported, "errors": errors}), notes


def _runner(
    bundle: Bundle, name: str, precision: Precision, backend: str
) -> Callable[[DenseCall], tuple[torch.Tensor, ...]]:
    """Returns what runs a variant's dense part on the arguments of a call."""
    module: torch.nn.Module
    if backend == "torch":
        component, _ = build_component(bundle, name)
        component.fuse_normalization()
        # Also fp16, which deployments refuse on CPUs for its slowness: it rounds here as on a GPU.
        module = ReducedPrecision(component.dense_part, TORCH_DTYPES[precision])
    else:
        device = Device.model_validate(
            {"kind": "cpu", "cores": available_cores(), "backend": backend, "precision": precision}
        )
        graph = graph_of(bundle, name, backend, precision)
        if graph is None:
            raise ConfigurationError(f"bundle.yaml lets component '{name}' run in torch there")
        module = _GRAPHS[backend](graph, device)

    def run(call: DenseCall) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            outputs = module(*call.arguments)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    return run


def compared(
    expected: Sequence[Sequence[torch.Tensor]], found: Sequence[Sequence[torch.Tensor]]
) -> list[OutputError]:
    """Returns the largest errors of each output over several calls.

    Args:
        expected: By call and output.
        found: The same of the variant.

    Raises:
        ArithmeticError: The variant gives something that is not finite.
    """
    result = []
    by_output = zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True)
    for index, (wanted, given) in enumerate(by_output):
        absolute = largest = 0.0
        for one, other in zip(wanted, given, strict=True):
            if not one.numel():
                continue
            difference = (one.double() - other.double()).abs()
            if not bool(torch.isfinite(difference).all()):
                raise ArithmeticError(f"its output {index} is not finite")
            absolute = max(absolute, float(difference.max()))
            largest = max(largest, float(one.double().abs().max()))
        relative = absolute / largest if largest > 0 else absolute
        result.append(OutputError(max_abs_error=absolute, max_rel_error=relative))
    return result
