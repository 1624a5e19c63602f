"""The node that hosts a task head: a component whose outputs become messages."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmmt_msgs.msg import TensorAnnouncement

from perception_nodes.decoders.decoder import Decoder, make_decoder
from perception_nodes.nodes.component import ComponentNode


class TaskHeadNode(ComponentNode):
    """Runs a head and publishes its task; its tensors are announced where a component takes them."""

    _decoder: Decoder

    def setup_outputs(self) -> None:
        """Creates the task's publishers."""
        bundle = self.process_context.bundle
        self._decoder = make_decoder(self, bundle, self.component)
        if bundle.consumers_of(self.component):
            super().setup_outputs()

    def emit(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes the task's message, and announces the tensors if a component consumes them."""
        self._decoder.publish(frame, outputs)
        if self._writer is not None:
            super().emit(frame, outputs)

    def after_emit(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes what viewers show."""
        self._decoder.publish_views(frame, outputs)
