"""The synchronizer and the account: whatever arrives in whatever order, every trigger has exactly one
fate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.fusion.frame_account import FrameAccount
from perception_nodes.fusion.frame_synchronizer import (
    FrameSynchronizer,
    Reception,
    SensorMessage,
    SensorTiming,
)

MS = 1_000_000
START = 1_000_000 * MS
NAMES = ("lidar", "camera_a", "camera_b")


def make(trigger: str = "lidar", offset_ms: int = 0, **options: int) -> FrameSynchronizer:
    sensors = {name: SensorTiming(offset_ms * MS if name == "camera_a" else 0, 100 * MS) for name in NAMES}
    return FrameSynchronizer(sensors, trigger, started_ns=0, **options)


def give(synchronizer: FrameSynchronizer, name: str, stamp_ms: int, at_ms: int | None = None):
    at = stamp_ms if at_ms is None else at_ms
    return synchronizer.receive(
        name, stamp_ms, START + stamp_ms * MS, received_ns=at * MS, ros_now_ns=START + at * MS
    )


def chosen(synchronizer: FrameSynchronizer, trigger: SensorMessage) -> dict[str, int]:
    return {name: message.content for name, message in synchronizer.select(trigger).items()}


def test_each_camera_gives_its_nearest_image() -> None:
    synchronizer = make()
    for stamp in (40, 80, 120):
        give(synchronizer, "camera_a", stamp)
    give(synchronizer, "camera_b", 300)
    received = give(synchronizer, "lidar", 95, at_ms=130)
    assert received.reception is Reception.TRIGGER
    assert chosen(synchronizer, received.message) == {"lidar": 95, "camera_a": 80}


def test_an_image_chosen_early_survives_its_buffer() -> None:
    synchronizer = make(buffer_size=2)
    give(synchronizer, "camera_a", 100)
    trigger = give(synchronizer, "lidar", 100).message
    early = synchronizer.select(trigger)
    for stamp in (150, 180, 195):
        give(synchronizer, "camera_a", stamp)
    assert synchronizer.select(trigger, early)["camera_a"].content == 100
    assert synchronizer.select(trigger)["camera_a"].content == 180


def test_offsets_correct_stamps() -> None:
    synchronizer = make(offset_ms=-50)
    give(synchronizer, "camera_a", 180)
    trigger = give(synchronizer, "lidar", 100, at_ms=200).message
    selected = synchronizer.select(trigger)["camera_a"]
    assert selected.stamp_ns == START + 130 * MS
    assert selected.age_ns == 50 * MS


def test_a_message_without_stamp_is_stamped_at_its_arrival() -> None:
    received = make().receive("lidar", None, 0, received_ns=5, ros_now_ns=START)
    assert received.unstamped
    assert received.message.stamp_ns == START
    assert received.message.age_ns == 0


def test_a_restarted_recording_is_told_from_messages_out_of_order() -> None:
    synchronizer = make()
    assert give(synchronizer, "lidar", 5000).reception is Reception.TRIGGER
    assert give(synchronizer, "lidar", 4990, at_ms=5100).reception is Reception.STALE
    assert give(synchronizer, "lidar", 5000, at_ms=5200).reception is Reception.STALE
    again = give(synchronizer, "lidar", 100, at_ms=5300)
    assert again.reception is Reception.TRIGGER
    assert again.jumped_back_ns == 4900 * MS
    assert give(synchronizer, "lidar", 150, at_ms=5400).jumped_back_ns == 0


def test_images_of_before_the_restart_are_forgotten() -> None:
    synchronizer = make()
    give(synchronizer, "camera_a", 5000)
    give(synchronizer, "camera_a", 100, at_ms=5100)
    trigger = give(synchronizer, "lidar", 5000, at_ms=5110).message
    assert "camera_a" not in synchronizer.select(trigger)


def test_cameras_take_over_from_a_silent_lidar_at_the_first_ones_pace() -> None:
    synchronizer = make(fallback_after_ns=300 * MS, fallback_period_ns=50 * MS)
    synchronizer.trigger_emitted(0)
    receptions = []
    for at in range(0, 1000, 40):
        receptions.append(give(synchronizer, "camera_a", at).reception)
        assert give(synchronizer, "camera_b", at + 1).reception is Reception.STORED
    # from 320 ms on every second image of 40 ms keeps the period of at least 50 ms
    assert receptions == [Reception.STORED] * 8 + [Reception.FALLBACK, Reception.STORED] * 8 + [
        Reception.FALLBACK
    ]
    frame = give(synchronizer, "camera_a", 1100)
    assert frame.reception is Reception.FALLBACK
    assert "lidar" not in synchronizer.select(frame.message)


def test_the_second_camera_takes_over_when_the_first_is_dead_too() -> None:
    synchronizer = make(fallback_after_ns=300 * MS)
    give(synchronizer, "camera_a", 100)
    assert give(synchronizer, "camera_b", 350).reception is Reception.STORED, "the first is still alive"
    assert give(synchronizer, "camera_b", 450).reception is Reception.FALLBACK


def test_sweeps_that_lead_to_no_frame_do_not_hold_fallback_back() -> None:
    synchronizer = make(fallback_after_ns=300 * MS)
    for at in range(0, 400, 50):
        give(synchronizer, "lidar", at)
    assert give(synchronizer, "camera_a", 400).reception is Reception.FALLBACK
    synchronizer.trigger_emitted(410 * MS)
    assert give(synchronizer, "camera_a", 480).reception is Reception.STORED


def test_a_sensor_the_bundle_does_not_take_only_triggers() -> None:
    synchronizer = FrameSynchronizer(
        {"lidar": SensorTiming(0, 100, usable=False), "camera_a": SensorTiming(0, 100 * MS)},
        "lidar",
        started_ns=0,
    )
    give(synchronizer, "camera_a", 100)
    received = give(synchronizer, "lidar", 110)
    assert received.reception is Reception.TRIGGER
    assert chosen(synchronizer, received.message) == {"camera_a": 100}


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the sensors"):
        make(trigger="radar")
    with pytest.raises(ValueError, match="buffer_size"):
        make(buffer_size=0)


events = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.integers(
            -3000, 400
        ),  # stamp relative to arrival: late, out of order, from before a restart, ahead
        st.integers(0, 250),  # pause before it
        st.booleans(),  # whether the worker is free
    ),
    max_size=80,
)


@given(events, st.sampled_from(NAMES))
def test_every_trigger_has_one_fate_and_no_frame_holds_what_is_too_far(
    sequence: list[tuple[str, int, int, bool]], trigger: str
) -> None:
    """Plays the node's part: one waiting frame, replaced by newer ones, emitted when the worker is free."""
    synchronizer, account = make(trigger), FrameAccount(NAMES)
    at, triggers, frames, fallbacks = 4000, 0, 0, 0
    waiting: tuple[SensorMessage, bool] | None = None
    emitted_stamps: list[int] = []
    for name, shift, pause, free in sequence:
        at += pause
        received = give(synchronizer, name, at + shift, at_ms=at)
        account.received(name)
        triggers += name == trigger
        assert (received.reception in (Reception.TRIGGER, Reception.STALE)) == (name == trigger)
        if received.reception is Reception.TRIGGER:
            if waiting is not None and not waiting[1]:
                account.dropped("busy")
            waiting = (received.message, False)
            if received.jumped_back_ns:
                emitted_stamps.clear()
        elif received.reception is Reception.FALLBACK and (waiting is None or waiting[1]):
            waiting = (received.message, True)
        elif received.reception is Reception.STALE:
            account.dropped("stale_stamp")
        if free and waiting is not None:
            message, fallback = waiting
            selection = synchronizer.select(message)
            assert selection[message.modality] is message
            assert all(abs(m.stamp_ns - message.stamp_ns) <= 100 * MS for m in selection.values())
            if fallback:
                assert trigger not in selection
                fallbacks += 1
            else:
                synchronizer.trigger_emitted(at * MS)
                frames += 1
                assert not emitted_stamps or message.stamp_ns > emitted_stamps[-1]
                emitted_stamps.append(message.stamp_ns)
            account.emitted(set(NAMES) - selection.keys(), fallback)
            waiting = None
        balance = account.snapshot()
        pending = waiting is not None and not waiting[1]
        assert balance.frames_in == balance.frames_out + balance.frames_dropped == triggers - pending
    balance = account.snapshot()
    assert (balance.frames_out, balance.frames_fallback) == (frames, fallbacks)
    assert sum(balance.received.values()) == len(sequence)
    assert balance.frames_masked <= balance.frames_out
    assert all(count <= balance.frames_out for count in balance.masked.values())
