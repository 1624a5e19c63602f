"""A stand-in for a running stack: publishes what a stack publishes, over DDS, with figures known
beforehand.
"""

from __future__ import annotations

import array
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from mmmt_msgs.msg import (
    ControlCommand,
    DetectedObject,
    DetectedObjectArray,
    FusionStatus,
    MapSegmentation,
    SensorStamp,
    StageTiming,
)
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2, PointField

from perception_core.deployment import ResolvedDeployment, load_deployment
from perception_nodes import topics
from perception_nodes.runtime.stack_node import host_id

RIG = """
name: report_test
ego_frame: base_link
lidar: {topic: /lidar/points, frame: lidar, trusted_range_m: 40, intensity_scale: 1}
cameras:
  camera_front: {topic: /camera_front/image/compressed, frame: camera_front, trusted_range_m: 40}
  camera_back: {topic: /camera_back/image/compressed, frame: camera_back}
calibration: {extrinsics: file, intrinsics: camera_info, file: calibration.yaml}
"""

CALIBRATION = """
format: 1
frames:
  lidar: {parent: base_link, translation: [1.0, 0.0, 1.8], rotation_xyzw: [0, 0, 0, 1]}
  camera_front: {parent: base_link, translation: [1.5, 0.0, 1.5], rotation_xyzw: [-0.5, 0.5, -0.5, 0.5]}
  camera_back: {parent: base_link, translation: [0.0, 0.0, 1.5], rotation_xyzw: [0.5, 0.5, -0.5, -0.5]}
"""


def resolve(folder: Path, deployment: str = "cpu-2core", *overrides: str) -> ResolvedDeployment:
    """The deployment on a rig of one LiDAR and two cameras that is written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rig.yaml").write_text(RIG)
    (folder / "calibration.yaml").write_text(CALIBRATION)
    return load_deployment(deployment, [f"rig:={folder / 'rig.yaml'}", *overrides])


@dataclass
class SyntheticStack:
    """Publishes frames as a stack would; counts what it sent.

    Attributes:
        resolved: The deployment it pretends to run.
        sent: Messages by topic name.
    """

    resolved: ResolvedDeployment
    sent: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node("synthetic_stack", namespace=topics.NAMESPACE, context=self._context)
        self._publishers: dict[str, Any] = {}
        self._trace_id = 1000
        self._sequence = 0
        self._frames = 0

    def close(self) -> None:
        """Ends it."""
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def wait_for_recorder(self, timeout_s: float = 60.0) -> None:
        """Waits until the recorder listens to everything."""
        rig = self.resolved.rig
        wanted: list[tuple[type, str]] = [
            (StageTiming, topics.TIMING),
            (ControlCommand, topics.CONTROL_COMMAND),
            (FusionStatus, topics.FUSION_STATUS),
            (DiagnosticArray, topics.DIAGNOSTICS),
            (DetectedObjectArray, topics.objects_of("detection3d")),
            (DetectedObjectArray, topics.GROUND_TRUTH_OBJECTS),
            (MapSegmentation, topics.map_of("map_segmentation")),
            (Odometry, rig.odometry.topic if rig.odometry else "/odom"),
        ]
        if rig.lidar:
            wanted.append((PointCloud2, rig.lidar.topic))
        for camera in rig.cameras.values():
            wanted += [(CompressedImage, camera.topic), (CameraInfo, camera.info_topic())]
        publishers = [self._publisher(kind, topic) for kind, topic in wanted]
        deadline = time.monotonic() + timeout_s
        while not all(publisher.get_subscription_count() for publisher in publishers):
            if time.monotonic() > deadline:
                missing = [p.topic_name for p in publishers if not p.get_subscription_count()]
                raise AssertionError(f"the recorder does not listen to {missing}")
            time.sleep(0.02)
        time.sleep(0.3)

    def send(self, topic: str, message: Any) -> None:
        """Publishes and counts one message."""
        self._publisher(type(message), topic).publish(message)
        self.sent[topic] = self.sent.get(topic, 0) + 1

    def _publisher(self, kind: type, topic: str) -> Any:
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(kind, topic, topics.reliable(200))
        return self._publishers[topic]

    # -- one frame ---------------------------------------------------------------------------------

    def frame(self, latency_ms: float = 100.0, masked: Iterable[str] = (), outputs: bool = True) -> int:
        """Publishes one frame's sensor data, timings, outputs and command; returns its trace id.

        Args:
            latency_ms: Of every path from stamp to task output.
            masked: Modalities left out.
            outputs: Publish what the tasks made of it.
        """
        self._trace_id += 1
        self._frames += 1
        stamp_ns = time.time_ns() - 5_000_000
        received_ns = time.monotonic_ns()
        rig = self.resolved.rig
        present = [modality for modality in rig.modalities if modality not in masked]
        sensors = [
            self._stamp(modality, stamp_ns, received_ns, modality in present) for modality in rig.modalities
        ]
        self.sensor_data(present, stamp_ns)
        if outputs:
            self._stages(sensors, stamp_ns, received_ns, latency_ms)
            self._outputs(sensors, stamp_ns)
        self.send(topics.FUSION_STATUS, self.fusion_status())
        return self._trace_id

    def sensor_data(self, present: Iterable[str], stamp_ns: int) -> None:
        """Publishes a sweep, pictures, calibration, odometry and ground truth."""
        rig = self.resolved.rig
        for modality in present:
            if modality == "lidar" and rig.lidar:
                self.send(rig.lidar.topic, self._sweep(stamp_ns))
            else:
                camera = rig.cameras[modality]
                info, picture = self._picture(modality, stamp_ns)
                self.send(camera.info_topic(), info)
                self.send(camera.topic, picture)
        odometry = Odometry(child_frame_id=rig.ego_frame)
        _set_stamp(odometry, stamp_ns)
        odometry.twist.twist.linear.x = 5.0
        self.send(rig.odometry.topic if rig.odometry else "/odom", odometry)
        truth = DetectedObjectArray(task="ground_truth", objects=[box("car", 1.0, 15.0, 2.0)])
        _set_stamp(truth, stamp_ns)
        self.send(topics.GROUND_TRUTH_OBJECTS, truth)

    def command(self, state: int = ControlCommand.STATE_DRIVING, **values: float) -> ControlCommand:
        """Publishes a lawful command of a slow vehicle, changed by `values`."""
        self._sequence += 1
        fields: dict[str, Any] = {
            "speed": 3.0,
            "measured_speed": 3.0,
            "speed_limit": 8.0,
            "sight_distance": 40.0,
            "reaction_time": 0.4,
            "perception_age": 0.1,
            **values,
        }
        message = ControlCommand(
            trace_id=self._trace_id, sequence=self._sequence, engaged=True, state=state, **fields
        )
        _set_stamp(message, time.time_ns())
        self.send(topics.CONTROL_COMMAND, message)
        return message

    def skip_commands(self, count: int) -> None:
        """Counts commands as sent that are never published."""
        self._sequence += count

    def fault(self, name: str, text: str, count: int) -> None:
        """Publishes a diagnostic as StackNode.fault does."""
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR,
            name=name,
            message=text,
            values=[KeyValue(key="count", value=str(count))],
        )
        self.send(topics.DIAGNOSTICS, DiagnosticArray(status=[status]))

    def fusion_status(self) -> FusionStatus:
        """The account so far: one sweep in eleven was dropped, every fifth frame lacked a camera."""
        modalities = list(self.resolved.rig.modalities)
        dropped = self._frames // 10
        return FusionStatus(
            frames_in=self._frames + dropped,
            frames_out=self._frames,
            frames_dropped=dropped,
            frames_masked=self._frames // 5,
            drop_reasons=["stack busy"],
            drop_counts=[dropped],
            modalities=modalities,
            received=[self._frames + dropped] * len(modalities),
            rejected=[0] * len(modalities),
            masked=[0] * (len(modalities) - 1) + [self._frames // 5],
        )

    def _stamp(self, modality: str, stamp_ns: int, received_ns: int, valid: bool) -> SensorStamp:
        stamp = SensorStamp(
            modality=modality, valid=valid, received_ns=received_ns, age_at_reception_ns=5_000_000
        )
        stamp.stamp.sec, stamp.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        return stamp

    def _stages(self, sensors: list[SensorStamp], stamp_ns: int, received_ns: int, latency_ms: float) -> None:
        """Timings in the order of the graph, such that task outputs are done `latency_ms` after the stamp."""
        placement, bundle = self.resolved.deployment.placement, self.resolved.bundle.spec
        inside_ns = round(latency_ms * 1e6) - 5_000_000
        heads = [name for name, spec in bundle.components.items() if spec.task is not None]
        inner = [name for name in bundle.components if name not in heads]
        done_ns = received_ns + inside_ns // 10
        self._timing(
            "sensor_fusion", "", "", "sensing", sensors, stamp_ns, (received_ns, received_ns, done_ns)
        )
        step = (inside_ns - inside_ns // 10) // (len(inner) + 1)
        begin = done_ns
        for name in inner:
            device = placement[name]
            times = (begin, begin + step // 10, begin + step)
            self._timing(name, "", device, self._process_of(name), sensors, stamp_ns, times)
            begin += step
        for name in heads:
            task, device = bundle.components[name].task, placement[name]
            times = (begin, begin + step // 10, received_ns + inside_ns)
            self._timing(name, task or "", device, self._process_of(name), sensors, stamp_ns, times)

    def _process_of(self, component: str) -> str:
        return next(name for name, nodes in self.resolved.processes.items() if component in nodes)

    def _timing(
        self,
        stage: str,
        task: str,
        device: str,
        process: str,
        sensors: list[SensorStamp],
        stamp_ns: int,
        times: tuple[int, int, int],
    ) -> None:
        queued_ns, started_ns, done_ns = times
        timing = StageTiming(
            trace_id=self._trace_id,
            stage=stage,
            task=task,
            device=device,
            process=process,
            host=host_id(),
            queued_ns=queued_ns,
            started_ns=started_ns,
            done_ns=done_ns,
            compute_ns=done_ns - started_ns,
            sensors=sensors,
        )
        _set_stamp(timing, stamp_ns)
        # Timings leave when the stage is done, not before: the path code refuses what was done in the future.
        time.sleep(max(0.0, (done_ns - time.monotonic_ns()) * 1e-9))
        self.send(topics.TIMING, timing)

    def _outputs(self, sensors: list[SensorStamp], stamp_ns: int) -> None:
        objects = [box("car", 0.9, 15.5, 2.2), box("pedestrian", 0.4, 8.0, -4.0)]
        found = DetectedObjectArray(
            trace_id=self._trace_id, task="detection3d", sensors=sensors, objects=objects
        )
        _set_stamp(found, stamp_ns)
        self.send(topics.objects_of("detection3d"), found)
        layers, rows, columns = ["drivable_area", "divider"], 40, 60
        probability = np.zeros((2, rows, columns), dtype=np.uint8)
        probability[0, 10:30], probability[1, 20:21] = 220, 200
        road = MapSegmentation(trace_id=self._trace_id, sensors=sensors, layers=layers)
        road.info.width, road.info.height, road.info.resolution = columns, rows, 1.0
        road.info.origin.position.x, road.info.origin.position.y = -10.0, -20.0
        road.probability = _bytes(probability)
        _set_stamp(road, stamp_ns)
        self.send(topics.map_of("map_segmentation"), road)

    def _sweep(self, stamp_ns: int) -> PointCloud2:
        angle = np.linspace(0, 2 * np.pi, 2000, dtype=np.float32)
        points = np.stack(
            [20 * np.cos(angle), 12 * np.sin(angle), np.full_like(angle, -1.7), angle / 7], axis=1
        )
        cloud = PointCloud2(
            height=1, width=len(points), point_step=16, row_step=16 * len(points), is_dense=True
        )
        cloud.fields = [
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate(("x", "y", "z", "intensity"))
        ]
        cloud.header.frame_id = "lidar"
        cloud.data = _bytes(points)
        _set_stamp(cloud, stamp_ns)
        return cloud

    def _picture(self, modality: str, stamp_ns: int) -> tuple[CameraInfo, CompressedImage]:
        image = np.full((180, 320, 3), 90, dtype=np.uint8)
        cv2.putText(image, modality, (20, 90), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
        info = CameraInfo(width=320, height=180, distortion_model="plumb_bob", d=[0.0] * 5)
        info.k = [250.0, 0.0, 160.0, 0.0, 250.0, 90.0, 0.0, 0.0, 1.0]
        info.p = [250.0, 0.0, 160.0, 0.0, 0.0, 250.0, 90.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        picture = CompressedImage(format="jpeg")
        picture.data = _bytes(cv2.imencode(".jpg", image)[1])
        for message in (info, picture):
            message.header.frame_id = modality
            _set_stamp(message, stamp_ns)
        return info, picture


def box(label: str, score: float, x: float, y: float) -> DetectedObject:
    """A car-sized box on the ground."""
    item = DetectedObject(label=label, score=score, has_velocity=True)
    item.pose.position.x, item.pose.position.y, item.pose.position.z = x, y, 0.8
    item.pose.orientation.w = 1.0
    item.size.x, item.size.y, item.size.z = 4.2, 1.8, 1.6
    item.velocity.x = 2.0
    return item


def _bytes(values: Any) -> array.array[int]:
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(values).tobytes())
    return data


def _set_stamp(message: Any, stamp_ns: int) -> None:
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
