"""The stop request of a process."""

from __future__ import annotations

import os

from perception_nodes.runtime.stop_request import StopRequest, process_stop


def test_the_first_request_counts() -> None:
    stop = StopRequest()
    assert not stop.wait(0.0)

    stop.set("told to", 0)
    stop.set("failed", 1)

    assert stop.wait(0.0)
    assert (stop.reason, stop.exit_code) == ("told to", 0)


def test_a_fork_does_not_stop_its_parent() -> None:
    ours = process_stop()
    child = os.fork()
    if child == 0:
        process_stop().set("the child's own")
        os._exit(0 if process_stop().is_set() and not ours.is_set() else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not ours.wait(0.0)
