"""Processes of their own for the transport tests: a `writer` sends frames, a `reader` takes and holds them.

Children are forked from a server that has imported everything once: a test may start many and need not wait.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT_S = 100.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["transport_child", "transport_fixtures", "perception_nodes.transport.shared_memory"]
)


def handle_to_fields(handle: Any) -> dict[str, Any]:
    """Returns a handle's fields: messages themselves cannot be pickled."""
    return {
        "name": handle.name,
        "transport": handle.transport,
        "handle": handle.handle,
        "shape": list(handle.shape),
        "dtype": handle.dtype,
        "device": handle.device,
    }


class Child:
    """Parent's end of one child."""

    def __init__(self, role: str, run_id: str, ring_size: int = 4) -> None:
        """Starts the child and waits until it is ready."""
        self._pipe, theirs = _context.Pipe()
        self.process = _context.Process(target=_main, args=(theirs, role, run_id, ring_size), daemon=True)
        self.process.start()
        theirs.close()
        assert self.answer() == "ready"

    def tell(self, value: Any) -> None:
        """Sends a request."""
        self._pipe.send(value)

    def answer(self) -> Any:
        """Receives an answer; fails when none comes."""
        assert self._pipe.poll(TIMEOUT_S), "the child does not answer"
        return self._pipe.recv()

    def kill(self) -> None:
        """Ends the child with SIGKILL and waits for it."""
        self.process.kill()
        self.process.join(timeout=TIMEOUT_S)
        self._pipe.close()


def _main(pipe: Connection, role: str, run_id: str, ring_size: int) -> None:
    from mmmt_msgs.msg import TensorHandle
    from transport_fixtures import make_frame

    from perception_nodes.transport.shared_memory import (
        SharedMemoryOptions,
        SharedMemoryReader,
        SharedMemoryWriter,
    )

    options = SharedMemoryOptions(run_id=run_id, producer="net", ring_size=ring_size, readers=2)
    end: Any = SharedMemoryWriter(options) if role == "writer" else SharedMemoryReader(options)
    pipe.send("ready")
    held = []
    while True:
        request = pipe.recv()
        if role == "writer":
            handles = end.put(request["trace_id"], make_frame(request["trace_id"]))
            pipe.send([handle_to_fields(handle) for handle in handles])
        else:
            tensors = end.take(request["trace_id"], [TensorHandle(**fields) for fields in request["handles"]])
            held.append(tensors)
            pipe.send({name: float(tensor.sum()) for name, tensor in tensors.items()})
