"""random edge networks ─► backend ─► measured ms, beside what each latency model predicts for them.

The table model adds up operators that were measured one by one; the regression is fitted to half of the
networks; the analytic model knows nothing of this machine, so that only its ranking means something. Errors
are over the other half, which no model has seen: `mape` is the mean of |predicted - measured| / measured,
`spearman` the rank correlation. Times in milliseconds, medians.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

NAME = "latency-models"


def run(
    networks: Annotated[int, typer.Option(help="Networks; half are held out.", min=6)] = 16,
    backend: Annotated[str, typer.Option(help="torch, onnxruntime or openvino.")] = "onnxruntime",
    side: Annotated[int, typer.Option(help="Side of the image in pixels.", min=64)] = 128,
    threads: Annotated[int, typer.Option(help="Threads of the backend.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Of the architectures.")] = 0,
    table: Annotated[Path, typer.Option(help="File that keeps measured operators.")] = Path(
        "runs/operators.json"
    ),
) -> dict[str, Any]:
    """Measures the networks and compares."""
    import random
    from dataclasses import asdict

    from perception_core.platform.latency import (
        MeasuredLatency,
        OperatorTable,
        RegressionLatency,
        prediction_error,
    )
    from perception_core.platform.latency.accelerator import ACCELERATORS, AnalyticLatency
    from perception_core.platform.latency.network_runner import network_call
    from perception_core.platform.latency.runners import operator_runner
    from training.search.ednas.network_operators import NetworkForm, network_operators
    from training.search.ednas.space import CANDIDATES, architecture_of

    runner = operator_runner(backend, threads)
    form = NetworkForm.of({"semantic_segmentation": 19, "depth": 1}, (side, side))
    generator = random.Random(seed)
    sizes = [len(values) for values in CANDIDATES] * 16
    architectures = [architecture_of([generator.randrange(size) for size in sizes]) for _ in range(networks)]
    operators = [network_operators(architecture, form) for architecture in architectures]
    measured = [
        runner.measure_call_ms(network_call(form.build(architecture), (1, 3, side, side), backend, threads))
        for architecture in architectures
    ]
    half = networks // 2
    held_out = range(half, networks)
    models = {
        "table": MeasuredLatency(OperatorTable(table), runner),
        "regression": RegressionLatency.fit(operators[:half], measured[:half], runner.device),
        **{name: AnalyticLatency(accelerator) for name, accelerator in ACCELERATORS.items()},
    }
    errors = {
        name: asdict(
            prediction_error(
                [model.latency_ms(operators[index]) for index in held_out],
                [measured[index] for index in held_out],
            )
        )
        for name, model in models.items()
    }
    return {
        "device": runner.device,
        "networks": networks,
        "held_out": len(held_out),
        "measured_ms": measured,
        "errors": errors,
    }
