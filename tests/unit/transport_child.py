"""A process of its own for the transport tests: `writer` sends a frame per input line, `reader` takes one
frame, then sleeps.

Each line on standard output is one JSON object; the tests start it with `Child`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def handle_to_json(handle: Any) -> dict[str, Any]:
    """Returns a handle's fields as JSON can hold them."""
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
        path = os.pathsep.join(
            [str(REPOSITORY), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        )
        environment = dict(os.environ, PYTHONPATH=path)
        self.process = subprocess.Popen(
            [sys.executable, __file__, role, run_id, str(ring_size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.answer() == {"ready": True}

    def tell(self, value: Any) -> None:
        """Sends one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Receives one line; fails when the child has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"child ended with {self.process.poll()}"
        return json.loads(line)

    def kill(self) -> None:
        """Ends the child with SIGKILL and waits for it."""
        self.process.kill()
        self.process.wait(timeout=10)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def _main() -> None:
    from mmmt_msgs.msg import TensorHandle
    from transport_fixtures import make_frame

    from perception_nodes.transport.shared_memory import (
        SharedMemoryOptions,
        SharedMemoryReader,
        SharedMemoryWriter,
    )

    role, run_id, ring_size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    options = SharedMemoryOptions(run_id=run_id, producer="net", ring_size=ring_size, readers=2)
    end: Any = SharedMemoryWriter(options) if role == "writer" else SharedMemoryReader(options)
    print(json.dumps({"ready": True}), flush=True)
    held = []
    for line in sys.stdin:
        request = json.loads(line)
        if role == "writer":
            handles = end.put(request["trace_id"], make_frame(request["trace_id"]))
            print(json.dumps([handle_to_json(handle) for handle in handles]), flush=True)
        else:
            tensors = end.take(request["trace_id"], [TensorHandle(**handle) for handle in request["handles"]])
            held.append(tensors)
            print(json.dumps({name: float(tensor.sum()) for name, tensor in tensors.items()}), flush=True)
    end.close()


if __name__ == "__main__":
    _main()
