"""Where trials run: in this process, in local processes, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from types import TracebackType
from typing import Any, Literal, Protocol

from perception_core.configuration import ConfigurationError
from training.search.ednas.trial import Proxy, TrialOutcome, TrialRequest

WorkerKind = Literal["inline", "processes", "ray"]


class Workers(Protocol):
    """Runs trials; a context that ends them."""

    def submit(self, request: TrialRequest) -> None:
        """Takes a trial on."""
        ...

    def wait(self) -> tuple[int, TrialOutcome]:
        """Waits until some trial is done; returns its number and outcome."""
        ...

    def __enter__(self) -> Workers:
        """Starts."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends; trials that run are abandoned."""
        ...


class InlineWorkers:
    """Runs a trial when it is waited for."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._waiting: deque[TrialRequest] = deque()

    def submit(self, request: TrialRequest) -> None:
        """Takes a trial on."""
        self._waiting.append(request)

    def wait(self) -> tuple[int, TrialOutcome]:
        """Runs the earliest trial."""
        request = self._waiting.popleft()
        return request.id, self._proxy(request)

    def __enter__(self) -> InlineWorkers:
        """Starts nothing."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends nothing."""


class ProcessWorkers:
    """Runs trials in processes of this machine."""

    def __init__(self, proxy: Proxy, processes: int) -> None:
        self._proxy = proxy
        # spawn: a forked torch may hang in its thread pool.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(processes, mp_context=context)
        self._running: dict[Future[TrialOutcome], int] = {}

    def submit(self, request: TrialRequest) -> None:
        """Takes a trial on."""
        self._running[self._pool.submit(self._proxy, request)] = request.id

    def wait(self) -> tuple[int, TrialOutcome]:
        """Waits until some trial is done."""
        finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
        future = min(finished, key=lambda item: self._running[item])
        return self._running.pop(future), future.result()

    def __enter__(self) -> ProcessWorkers:
        """Starts nothing yet; processes start with their first trial."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the processes."""
        self._pool.shutdown(wait=kind is None, cancel_futures=True)


class RayWorkers:
    """Runs trials as Ray tasks, on the cluster RAY_ADDRESS names or on this machine.

    Raises:
        ConfigurationError: Ray is not installed.
    """

    def __init__(self, proxy: Proxy) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigurationError(
                "trials cannot run on Ray: it is not installed; pip install 'ray[tune]', or use workers "
                "'processes'"
            ) from error
        self._ray: Any = ray
        if not ray.is_initialized():
            ray.init()
        self._proxy = ray.put(proxy)
        self._task = ray.remote(max_retries=3)(_run_on_ray)
        self._running: dict[Any, int] = {}

    def submit(self, request: TrialRequest) -> None:
        """Takes a trial on."""
        self._running[self._task.remote(self._proxy, request)] = request.id

    def wait(self) -> tuple[int, TrialOutcome]:
        """Waits until some trial is done."""
        (reference,), _ = self._ray.wait(list(self._running), num_returns=1)
        return self._running.pop(reference), self._ray.get(reference)

    def __enter__(self) -> RayWorkers:
        """Starts nothing more."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cancels what still runs."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)


def _run_on_ray(proxy: Proxy, request: TrialRequest) -> TrialOutcome:
    return proxy(request)


def make_workers(kind: WorkerKind, proxy: Proxy, parallel: int) -> Workers:
    """Returns what runs the trials.

    Raises:
        ConfigurationError: Ray is wanted and not installed, or the kind is unknown.
    """
    if kind == "inline":
        return InlineWorkers(proxy)
    if kind == "processes":
        return ProcessWorkers(proxy, parallel)
    if kind == "ray":
        return RayWorkers(proxy)
    raise ConfigurationError(f"unknown workers '{kind}'; valid are: inline, processes, ray")
