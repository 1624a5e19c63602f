"""Whether a latency target can be met at all, before hours are spent on a search."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from perception_core.configuration import ConfigurationError
from perception_core.models.edge.architecture import (
    BLOCKS,
    EXPANSIONS,
    KERNELS,
    LAYER_KINDS,
    MULTIPLIERS,
    BlockChoice,
    EdgeArchitecture,
)

Latency = Callable[[EdgeArchitecture], float]


class UnreachableLatencyError(ConfigurationError):
    """No architecture of the space was found that meets the target.

    Attributes:
        target_ms: What was asked for.
        nearest_ms: Latency of the fastest that was found.
        nearest: That architecture.
    """

    def __init__(self, target_ms: float, nearest_ms: float, nearest: EdgeArchitecture) -> None:
        super().__init__(
            f"no architecture of the space meets {target_ms:g} ms on this device; the nearest that was found "
            f"takes {nearest_ms:.3f} ms ({nearest.fused_blocks()} FusedIBN blocks). Ask for "
            f"{nearest_ms * 1.05:.3g} ms or more, a smaller image or another device"
        )
        self.target_ms, self.nearest_ms, self.nearest = target_ms, nearest_ms, nearest


def fastest_architecture(latency: Latency, rounds: int = 3) -> tuple[EdgeArchitecture, float]:
    """Finds the fastest architecture, by the best choice for one block after the other.

    Starts from narrow blocks of either kind and goes round until nothing gets faster. The latencies of
    blocks hardly depend on each other but through their channels, so that this finds the minimum or comes
    close to it.

    Args:
        latency: Of an architecture.
        rounds: At most so many passes over the blocks.

    Returns:
        The architecture and its latency.
    """
    best: tuple[float, EdgeArchitecture] | None = None
    for kind in LAYER_KINDS:
        narrow = BlockChoice(kind, KERNELS[0], MULTIPLIERS[0], EXPANSIONS[0])
        current = EdgeArchitecture((narrow,) * BLOCKS)
        lowest = latency(current)
        for _ in range(rounds):
            before = lowest
            for index in range(BLOCKS):
                for other in _choices():
                    if other == current.choices[index]:
                        continue
                    choices = (*current.choices[:index], other, *current.choices[index + 1 :])
                    candidate = EdgeArchitecture(choices)
                    time = latency(candidate)
                    if time < lowest:
                        current, lowest = candidate, time
            if lowest >= before:
                break
        if best is None or lowest < best[0]:
            best = (lowest, current)
    assert best is not None
    return best[1], best[0]


def _choices() -> list[BlockChoice]:
    """Returns the choices that can be the fastest: small kernels and expansions."""
    return [
        BlockChoice(kind, KERNELS[0], multiplier, EXPANSIONS[0])
        for kind, multiplier in itertools.product(LAYER_KINDS, MULTIPLIERS)
    ]


def require_reachable(latency: Latency, target_ms: float) -> None:
    """Refuses a target nobody can meet.

    Raises:
        UnreachableLatencyError: Names the nearest architecture.
    """
    narrow = BlockChoice(LAYER_KINDS[0], KERNELS[0], MULTIPLIERS[0], EXPANSIONS[0])
    if latency(EdgeArchitecture((narrow,) * BLOCKS)) <= target_ms:
        return
    nearest, nearest_ms = fastest_architecture(latency)
    if nearest_ms > target_ms:
        raise UnreachableLatencyError(target_ms, nearest_ms, nearest)
