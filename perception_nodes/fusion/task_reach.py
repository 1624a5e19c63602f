"""Which task heads a stage of the component graph feeds."""

from __future__ import annotations

from perception_core.bundle import SENSOR_FUSION, Bundle


def heads_fed_by(bundle: Bundle) -> dict[str, frozenset[str]]:
    """Returns, for every component and sensor_fusion, the heads that get no input when that stage fails.

    A head is fed by itself.
    """
    heads = set(bundle.task_heads().values())
    reach: dict[str, frozenset[str]] = {}

    def visit(stage: str) -> frozenset[str]:
        if stage not in reach:
            fed = frozenset({stage} & heads)
            for consumer in bundle.consumers_of(stage):
                fed |= visit(consumer)
            reach[stage] = fed
        return reach[stage]

    for stage in (SENSOR_FUSION, *bundle.spec.components):
        visit(stage)
    return reach
