"""What a decoder is, and the registry a bundle's `decoder` key is looked up in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from mmmt_msgs.msg import TensorAnnouncement
from rclpy.node import Node

from perception_core.bundle import Bundle, ComponentSpec
from perception_core.configuration import ConfigurationError, nearest


class Decoder(Protocol):
    """Turns one head's outputs into messages."""

    def publish(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes the message other nodes of the stack work with."""
        ...

    def publish_views(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes what only a viewer needs, and only where one listens."""
        ...


DecoderFactory = Callable[[Node, Bundle, ComponentSpec], Decoder]
_registry: dict[str, DecoderFactory] = {}


def register_decoder(name: str) -> Callable[[DecoderFactory], DecoderFactory]:
    """Enters a decoder under the name bundles use for it."""

    def enter(factory: DecoderFactory) -> DecoderFactory:
        if name in _registry:
            raise ValueError(f"decoder '{name}' is registered twice")
        _registry[name] = factory
        return factory

    return enter


def make_decoder(node: Node, bundle: Bundle, component: str) -> Decoder:
    """Creates the decoder a bundle names for a head.

    Raises:
        ConfigurationError: The head has no task or names a decoder that does not exist.
    """
    # Imported here so that the registry is full before it is searched, without an import cycle.
    from perception_nodes.decoders import boxes, camera_images, control_proposal, map_layers  # noqa: F401

    spec = bundle.spec.components[component]
    where = bundle.path / "bundle.yaml"
    if spec.task is None or spec.decoder is None:
        raise ConfigurationError(f"{where}: head '{component}' needs both 'task' and 'decoder'")
    if spec.decoder not in _registry:
        raise ConfigurationError(
            f"{where}: head '{component}' names unknown decoder '{spec.decoder}'"
            + nearest(spec.decoder, _registry)
        )
    return _registry[spec.decoder](node, bundle, spec)
