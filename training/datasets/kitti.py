"""A KITTI raw drive (Geiger et al., 2013): one rectified camera, LiDAR sweeps, sparse depth from the LiDAR.

Layout: `calib.yaml` (T_cam_velo, R_rect, P_rect), `image_02/*.png`, `velodyne/*.bin`. There is no odometry
    and no annotation; the depth label is the drive's own LiDAR seen from the camera.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from perception_core.geometry import compose, inverse, is_rigid, transform_of
from training.datasets.dataset import SampleDataset, checked_index
from training.datasets.files import DataError, read_bytes, read_points
from training.datasets.frame_input import (
    DEFAULT_INPUT,
    FrameInput,
    Sweep,
    View,
    merge_sweeps,
    read_views,
    shipped_rig,
)
from training.datasets.lidar_depth import sparse_depth
from training.datasets.sample import DenseLabels, Provenance, Sample

CALIBRATION_FILE = "calib.yaml"
CAMERA = "camera_front"

#: The drive's calibration does not contain the vehicle. By the published sensor drawing (Geiger et al.,
#: "Vision
#: meets Robotics: The KITTI Dataset", 2013, figure 3) the LiDAR stands 1.73 m above the ground and about
#: 0.76 m
#: ahead of the rear axle; replay on the vehicle side takes the same.
EGO_FROM_LIDAR = transform_of(None, [0.76, 0.0, 1.73])


class KittiDrive(SampleDataset):
    """The frames of a drive that have both an image and a sweep."""

    name = "kitti"

    def __init__(self, root: str | Path, frame_input: FrameInput = DEFAULT_INPUT) -> None:
        """Reads the calibration and lists the files.

        Args:
            root: The drive's folder.
            frame_input: What the network takes; only one sweep, since there is no odometry to merge several
                with.

        Raises:
            DataError: A file is missing, the calibration is wrong, or there is no frame.
        """
        self.root = Path(root)
        if frame_input.sweeps != 1:
            raise DataError(
                self.root, f"a KITTI drive has no odometry to merge {frame_input.sweeps} sweeps; ask for 1"
            )
        self.frame_input = frame_input
        self._read_calibration(self.root / CALIBRATION_FILE)
        images = {path.stem for path in (self.root / "image_02").glob("*.png")}
        sweeps = {path.stem for path in (self.root / "velodyne").glob("*.bin")}
        self._stems = sorted(images & sweeps)
        if not self._stems:
            raise DataError(self.root, "no frame has both image_02/*.png and velodyne/*.bin")
        self._labels = frozenset({"depth"}) if frame_input.cameras else frozenset()

    def _read_calibration(self, path: Path) -> None:
        try:
            content = yaml.safe_load(read_bytes(path))
            projection_34 = np.array(content["P_rect"], dtype=np.float64).reshape(3, 4)
            rectification = np.array(content["R_rect"], dtype=np.float64).reshape(4, 4)
            camera_from_lidar = np.array(content["T_cam_velo"], dtype=np.float64).reshape(4, 4)
            self._period_ns = round(1e9 / float(content.get("rate_hz", 10.0)))
        except (yaml.YAMLError, KeyError, TypeError, AttributeError, ZeroDivisionError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                path,
                f"needs T_cam_velo (4x4), R_rect (4x4) and P_rect (3x4): {type(error).__name__}: {error}",
            ) from error
        if not (is_rigid(rectification) and is_rigid(camera_from_lidar)):
            raise DataError(path, "T_cam_velo and R_rect must be rigid transforms")
        self._intrinsics_33 = projection_34[:, :3]
        # The fourth column of P_rect is the camera's offset from the reference camera, times the camera
        # matrix.
        offset = transform_of(None, np.linalg.solve(self._intrinsics_33, projection_34[:, 3]))
        self._camera_from_ego = compose(offset, rectification, camera_from_lidar, inverse(EGO_FROM_LIDAR))

    def __len__(self) -> int:
        return len(self._stems)

    def labels_of(self, index: int) -> frozenset[str]:
        """Every frame has depth, unless images are not taken."""
        return self._labels

    def token(self, index: int) -> str:
        """Returns the frame's number."""
        return self._stems[index]

    def __getitem__(self, index: int) -> Sample:
        index = checked_index(index, len(self))
        stem = self._stems[index]
        image_path, sweep_path = (
            self.root / "image_02" / f"{stem}.png",
            self.root / "velodyne" / f"{stem}.bin",
        )
        lidar = shipped_rig("kitti").lidar
        assert lidar is not None
        sweep = Sweep(read_points(sweep_path, columns=4), EGO_FROM_LIDAR, np.eye(4), 0.0)
        points_nc, all_points_nc = (
            merge_sweeps(
                [sweep],
                min_range_m=lidar.min_range_m,
                intensity_scale=lidar.intensity_scale,
                max_points=limit,
            )
            for limit in (self.frame_input.max_points, None)
        )
        files = {"lidar": str(sweep_path)}
        cameras, dense = None, DenseLabels()
        if self.frame_input.cameras:
            view = View(CAMERA, image_path, self._intrinsics_33, self._camera_from_ego)
            cameras = read_views([view], self.frame_input.image)
            # The label takes every point, also those the network does not get.
            dense = DenseLabels(depth=sparse_depth(all_points_nc, cameras))
            files[CAMERA] = str(image_path)
        return Sample(
            provenance=Provenance(self.name, stem, self.root.resolve().name, index * self._period_ns, files),
            cameras=cameras,
            points_nc=points_nc,
            lidar_valid=True,
            ego_from_lidar_44=EGO_FROM_LIDAR.copy(),
            dense=dense,
            labels_present=self._labels,
        )
