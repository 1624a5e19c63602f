"""One thread per device and process that runs the networks placed there, pinned to the device's cores.

ROS callbacks only hand jobs over, so an executor is never blocked by inference, and a device never runs two
components of a
process at once: what waits is visible as queueing time instead of as mutual slow-down.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from perception_core.deployment import Device


@dataclass(order=True)
class Job:
    """One component's work on one frame.

    Attributes:
        order: Jobs with the smallest order run first; the age of the frame, so that begun frames are
            finished first.
        owner: Component the job belongs to.
        run: Does the work; must not raise.
        drop: Called instead of `run` when a newer job of the same owner pushed this one out.
    """

    order: int
    serial: int = field(init=False, default=0)
    owner: str = field(compare=False)
    run: Callable[[], None] = field(compare=False)
    drop: Callable[[], None] = field(compare=False)


class DeviceWorker:
    """Runs jobs of all components of one device, oldest frame first."""

    def __init__(self, name: str, device: Device, queue_limit: int) -> None:
        """Starts the thread.

        Args:
            name: Device name, used for the thread's name.
            device: Device whose cores the thread and its compute threads are pinned to.
            queue_limit: Waiting jobs per component; the oldest is dropped beyond it.
        """
        self._device = device
        self._queue_limit = queue_limit
        self._jobs: list[Job] = []
        self._serials = itertools.count()
        self._wake = threading.Condition()
        self._closed = False
        self.thread_id: int | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"device-{name}", daemon=True)
        self._thread.start()
        self._started.wait()

    def submit(self, job: Job) -> None:
        """Queues a job; drops the owner's oldest waiting job when its queue is full. Never blocks.

        Raises:
            RuntimeError: The worker is closed.
        """
        pushed_out: Job | None = None
        with self._wake:
            if self._closed:
                raise RuntimeError("the device worker is closed")
            job.serial = next(self._serials)
            heapq.heappush(self._jobs, job)
            mine = [waiting for waiting in self._jobs if waiting.owner == job.owner]
            if len(mine) > self._queue_limit:
                pushed_out = min(mine)
                self._jobs.remove(pushed_out)
                heapq.heapify(self._jobs)
            self._wake.notify()
        if pushed_out is not None:
            pushed_out.drop()

    def call(self, action: Callable[[], Any]) -> Any:
        """Runs `action` on the worker's thread ahead of all jobs and returns its result or raises its
        exception.
        """
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(action())
            except BaseException as error:  # handed to the caller through the future
                future.set_exception(error)

        def drop() -> None:
            future.cancel()

        self.submit(Job(order=-1, owner=f"call-{id(future)}", run=run, drop=drop))
        return future.result()

    def discard(self, owner: str) -> None:
        """Forgets the waiting jobs of a component without calling their `drop`."""
        with self._wake:
            self._jobs = [job for job in self._jobs if job.owner != owner]
            heapq.heapify(self._jobs)

    def close(self) -> None:
        """Ends the thread after the job it is running; waiting jobs are dropped."""
        with self._wake:
            self._closed = True
            waiting, self._jobs = self._jobs, []
            self._wake.notify()
        for job in waiting:
            job.drop()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _loop(self) -> None:
        self.thread_id = threading.get_native_id()
        if self._device.kind == "cpu" and self._device.cores:
            # The OpenMP team of this thread is created by it and inherits its affinity, so pinning the one
            # pins all.
            os.sched_setaffinity(0, self._device.cores)
            torch.set_num_threads(len(self._device.cores))
        self._started.set()
        while True:
            with self._wake:
                while not self._jobs and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                job = heapq.heappop(self._jobs)
            job.run()


_workers: dict[str, tuple[DeviceWorker, int]] = {}
_workers_lock = threading.Lock()


def acquire_worker(name: str, device: Device, queue_limit: int) -> DeviceWorker:
    """Returns this process' worker of a device, started at the first request."""
    with _workers_lock:
        worker, users = _workers.get(name, (None, 0))
        if worker is None:
            worker = DeviceWorker(name, device, queue_limit)
        _workers[name] = (worker, users + 1)
        return worker


def release_worker(name: str) -> None:
    """Gives a worker back; the last user's release ends its thread."""
    with _workers_lock:
        worker, users = _workers[name]
        if users > 1:
            _workers[name] = (worker, users - 1)
            return
        del _workers[name]
    worker.close()
