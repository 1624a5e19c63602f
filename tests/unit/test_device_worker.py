"""The device worker: oldest frame first, bounded queues, pinned threads."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from perception_core.deployment import Device
from perception_nodes.runtime.device_worker import DeviceWorker, Job, acquire_worker, release_worker


@pytest.fixture
def worker():
    cores = tuple(sorted(os.sched_getaffinity(0)))[:1]
    worker = DeviceWorker("test", Device(kind="cpu", cores=cores), queue_limit=2)
    yield worker
    worker.close()


def test_thread_and_its_compute_threads_are_pinned(worker: DeviceWorker) -> None:
    cores = set(sorted(os.sched_getaffinity(0))[:1])
    assert worker.call(lambda: os.sched_getaffinity(0)) == cores
    assert worker.call(torch.get_num_threads) == 1
    assert os.sched_getaffinity(worker.thread_id) == cores


def test_oldest_frame_runs_first_and_overfull_queue_drops_the_oldest(worker: DeviceWorker) -> None:
    gate, entered, ran, dropped = threading.Event(), threading.Event(), [], []

    def job(owner: str, order: int) -> Job:
        return Job(
            order=order, owner=owner, run=lambda: ran.append(order), drop=lambda: dropped.append(order)
        )

    def block() -> None:
        entered.set()
        gate.wait(5)

    worker.submit(Job(order=0, owner="gate", run=block, drop=lambda: None))
    assert entered.wait(5)
    for order in (30, 20, 10):
        worker.submit(job("head", order))
    worker.submit(job("net", 15))
    gate.set()
    worker.submit(Job(order=100, owner="last", run=lambda: None, drop=lambda: None))
    worker.call(lambda: None)
    for _ in range(10):
        worker.call(lambda: None)
    assert dropped == [10]
    assert ran == [15, 20, 30]


def test_call_raises_what_the_action_raised(worker: DeviceWorker) -> None:
    def fail() -> None:
        raise ValueError("weights are torn")

    with pytest.raises(ValueError, match="weights are torn"):
        worker.call(fail)


def test_closed_worker_refuses_and_drops_what_waited() -> None:
    worker = DeviceWorker("closing", Device(kind="cpu"), queue_limit=2)
    gate, entered, dropped = threading.Event(), threading.Event(), []

    def block() -> None:
        entered.set()
        gate.wait(5)

    worker.submit(Job(order=0, owner="gate", run=block, drop=lambda: None))
    assert entered.wait(5)
    worker.submit(Job(order=1, owner="head", run=lambda: None, drop=lambda: dropped.append(1)))
    closer = threading.Thread(target=worker.close)
    closer.start()
    gate.set()
    closer.join(5)
    assert dropped == [1]
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(Job(order=2, owner="head", run=lambda: None, drop=lambda: None))


def test_components_of_one_device_share_its_worker() -> None:
    device = Device(kind="cpu")
    first = acquire_worker("shared", device, 2)
    assert acquire_worker("shared", device, 2) is first
    release_worker("shared")
    assert first.call(lambda: 1) == 1
    release_worker("shared")
    with pytest.raises(RuntimeError, match="closed"):
        first.call(lambda: 1)
