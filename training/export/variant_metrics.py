"""What variants cost in the tasks' metrics: a bundle judged in fp32, and with one component after the other
in another precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from perception_core.bundle import Bundle, MetricChange
from perception_core.bundle_writer import write_spec
from perception_core.precision import Precision, precisions_of
from training.evaluation.bundle_evaluation import DataChoice, evaluate_bundle
from training.evaluation.bundle_outputs import evaluation_device

#: Backend that judges a precision; the first one that a component has it for.
_JUDGES = ("onnxruntime", "torch", "openvino")

#: Told what is being done.
Say = Callable[[str], None]


@dataclass(frozen=True)
class TogetherReport:
    """Metrics with all variants of one precision together.

    Attributes:
        precision: Precision.
        backend: How all components ran.
        components: Those that ran in it; others in fp32.
        metrics: By `task/metric`.
    """

    precision: Precision
    backend: str
    components: tuple[str, ...]
    metrics: dict[str, MetricChange]


def judge_variants(
    bundle: Bundle, choice: DataChoice, say: Say = lambda text: None
) -> tuple[Bundle, tuple[TogetherReport, ...]]:
    """Evaluates every variant of a bundle alone, and all of a precision together, and writes the former down.

    One pass over the data for each, and one in fp32 for each backend: V + P + B passes.

    Args:
        bundle: With variants.
        choice: Data with labels.
        say: Told what is being done.

    Returns:
        The bundle, opened anew, and each precision's metrics with all its variants at once.

    Raises:
        EvaluationError: No task can be judged on this data.
        DataError: The data cannot be read.
        ConfigurationError: A component cannot be loaded.
    """
    references: dict[str, dict[str, float]] = {}

    def evaluate(backend: str, precisions: Mapping[str, Precision]) -> dict[str, float]:
        evaluation = evaluate_bundle(
            bundle, choice, evaluation_device("cpu", backend), precisions=precisions or None
        )
        return {
            f"{task}/{name}": value
            for task, result in evaluation.results.items()
            for name, value in result.scalars().items()
        }

    def change(backend: str, precisions: Mapping[str, Precision]) -> dict[str, MetricChange]:
        if backend not in references:
            say(f"judging fp32 with {backend}")
            references[backend] = evaluate(backend, {})
        found = evaluate(backend, precisions)
        return {
            name: MetricChange(fp32=before, variant=found[name])
            for name, before in references[backend].items()
            if math.isfinite(before) and math.isfinite(found[name])
        }

    data = choice.root.name + (f", split {choice.split}" if choice.is_nuscenes else "")
    components = dict(bundle.spec.components)
    together = []
    for precision, names in _variants(bundle).items():
        backend = _judge(bundle, precision, names)
        if backend is None:
            say(f"{precision} is not judged: no backend of this machine's runs all its variants")
            continue
        for name in names:
            say(f"judging {precision} of {name} with {backend}")
            variant = (
                components[name]
                .variants[precision]
                .model_copy(update={"metrics": change(backend, {name: precision}), "metrics_data": data})
            )
            components[name] = components[name].model_copy(
                update={"variants": {**components[name].variants, precision: variant}}
            )
        say(f"judging {precision} of all components with {backend}")
        metrics = change(backend, dict.fromkeys(names, precision))
        together.append(TogetherReport(precision, backend, names, metrics))
    write_spec(bundle.path, bundle.spec.model_copy(update={"components": components}))
    return Bundle.open(bundle.path), tuple(together)


def _variants(bundle: Bundle) -> dict[Precision, tuple[str, ...]]:
    """Returns the components that have each precision."""
    found: dict[Precision, tuple[str, ...]] = {}
    for name, spec in bundle.spec.components.items():
        for precision in spec.variants:
            found[precision] = (*found.get(precision, ()), name)
    return found


def _judge(bundle: Bundle, precision: Precision, names: tuple[str, ...]) -> str | None:
    """Returns the backend that was compared for all variants of a precision, so that it works here."""
    for backend in _JUDGES:
        if all(backend in bundle.spec.components[name].variants[precision].errors for name in names):
            if precision in precisions_of(backend, "cpu"):
                return backend
    return None
