"""Decides when a frame goes out and which sensor messages belong to it. Knows neither ROS nor a clock.

A frame is triggered by the rig's trigger sensor. Each other sensor contributes the message nearest to the
trigger's stamp, if it lies within the sensor's limit; a sensor without one is masked. Nothing is ever waited
for here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class SensorTiming:
    """How one sensor's stamps are treated.

    Attributes:
        offset_ns: Added to every stamp.
        max_delay_ns: Greatest distance from a frame's stamp.
        usable: False for a sensor that may trigger frames but whose data the bundle does not take.
    """

    offset_ns: int
    max_delay_ns: int
    usable: bool = True


@dataclass(eq=False)
class SensorMessage:
    """One received message.

    Attributes:
        modality: Sensor it came from.
        stamp_ns: Measurement time after the offset correction.
        received_ns: Arrival, monotonic.
        age_ns: ROS time at arrival minus stamp.
        content: The message itself.
        prepared: What the frame assembly made of it, kept because a message may serve several frames.
        refused: The frame assembly could not use it.
    """

    modality: str
    stamp_ns: int
    received_ns: int
    age_ns: int
    content: Any
    prepared: Any = None
    refused: bool = False


class Reception(Enum):
    """What a received message means for the stream of frames."""

    STORED = "stored"
    TRIGGER = "trigger"
    FALLBACK = "fallback"
    STALE = "stale_stamp"


@dataclass(frozen=True)
class Received:
    """Outcome of `FrameSynchronizer.receive`.

    Attributes:
        message: The message with its corrected stamp.
        reception: What to do with it.
        jumped_back_ns: By how much the sensor's stamps jumped back, 0 if they did not.
        unstamped: The message had no stamp; its arrival took its place.
    """

    message: SensorMessage
    reception: Reception
    jumped_back_ns: int = 0
    unstamped: bool = False


@dataclass
class _Sensor:
    timing: SensorTiming
    messages: deque[SensorMessage]
    newest_stamp_ns: int | None = None
    last: SensorMessage | None = None
    last_received_ns: int | None = field(default=None)


class FrameSynchronizer:
    """Buffers each sensor's last messages and picks those of a frame. The caller holds a lock."""

    def __init__(
        self,
        sensors: Mapping[str, SensorTiming],
        trigger: str,
        *,
        started_ns: int,
        fallback_after_ns: int = 300_000_000,
        fallback_period_ns: int = 50_000_000,
        jump_ns: int = _SECOND_NS,
        buffer_size: int = 4,
    ) -> None:
        """Creates the synchronizer.

        Args:
            sensors: Timing by modality in rig order.
            trigger: The modality whose messages trigger frames.
            started_ns: Monotonic time now.
            fallback_after_ns: Without a frame of the trigger sensor for this long, other sensors' messages
                trigger fallback frames.
            fallback_period_ns: Least time between two fallback frames.
            jump_ns: A stamp further back than this is a restarted recording or clock, a nearer one is out of
                order.
            buffer_size: Messages kept for each sensor.

        Raises:
            ValueError: The trigger is no sensor, or the buffer holds nothing.
        """
        if trigger not in sensors:
            raise ValueError(f"trigger '{trigger}' is none of the sensors {list(sensors)}")
        if buffer_size < 1:
            raise ValueError("buffer_size must be at least 1")
        self._trigger = trigger
        self._sensors = {
            name: _Sensor(timing, deque(maxlen=1 if name == trigger else buffer_size))
            for name, timing in sensors.items()
        }
        self._fallback_after_ns = fallback_after_ns
        self._fallback_period_ns = fallback_period_ns
        self._jump_ns = jump_ns
        self._last_trigger_stamp_ns: int | None = None
        self._trigger_alive_ns = started_ns
        self._last_fallback_ns: int | None = None
        self._last_fallback_stamp_ns: int | None = None

    def receive(
        self, modality: str, content: Any, stamp_ns: int, *, received_ns: int, ros_now_ns: int
    ) -> Received:
        """Takes one sensor message.

        Args:
            modality: Sensor it came from.
            content: The message.
            stamp_ns: Its stamp, uncorrected; 0: the driver did not stamp it.
            received_ns: Monotonic time now.
            ros_now_ns: ROS time now.

        Returns:
            The stored message and whether it triggers a frame.
        """
        sensor = self._sensors[modality]
        unstamped = stamp_ns == 0
        corrected = ros_now_ns if unstamped else stamp_ns + sensor.timing.offset_ns
        message = SensorMessage(modality, corrected, received_ns, ros_now_ns - corrected, content)
        jumped = 0
        if sensor.newest_stamp_ns is not None and corrected < sensor.newest_stamp_ns - self._jump_ns:
            jumped = sensor.newest_stamp_ns - corrected
            sensor.messages.clear()
            sensor.newest_stamp_ns = None
            if modality == self._trigger:
                self._last_trigger_stamp_ns = None
            self._last_fallback_stamp_ns = None
        sensor.last_received_ns = received_ns
        reception = Reception.STORED
        if modality == self._trigger:
            if self._last_trigger_stamp_ns is not None and corrected <= self._last_trigger_stamp_ns:
                return Received(message, Reception.STALE, jumped, unstamped)
            self._last_trigger_stamp_ns = corrected
            reception = Reception.TRIGGER
        elif self._is_fallback(modality, corrected, received_ns):
            self._last_fallback_ns = received_ns
            self._last_fallback_stamp_ns = corrected
            reception = Reception.FALLBACK
        sensor.messages.append(message)
        sensor.newest_stamp_ns = max(corrected, sensor.newest_stamp_ns or corrected)
        sensor.last = message
        return Received(message, reception, jumped, unstamped)

    def trigger_emitted(self, now_ns: int) -> None:
        """The trigger sensor led to a frame; sweeps that lead to none do not hold fallback frames back."""
        self._trigger_alive_ns = now_ns

    def trigger_silent_for_ns(self, now_ns: int) -> int:
        """Returns the time since the trigger sensor last led to a frame."""
        return now_ns - self._trigger_alive_ns

    def select(
        self, trigger: SensorMessage, earlier: Mapping[str, SensorMessage] | None = None
    ) -> dict[str, SensorMessage]:
        """Returns the messages of the frame that `trigger` stands for, without those to be masked.

        Args:
            trigger: The message that triggered the frame.
            earlier: What was chosen when the trigger came in: for a frame that had to wait, the best may have
                left the buffer since.
        """
        chosen: dict[str, SensorMessage] = {}
        for name, sensor in self._sensors.items():
            if not sensor.timing.usable:
                continue
            if name == trigger.modality:
                chosen[name] = trigger
                continue
            if name == self._trigger:
                continue  # a fallback frame exists because the trigger sensor gave nothing usable
            candidates = list(sensor.messages)
            if earlier is not None and name in earlier:
                candidates.append(earlier[name])
            best = min(
                candidates,
                key=lambda message: (abs(message.stamp_ns - trigger.stamp_ns), -message.stamp_ns),
                default=None,
            )
            if best is not None and abs(best.stamp_ns - trigger.stamp_ns) <= sensor.timing.max_delay_ns:
                chosen[name] = best
        return chosen

    def last_message(self, modality: str) -> SensorMessage | None:
        """Returns the sensor's last stored message, whether or not a frame can use it."""
        return self._sensors[modality].last

    def silent_for_ns(self, modality: str, now_ns: int) -> int | None:
        """Returns the time since the sensor's last message, None when there never was one."""
        last = self._sensors[modality].last_received_ns
        return None if last is None else now_ns - last

    def _is_fallback(self, modality: str, stamp_ns: int, now_ns: int) -> bool:
        if not self._sensors[modality].timing.usable:
            return False
        if self.trigger_silent_for_ns(now_ns) <= self._fallback_after_ns:
            return False
        if self._last_fallback_ns is not None and now_ns - self._last_fallback_ns < self._fallback_period_ns:
            return False
        if self._last_fallback_stamp_ns is not None and stamp_ns <= self._last_fallback_stamp_ns:
            return False
        for name, sensor in self._sensors.items():
            if name == self._trigger or not sensor.timing.usable:
                continue
            alive = (
                sensor.last_received_ns is not None
                and now_ns - sensor.last_received_ns <= self._fallback_after_ns
            )
            if alive:
                return name == modality  # the first sensor that is alive sets the pace
        return False
