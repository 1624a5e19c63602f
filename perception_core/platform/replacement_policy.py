"""When a running stack should be re-placed by itself: a budget missed for a while, a gain worth it, and never
twice in a short time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from perception_core.configuration import StrictModel


class PolicySettings(StrictModel):
    """Hysteresis of automatic re-placement.

    Attributes:
        enabled: Off by default: a stack changes by itself only where somebody has asked for it.
        missed_share: A path is in trouble while at least this share of its outputs is over budget.
        missed_for_s: It must have been in trouble for so long.
        gain: A plan is taken only if it shortens the worst path by this share, and brings it within budget
            by the same margin.
        cool_down_s: Least time between two moves.
        failed_cool_down_s: Least time after a move that was taken back; it doubles with every one that
            follows.
    """

    enabled: bool = False
    missed_share: float = 0.5
    missed_for_s: float = 5.0
    gain: float = 0.1
    cool_down_s: float = 60.0
    failed_cool_down_s: float = 120.0


@dataclass(frozen=True)
class PathHealth:
    """One path now.

    Attributes:
        outputs: Outputs counted so far, by the latency monitor.
        misses: Deadlines missed so far.
        p50_ms: Its median now.
        budget_ms: Its budget.
    """

    outputs: int
    misses: int
    p50_ms: float
    budget_ms: float


class ReplacementPolicy:
    """Watches budgets and says when to ask for a plan, and whether to take it.

    It runs beside the latency monitor's listeners and never inside the safety process: that one only hears
    what came of it.
    """

    def __init__(self, settings: PolicySettings) -> None:
        self.settings = settings
        self._history: dict[str, deque[tuple[float, int, int]]] = {}
        self._quiet_until_s = -math.inf
        self._failures = 0

    def observe(self, now_s: float, paths: Mapping[str, PathHealth]) -> str | None:
        """Takes the paths' health now.

        Returns:
            The path that has been in trouble long enough to ask for a plan, the worst one; None: none has, or
            it is too soon after the last move.
        """
        for name, health in paths.items():
            history = self._history.setdefault(name, deque())
            if history and (health.outputs < history[-1][1] or health.misses < history[-1][2]):
                history.clear()  # the monitor was started anew
            history.append((now_s, health.outputs, health.misses))
            while len(history) > 1 and history[1][0] <= now_s - self.settings.missed_for_s:
                history.popleft()
        if not self.settings.enabled or now_s < self._quiet_until_s:
            return None
        troubled = [name for name in paths if self._in_trouble(name, now_s)]
        return max(troubled, key=lambda name: paths[name].p50_ms / paths[name].budget_ms, default=None)

    def _in_trouble(self, name: str, now_s: float) -> bool:
        history = self._history[name]
        began_s, outputs, misses = history[0]
        if now_s - began_s < self.settings.missed_for_s:
            return False
        missed, given = history[-1][2] - misses, history[-1][1] - outputs
        # A silent path gives no outputs, and each deadline that passes is a miss.
        return missed > 0 and missed >= self.settings.missed_share * max(given, missed)

    def accepts(self, path: PathHealth, predicted_before_ms: float, predicted_after_ms: float) -> bool:
        """Says whether a plan is worth a move.

        Args:
            path: The path in trouble.
            predicted_before_ms: Its latency as the model sees it now.
            predicted_after_ms: Its latency after the move.
        """
        if not self.settings.enabled or predicted_before_ms <= 0:
            return False
        gain = 1.0 - predicted_after_ms / predicted_before_ms
        # What the model says of the change is trusted more than what it says of the level.
        expected_ms = path.p50_ms * predicted_after_ms / predicted_before_ms
        return gain >= self.settings.gain and expected_ms <= path.budget_ms / (1.0 + self.settings.gain)

    def moved(self, now_s: float, succeeded: bool) -> None:
        """A move has ended."""
        self._history.clear()
        if succeeded:
            self._failures = 0
            self._quiet_until_s = now_s + self.settings.cool_down_s
        else:
            self._quiet_until_s = now_s + self.settings.failed_cool_down_s * 2.0 ** min(self._failures, 10)
            self._failures += 1
