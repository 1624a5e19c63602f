"""3D boxes to DetectedObjectArray and, for viewers, to MarkerArray."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence

import torch
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from mmmt_msgs.msg import DetectedObject, DetectedObjectArray, TensorAnnouncement
from rclpy.node import Node
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from perception_core.bundle import Bundle, ComponentSpec
from perception_core.configuration import ConfigurationError
from perception_nodes import topics
from perception_nodes.decoders.decoder import register_decoder


def angles_to_quaternion(yaw: float, pitch: float, roll: float) -> Quaternion:
    """Rotation Rz(yaw) Ry(pitch) Rx(roll), radians."""
    (cy, sy), (cp, sp), (cr, sr) = ((math.cos(a / 2), math.sin(a / 2)) for a in (yaw, pitch, roll))
    return Quaternion(
        x=sr * cp * cy - cr * sp * sy,
        y=cr * sp * cy + sr * cp * sy,
        z=cr * cp * sy - sr * sp * cy,
        w=cr * cp * cy + sr * sp * sy,
    )


def label_colour(index: int, count: int, alpha: float) -> ColorRGBA:
    """A colour per class, evenly spread over the colour circle and the same in every run."""
    red, green, blue = colorsys.hsv_to_rgb(index / max(count, 1), 0.75, 1.0)
    return ColorRGBA(r=red, g=green, b=blue, a=alpha)


def object_markers(
    header: Header, objects: Sequence[DetectedObject], labels: Sequence[str], namespace: str
) -> MarkerArray:
    """Boxes and class names as markers; the first marker clears what an earlier frame showed.

    Args:
        header: Stamp and frame of the objects.
        objects: The objects.
        labels: Every class name, in the order that gives colours.
        namespace: Marker namespace, e.g. the task.
    """
    markers = [Marker(header=header, ns=namespace, action=Marker.DELETEALL)]
    order = {label: index for index, label in enumerate(labels)}
    for index, detected in enumerate(objects):
        colour = label_colour(order.get(detected.label, 0), len(labels), 0.45)
        markers.append(
            Marker(
                header=header,
                ns=namespace,
                id=2 * index,
                type=Marker.CUBE,
                pose=detected.pose,
                scale=detected.size,
                color=colour,
            )
        )
        above = Pose(
            position=Point(
                x=detected.pose.position.x,
                y=detected.pose.position.y,
                z=detected.pose.position.z + detected.size.z / 2 + 0.5,
            )
        )
        markers.append(
            Marker(
                header=header,
                ns=namespace,
                id=2 * index + 1,
                type=Marker.TEXT_VIEW_FACING,
                pose=above,
                scale=Vector3(z=0.6),
                color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=0.9),
                text=f"{detected.label} {detected.score:.2f}",
            )
        )
    return MarkerArray(markers=markers)


@register_decoder("boxes3d")
class BoxDecoder:
    """Decodes `detection_boxes_q9` (x y z l w h yaw vx vy, ego frame), `detection_scores_q`,
    `detection_labels_q` and, where the head gives it, pitch and roll (Q, 2).

    Options: `score_threshold` (objects below it are not published), `max_objects`, `has_velocity` (false:
    the head does not know velocities).
    """

    def __init__(self, node: Node, bundle: Bundle, spec: ComponentSpec) -> None:
        """Creates the publishers of the task.

        Raises:
            ConfigurationError: The bundle lists no labels for the task or not three or four outputs.
        """
        assert spec.task is not None
        self._task = spec.task
        self._labels = bundle.spec.labels.get(self._task, ())
        if not self._labels or len(spec.outputs) not in (3, 4):
            raise ConfigurationError(
                f"{bundle.path / 'bundle.yaml'}: a boxes3d head needs labels for task '{self._task}' and the "
                f"outputs boxes, scores, labels; it has {len(self._labels)} labels and the outputs "
                f"{list(spec.outputs)}"
            )
        self._boxes, self._scores, self._classes = spec.outputs[:3]
        self._tilt = spec.outputs[3] if len(spec.outputs) == 4 else None
        self._has_velocity = bool(spec.decoder_options.get("has_velocity", True))
        self._threshold = float(spec.decoder_options.get("score_threshold", 0.1))
        self._max_objects = int(spec.decoder_options.get("max_objects", 200))
        self._publisher = node.create_publisher(
            DetectedObjectArray, topics.objects_of(self._task), topics.reliable()
        )
        self._markers = node.create_publisher(MarkerArray, topics.markers_of(self._task), topics.reliable())
        self._last: DetectedObjectArray | None = None

    def publish(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes the objects above the threshold, best first; boxes that are not finite are left out."""
        scores_q = outputs[self._scores].float().cpu()
        boxes_q9 = outputs[self._boxes].float().cpu()
        keep_q = (
            (scores_q >= self._threshold)
            & torch.isfinite(boxes_q9).all(dim=1)
            & (boxes_q9[:, 3:6] > 0).all(dim=1)
        )
        order = torch.argsort(scores_q[keep_q], descending=True)[: self._max_objects]
        scores = scores_q[keep_q][order].tolist()
        boxes = boxes_q9[keep_q][order].tolist()
        classes = outputs[self._classes].cpu()[keep_q][order].tolist()
        tilts = [[0.0, 0.0]] * len(scores)
        if self._tilt is not None:
            tilts = outputs[self._tilt].float().cpu()[keep_q][order].tolist()
        message = DetectedObjectArray(
            header=frame.header, trace_id=frame.trace_id, task=self._task, sensors=frame.sensors
        )
        message.objects = [
            self._object(*detected) for detected in zip(scores, boxes, classes, tilts, strict=True)
        ]
        self._publisher.publish(message)
        self._last = message

    def publish_views(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Publishes markers where somebody listens."""
        if self._last is not None and self._markers.get_subscription_count() > 0:
            self._markers.publish(
                object_markers(self._last.header, self._last.objects, self._labels, self._task)
            )

    def _object(self, score: float, box: list[float], label: int, tilt: list[float]) -> DetectedObject:
        x, y, z, length, width, height, yaw, velocity_x, velocity_y = box
        return DetectedObject(
            label=self._labels[label],
            score=score,
            pose=Pose(position=Point(x=x, y=y, z=z), orientation=angles_to_quaternion(yaw, *tilt)),
            size=Vector3(x=length, y=width, z=height),
            has_velocity=self._has_velocity,
            velocity=Vector3(x=velocity_x, y=velocity_y, z=0.0),
        )
