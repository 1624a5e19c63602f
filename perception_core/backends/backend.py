"""What a backend gives: a loaded component that turns named tensors into named tensors on its device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch


class ComponentRunner(Protocol):
    """One component, loaded and warm.

    Call it from one thread, the one that loaded it: its compute threads and their pinning belong to that
    thread.
    """

    @property
    def component(self) -> str:
        """Name of the component in its bundle."""
        ...

    @property
    def torch_device(self) -> torch.device:
        """Where its output tensors are."""
        ...

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs one frame.

        Args:
            inputs: The tensors the component's ComponentSpec lists, on any device.

        Returns:
            Its outputs by graph name, finished: on a GPU the call returns when the work is done, so that
            timings hold.
        """
        ...
