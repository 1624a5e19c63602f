"""The deployment decides the routes, and each reader gets what the bundle says it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from mmmt_msgs.msg import TensorHandle
from rclpy.serialization import deserialize_message, serialize_message
from transport_fixtures import assert_same, make_context, make_frame

from perception_core.configuration import ConfigurationError
from perception_nodes.transport.interface import TensorError, TensorMismatchError
from perception_nodes.transport.transport import make_reader, make_writer

TOGETHER = {"all": ("sensor_fusion", "net", "near_head", "far_head")}
APART = {"a": ("sensor_fusion", "net", "near_head"), "b": ("far_head",)}


def through_ros(handles: list[TensorHandle]) -> list[TensorHandle]:
    """Returns the handles as they come out of the middleware."""
    return [deserialize_message(serialize_message(handle), TensorHandle) for handle in handles]


@pytest.mark.parametrize(
    ("processes", "hosts", "routes"),
    [
        (TOGETHER, {}, ("by_reference",)),
        (APART, {}, ("by_reference", "shared_memory")),
        ({"a": ("net",), "b": ("near_head", "far_head")}, {}, ("shared_memory",)),
        (APART, {"far_head": "other"}, ("by_reference", "serialized")),
        (
            {"a": ("net",), "b": ("near_head",), "c": ("far_head",)},
            {"far_head": "other"},
            ("shared_memory", "serialized"),
        ),
    ],
)
def test_writer_offers_exactly_the_routes_its_consumers_need(
    processes: Mapping[str, tuple[str, ...]], hosts: Mapping[str, str], routes: tuple[str, ...]
) -> None:
    home = next(name for name, nodes in processes.items() if "net" in nodes)
    context = make_context(process=home, processes=processes, hosts=hosts)
    writer = make_writer(context, "net")
    readers = {
        consumer: make_reader(
            make_context(
                process=context.process_of(consumer), processes=processes, hosts=hosts, run_id=context.run_id
            ),
            consumer,
            "net",
        )
        for consumer in ("near_head", "far_head")
    }
    assert writer.routes == routes
    handles = through_ros(writer.put(1, make_frame(1)))
    assert {handle.transport for handle in handles} == set(routes)
    assert_same(readers["near_head"].take(1, handles), make_frame(1))
    assert_same(readers["far_head"].take(1, handles), {"feature_bchw": make_frame(1)["feature_bchw"]})
    for end in (writer, *readers.values()):
        end.close()


def test_only_what_the_far_consumer_takes_goes_the_far_way() -> None:
    writer = make_writer(make_context(process="a", processes=APART), "net")
    handles = writer.put(1, make_frame(1))
    assert {h.name for h in handles if h.transport == "shared_memory"} == {"feature_bchw"}
    assert {h.name for h in handles if h.transport == "by_reference"} == set(make_frame(1))
    writer.close()


def test_recorder_is_an_extra_consumer_of_everything() -> None:
    context = make_context(process="all", processes=TOGETHER | {"safety": ("control",)})
    writer = make_writer(context, "net", extra_consumers={"recorder": "safety"})
    there = make_context(process="safety", processes=context.processes, run_id=context.run_id)
    recorder = make_reader(there, "recorder", "net")
    one = make_reader(there, "recorder", "net", tensors=["scores_n"])
    handles = writer.put(1, make_frame(1))
    assert_same(recorder.take(1, handles), make_frame(1))
    assert_same(one.take(1, handles), {"scores_n": make_frame(1)["scores_n"]})
    for end in (writer, recorder, one):
        end.close()


def test_producer_without_consumers_offers_nothing() -> None:
    writer = make_writer(make_context(process="all", processes=TOGETHER), "near_head")
    assert writer.routes == ()
    assert writer.put(1, {"near_n": torch.zeros(1)}) == []
    writer.close()


def test_process_on_two_hosts_is_refused() -> None:
    context = make_context(process="a", processes=APART, hosts={"net": "other"})
    with pytest.raises(ConfigurationError, match="process 'a' has components on the hosts local, other"):
        make_writer(context, "net")


def test_shared_memory_of_another_host_is_not_reached() -> None:
    context = make_context(process="a", processes={"a": ("net",), "b": ("near_head", "far_head")})
    writer = make_writer(context, "net")
    reader = make_reader(
        make_context(process="b", processes=context.processes, run_id=context.run_id), "far_head", "net"
    )
    handles = writer.put(1, make_frame(1))
    for handle in handles:
        handle.handle = "elsewhere/" + handle.handle.partition("/")[2]
    with pytest.raises(TensorError, match="does not reach far_head"):
        reader.take(1, handles)
    writer.close()
    reader.close()


def test_loan_lies_in_shared_memory_only_where_nothing_else_holds_the_tensor() -> None:
    apart = {"a": ("net",), "b": ("near_head", "far_head")}
    plan = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in make_frame(0).items()}
    for processes in (apart, APART, TOGETHER):
        home = next(name for name, nodes in processes.items() if "net" in nodes)
        context = make_context(process=home, processes=processes)
        writer = make_writer(context, "net")
        there = make_context(
            process=context.process_of("far_head"), processes=processes, run_id=context.run_id
        )
        reader = make_reader(there, "far_head", "net")
        kept: list[Any] = []
        for trace in range(8):
            lent = writer.loan(plan)
            for name, tensor in make_frame(trace).items():
                lent[name].copy_(tensor)
            found = reader.take(trace, writer.put(trace, lent))
            assert_same(found, {"feature_bchw": make_frame(trace)["feature_bchw"]})
            kept = [*kept, found][-3:]
        for trace, found in zip(range(5, 8), kept, strict=True):
            assert_same(found, {"feature_bchw": make_frame(trace)["feature_bchw"]})
        writer.close()
        reader.close()


def wrong_frames() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    frame = make_frame(0)
    return {
        "dtype": (
            frame | {"scores_n": torch.zeros(5)},
            r"'scores_n' of net: expected float16\[N\], got float32\[5\]",
        ),
        "rank": (
            frame | {"mask_bhw": frame["mask_bhw"][0]},
            r"'mask_bhw' of net: expected bool\[1, H, W\], got bool\[8, 6\]",
        ),
        "fixed size": (
            frame | {"feature_bchw": torch.zeros(1, 3, 8, 6)},
            r"expected float32\[1, 4, H, W\], got float32\[1, 3, 8, 6\]",
        ),
        "letter": (
            frame | {"mask_bhw": torch.zeros(1, 8, 7, dtype=torch.bool)},
            "with W=6 as in 'feature_bchw' of the same frame",
        ),
        "sparse": (frame | {"feature_bchw": torch.zeros(1, 4, 8, 6).to_sparse()}, "dense"),
        "missing": ({"mask_bhw": frame["mask_bhw"]}, "got none called feature_bchw, scores_n"),
        "unknown": (frame | {"other": torch.zeros(1)}, "'other' of net is not known"),
    }


@pytest.mark.parametrize("kind", list(wrong_frames()))
def test_writer_refuses_what_the_bundle_does_not_say(kind: str) -> None:
    frame, message = wrong_frames()[kind]
    writer = make_writer(make_context(process="all", processes=TOGETHER), "net")
    with pytest.raises(TensorMismatchError, match=message):
        writer.put(1, frame)
    assert writer.put(2, make_frame(2))
    writer.close()


def test_reader_refuses_handles_that_do_not_fit() -> None:
    context = make_context(process="a", processes=APART, hosts={"far_head": "other"})
    writer = make_writer(context, "net")
    reader = make_reader(
        make_context(process="b", processes=APART, hosts={"far_head": "other"}, run_id=context.run_id),
        "far_head",
        "net",
    )

    def handles() -> list[TensorHandle]:
        put = writer.put(1, make_frame(1))
        return through_ros([handle for handle in put if handle.transport == "serialized"])

    with pytest.raises(TensorMismatchError, match="expected by far_head, but frame 1 announces only others"):
        reader.take(1, [handle for handle in handles() if handle.name != "feature_bchw"])
    for field, value, message in (
        ("dtype", "float64", r"expected float32\[1, 4, H, W\], got float64"),
        ("dtype", "nonsense", "got nonsense"),
        ("shape", [1, 4, 8, 7], "expected 896 bytes"),
        ("shape", [1, 4, -8, 6], "negative"),
        ("shape", [], r"got float32\[\]"),
    ):
        wrong = handles()
        for handle in wrong:
            if handle.name == "feature_bchw":
                setattr(handle, field, value)
        with pytest.raises(TensorMismatchError, match=message):
            reader.take(1, wrong)
    assert_same(reader.take(1, handles()), {"feature_bchw": make_frame(1)["feature_bchw"]})
    writer.close()
    reader.close()


def test_announcement_that_lies_about_shared_memory_is_refused() -> None:
    context = make_context(process="a", processes={"a": ("net",), "b": ("near_head", "far_head")})
    writer = make_writer(context, "net")
    there = make_context(process="b", processes=context.processes, run_id=context.run_id)
    reader = make_reader(there, "far_head", "net")
    handles = writer.put(1, make_frame(1))
    for handle in handles:
        if handle.name == "feature_bchw":
            handle.shape = [1, 4, 6, 8]
    with pytest.raises(TensorMismatchError, match="as announced, got"):
        reader.take(1, handles)
    writer.close()
    reader.close()


@pytest.mark.parametrize(
    ("homes", "routes"),
    [
        ({"near_head": ("a", "b")}, ("by_reference", "shared_memory")),
        ({"net": ("a", "b")}, ("by_reference",)),
        ({}, ("by_reference",)),
    ],
    ids=["a consumer may go", "only the producer may go", "nobody"],
)
def test_a_writer_offers_the_routes_to_where_its_consumers_may_come_to_be(
    homes: Mapping[str, tuple[str, ...]], routes: tuple[str, ...]
) -> None:
    processes = {"a": ("net", "near_head", "far_head"), "b": ("sensor_fusion",)}
    writer = make_writer(make_context(process="a", processes=processes, homes=homes), "net")
    assert writer.routes == routes
    writer.close()


def test_a_moved_producer_is_read_by_readers_that_were_there_before() -> None:
    """It has left process a; the reader in b, which had it by reference or not at all, takes both writers'
    frames, each once."""
    homes = {"net": ("a", "b")}
    before = {"a": ("net",), "b": ("near_head", "far_head")}
    there = make_context(process="b", processes=before, homes=homes)
    reader = make_reader(there, "near_head", "net")
    old = make_writer(make_context(process="a", processes=before, homes=homes, run_id=there.run_id), "net")
    new_context = make_context(
        process="b",
        processes={"a": (), "b": ("near_head", "far_head", "net")},
        homes=homes,
        run_id=there.run_id,
    )
    new = make_writer(new_context, "net")
    assert old.routes == ("shared_memory",)
    assert new.routes == ("by_reference",)
    first, second = through_ros(old.put(1, make_frame(1))), through_ros(new.put(2, make_frame(2)))
    assert_same(reader.take(2, second), make_frame(2))
    assert_same(reader.take(1, first), make_frame(1))
    for end in (old, new, reader):
        end.close()


def test_two_writers_of_a_moved_producer_share_what_a_reader_has_open() -> None:
    """A frame of the new writer arrives although nobody opened anything for it."""
    homes = {"net": ("a", "c")}
    processes = {"a": ("net",), "b": ("near_head", "far_head"), "c": ("sensor_fusion",)}
    there = make_context(process="b", processes=processes, homes=homes)
    reader = make_reader(there, "near_head", "net")
    writers = [
        make_writer(make_context(process=home, processes=processes, homes=homes, run_id=there.run_id), "net")
        for home in ("a", "c")
    ]
    for number in range(1, 9):
        # The old writer's last frame is still unread when the new one's first comes.
        handles = through_ros(writers[number > 4].put(number, make_frame(number)))
        if number != 4:
            assert_same(reader.take(number, handles), make_frame(number))
        else:
            unread = handles
        if number == 5:
            assert_same(reader.take(4, unread), make_frame(4))
            writers[0].close()
    writers[1].close()
    reader.close()
