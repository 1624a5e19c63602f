"""Semantic segmentation and dense depth of one camera to Image, depth also to PointCloud2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmmt_msgs.msg import TensorAnnouncement
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import Image, PointCloud2, PointField

from perception_core.bundle import Bundle, ComponentSpec
from perception_core.configuration import ConfigurationError
from perception_core.dense_images import (
    class_colours,
    class_image,
    cloud_points,
    depth_image,
    depth_picture,
)
from perception_nodes import topics
from perception_nodes.decoders.decoder import register_decoder
from perception_nodes.recordings.ros_messages import byte_array


class _CameraDecoder:
    """What both tasks share: one camera, one size of image, nothing published while the camera is masked.

    Options: `camera` (modality), `height` and `width` (of the published images).
    """

    def __init__(self, node: Node, bundle: Bundle, spec: ComponentSpec, outputs: int) -> None:
        assert spec.task is not None
        options = spec.decoder_options
        missing = [key for key in ("camera", "height", "width") if key not in options]
        if missing or len(spec.outputs) != outputs:
            raise ConfigurationError(
                f"{bundle.path / 'bundle.yaml'}: head of '{spec.task}' needs {outputs} outputs and the "
                f"decoder options camera, height and width; it has {list(spec.outputs)} and lacks "
                f"{missing or 'none'}"
            )
        self.task = spec.task
        self.outputs = spec.outputs
        self.camera = str(options["camera"])
        self.size = (int(options["height"]), int(options["width"]))
        rig = getattr(getattr(node, "process_context", None), "rig", None)
        sensor = None if rig is None else rig.cameras.get(self.camera)
        # The optical frame where the rig names it, else the modality's name: what RViz lists.
        self.frame = (sensor.frame if sensor is not None else "") or self.camera
        self.images = node.create_publisher(Image, topics.image_of(self.task), topics.reliable())
        self.pictures = node.create_publisher(Image, topics.picture_of(self.task), topics.reliable())

    def sees(self, frame: TensorAnnouncement) -> bool:
        """Whether the frame contains the camera."""
        return any(sensor.modality == self.camera and sensor.valid for sensor in frame.sensors)

    def image(self, frame: TensorAnnouncement, pixels: NDArray[Any], encoding: str) -> Image:
        """Makes a message of pixels (rows, columns) or (rows, columns, 3)."""
        data = np.ascontiguousarray(pixels)
        message = Image(
            height=data.shape[0],
            width=data.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=data.strides[0],
        )
        message.header.stamp = frame.header.stamp
        message.header.frame_id = self.frame
        message.data = byte_array(data.tobytes())
        return message


@register_decoder("semantic_image")
class SemanticImageDecoder(_CameraDecoder):
    """Decodes `semantic_logits_vkhw` of one view to an Image of class numbers (mono8; 255: not known)."""

    def __init__(self, node: Node, bundle: Bundle, spec: ComponentSpec) -> None:
        """Creates the publishers of the task.

        Raises:
            ConfigurationError: Labels, outputs or options are missing.
        """
        super().__init__(node, bundle, spec, outputs=1)
        labels = bundle.spec.labels.get(self.task, ())
        if not labels:
            raise ConfigurationError(f"{bundle.path / 'bundle.yaml'}: no labels of task '{self.task}'")
        self._colours = class_colours(labels)
        self._last: NDArray[np.uint8] | None = None

    def publish(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes class numbers."""
        self._last = None
        if self.sees(frame):
            self._last = class_image(outputs[self.outputs[0]][0], self.size)
            self.images.publish(self.image(frame, self._last, "mono8"))

    def publish_views(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes the classes' colours where somebody looks."""
        if self._last is not None and self.pictures.get_subscription_count() > 0:
            self.pictures.publish(self.image(frame, self._colours[self._last], "rgb8"))


@register_decoder("depth_image")
class DepthImageDecoder(_CameraDecoder):
    """Decodes `depth_vhw` of one view to an Image (32FC1, metres, NaN: not known) and `depth_points_nc` to a
    PointCloud2 in the ego frame.

    Options: also `farthest_m` (larger depths are not known), default 80.
    """

    def __init__(self, node: Node, bundle: Bundle, spec: ComponentSpec) -> None:
        """Creates the publishers of the task.

        Raises:
            ConfigurationError: Outputs or options are missing.
        """
        super().__init__(node, bundle, spec, outputs=2)
        self._farthest_m = float(spec.decoder_options.get("farthest_m", 80.0))
        self._clouds = node.create_publisher(PointCloud2, topics.points_of(self.task), topics.reliable())
        self._last: NDArray[np.float32] | None = None

    def publish(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes the depth image."""
        self._last = None
        if self.sees(frame):
            self._last = depth_image(outputs[self.outputs[0]][0], self.size, self._farthest_m)
            self.images.publish(self.image(frame, self._last, "32FC1"))

    def publish_views(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes the points, and depth as colours, where somebody listens."""
        if self._last is None:
            return
        if self.pictures.get_subscription_count() > 0:
            self.pictures.publish(self.image(frame, depth_picture(self._last, self._farthest_m), "rgb8"))
        if self._clouds.get_subscription_count() > 0:
            self._clouds.publish(self._cloud(frame, outputs))

    def _cloud(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> PointCloud2:
        depth_hw = outputs[self.outputs[0]][0]
        points_nc = cloud_points(outputs[self.outputs[1]], depth_hw, self._farthest_m)
        rows, columns = depth_hw.shape
        message = PointCloud2(
            header=frame.header,
            height=rows,
            width=columns,
            fields=[
                PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
                for index, name in enumerate("xyz")
            ],
            is_bigendian=False,
            point_step=12,
            row_step=12 * columns,
            is_dense=bool(np.isfinite(points_nc).all()),
        )
        message.data = byte_array(np.ascontiguousarray(points_nc).tobytes())
        return message
