"""Loaders on real recordings, and that training gets what the vehicle's sensor fusion gives the network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from perception_core.bundle import FRAME_TENSORS, BundleInput, ImageInput
from perception_core.geometry import points_in_box, project_points, quaternion_from_rotation
from perception_core.resources import find_named
from perception_core.rig import load_rig
from perception_nodes.fusion.calibration_book import CalibrationBook
from perception_nodes.fusion.frame_assembly import EgoMotion, FrameAssembler
from perception_nodes.fusion.frame_synchronizer import SensorMessage
from perception_nodes.recordings.items import ImageItem, PointsItem
from perception_nodes.recordings.nuscenes_frame import NuscenesFrameRecording
from training.datasets.files import DataError
from training.datasets.frame_input import DEFAULT_INPUT, FrameInput
from training.datasets.info_dataset import InfoDataset
from training.datasets.kitti import KittiDrive
from training.datasets.nyuv2 import NYU_13_CLASSES, NyuV2
from training.datasets.opening import open_dataset


def test_boxes_of_the_real_frame_hold_their_annotated_points(recordings: Path) -> None:
    sample = InfoDataset(recordings / "nuscenes_frame", frame_input=FrameInput(max_points=None))[0]
    boxes = sample.boxes
    assert boxes is not None
    assert len(boxes) == 68
    found = np.array([points_in_box(sample.points_nc, box).sum() for box in boxes.boxes_b9])
    # Annotated before the vehicle's own tilt was taken out: points at the surface may change sides.
    off = np.abs(found - boxes.points_b)
    assert (off <= np.maximum(1, 0.06 * boxes.points_b)).all()


def test_points_of_the_real_frame_fall_onto_its_objects(recordings: Path) -> None:
    """The truck that stands ahead on the left: its points project to where the front image shows it."""
    sample = InfoDataset(recordings / "nuscenes_frame", frame_input=FrameInput(image=None))[0]
    boxes, cameras = sample.boxes, sample.cameras
    assert boxes is not None
    assert cameras is not None
    assert cameras.images_vhwc.shape == (6, 900, 1600, 3)
    trucks = boxes.boxes_b9[boxes.labels_b == boxes.class_names.index("truck")]
    ahead = trucks[trucks[:, 0] > 0]
    truck = ahead[np.argmin(ahead[:, 0])]
    inside = sample.points_nc[points_in_box(sample.points_nc, truck), :3]
    assert len(inside) > 50
    seen = project_points(inside, cameras.camera_from_ego_v44[0], cameras.intrinsics_v33[0], cameras.size)
    assert seen.visible.mean() > 0.9
    columns, rows = seen.pixels[seen.visible].T
    assert 50 < np.median(columns) < 500  # measured in the picture: 60 to 620 columns, 180 to 650 rows
    assert 300 < np.median(rows) < 650


def test_training_gets_what_the_vehicle_gives(recordings: Path) -> None:
    """The same frame through sensor fusion's assembler, message by message, and through the loader."""
    recording = NuscenesFrameRecording(recordings / "nuscenes_frame")
    path = find_named("rig", "hw_configs/rigs", "nuscenes")
    rig = load_rig(path)
    needs = BundleInput(image=ImageInput(height=128, width=352), max_points=60_000)
    book = CalibrationBook(rig, path, needs.image)
    for transform in recording.static_transforms():
        rotation = quaternion_from_rotation(transform.parent_from_child[:3, :3])
        translation = tuple(transform.parent_from_child[:3, 3])
        book.add_transform(rig.ego_frame, transform.child, translation, tuple(rotation))
    no_roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    for name, camera in recording.camera_intrinsics().items():
        info = SimpleNamespace(
            width=camera.width, height=camera.height, distortion_model="", d=[], roi=no_roi,
            k=camera.matrix_33.ravel().copy(), p=np.zeros(12), binning_x=0, binning_y=0,
        )  # fmt: skip
        book.add_camera_info(name, info)
    selection, stamp_ns = {}, 0
    for item in recording.messages():
        if isinstance(item, PointsItem):
            stamp_ns = item.time_ns
            content = SimpleNamespace(
                header=SimpleNamespace(frame_id="LIDAR_TOP", stamp=SimpleNamespace(sec=0, nanosec=0)),
                fields=[
                    SimpleNamespace(name=name, offset=4 * column, datatype=7, count=1)
                    for column, name in enumerate(item.fields)
                ],
                width=len(item.points_nc), height=1, point_step=20, row_step=20 * len(item.points_nc),
                is_bigendian=False, data=item.points_nc.tobytes(),
            )  # fmt: skip
            selection["lidar"] = SensorMessage("lidar", item.time_ns, 0, 0, content)
        elif isinstance(item, ImageItem):
            header = SimpleNamespace(frame_id=recording.sensor_frames[item.modality])
            content = SimpleNamespace(header=header, format="jpeg", data=item.data)
            selection[item.modality] = SensorMessage(item.modality, item.time_ns, 0, 0, content)
        if len(selection) == 7:
            break
    sample = InfoDataset(recordings / "nuscenes_frame", frame_input=FrameInput.of_bundle(needs))[0]
    motion = EgoMotion(stamp_ns, float(sample.ego_motion_c[0]), float(sample.ego_motion_c[1]))
    assembler = FrameAssembler(rig, needs, book, decode_threads=1)
    vehicle = assembler.assemble(stamp_ns, selection, motion).tensors
    training = {name: tensor.numpy() for name, tensor in sample.frame().items()}
    assert set(vehicle) == set(training) == set(FRAME_TENSORS)
    np.testing.assert_array_equal(training["images_vhwc"], vehicle["images_vhwc"])
    np.testing.assert_allclose(training["points_nc"], vehicle["points_nc"], atol=1e-5)
    np.testing.assert_allclose(training["intrinsics_v33"], vehicle["intrinsics_v33"], rtol=1e-6)
    np.testing.assert_array_equal(training["camera_valid_v"], vehicle["camera_valid_v"])
    np.testing.assert_allclose(training["ego_motion_c"], vehicle["ego_motion_c"], rtol=1e-6)
    # The vehicle knows its motion by speed and yaw rate, training by the poses: centimetres apart at most.
    np.testing.assert_allclose(training["camera_from_ego_v44"], vehicle["camera_from_ego_v44"], atol=0.03)


def test_the_kitti_drive_loads(recordings: Path) -> None:
    drive = KittiDrive(recordings / "kitti_drive_2011_09_26")
    assert len(drive) == 30
    sample = drive[3]
    assert sample.cameras is not None
    assert sample.cameras.images_vhwc.shape == (1, 128, 352, 3)
    assert len(sample.points_nc) == DEFAULT_INPUT.max_points
    depth = sample.dense.depth
    assert depth is not None
    assert 0.1 < depth.valid.mean() < 0.6
    # The road just ahead: the bottom rows of the image are 5 to 12 m away.
    below = depth.value[0, -6:][depth.valid[0, -6:]]
    assert 5 < np.median(below) < 12
    with pytest.raises(DataError, match="no odometry"):
        KittiDrive(recordings / "kitti_drive_2011_09_26", FrameInput(sweeps=3))


def test_the_nyuv2_samples_load_with_all_labels(recordings: Path) -> None:
    rooms = open_dataset(recordings / "nyuv2_samples", FrameInput(image=None))
    assert len(rooms) == 4
    for sample in rooms:  # type: ignore[attr-defined]
        assert sample.labels_present == {"semantic_segmentation", "depth", "normals"}
        for _, label in sample.dense.items():
            assert label.valid.mean() > 0.5


def test_normals_of_nyuv2_agree_with_its_depth(recordings: Path) -> None:
    """Holds the axes of the stored normals: those from depth point the same way, in the median."""
    for sample in NyuV2(recordings / "nyuv2_samples"):  # type: ignore[attr-defined]
        cameras, depth, normals = sample.cameras, sample.dense.depth, sample.dense.normals
        rows, columns = np.mgrid[: cameras.size[1], : cameras.size[0]]
        rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(cameras.intrinsics_v33[0]).T
        points = cv2.GaussianBlur(rays * depth.value[0][..., None], (0, 0), 3)
        across = np.cross(np.gradient(points, axis=0), np.gradient(points, axis=1))
        across /= np.linalg.norm(across, axis=-1, keepdims=True) + 1e-9
        cosine = (across * normals.value[0]).sum(-1)[normals.valid[0]]
        assert np.degrees(np.arccos(np.median(cosine).clip(-1, 1))) < 35, sample.provenance.token
        assert (normals.value[0][normals.valid[0]][:, 2] < 0.2).mean() > 0.9  # towards the viewer


def test_13_classes_are_wholes_of_the_40(recordings: Path) -> None:
    fine, coarse = (NyuV2(recordings / "nyuv2_samples", classes=count)[1].dense for count in (40, 13))
    assert fine.semantic_segmentation is not None
    assert coarse.semantic_segmentation is not None
    assert coarse.semantic_classes == NYU_13_CLASSES
    np.testing.assert_array_equal(fine.semantic_segmentation.valid, coarse.semantic_segmentation.valid)
    values = fine.semantic_segmentation.value
    for index in np.unique(values[values != 255]):
        assert len(np.unique(coarse.semantic_segmentation.value[values == index])) == 1
    floor = fine.semantic_classes.index("floor")
    assert (coarse.semantic_segmentation.value[values == floor] == NYU_13_CLASSES.index("floor")).all()


def test_camvid_loads(recordings: Path) -> None:
    streets = open_dataset(recordings / "camvid", FrameInput(image=None))
    assert len(streets) == 367
    sample = streets[0]
    label = sample.dense.semantic_segmentation
    assert label is not None
    assert label.value[label.valid].max() <= 10
    assert sample.cameras is not None
    assert sample.cameras.size == (480, 360)
    resized = open_dataset(recordings / "camvid", FrameInput(image=ImageInput(height=128, width=256)))[0]
    small = resized.dense.semantic_segmentation
    assert small is not None
    assert small.value.shape == (1, 128, 256)
    # Resized from the same bottom edge: the road at the bottom is still the road.
    assert np.median(small.value[0, -10:]) == np.median(label.value[0, -20:])
