"""Bird's-eye-view map layers to MapSegmentation and, for viewers, one OccupancyGrid a layer."""

from __future__ import annotations

import array
from collections.abc import Mapping

import torch
from geometry_msgs.msg import Point, Pose, Quaternion
from mmmt_msgs.msg import MapSegmentation, TensorAnnouncement
from nav_msgs.msg import MapMetaData, OccupancyGrid
from rclpy.node import Node

from perception_core.bundle import Bundle, ComponentSpec
from perception_core.configuration import ConfigurationError
from perception_nodes import topics
from perception_nodes.decoders.decoder import register_decoder


@register_decoder("map_layers")
class MapDecoder:
    """Decodes `map_probability_khw`: layers x rows along +y x columns along +x, probabilities, ego frame.

    Options: `resolution_m` (cell size), `origin_xy` (ego coordinates of the corner of cell row 0, column 0).
    """

    def __init__(self, node: Node, bundle: Bundle, spec: ComponentSpec) -> None:
        """Creates the publishers of the task.

        Raises:
            ConfigurationError: Labels or options are missing.
        """
        assert spec.task is not None
        options = spec.decoder_options
        self._layers = bundle.spec.labels.get(spec.task, ())
        if not self._layers or "resolution_m" not in options or "origin_xy" not in options:
            raise ConfigurationError(
                f"{bundle.path / 'bundle.yaml'}: a map_layers head needs labels of task '{spec.task}' and "
                "the decoder options resolution_m and origin_xy"
            )
        (self._output,) = spec.outputs
        self._resolution = float(options["resolution_m"])
        x, y = options["origin_xy"]
        self._origin = Pose(position=Point(x=float(x), y=float(y), z=0.0), orientation=Quaternion(w=1.0))
        self._publisher = node.create_publisher(MapSegmentation, topics.map_of(spec.task), topics.reliable())
        self._grids = {
            layer: node.create_publisher(OccupancyGrid, topics.grid_of(spec.task, layer), topics.reliable())
            for layer in self._layers
        }

    def publish(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes all layers in one message."""
        probability_khw = outputs[self._output]
        values_khw = (probability_khw.clamp(0, 1) * 255).round().to(torch.uint8).cpu().contiguous()
        data = array.array("B")
        data.frombytes(values_khw.numpy().tobytes())
        self._publisher.publish(
            MapSegmentation(
                header=frame.header,
                trace_id=frame.trace_id,
                sensors=frame.sensors,
                info=self._info(frame, values_khw.shape[2], values_khw.shape[1]),
                layers=list(self._layers),
                probability=data,
            )
        )

    def publish_views(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes the layers somebody listens to, as percentages."""
        probability_khw = outputs[self._output]
        for index, layer in enumerate(self._layers):
            if self._grids[layer].get_subscription_count() == 0:
                continue
            percent_hw = (probability_khw[index].clamp(0, 1) * 100).round().to(torch.int8).cpu().contiguous()
            data = array.array("b")
            data.frombytes(percent_hw.numpy().tobytes())
            self._grids[layer].publish(
                OccupancyGrid(
                    header=frame.header,
                    info=self._info(frame, percent_hw.shape[1], percent_hw.shape[0]),
                    data=data,
                )
            )

    def _info(self, frame: TensorAnnouncement, width: int, height: int) -> MapMetaData:
        return MapMetaData(
            map_load_time=frame.header.stamp,
            resolution=self._resolution,
            width=width,
            height=height,
            origin=self._origin,
        )
