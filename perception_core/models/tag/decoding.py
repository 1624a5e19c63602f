"""Between 3D boxes in the ego frame and what the detection head predicts in the image, both ways.

After MonoDLE (Ma et al., CVPR 2021): an object is found at the cell its projected 3D centre falls into; there
the head gives the centre's place within the cell, the 2D box, depth with its uncertainty, the difference to
the class' usual size, and the observation angle in bins. Pitch and roll are given as FCOS3D gives angles: a
value up to half a turn and a direction.

Angles live in the camera's own upright frame: x along the optical axis, y to the left, z up. So a level
camera sees level cars with pitch and roll of zero, wherever it is mounted. The observation angle is the yaw
in that frame less the bearing of the object's centre, which is what its appearance shows.

An object whose projected centre lies outside the image (near ones often do) is found at the centre of its 2D
box, cut to the image; the offset to the 3D centre is larger then.

Pixel centres lie at whole numbers, feature cells likewise: pixel u lies at (u + 0.5) / stride - 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from perception_core.geometry import BOX_CORNER_SIGNS

#: Nearer than this along the optical axis nothing is looked for.
NEAREST_M = 0.5
_SMALLEST_M = 0.05

#: Rows: the camera's upright axes (forward, left, up) in its optical ones (right, down, forward).
_UPRIGHT_FROM_OPTICAL = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


def rotation_of_angles(angles_n3: torch.Tensor) -> torch.Tensor:
    """Returns Rz(yaw) Ry(pitch) Rx(roll), (N, 3, 3), of yaw, pitch and roll in radians."""
    (cy, cp, cr), (sy, sp, sr) = angles_n3.cos().unbind(-1), angles_n3.sin().unbind(-1)
    rows = (
        *(cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr),
        *(sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr),
        *(-sp, cp * sr, cp * cr),
    )
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def angles_of_rotation(rotation_n33: torch.Tensor) -> torch.Tensor:
    """Splits rotations into yaw, pitch and roll, (N, 3) radians; see `rotation_of_angles`."""
    yaw = torch.atan2(rotation_n33[..., 1, 0], rotation_n33[..., 0, 0])
    pitch = torch.atan2(
        -rotation_n33[..., 2, 0], torch.hypot(rotation_n33[..., 2, 1], rotation_n33[..., 2, 2])
    )
    roll = torch.atan2(rotation_n33[..., 2, 1], rotation_n33[..., 2, 2])
    return torch.stack((yaw, pitch, roll), dim=-1)


def wrapped(angle: torch.Tensor) -> torch.Tensor:
    """Maps angles in radians to [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


@dataclass(frozen=True)
class MonoCode:
    """Objects as the head predicts them; one row an object.

    Attributes:
        cell_n2: Column and row of the feature cell, int64.
        labels_n: Class, int64.
        offset_2d_n2: Centre of the 2D box less the cell's, in cells.
        size_2d_n2: Width and height of the 2D box, in cells.
        offset_3d_n2: Projected 3D centre less the cell's, in cells.
        depth_n: Metres along the optical axis, for the network's reference lens.
        size_3d_n3: Length, width, height less the class' usual ones, metres.
        heading_bin_n: Bin of the observation angle, int64.
        heading_residual_n: Observation angle less the middle of its bin, radians.
        tilt_n2: Pitch and roll up to half a turn: in [-pi/2, pi/2).
        tilt_direction_n2: 1 where half a turn is to be added, int64.
    """

    cell_n2: torch.Tensor
    labels_n: torch.Tensor
    offset_2d_n2: torch.Tensor
    size_2d_n2: torch.Tensor
    offset_3d_n2: torch.Tensor
    depth_n: torch.Tensor
    size_3d_n3: torch.Tensor
    heading_bin_n: torch.Tensor
    heading_residual_n: torch.Tensor
    tilt_n2: torch.Tensor
    tilt_direction_n2: torch.Tensor


class MonoBoxCodec:
    """Encodes and decodes boxes for one size of image.

    Args:
        stride: Image pixels per feature cell.
        image_size: Width and height in pixels.
        usual_sizes: Length, width, height of each class, metres.
        heading_bins: Bins of the observation angle; the middle of bin 0 is angle 0.
        reference_focal: See `MonoCameraConfig`.
    """

    def __init__(
        self,
        stride: int,
        image_size: tuple[int, int],
        usual_sizes: Sequence[tuple[float, float, float]],
        heading_bins: int,
        reference_focal: float | None = None,
    ) -> None:
        self.stride = stride
        self.image_size = image_size
        self.usual_sizes = tuple(usual_sizes)
        self.heading_bins = heading_bins
        self.reference_focal = reference_focal

    @property
    def feature_size(self) -> tuple[int, int]:
        """Columns and rows of the feature."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride

    def depth_scale(self, intrinsics_33: torch.Tensor) -> torch.Tensor:
        """Returns metres per metre of the reference lens: focal length over that of the reference."""
        if self.reference_focal is None:
            return torch.ones_like(intrinsics_33[..., 0, 0])
        return intrinsics_33[..., 0, 0] / (self.reference_focal * self.image_size[0])

    def encode(
        self,
        boxes_n9: torch.Tensor,
        pitch_roll_n2: torch.Tensor,
        labels_n: torch.Tensor,
        intrinsics_33: torch.Tensor,
        camera_from_ego_44: torch.Tensor,
    ) -> tuple[MonoCode, torch.Tensor]:
        """Encodes the boxes that the camera sees something of.

        Args:
            boxes_n9: x y z l w h yaw vx vy, ego frame; the velocity is not used.
            pitch_roll_n2: Radians, ego frame, R = Rz(yaw) Ry(pitch) Rx(roll).
            labels_n: int64 class.
            intrinsics_33: Pixels of the image.
            camera_from_ego_44: Rigid.

        Returns:
            The code of the boxes kept, and their indices. A box is left out where its centre is nearer than
            `NEAREST_M`, its 2D box does not meet the image, or its extent is not positive.
        """
        dtype = boxes_n9.dtype
        rotation, translation = camera_from_ego_44[:3, :3].to(dtype), camera_from_ego_44[:3, 3].to(dtype)
        intrinsics = intrinsics_33.to(dtype)
        centre_n3 = boxes_n9[:, :3] @ rotation.T + translation
        box_rotation = rotation @ rotation_of_angles(torch.cat((boxes_n9[:, 6:7], pitch_roll_n2), dim=1))
        signs_83 = torch.as_tensor(BOX_CORNER_SIGNS, dtype=dtype, device=boxes_n9.device)
        local_n83 = signs_83 * boxes_n9[:, None, 3:6] / 2
        corners_n83 = local_n83 @ box_rotation.transpose(1, 2) + centre_n3[:, None]
        lower_n2, upper_n2 = self._extent(corners_n83, intrinsics)
        seen_n = (
            (centre_n3[:, 2] >= NEAREST_M)
            & (boxes_n9[:, 3:6] > 0).all(dim=1)
            & (upper_n2 > lower_n2).all(dim=1)
            & torch.isfinite(lower_n2).all(dim=1)
        )
        kept = seen_n.nonzero()[:, 0]
        lower_n2, upper_n2, centre_n3 = lower_n2[kept], upper_n2[kept], centre_n3[kept]
        projected_n2 = project(centre_n3, intrinsics)
        place_3d = self._to_cells(projected_n2)
        place_2d = self._to_cells((lower_n2 + upper_n2) / 2)
        size = torch.tensor(self.feature_size, device=boxes_n9.device)
        inside_n = ((place_3d >= -0.5) & (place_3d < size - 0.5)).all(dim=1)
        cell_n2 = torch.where(inside_n.unsqueeze(1), place_3d, place_2d).round().long()
        cell_n2 = torch.minimum(cell_n2.clamp_min(0), size - 1)

        upright = torch.tensor(_UPRIGHT_FROM_OPTICAL, dtype=dtype, device=boxes_n9.device)
        angles_n3 = angles_of_rotation(upright @ box_rotation[kept])
        observed_n = wrapped(angles_n3[:, 0] - _bearing(centre_n3))
        width = 2 * math.pi / self.heading_bins
        bin_n = torch.floor(torch.remainder(observed_n, 2 * math.pi) / width + 0.5).long() % self.heading_bins
        turned_n2 = torch.remainder(angles_n3[:, 1:] + math.pi / 2, 2 * math.pi)
        direction_n2 = (turned_n2 >= math.pi).long()
        usual_k3 = torch.tensor(self.usual_sizes, dtype=dtype, device=boxes_n9.device)
        labels = labels_n[kept]
        code = MonoCode(
            cell_n2=cell_n2,
            labels_n=labels,
            offset_2d_n2=place_2d - cell_n2,
            size_2d_n2=(upper_n2 - lower_n2) / self.stride,
            offset_3d_n2=place_3d - cell_n2,
            depth_n=centre_n3[:, 2] / self.depth_scale(intrinsics),
            size_3d_n3=boxes_n9[kept, 3:6] - usual_k3[labels],
            heading_bin_n=bin_n,
            heading_residual_n=wrapped(observed_n - bin_n * width),
            tilt_n2=turned_n2 - direction_n2 * math.pi - math.pi / 2,
            tilt_direction_n2=direction_n2,
        )
        return code, kept

    def decode(
        self, code: MonoCode, intrinsics_33: torch.Tensor, camera_from_ego_44: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns boxes (N, 9) with velocity 0, and pitch and roll (N, 2), in the ego frame.

        Args:
            code: `offset_2d_n2` and `size_2d_n2` are not needed for 3D boxes.
            intrinsics_33: Pixels of the image.
            camera_from_ego_44: Rigid.
        """
        dtype = code.depth_n.dtype
        intrinsics = intrinsics_33.to(dtype)
        rotation, translation = camera_from_ego_44[:3, :3].to(dtype), camera_from_ego_44[:3, 3].to(dtype)
        pixel_n2 = (code.cell_n2 + code.offset_3d_n2 + 0.5) * self.stride - 0.5
        depth_n = code.depth_n * self.depth_scale(intrinsics)
        centre_n3 = unproject(pixel_n2, depth_n, intrinsics)
        width = 2 * math.pi / self.heading_bins
        observed_n = code.heading_bin_n * width + code.heading_residual_n
        yaw_n = observed_n + _bearing(centre_n3)
        tilt_n2 = wrapped(code.tilt_n2 + code.tilt_direction_n2 * math.pi)
        upright = torch.tensor(_UPRIGHT_FROM_OPTICAL, dtype=dtype, device=depth_n.device)
        in_camera = upright.T @ rotation_of_angles(torch.cat((yaw_n.unsqueeze(1), tilt_n2), dim=1))
        angles_n3 = angles_of_rotation(rotation.T @ in_camera)
        usual_k3 = torch.tensor(self.usual_sizes, dtype=dtype, device=depth_n.device)
        size_n3 = (usual_k3[code.labels_n] + code.size_3d_n3).clamp_min(_SMALLEST_M)
        boxes_n9 = torch.cat(
            (
                (centre_n3 - translation) @ rotation,
                size_n3,
                angles_n3[:, :1],
                torch.zeros_like(pixel_n2),
            ),
            dim=1,
        )
        return boxes_n9, angles_n3[:, 1:]

    def _to_cells(self, pixel_n2: torch.Tensor) -> torch.Tensor:
        return (pixel_n2 + 0.5) / self.stride - 0.5

    def _extent(
        self, corners_n83: torch.Tensor, intrinsics_33: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the lower and upper corner of the 2D boxes, cut to the image.

        A corner behind the near plane is moved onto it: such an object reaches to the image's edge.
        """
        near = corners_n83.clone()
        near[..., 2] = near[..., 2].clamp_min(NEAREST_M)
        pixel_n82 = project(near, intrinsics_33)
        width, height = self.image_size
        limit = pixel_n82.new_tensor([width - 0.5, height - 0.5])
        lower = torch.minimum(pixel_n82.amin(dim=1).clamp_min(-0.5), limit)
        upper = torch.minimum(pixel_n82.amax(dim=1).clamp_min(-0.5), limit)
        return lower, upper


def project(points_n3: torch.Tensor, intrinsics_33: torch.Tensor) -> torch.Tensor:
    """Returns pixels of points in the camera's frame; (..., 3) to (..., 2)."""
    homogeneous = points_n3 @ intrinsics_33.T
    return homogeneous[..., :2] / homogeneous[..., 2:]


def unproject(pixel_n2: torch.Tensor, depth_n: torch.Tensor, intrinsics_33: torch.Tensor) -> torch.Tensor:
    """Returns points in the camera's frame; the camera matrix may be sheared or mirrored by augmentation."""
    (a, b, c), (d, e, f) = intrinsics_33[0], intrinsics_33[1]
    determinant = a * e - b * d
    u, v = pixel_n2[:, 0] - c, pixel_n2[:, 1] - f
    x = (e * u - b * v) / determinant
    y = (a * v - d * u) / determinant
    return torch.stack((x, y, torch.ones_like(x)), dim=1) * depth_n.unsqueeze(1)


def _bearing(points_n3: torch.Tensor) -> torch.Tensor:
    """Returns the bearing of camera-frame points, radians, positive left of the optical axis."""
    return torch.atan2(-points_n3[:, 0], points_n3[:, 2])
