"""backbone ─► MTS-Compiler ─► multi-task supermodel: how long AutoMTL's compiler takes.

Seconds, median of several compilations of a backbone that is in memory, for each backbone. Parameters are the
backbone's: `shared_parameters` of the model in which all tasks share everything, `independent_parameters` of
the one in which each task has its own.
"""

from __future__ import annotations

import statistics
import time
from typing import Annotated, Any

import typer

NAME = "automtl-compile"

TASKS = ("semantic_segmentation", "depth", "normals", "edges", "keypoints")


def run(
    tasks: Annotated[int, typer.Option(help="Number of tasks.", min=1, max=len(TASKS))] = 2,
    repeats: Annotated[int, typer.Option(help="Compilations of each backbone.", min=1)] = 20,
    backbone: Annotated[
        list[str] | None, typer.Option(help="Measure this backbone only; may be repeated.")
    ] = None,
) -> dict[str, Any]:
    """Measures every backbone."""
    from training.search import automtl
    from training.search.backbones import backbone_names, create_backbone

    names = TASKS[:tasks]
    result: dict[str, Any] = {}
    for name in backbone or backbone_names():
        network = create_backbone(name)
        automtl.compile(network, names)  # imports and caches
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            supermodel = automtl.compile(network, names)
            seconds.append(time.perf_counter() - start)
        result[name] = {
            "median_s": statistics.median(seconds),
            "fastest_s": min(seconds),
            "slowest_s": max(seconds),
            "operators": len(supermodel.operators),
            "shared_parameters": supermodel.parameter_count(supermodel.all_shared()),
            "independent_parameters": supermodel.parameter_count(supermodel.all_specific()),
        }
    return result
