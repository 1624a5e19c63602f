"""The learned control head's output to ControlProposal."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from geometry_msgs.msg import Point
from mmmt_msgs.msg import ControlProposal, TensorAnnouncement
from rclpy.node import Node

from perception_core.bundle import Bundle, ComponentSpec
from perception_core.configuration import ConfigurationError
from perception_nodes import topics
from perception_nodes.decoders.decoder import register_decoder


@register_decoder("control_proposal")
class ControlProposalDecoder:
    """Decodes the outputs steering angle [rad], speed [m/s] and waypoints (k, 2) in the ego frame, in this
    order.
    """

    def __init__(self, node: Node, bundle: Bundle, spec: ComponentSpec) -> None:
        """Creates the publisher.

        Raises:
            ConfigurationError: The head does not have exactly three outputs.
        """
        if len(spec.outputs) != 3:
            raise ConfigurationError(
                f"{bundle.path / 'bundle.yaml'}: a control_proposal head has the outputs steering, speed, "
                f"waypoints, not {list(spec.outputs)}"
            )
        self._steering, self._speed, self._waypoints = spec.outputs
        self._publisher = node.create_publisher(ControlProposal, topics.CONTROL_PROPOSAL, topics.reliable())

    def publish(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes the proposal as it is; `control` judges it."""
        self._publisher.publish(
            ControlProposal(
                header=frame.header,
                trace_id=frame.trace_id,
                sensors=frame.sensors,
                steering_angle=float(outputs[self._steering].reshape(-1)[0]),
                speed=float(outputs[self._speed].reshape(-1)[0]),
                waypoints=[
                    Point(x=x, y=y) for x, y in outputs[self._waypoints].reshape(-1, 2).cpu().tolist()
                ],
            )
        )

    def publish_views(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """A proposal has no picture of its own."""
