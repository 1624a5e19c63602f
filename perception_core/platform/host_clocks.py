"""Offsets between the monotonic clocks of several hosts."""

from __future__ import annotations

from collections import OrderedDict

NANOSECONDS = 1e-9


class HostClocks:
    """Offsets from other hosts' monotonic clocks to this one's.

    A report is received after it was sent, so the smallest `received - done` seen lately is an upper bound of
    the true offset, too large by the fastest delivery. Outputs done elsewhere therefore look late by that
    much, never early. Two spans of time are kept because such clocks drift apart.
    """

    SPAN_S = 30.0
    MAX_HOSTS = 32

    def __init__(self, own_host: str) -> None:
        self._own_host = own_host
        self._offsets_ns: OrderedDict[str, tuple[float, int, int | None]] = OrderedDict()

    def observe(self, host: str, done_ns: int, received_ns: int) -> None:
        """Takes a report that `host` finished at its `done_ns` and that arrived here at `received_ns`."""
        if host == self._own_host:
            return
        difference = received_ns - done_ns
        now_s = received_ns * NANOSECONDS
        began_s, current, previous = self._offsets_ns.get(host, (now_s, difference, None))
        if now_s - began_s > self.SPAN_S:
            began_s, current, previous = now_s, difference, current
        self._offsets_ns[host] = (began_s, min(current, difference), previous)
        self._offsets_ns.move_to_end(host)
        while len(self._offsets_ns) > self.MAX_HOSTS:
            self._offsets_ns.popitem(last=False)

    def to_own_ns(self, host: str, time_ns: int) -> int | None:
        """Converts a time of `host` to this host's clock; None where the offset is not known yet."""
        if host == self._own_host:
            return time_ns
        entry = self._offsets_ns.get(host)
        if entry is None:
            return None
        _, current, previous = entry
        return time_ns + (current if previous is None else min(current, previous))
