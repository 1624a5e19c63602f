"""Rays against boxes, upright cylinders and the ground in plain torch, on whatever device the tensors are.

It answers as `scene.MeshScene` does, without Open3D and without files, so that worlds can be looked at while
training. On the same solids the two agree to a millimetre on boxes and the ground; against the detailed
meshes the shapes differ as boxes differ from cars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from training.synth import layout
from training.synth.lidar import Lidar
from training.synth.mesh import NO_INSTANCE, Material, Semantic
from training.synth.scene import Hits
from training.synth.world.ground import CELL_M
from training.synth.world.solids import Solids, raised_cells, solids_of

if TYPE_CHECKING:
    from training.synth.world.world import Moment, World

Float32Array = NDArray[np.float32]

#: Pairs of ray and solid that are held in memory at once.
_PAIRS_AT_ONCE = 4_000_000
_TINY = 1e-9
_SHADOW_OFFSET_M = 0.012
_CURB_BISECTIONS = 10


@dataclass(frozen=True)
class TorchHits:
    """Where rays ended, on their device.

    Attributes:
        distance_n: Metres, inf where nothing was hit.
        normal_n3: Unit normals towards the viewer, 0 where nothing was hit.
        kind_n6: Colour (3), material, semantic, instance; semantic is SKY where nothing was hit.
    """

    distance_n: torch.Tensor
    normal_n3: torch.Tensor
    kind_n6: torch.Tensor


class AnalyticScene:
    """A moment of a world as solids; a `RayScene`."""

    def __init__(
        self,
        solids: Solids,
        raised_hw: NDArray[np.bool_] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Moves the solids to a device.

        Args:
            solids: From `solids_of`.
            raised_hw: Which cells of the ground lie on the curb, from `raised_cells`; None: flat ground at 0.
            device: Any torch device.
        """
        self.device = torch.device(device)

        def tensor(array: NDArray[np.float64]) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=self.device)

        self._centre, self._half = tensor(solids.box_centre_b3), tensor(solids.box_half_b3)
        self._cosine, self._sine = tensor(np.cos(solids.box_yaw_b)), tensor(np.sin(solids.box_yaw_b))
        self._foot = tensor(solids.cylinder_foot_c3)
        self._radius, self._height = tensor(solids.cylinder_radius_c), tensor(solids.cylinder_height_c)
        ground = np.array([[0.1, 0.1, 0.1, Material.GROUND, Semantic.ROAD, NO_INSTANCE]])
        nothing = np.array([[0.0, 0.0, 0.0, 0.0, Semantic.SKY, NO_INSTANCE]])
        self._kinds = tensor(np.concatenate([solids.box_kind_b6, solids.cylinder_kind_c6, ground, nothing]))
        self._boxes, self._cylinders = len(solids.box_centre_b3), len(solids.cylinder_foot_c3)
        self._raised = None if raised_hw is None else torch.as_tensor(raised_hw, device=self.device)

    @classmethod
    def of(cls, world: World, moment: Moment, device: torch.device | str = "cpu") -> AnalyticScene:
        """Makes the scene of a world's moment.

        Raises:
            ValueError: The world has slopes.
        """
        return cls(solids_of(world, moment), raised_cells(world.ground), device)

    # -- in torch --------------------------------------------------------------------------------------------

    def cast_torch(self, rays_n6: torch.Tensor) -> TorchHits:
        """Casts rays: origins and unit directions in the world frame."""
        rays = rays_n6.to(self.device, torch.float32)
        step = max(1, _PAIRS_AT_ONCE // max(1, self._boxes + self._cylinders))
        parts = [self._cast_part(part) for part in rays.split(step)] if len(rays) else []
        if not parts:
            empty = torch.zeros(0, device=self.device)
            return TorchHits(empty, empty.reshape(0, 3), empty.reshape(0, 6))
        distance, normal, kind = (torch.cat(column) for column in zip(*parts, strict=True))
        return TorchHits(distance, normal, kind)

    def _cast_part(self, rays_n6: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        origin, direction = rays_n6[:, :3], rays_n6[:, 3:]
        count = len(rays_n6)
        best = torch.full((count,), torch.inf, device=self.device)
        which = torch.full((count,), len(self._kinds) - 1, device=self.device)
        normal = torch.zeros(count, 3, device=self.device)
        for found, offset in (
            (self._hit_boxes(origin, direction), 0),
            (self._hit_cylinders(origin, direction), self._boxes),
            (self._hit_ground(origin, direction), self._boxes + self._cylinders),
        ):
            if found is None:
                continue
            distance, index, its_normal = found
            nearer = distance < best
            best = torch.where(nearer, distance, best)
            which = torch.where(nearer, index + offset, which)
            normal = torch.where(nearer[:, None], its_normal, normal)
        away = (normal * direction).sum(dim=1, keepdim=True) > 0
        return best, torch.where(away, -normal, normal), self._kinds[which]

    def _hit_boxes(
        self, origin: torch.Tensor, direction: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        if self._boxes == 0:
            return None
        from_centre = origin[:, None] - self._centre[None]
        local_origin = self._turned(from_centre)
        local_direction = self._turned(direction[:, None].expand(-1, self._boxes, -1))
        inverse = 1.0 / torch.where(local_direction.abs() < _TINY, _TINY, local_direction)
        low, high = (-self._half - local_origin) * inverse, (self._half - local_origin) * inverse
        entry, axis = torch.minimum(low, high).max(dim=2)
        leave, leave_axis = torch.maximum(low, high).min(dim=2)
        # from inside, the far wall is seen
        inside = entry <= 0
        distance = torch.where(inside, leave, entry)
        distance = torch.where((leave >= entry) & (leave > 0), distance, torch.inf)
        nearest, index = distance.min(dim=1)
        chosen_axis = torch.where(inside, leave_axis, axis).gather(1, index[:, None])[:, 0]
        local_normal = torch.nn.functional.one_hot(chosen_axis, 3).to(torch.float32)
        cosine, sine = self._cosine[index], self._sine[index]
        normal = torch.stack(
            [
                local_normal[:, 0] * cosine - local_normal[:, 1] * sine,
                local_normal[:, 0] * sine + local_normal[:, 1] * cosine,
                local_normal[:, 2],
            ],
            dim=1,
        )
        return nearest, index, normal

    def _turned(self, vector_nb3: torch.Tensor) -> torch.Tensor:
        """Turns world vectors into the boxes' frames."""
        x, y, z = vector_nb3.unbind(dim=2)
        return torch.stack([x * self._cosine + y * self._sine, y * self._cosine - x * self._sine, z], dim=2)

    def _hit_cylinders(
        self, origin: torch.Tensor, direction: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        if self._cylinders == 0:
            return None
        offset = origin[:, None] - self._foot[None]
        dx, dy, dz = (direction[:, None, axis] for axis in range(3))
        a = (dx**2 + dy**2).clamp_min(_TINY)
        b = offset[..., 0] * dx + offset[..., 1] * dy
        # the squared distance from axis to ray, without the cancellation of b² - ac
        across = (offset[..., 0] * dy - offset[..., 1] * dx) ** 2 / a
        root = ((self._radius**2 - across).clamp_min(0.0) / a).sqrt()
        touches = across <= self._radius**2
        wall = -b / a - root
        height = offset[..., 2] + wall * dz
        wall = torch.where(touches & (wall > 0) & (height >= 0) & (height <= self._height), wall, torch.inf)
        safe = torch.where(dz.abs() < _TINY, _TINY, dz)
        caps = []
        for level in (torch.zeros_like(self._height), self._height):
            cap = (level - offset[..., 2]) / safe
            away = (offset[..., 0] + cap * dx) ** 2 + (offset[..., 1] + cap * dy) ** 2
            caps.append(torch.where((cap > 0) & (away <= self._radius**2), cap, torch.inf))
        cap = torch.minimum(*caps)
        distance = torch.minimum(wall, cap)
        nearest, index = distance.min(dim=1)
        on_cap = (cap < wall).gather(1, index[:, None])[:, 0]
        point = origin + torch.where(nearest.isfinite(), nearest, 0.0)[:, None] * direction
        outward = (point[:, :2] - self._foot[index, :2]) / self._radius[index, None]
        side = torch.cat([outward, torch.zeros_like(outward[:, :1])], dim=1)
        up = torch.tensor([0.0, 0.0, 1.0], device=self.device).expand_as(side)
        return nearest, index, torch.where(on_cap[:, None], up, side)

    def _is_raised(self, point_n3: torch.Tensor) -> torch.Tensor:
        """Tells whether the ground below points lies on the curb; outside the town it does."""
        if self._raised is None:
            return torch.zeros(len(point_n3), dtype=torch.bool, device=self.device)
        rows, columns = self._raised.shape
        column, row = (point_n3[:, 0] / CELL_M).floor().long(), (point_n3[:, 1] / CELL_M).floor().long()
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        found = self._raised[row.clamp(0, rows - 1), column.clamp(0, columns - 1)]
        return torch.where(inside, found, True)

    def _hit_ground(
        self, origin: torch.Tensor, direction: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        down = direction[:, 2] < -_TINY
        slope = torch.where(down, direction[:, 2], -1.0)
        high = (layout.CURB_HEIGHT - origin[:, 2]) / slope
        low = -origin[:, 2] / slope
        on_curb = self._is_raised(origin + high[:, None] * direction)
        # a ray that enters above the street and would leave below the walkway meets the curb's face
        through = ~on_curb & self._is_raised(origin + low[:, None] * direction)
        near, far = high.clone(), low.clone()
        for _ in range(_CURB_BISECTIONS):
            middle = (near + far) / 2
            raised = self._is_raised(origin + middle[:, None] * direction)
            near, far = torch.where(raised, near, middle), torch.where(raised, middle, far)
        distance = torch.where(on_curb, high, torch.where(through, far, low))
        distance = torch.where(down & (distance > 0), distance, torch.inf)
        normal = torch.tensor([0.0, 0.0, 1.0], device=self.device).expand(len(origin), 3)
        return distance, torch.zeros(len(origin), dtype=torch.int64, device=self.device), normal

    # -- as a RayScene ---------------------------------------------------------------------------------------

    def cast(self, rays_n6: Float32Array) -> Hits:
        """Casts rays: origins and unit directions in the world frame."""
        found = self.cast_torch(torch.from_numpy(rays_n6))
        distance_n = found.distance_n.cpu().numpy()
        hit = np.flatnonzero(np.isfinite(distance_n))
        kind = found.kind_n6.cpu().numpy()[hit]
        rays = np.ascontiguousarray(rays_n6[hit].T)
        return Hits(
            distance_n,
            hit,
            rays[3:],
            rays[:3] + rays[3:] * distance_n[hit],
            np.ascontiguousarray(found.normal_n3.cpu().numpy()[hit].T),
            np.ascontiguousarray(kind[:, :3].T),
            kind[:, 3].astype(np.int64),
            kind[:, 5].astype(np.int64),
            kind[:, 4].astype(np.uint8),
        )

    def in_shadow(
        self, position_3n: Float32Array, normal_3n: Float32Array, towards_light_3: Float32Array
    ) -> NDArray[np.bool_]:
        """Tells for points on surfaces whether something stands between them and a distant light."""
        rays = np.empty((position_3n.shape[1], 6), dtype=np.float32)
        rays[:, :3] = (position_3n + np.float32(_SHADOW_OFFSET_M) * normal_3n).T
        rays[:, 3:] = towards_light_3
        distance = self.cast_torch(torch.from_numpy(rays)).distance_n
        result: NDArray[np.bool_] = torch.isfinite(distance).cpu().numpy()
        return result


def torch_sweep(
    scene: AnalyticScene,
    lidar: Lidar,
    world_from_ego_44: torch.Tensor,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns a LiDAR once, at one instant, without leaving the device.

    Args:
        scene: What is there.
        lidar: Its beams, noise and losses.
        world_from_ego_44: Pose of the vehicle.
        generator: Of noise and losses, on the scene's device.

    Returns:
        Points [N, 5] x y z intensity (0..255) ring in the LiDAR frame, and the instance [N] of each.
    """
    device = scene.device
    pose = world_from_ego_44.to(device, torch.float32) @ torch.as_tensor(
        lidar.ego_from_lidar, dtype=torch.float32, device=device
    )
    local = torch.as_tensor(lidar.directions(), dtype=torch.float32, device=device)
    rays = torch.cat([pose[:3, 3].expand(len(local), 3), local @ pose[:3, :3].T], dim=1)
    hits = scene.cast_torch(rays)
    draws = torch.rand(2, len(local), device=device, generator=generator)
    noise = torch.randn(len(local), device=device, generator=generator) * lidar.range_noise_m
    cosine = -(hits.normal_n3 * rays[:, 3:]).sum(dim=1).clamp(-1.0, 0.0)
    strength = hits.kind_n6[:, :3].mean(dim=1) * cosine.sqrt()
    kept = (hits.distance_n < lidar.max_range_m) & (hits.distance_n > 0.8) & (draws[0] > lidar.random_loss)
    ring = torch.arange(len(local), device=device) % len(lidar.elevations)
    measured = torch.where(kept, hits.distance_n, 0.0) + noise
    intensity = (strength * 255 * 0.75).round().clamp(0, 255)
    points = torch.cat([local * measured[:, None], intensity[:, None], ring[:, None]], dim=1)
    return points[kept], hits.kind_n6[kept, 5].long()
