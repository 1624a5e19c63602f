"""A small resource folder with a rig, a bundle and deployments, for tests of deployments and launching."""

from __future__ import annotations

from pathlib import Path

BUNDLE = """\
format: 1
name: fuller-tiny
model: {name: fuller_tiny}
input: {image: {height: 128, width: 352}, max_points: 40000, max_cameras: 6}
tensors:
  lidar_bev_bchw: {dtype: float32, shape: [1, 64, 64, 64]}
  camera_bev_bchw: {dtype: float32, shape: [1, 64, 64, 64]}
  bev_bchw: {dtype: float32, shape: [1, 64, 64, 64]}
  boxes_nc: {dtype: float32, shape: [N, 10]}
  map_bchw: {dtype: float32, shape: [1, 6, 64, 64]}
components:
  lidar_net: {inputs: [points_nc, lidar_valid], outputs: [lidar_bev_bchw]}
  camera_net: {inputs: [images_vhwc, camera_valid_v], outputs: [camera_bev_bchw]}
  bev_fuser: {inputs: [lidar_bev_bchw, camera_bev_bchw], outputs: [bev_bchw]}
  detection3d_head: {inputs: [bev_bchw], outputs: [boxes_nc], task: detection3d}
  map_segmentation_head: {inputs: [bev_bchw], outputs: [map_bchw], task: map_segmentation}
weights_sha256: "0"
training: {trained: false, seed: 0}
"""

RIG = """\
name: two-cameras
lidar: {topic: /lidar/points}
cameras:
  camera_front: {topic: /camera_front/image}
  camera_back: {topic: /camera_back/image}
"""

DEPLOYMENT = """\
name: split
bundle: bundles/fuller-tiny
rig: two-cameras
devices:
  cpu0: {kind: cpu, cores: [0], backend: torch}
  cpu1: {kind: cpu, cores: [1], backend: torch}
links:
  cpu0->cpu1: {bandwidth_gbps: 60, latency_us: 30}
processes:
  sensing: {executor: single, nodes: [sensor_fusion]}
  perception: {executor: multi, threads: 3, nodes: [components]}
  safety: {executor: single, nodes: [latency_monitor, control]}
placement:
  lidar_net: cpu0
  camera_net: cpu0
  bev_fuser: cpu1
  detection3d_head: cpu1
  map_segmentation_head: cpu1
budgets_ms:
  "lidar->detection3d": 400
  "*->control": 500
parameters:
  control: {engage_on_start: true}
"""


def write_resources(root: Path, deployment: str = DEPLOYMENT, rig: str = RIG, bundle: str = BUNDLE) -> Path:
    """Writes a resource folder and returns the deployment's path."""
    bundle_folder = root / "bundles" / "fuller-tiny"
    rig_folder = root / "hw_configs" / "rigs"
    bundle_folder.mkdir(parents=True)
    rig_folder.mkdir(parents=True)
    (bundle_folder / "bundle.yaml").write_text(bundle, encoding="utf-8")
    (bundle_folder / "weights.safetensors").write_bytes(b"")  # resolving a deployment does not read it
    (rig_folder / "two-cameras.yaml").write_text(rig, encoding="utf-8")
    path = root / "hw_configs" / "split.yaml"
    path.write_text(deployment, encoding="utf-8")
    return path
