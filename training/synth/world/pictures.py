"""Pictures of worlds for documents and for looking at: `python -m training.synth.world.pictures OUT`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_core.geometry import box_corners, inverse, project_box_edges, transform_points
from training.synth.camera import Camera, nuscenes_like_cameras
from training.synth.mesh import Semantic
from training.synth.world.presets import CONDITIONS, LAYOUTS, PRESETS
from training.synth.world.town import make_town
from training.synth.world.views import View
from training.synth.world.world import Moment, World, make_world

Image = NDArray[np.uint8]

#: Colours of detection classes, RGB, as in the nuScenes devkit.
CLASS_COLOURS = {
    "car": (255, 158, 0),
    "truck": (255, 99, 71),
    "construction_vehicle": (233, 150, 70),
    "bus": (255, 127, 80),
    "trailer": (255, 140, 0),
    "barrier": (112, 128, 144),
    "motorcycle": (255, 61, 99),
    "bicycle": (220, 20, 60),
    "pedestrian": (40, 90, 255),
    "traffic_cone": (47, 79, 79),
}
_LAYER_COLOURS = {
    "drivable_area": (206, 206, 206),
    "walkway": (222, 203, 168),
    "carpark_area": (176, 200, 222),
    "bike_lane": (226, 178, 170),
    "ped_crossing": (250, 178, 92),
    "stop_line": (226, 64, 64),
}
#: Cityscapes' colours, and grey for everything else.
_SEMANTIC_COLOURS = {
    Semantic.ROAD: (128, 64, 128),
    Semantic.SIDEWALK: (244, 35, 232),
    Semantic.BUILDING: (70, 70, 70),
    Semantic.WALL: (102, 102, 156),
    Semantic.FENCE: (190, 153, 153),
    Semantic.POLE: (153, 153, 153),
    Semantic.TRAFFIC_LIGHT: (250, 170, 30),
    Semantic.TRAFFIC_SIGN: (220, 220, 0),
    Semantic.VEGETATION: (107, 142, 35),
    Semantic.TERRAIN: (152, 251, 152),
    Semantic.SKY: (70, 130, 180),
    Semantic.PERSON: (220, 20, 60),
    Semantic.RIDER: (255, 0, 0),
    Semantic.CAR: (0, 0, 142),
    Semantic.TRUCK: (0, 0, 70),
    Semantic.BUS: (0, 60, 100),
    Semantic.TRAIN: (0, 80, 100),
    Semantic.MOTORCYCLE: (0, 0, 230),
    Semantic.BICYCLE: (119, 11, 32),
    Semantic.OTHER: (90, 110, 110),
}
#: Pictures of documents stay small: they live in the repository.
_LARGEST_BYTES = 200_000
_QUALITIES = (88, 82, 76, 70, 64, 58, 52)
_ORDER = (
    *("camera_front_left", "camera_front", "camera_front_right"),
    *("camera_back_left", "camera_back", "camera_back_right"),
)


def colour_semantic(semantic_hw: NDArray[np.uint8]) -> Image:
    """Returns the classes in Cityscapes' colours."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for semantic, colour in _SEMANTIC_COLOURS.items():
        table[int(semantic)] = colour
    coloured: Image = table[semantic_hw]
    return coloured


def six_cameras(world: World, moment: Moment, width: int, boxes: bool = False) -> Image:
    """Returns all six cameras in two rows.

    Args:
        world: The world.
        moment: When.
        width: Of one picture in pixels.
        boxes: Whether to draw the actors' boxes that the cameras see.
    """
    cameras = {camera.modality: camera for camera in nuscenes_like_cameras(width, width * 9 // 16)}
    seen = world.visibility(moment, tuple(cameras.values())) if boxes else {}
    tiles = []
    for modality in _ORDER:
        camera = cameras[modality]
        image = world.render(camera, moment, keypoints=False).image_hwc.copy()
        for instance, share in seen.items():
            if share > 0.15:
                _draw_box(image, world, moment, instance, camera)
        tiles.append(image)
    return np.vstack([np.hstack(tiles[:3]), np.hstack(tiles[3:])])


def _draw_box(image: Image, world: World, moment: Moment, instance: int, camera: Camera) -> None:
    actor, pose = world.actors[instance], moment.poses[instance]
    local = box_corners([[0, 0, actor.size[2] / 2, *actor.size, 0]])[0]
    in_ego = transform_points(inverse(moment.world_from_ego) @ pose, local)
    if np.hypot(*in_ego.mean(axis=0)[:2]) > 45:
        return
    camera_from_ego = inverse(camera.ego_from_camera)
    size = (camera.width, camera.height)
    colour = CLASS_COLOURS[actor.label]
    for start, end in project_box_edges(in_ego, camera_from_ego, camera.matrix_33, size):
        limited = np.clip(np.array([start, end]), -4000, 4000).round().astype(int).tolist()
        cv2.line(image, limited[0], limited[1], colour, 1, cv2.LINE_AA)


def by_products(world: World, moment: Moment, camera: Camera) -> Image:
    """Returns picture, depth, normals, semantic, instances and edges with keypoints in two rows."""
    view = world.render(camera, moment)
    inverse_depth = 255 * np.clip(3.0 / np.maximum(view.depth_hw, 3.0), 0, 1) ** 0.6
    depth = cv2.applyColorMap(inverse_depth.astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    normal = ((view.normal_hwc * [1, -1, -1] + 1) * 127.5).astype(np.uint8)
    normal[~np.isfinite(view.depth_hw)] = 0
    rows: list[list[Any]] = [
        [view.image_hwc, depth, normal],
        [colour_semantic(view.semantic_hw), _instances(view), _edges_and_keypoints(view)],
    ]
    return np.vstack([np.hstack([np.ascontiguousarray(tile) for tile in row]) for row in rows])


def _instances(view: View) -> Image:
    generator = np.random.default_rng(5)
    table = generator.integers(70, 256, (max(1, int(view.instance_hw.max()) + 1), 3)).astype(np.uint8)
    image = (view.image_hwc // 4).astype(np.uint8)
    labelled = view.instance_hw >= 0
    image[labelled] = table[view.instance_hw[labelled]]
    return image


def _edges_and_keypoints(view: View) -> Image:
    image = np.full_like(view.image_hwc, 16)
    image[view.edge_hw] = 200
    for keypoint in view.keypoints:
        column, row = (round(value) for value in keypoint.pixel)
        colour = (90, 255, 90) if keypoint.visible else (255, 80, 80)
        cv2.circle(image, (column, row), 2, colour, -1, cv2.LINE_AA)
    return image


def bird_eye(world: World, time_s: float, half_m: float = 42.0, pixels: int = 760) -> Image:
    """Returns the map, the LiDAR's points by height and the boxes from above, the vehicle heading up."""
    moment = world.at(time_s)
    pose = moment.world_from_ego
    scale = pixels / (2 * half_m)

    def to_pixels(points_n: NDArray[np.float64]) -> NDArray[np.int32]:
        in_ego = transform_points(
            inverse(pose), np.column_stack([points_n[:, :2], np.full(len(points_n), pose[2, 3])])
        )
        result: NDArray[np.int32] = np.round(
            np.stack([half_m - in_ego[:, 1], half_m - in_ego[:, 0]], axis=1) * scale * 16
        ).astype(np.int32)
        return result

    image = np.full((pixels, pixels, 3), 246, dtype=np.uint8)
    for layer, colour in _LAYER_COLOURS.items():
        for polygon in world.town.areas[layer]:
            rings = [polygon.exterior, *polygon.interiors]
            cv2.fillPoly(
                image, [to_pixels(np.array(ring.coords)) for ring in rings], colour, cv2.LINE_AA, shift=4
            )
    for lines in world.town.lines.values():
        for line in lines:
            cv2.polylines(
                image, [to_pixels(np.array(line.coords))], False, (255, 255, 255), 1, cv2.LINE_AA, 4
            )
    sweep = world.sweep(world.lidar(), time_s)
    points = transform_points(pose @ world.lidar().ego_from_lidar, sweep.points_nc[:, :3])
    height = np.clip(points[:, 2] / 3.5, 0, 1)
    colours = cv2.applyColorMap((height * 255).astype(np.uint8)[:, None], cv2.COLORMAP_JET)[:, 0, ::-1]
    at = to_pixels(points) >> 4
    raised = (points[:, 2] > 0.3) & (at >= 0).all(axis=1) & (at < pixels).all(axis=1)
    for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        rows, columns = (
            np.minimum(at[raised, axis] + by, pixels - 1) for axis, by in ((1, down), (0, right))
        )
        image[rows, columns] = colours[raised]
    for instance, placed in moment.poses.items():
        actor = world.actors[instance]
        corners = box_corners([[0, 0, 0, *actor.size, 0]])[0]
        outline = transform_points(placed, corners)[:, :2]
        hull = cv2.convexHull(to_pixels(outline))
        cv2.polylines(image, [hull], True, CLASS_COLOURS[actor.label], 2, cv2.LINE_AA, 4)
        ahead = transform_points(placed, np.array([[0.0, 0, 0], [actor.size[0] / 2 + 0.6, 0, 0]]))
        cv2.polylines(image, [to_pixels(ahead)], False, CLASS_COLOURS[actor.label], 2, cv2.LINE_AA, 4)
    vehicle = transform_points(pose, box_corners([[1.34, 0, 0, 4.08, 1.73, 1.5, 0]])[0])
    cv2.fillPoly(image, [cv2.convexHull(to_pixels(vehicle))], (20, 20, 20), cv2.LINE_AA, 4)
    return image


def town_maps(seed: int, pixels: int = 520) -> Image:
    """Returns the vector maps of one town of each layout."""
    tiles = []
    for number, layout in enumerate(LAYOUTS):
        town = make_town(seed + number, layout)
        scale = pixels / max(town.extent)
        image = np.full((pixels, pixels, 3), 246, dtype=np.uint8)

        def to_pixels(points: NDArray[np.float64], scale: float = scale) -> NDArray[np.int32]:
            flipped = np.stack([points[:, 0] * scale, pixels - points[:, 1] * scale], axis=1)
            result: NDArray[np.int32] = np.round(flipped * 16).astype(np.int32)
            return result

        for layer, colour in _LAYER_COLOURS.items():
            for polygon in town.areas[layer]:
                cv2.fillPoly(image, [to_pixels(np.array(polygon.exterior.coords))], colour, cv2.LINE_AA, 4)
        for lane in town.lanes:
            points = to_pixels(lane.curve.points_n2)
            cv2.polylines(image, [points], False, (120, 120, 190), 1, cv2.LINE_AA, 4)
        for connector in town.connectors:
            points = to_pixels(connector.curve.points_n2)
            cv2.polylines(image, [points], False, (90, 160, 90), 1, cv2.LINE_AA, 4)
        tiles.append(image)
    return np.hstack(tiles)


def _save(path: Path, image: Image) -> None:
    """Writes a picture; a JPEG in the best quality in which it stays small.

    Raises:
        ValueError: It does not become small enough.
        OSError: It cannot be written.
    """
    bgr = np.ascontiguousarray(image[..., ::-1])
    if path.suffix == ".jpg":
        choices = [[cv2.IMWRITE_JPEG_QUALITY, quality] for quality in _QUALITIES]
    else:
        choices = [[cv2.IMWRITE_PNG_COMPRESSION, 9]]
    for choice in choices:
        encoded, data = cv2.imencode(path.suffix, bgr, choice)
        if encoded and len(data) <= _LARGEST_BYTES:
            path.write_bytes(data.tobytes())
            return
    raise ValueError(f"{path}: {bgr.shape[1]} x {bgr.shape[0]} pixels do not fit {_LARGEST_BYTES} bytes")


def make_pictures(folder: Path, seed: int = 7, width: int = 480) -> None:
    """Writes the pictures of the documentation.

    Args:
        folder: Receives them.
        seed: Of the worlds.
        width: Of one camera picture in pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base = PRESETS["standard"]
    views = []
    for number, name in enumerate(CONDITIONS):
        preset = base.model_copy(update={"conditions": {name: 1.0}})
        world = make_world(preset, seed, number + 2, seconds=4.0)
        moment = world.at(1.5)
        camera = nuscenes_like_cameras(width * 3 // 2, width * 27 // 32)[0]
        views.append(world.render(camera, moment, keypoints=False).image_hwc)
        if name == "day":
            _save(folder / "synth_six_cameras.jpg", six_cameras(world, moment, width))
            _save(folder / "synth_boxes.jpg", six_cameras(world, moment, width, boxes=True))
            _save(folder / "synth_bird_eye.jpg", bird_eye(world, 1.5))
            near = nuscenes_like_cameras(width, width * 9 // 16)[0]
            _save(folder / "synth_by_products.jpg", by_products(world, moment, near))
    _save(
        folder / "synth_conditions.jpg",
        np.vstack([np.hstack(views[:2]), np.hstack(views[2:])]),
    )
    _save(folder / "synth_towns.png", town_maps(seed))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--width", type=int, default=480)
    given = parser.parse_args(arguments)
    make_pictures(given.folder, given.seed, given.width)


if __name__ == "__main__":
    main()
