"""BEV map masks from the nuScenes map expansion, drawn by the official devkit.

As in BEVFusion (Liu et al., 2023) and FULLER the six classes are the devkit's layers of the same names, and
the divider is the union of road and lane dividers, drawn as the devkit draws lines (two cells wide).
BEVFusion centres the patch on the LiDAR; here it is the ego frame, in which everything else is given.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from perception_core.atomic_write import write_atomically
from perception_core.configuration import nearest
from perception_core.geometry import FloatArray, rotation_about_z, yaw_of
from perception_core.ops.bev_grid import BevGrid
from training.datasets.files import DataError
from training.datasets.sample import BevMasks, BoolArray

#: Layers of the map expansion each class is the union of.
LAYERS_OF_CLASS: dict[str, tuple[str, ...]] = {
    **{
        name: (name,)
        for name in ("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "lane")
    },
    **{name: (name,) for name in ("road_segment", "road_divider", "lane_divider")},
    "divider": ("road_divider", "lane_divider"),
}

#: The devkit refuses other places.
LOCATIONS = ("singapore-onenorth", "singapore-hollandvillage", "singapore-queenstown", "boston-seaport")


class MapMasks:
    """Draws masks; opens each location's map when it is first needed, in each process for itself."""

    def __init__(
        self, root: Path, classes: tuple[str, ...], grid: BevGrid, cache: Path | None = None
    ) -> None:
        """Prepares drawing.

        Args:
            root: Folder of the data set, with maps/expansion/<location>.json.
            classes: Keys of LAYERS_OF_CLASS.
            grid: Cells in the ego frame.
            cache: Folder to keep drawn masks in; None: draw them each time. Drawing takes most of a sample's
                time.

        Raises:
            DataError: A class is unknown.
        """
        for name in classes:
            if name not in LAYERS_OF_CLASS:
                raise DataError(root, f"no map class '{name}'" + nearest(name, LAYERS_OF_CLASS))
        self._root, self._classes, self._grid = root, classes, grid
        self._layers = list(dict.fromkeys(layer for name in classes for layer in LAYERS_OF_CLASS[name]))
        self._cache = cache
        self._maps: dict[str, Any] = {}
        self._digests: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the opened maps behind: they are large, and a worker opens its own."""
        return {**self.__dict__, "_maps": {}, "_digests": {}}

    def path_of(self, location: str) -> Path:
        """Returns the map expansion's file of a location."""
        return self._root / "maps" / "expansion" / f"{location}.json"

    def draw(self, location: str, world_from_ego_44: FloatArray, token: str) -> BevMasks:
        """Draws the masks around a pose.

        Args:
            location: Name of the map.
            world_from_ego_44: Pose of the ego frame in the map's world.
            token: Sample the pose belongs to, for messages and the cache.

        Raises:
            DataError: There is no such map, it is damaged, or it does not cover the pose.
        """
        cached = self._cached_path(location, world_from_ego_44, token)
        if cached is not None:
            masks = self._read_cached(cached)
            if masks is not None:
                return BevMasks(masks, self._classes, self._grid)
        masks = self._draw(location, world_from_ego_44, token)
        if cached is not None:
            write_atomically(cached, np.packbits(masks).tobytes())
        return BevMasks(masks, self._classes, self._grid)

    def _draw(self, location: str, world_from_ego_44: FloatArray, token: str) -> BoolArray:
        opened = self._open(location)
        grid, path = self._grid, self.path_of(location)
        x, y = world_from_ego_44[:2, 3]
        width, height = opened.canvas_edge
        if not (0 <= x <= width and 0 <= y <= height):
            raise DataError(
                path,
                f"the map of {width:g} x {height:g} m does not cover the ego pose ({x:.1f}, {y:.1f}) of "
                f"sample {token}; is the scene's location right?",
            )
        yaw = yaw_of(world_from_ego_44)
        # The devkit rounds to whole pixels, which makes its cells lie around whole multiples of the cell
        # size; ours begin there. Half a cell brings the two together.
        middle = np.array([grid.x_min + grid.x_max, grid.y_min + grid.y_max]) / 2 + grid.cell_size / 2
        centre = world_from_ego_44[:2, 3] + rotation_about_z(yaw)[:2, :2] @ middle
        patch = (float(centre[0]), float(centre[1]), grid.y_max - grid.y_min, grid.x_max - grid.x_min)
        drawn = opened.get_map_mask(patch, np.degrees(yaw), self._layers, (grid.rows, grid.columns)) > 0
        if not drawn.any():
            raise DataError(
                path,
                f"the map has nothing around the ego pose ({x:.1f}, {y:.1f}) of sample {token}: it does not "
                "cover the scene",
            )
        row = {layer: index for index, layer in enumerate(self._layers)}
        return np.stack(
            [
                np.logical_or.reduce([drawn[row[layer]] for layer in LAYERS_OF_CLASS[name]])
                for name in self._classes
            ]
        )

    def _open(self, location: str) -> Any:
        if location not in self._maps:
            from nuscenes.map_expansion.map_api import NuScenesMap

            path = self.path_of(location)
            if location not in LOCATIONS:
                raise DataError(path, f"no map of that name; the devkit knows {', '.join(LOCATIONS)}")
            if not path.is_file():
                raise DataError(path, "map expansion is missing; it is a download of its own (v1.3)")
            try:
                self._maps[location] = NuScenesMap(dataroot=str(self._root), map_name=location)
            except Exception as error:  # the devkit raises bare Exceptions
                raise DataError(path, f"map cannot be read: {type(error).__name__}: {error}") from error
        return self._maps[location]

    def _cached_path(self, location: str, world_from_ego_44: FloatArray, token: str) -> Path | None:
        if self._cache is None:
            return None
        if location not in self._digests:
            path = self.path_of(location)
            if not path.is_file():
                raise DataError(path, "map expansion is missing; it is a download of its own (v1.3)")
            facts = [path.stat().st_size, path.stat().st_mtime_ns, self._classes, self._grid.model_dump()]
            self._digests[location] = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        pose = hashlib.sha256(np.round(world_from_ego_44, 6).tobytes()).hexdigest()[:8]
        return self._cache / "map_masks" / self._digests[location] / token[:2] / f"{token}-{pose}.bits"

    def _read_cached(self, path: Path) -> BoolArray | None:
        shape = (len(self._classes), self._grid.rows, self._grid.columns)
        try:
            content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        except OSError:
            return None
        cells = int(np.prod(shape))
        if content.size != (cells + 7) // 8:
            return None
        return np.unpackbits(content, count=cells).reshape(shape).astype(bool)
