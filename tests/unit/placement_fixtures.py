"""Small placement problems that can be reckoned by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perception_core.platform.placement.problem import (
    PlacementProblem,
    ProblemDevice,
    ProblemEdge,
    ProblemPath,
)


def problem_of(
    durations_ms: Mapping[str, Sequence[float | None]],
    edges: Sequence[tuple[str, str]],
    devices: Sequence[ProblemDevice],
    *,
    transfer_ms: float = 0.0,
    budgets_ms: Mapping[str, float] | None = None,
    memory_mb: Mapping[str, float] | None = None,
    **options: Any,
) -> PlacementProblem:
    """A problem with one transfer time between all devices and a path to every stage that feeds nothing."""
    names = list(durations_ms)
    between = tuple(
        tuple(0 if d == e else round(transfer_ms * 1000) for e in range(len(devices)))
        for d in range(len(devices))
    )
    feeding = {producer for producer, _ in edges}
    budgets, memory = budgets_ms or {}, memory_mb or {}
    return PlacementProblem(
        stages=tuple(names),
        devices=tuple(devices),
        duration_us=tuple(
            tuple(None if ms is None else round(ms * 1000) for ms in row) for row in durations_ms.values()
        ),
        edges=tuple(ProblemEdge(names.index(p), names.index(c), between) for p, c in edges),
        paths=tuple(
            ProblemPath(
                f"lidar->{name}",
                names.index(name),
                budget_us=round(budgets[name] * 1000) if name in budgets else None,
            )
            for name in names
            if name not in feeding
        ),
        memory_mb=tuple(memory.get(name, 0.0) for name in names),
        **options,
    )


#: LiDAR and camera nets, a fuser, a heavy and a light head.
STACK_EDGES = (
    ("lidar_net", "bev_fuser"),
    ("camera_net", "bev_fuser"),
    ("bev_fuser", "detection3d_head"),
    ("bev_fuser", "map_segmentation_head"),
)
FAST, SLOW = ProblemDevice("gpu0", 5.0, 35.0), ProblemDevice("dla0", 0.5, 5.0)


def stack_problem(**options: Any) -> PlacementProblem:
    """The demo's graph on a fast and a slow device."""
    durations: dict[str, Sequence[float | None]] = {
        "lidar_net": (10, 30),
        "camera_net": (12, 25),
        "bev_fuser": (8, 20),
        "detection3d_head": (6, 15),
        "map_segmentation_head": (2, 5),
    }
    return problem_of(durations, STACK_EDGES, (FAST, SLOW), **({"transfer_ms": 1.0} | options))
