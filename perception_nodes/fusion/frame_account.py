"""The exact account of what became of every trigger message and sensor message."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class AccountSnapshot:
    """The account at one moment; `frames_in == frames_out + sum(drops)` always holds.

    Attributes:
        frames_in: Trigger messages whose fate is known.
        frames_out: Frames emitted for them.
        frames_masked: Those of `frames_out` that lacked a sensor.
        frames_fallback: Frames emitted without a trigger message; not part of the others.
        drops: Dropped trigger messages by reason.
        received: Messages received by modality.
        rejected: Messages refused by modality.
        masked: Frames of `frames_out` each modality was missing from.
    """

    frames_in: int
    frames_out: int
    frames_masked: int
    frames_fallback: int
    drops: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)

    @property
    def frames_dropped(self) -> int:
        """All dropped trigger messages."""
        return sum(self.drops.values())


class FrameAccount:
    """Counts frames and messages; may be used from several threads.

    A trigger message is counted when its fate is known, so that the balance holds at every moment it is read.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        """Starts at zero for the rig's modalities."""
        self._lock = threading.Lock()
        self._out = self._masked_frames = self._fallback = 0
        self._drops: Counter[str] = Counter()
        self._received = dict.fromkeys(modalities, 0)
        self._rejected = dict.fromkeys(modalities, 0)
        self._masked = dict.fromkeys(modalities, 0)

    def received(self, modality: str) -> None:
        """A sensor message came in."""
        with self._lock:
            self._received[modality] += 1

    def rejected(self, modality: str) -> None:
        """A sensor message could not be used."""
        with self._lock:
            self._rejected[modality] += 1

    def dropped(self, reason: str) -> None:
        """A trigger message leads to no frame."""
        with self._lock:
            self._drops[reason] += 1

    def emitted(self, missing: Iterable[str], fallback: bool = False) -> None:
        """A frame went out that lacks the modalities `missing`."""
        with self._lock:
            if fallback:
                self._fallback += 1
                return
            self._out += 1
            lacking = list(missing)
            if lacking:
                self._masked_frames += 1
            for modality in lacking:
                self._masked[modality] += 1

    def snapshot(self) -> AccountSnapshot:
        """Returns a consistent copy."""
        with self._lock:
            return AccountSnapshot(
                frames_in=self._out + sum(self._drops.values()),
                frames_out=self._out,
                frames_masked=self._masked_frames,
                frames_fallback=self._fallback,
                drops=dict(self._drops),
                received=dict(self._received),
                rejected=dict(self._rejected),
                masked=dict(self._masked),
            )
