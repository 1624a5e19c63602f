"""Dense outputs of monocular networks as pictures and points: what is published of them, without ROS."""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

#: Class number of pixels nobody knows the class of.
UNKNOWN_CLASS = 255

#: Colours of Cityscapes' classes, as in its own pictures; others get an even share of the colour circle.
_CITYSCAPES_COLOURS: dict[str, tuple[int, int, int]] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}


def class_image(logits_khw: torch.Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns the best class of each pixel.

    Scores are raised bilinearly first, so that borders are as smooth as the network knows them.

    Args:
        logits_khw: Scores of K <= 255 classes.
        size: Rows and columns wanted.

    Returns:
        (rows, columns); UNKNOWN_CLASS where a score is not finite.
    """
    scores = logits_khw.detach().float().unsqueeze(0)
    raised_khw = functional.interpolate(scores, size=size, mode="bilinear", align_corners=False)[0]
    best_hw = raised_khw.argmax(dim=0).to(torch.uint8)
    known_hw = torch.isfinite(raised_khw).all(dim=0)
    best_hw = torch.where(known_hw, best_hw, torch.full_like(best_hw, UNKNOWN_CLASS))
    image: NDArray[np.uint8] = best_hw.cpu().numpy()
    return image


def class_colours(names: tuple[str, ...]) -> NDArray[np.uint8]:
    """Returns one RGB colour a class number, (256, 3); black for numbers without a class."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for index, name in enumerate(names):
        even = colorsys.hsv_to_rgb(index / max(len(names), 1), 0.75, 1.0)
        table[index] = _CITYSCAPES_COLOURS.get(name, tuple(round(255 * part) for part in even))
    return table


def depth_image(depth_hw: torch.Tensor, size: tuple[int, int], farthest_m: float) -> NDArray[np.float32]:
    """Returns a depth image in metres, NaN where it is not known (REP 118's form of 32FC1).

    Depth is interpolated as its inverse, which is linear along a plane seen at an angle: the road.

    Args:
        depth_hw: Metres; not positive or not finite: not known.
        size: Rows and columns wanted.
        farthest_m: Larger depths are not known.
    """
    depth = depth_hw.detach().float()
    known = torch.isfinite(depth) & (depth > 0)
    inverse = torch.where(known, 1 / depth.clamp_min(1e-6), torch.full_like(depth, float("nan")))
    raised = functional.interpolate(inverse[None, None], size=size, mode="bilinear", align_corners=False)[
        0, 0
    ]
    result = 1 / raised
    result = torch.where(result <= farthest_m, result, torch.full_like(result, float("nan")))
    image: NDArray[np.float32] = result.cpu().numpy().astype(np.float32)
    return image


def cloud_points(points_nc: torch.Tensor, depth_hw: torch.Tensor, farthest_m: float) -> NDArray[np.float32]:
    """Returns the points of a depth image, (N, 3), NaN where the depth is not known or too large.

    Args:
        points_nc: As `depth_head` gives them, row by row.
        depth_hw: The depth image they are of.
        farthest_m: Larger depths are not known.
    """
    depth_n1 = depth_hw.reshape(-1, 1)
    usable = torch.isfinite(depth_n1) & (depth_n1 > 0) & (depth_n1 <= farthest_m)
    points = torch.where(usable, points_nc.float(), torch.full_like(points_nc.float(), float("nan")))
    array: NDArray[np.float32] = points.detach().cpu().numpy().astype(np.float32)
    return array


def depth_picture(depth_hw: NDArray[np.float32], farthest_m: float) -> NDArray[np.uint8]:
    """Returns a picture for viewers, (rows, columns, 3) RGB: near is warm, far is cold, unknown is black.

    Args:
        depth_hw: Metres, NaN where not known.
        farthest_m: Shown in the coldest colour.
    """
    nearness = 1.0 - np.log1p(np.clip(np.nan_to_num(depth_hw), 0, farthest_m)) / np.log1p(farthest_m)
    red = np.clip(1.5 - np.abs(4 * nearness - 3), 0, 1)
    green = np.clip(1.5 - np.abs(4 * nearness - 2), 0, 1)
    blue = np.clip(1.5 - np.abs(4 * nearness - 1), 0, 1)
    picture = (255 * np.stack((red, green, blue), axis=-1)).astype(np.uint8)
    picture[~np.isfinite(depth_hw)] = 0
    return picture
