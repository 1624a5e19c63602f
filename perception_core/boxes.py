"""3D boxes outside of tensors: a plain record per object and the way from network outputs to records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from perception_core.geometry import FloatArray, box_corners


@dataclass(frozen=True)
class Box3D:
    """One object.

    Attributes:
        label: Class name.
        score: Confidence 0..1.
        centre: x, y, z of the box centre in metres.
        size: Length, width, height in metres, along the box's own x, y and z.
        yaw: Heading about +z in radians, 0 along +x.
        velocity: vx, vy in metres a second; None where it is not known.
    """

    label: str
    score: float
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    velocity: tuple[float, float] | None = None

    def corners(self) -> FloatArray:
        """Returns the corners, (8, 3), in the order of `perception_core.geometry.BOX_CORNER_SIGNS`."""
        corners: FloatArray = box_corners([[*self.centre, *self.size, self.yaw]])[0]
        return corners


def decode_boxes(
    boxes_q9: torch.Tensor,
    scores_q: torch.Tensor,
    labels_q: torch.Tensor,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.0,
    max_boxes: int | None = None,
) -> list[Box3D]:
    """Turns a detection head's output tensors into records, best first.

    Boxes that are not finite or have no extent, and labels outside `class_names`, are left out: they cannot
    be objects.

    Args:
        boxes_q9: x y z l w h yaw vx vy.
        scores_q: 0..1.
        labels_q: Index into `class_names`.
        class_names: Names in channel order.
        score_threshold: Lower scores are left out.
        max_boxes: Keep at most this many.
    """
    boxes = boxes_q9.detach().to("cpu", torch.float64).numpy()
    scores = scores_q.detach().to("cpu", torch.float64).numpy()
    labels = labels_q.detach().to("cpu", torch.int64).numpy()
    keep = (
        (scores >= score_threshold)
        & np.isfinite(boxes).all(axis=1)
        & (boxes[:, 3:6] > 0).all(axis=1)
        & (labels >= 0)
        & (labels < len(class_names))
    )
    order = np.flatnonzero(keep)
    order = order[np.argsort(-scores[order], kind="stable")][:max_boxes]
    return [
        Box3D(
            label=class_names[labels[index]],
            score=float(scores[index]),
            centre=(float(box[0]), float(box[1]), float(box[2])),
            size=(float(box[3]), float(box[4]), float(box[5])),
            yaw=float(box[6]),
            velocity=(float(box[7]), float(box[8])),
        )
        for index in order
        for box in (boxes[index],)
    ]
