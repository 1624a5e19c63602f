"""Times every component of a bundle on every device of a deployment, with every backend that can be used."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import torch

from perception_core.backends import available_backends, load_component
from perception_core.backends.backend import ComponentRunner
from perception_core.backends.example_inputs import example_frame
from perception_core.bundle import Bundle, missing_variant
from perception_core.bundle_identity import bundle_identity
from perception_core.configuration import ConfigurationError
from perception_core.deployment import Deployment, Device
from perception_core.host import available_cores
from perception_core.platform.machine import this_machine
from perception_core.platform.measured_table import MeasuredTable, Measurement, Unmeasured
from perception_core.platform.rolling import nearest_rank
from perception_core.precision import FULL_PRECISION, Precision, precisions_of

#: Backends by kind of device, as far as this version knows them.
_BACKENDS_OF_KIND = {
    "cpu": ("torch", "torch_compile", "onnxruntime", "openvino"),
    "gpu": ("torch", "torch_compile"),
}

#: Called with what is being measured.
Watch = Callable[[str], None]


@dataclass(frozen=True)
class TimingOptions:
    """How long is measured.

    Attributes:
        repeats: Frames of each component, at least 3.
        budget_s: Fewer frames where a component would take longer than this, but never fewer than 3.
        cameras: Cameras of the frame.
        points: Points of the frame.
        every_backend: Measure all backends, not only each device's own.
        every_precision: Measure all variants the bundle has, not only the precision the deployment asks for.
    """

    repeats: int = 50
    budget_s: float = 5.0
    cameras: int = 6
    points: int = 30_000
    every_backend: bool = True
    every_precision: bool = True


def measure_deployment(
    deployment: Deployment,
    bundle: Bundle,
    options: TimingOptions | None = None,
    watch: Watch = lambda text: None,
) -> MeasuredTable:
    """Measures a bundle's components on this machine.

    Each device and backend gets a thread pinned to the device's cores, in which runtimes start their compute
    threads, as on the vehicle; thread counts are the numbers of cores. One component runs at a time.

    Args:
        deployment: Gives the devices.
        bundle: The bundle.
        options: How long; None: the defaults.
        watch: Told what is measured.

    Raises:
        ConfigurationError: Nothing could be measured.
    """
    options = options or TimingOptions()
    points = min(options.points, bundle.spec.input.max_points or options.points)
    frame = _frame_tensors(bundle, options.cameras, points)
    usable = available_backends()
    entries: list[Measurement] = []
    unmeasured: list[Unmeasured] = []
    for name, device in deployment.devices.items():
        problem = _unusable(device)
        for backend in _backends(device, options.every_backend):
            there, why = usable.get(backend, (False, "this version does not know it"))
            if problem is not None or not there:
                unmeasured.append(Unmeasured(device=name, backend=backend, why=problem or why))
                continue
            for precision in precisions_of(backend, device.kind):
                components = _components_in(deployment, bundle, name, backend, precision, options)
                if not components:
                    continue
                watch(f"{name} with {backend}" + ("" if precision == FULL_PRECISION else f" in {precision}"))
                as_measured = device.model_copy(update={"backend": backend, "precision": precision})
                measured, failed = _measure_pinned(bundle, name, as_measured, components, frame, options)
                entries += measured
                unmeasured += failed
    if not entries:
        reasons = "; ".join(f"{item.device} with {item.backend}: {item.why}" for item in unmeasured)
        raise ConfigurationError(f"deployment '{deployment.name}': nothing could be measured here: {reasons}")
    return MeasuredTable(
        deployment=deployment.name,
        bundle=bundle.spec.name,
        bundle_identity=bundle_identity(bundle.spec),
        machine=this_machine(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        cameras=options.cameras if bundle.spec.input.image else 0,
        points=points if bundle.spec.input.max_points else 0,
        device_backends={name: device.backend for name, device in deployment.devices.items()},
        device_precisions={
            name: device.precision
            for name, device in deployment.devices.items()
            if device.precision != FULL_PRECISION
        },
        component_precisions=dict(deployment.precision),
        entries=tuple(entries),
        unmeasured=tuple(unmeasured),
    )


def _backends(device: Device, every: bool) -> tuple[str, ...]:
    others = _BACKENDS_OF_KIND.get(device.kind, ()) if every else ()
    return tuple(dict.fromkeys((device.backend, *others)))


def _components_in(
    deployment: Deployment,
    bundle: Bundle,
    device: str,
    backend: str,
    precision: Precision,
    options: TimingOptions,
) -> tuple[str, ...]:
    """Returns the components that are measured in a precision with a backend: they have it, it is wanted."""
    of_device = deployment.devices[device].precision
    return tuple(
        name
        for name, spec in bundle.spec.components.items()
        if (options.every_precision or deployment.precision.get(name, of_device) == precision)
        and (precision == FULL_PRECISION or missing_variant(name, spec, precision, backend) is None)
    )


def _unusable(device: Device) -> str | None:
    """Says why nothing can run on a device here, None where it can."""
    if device.kind == "cpu":
        missing = sorted(set(device.cores) - set(available_cores()))
        return f"this machine offers no core {', '.join(map(str, missing))}" if missing else None
    if device.kind == "gpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return None if device.index < count else f"torch sees {count} CUDA devices here"
    return f"no backend of this version runs on a device of kind '{device.kind}'"


def _frame_tensors(bundle: Bundle, cameras: int, points: int) -> dict[str, torch.Tensor]:
    """Runs the bundle once, eagerly: components are timed on what really reaches them."""
    tensors = example_frame(bundle.spec.input, cameras, points)
    device = Device.model_validate({"kind": "cpu", "cores": available_cores(), "backend": "torch"})
    for name, spec in bundle.spec.components.items():
        runner = load_component(bundle, name, device)
        tensors.update(runner.run({tensor: tensors[tensor] for tensor in spec.inputs}))
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _measure_pinned(
    bundle: Bundle,
    name: str,
    device: Device,
    components: Sequence[str],
    frame: Mapping[str, torch.Tensor],
    options: TimingOptions,
) -> tuple[list[Measurement], list[Unmeasured]]:
    """Measures components in a thread of the device's own."""
    measured: list[Measurement] = []
    failed: list[Unmeasured] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            if device.kind == "cpu" and device.cores:
                os.sched_setaffinity(0, device.cores)  # this thread, and those it starts
            for outcome in _measure_components(bundle, name, device, components, frame, options):
                if isinstance(outcome, Measurement):
                    measured.append(outcome)
                else:
                    failed.append(outcome)
        except BaseException as error:  # handed on to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, name=f"profile-{name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return measured, failed


def _measure_components(
    bundle: Bundle,
    name: str,
    device: Device,
    components: Sequence[str],
    frame: Mapping[str, torch.Tensor],
    options: TimingOptions,
) -> Iterator[Measurement | Unmeasured]:
    for component in components:
        inputs = {tensor: frame[tensor] for tensor in bundle.spec.components[component].inputs}
        try:
            runner = load_component(bundle, component, device)
        except ConfigurationError as error:
            yield Unmeasured(
                device=name,
                backend=device.backend,
                precision=device.precision,
                component=component,
                why=str(error),
            )
            continue
        times_ms = time_component(runner, inputs, options.repeats, options.budget_s)
        yield Measurement(
            component=component,
            device=name,
            backend=device.backend,
            precision=device.precision,
            threads=len(device.cores) if device.kind == "cpu" else 0,
            repeats=len(times_ms),
            **summary(times_ms),
        )


def time_component(
    runner: ComponentRunner, inputs: Mapping[str, torch.Tensor], repeats: int, budget_s: float
) -> list[float]:
    """Returns the milliseconds of several runs; one run before them is not counted.

    Args:
        runner: Loaded on this thread.
        inputs: What it takes, already where it takes it from: on its device.
        repeats: Runs.
        budget_s: Stop earlier than after `repeats` once this has passed, but after 3 runs at least.
    """
    placed = {name: tensor.to(runner.torch_device) for name, tensor in inputs.items()}
    runner.run(placed)
    times_ms: list[float] = []
    begin = time.perf_counter()
    while len(times_ms) < max(repeats, 3):
        start = time.perf_counter()
        runner.run(placed)
        end = time.perf_counter()
        times_ms.append((end - start) * 1e3)
        if len(times_ms) >= 3 and end - begin > budget_s:
            break
    return times_ms


def summary(times_ms: Sequence[float]) -> dict[str, Any]:
    """Returns median, 95th percentile and minimum, rounded to microseconds."""
    ordered = sorted(times_ms)
    return {
        "median_ms": round(statistics.median(ordered), 3),
        "p95_ms": round(nearest_rank(ordered, 0.95), 3),
        "minimum_ms": round(ordered[0], 3),
    }
