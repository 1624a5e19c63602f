"""Makes `import torchvision` work beside a CPU build of torch.

torchvision's published wheel has its operators compiled for CUDA. Beside a CPU build of torch that library
does not load, and then the import itself fails, because some of its Python code describes operators that were
never registered. Where, and only where, that is so, the missing operators are registered here: `nms` with a
real CPU kernel, `qnms` (quantized, which nothing here uses) in name only. Where torchvision's library loads,
nothing is done.

Import torchvision through `import_torchvision`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch

# Registrations live as long as this object.
_library: torch.library.Library | None = None


def import_torchvision() -> ModuleType:
    """Imports torchvision, registering its missing operators first if need be.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    _register_operators()
    torchvision = importlib.import_module("torchvision")
    # torchvision refuses `nms` where its own library is absent; `nms` is there now. Operators it has in
    # Python (roi_align) ask the same question in another way, and must go on hearing the truth.
    boxes: Any = importlib.import_module("torchvision.ops.boxes")
    boxes._assert_has_ops = _nothing_missing
    return torchvision


def _nothing_missing() -> None:
    """Stands where torchvision asks whether `nms` exists."""


def is_active() -> bool:
    """Whether the operators registered here are the ones in use."""
    return _library is not None


def _register_operators() -> None:
    global _library
    if _library is not None:
        return
    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.impl("nms", non_maximum_suppression, "CPU")


def non_maximum_suppression(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Keeps the best boxes of which no two overlap by more than a threshold.

    Args:
        dets: x1 y1 x2 y2 (N, 4).
        scores: (N).
        iou_threshold: A box whose IoU with a better, kept one is larger is dropped.

    Returns:
        Indices of the kept boxes, best first.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = dets[order]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    dropped = torch.zeros(len(boxes), dtype=torch.bool)
    kept = []
    for index in range(len(boxes)):
        if dropped[index]:
            continue
        kept.append(index)
        rest = boxes[index + 1 :]
        low = torch.maximum(boxes[index, :2], rest[:, :2])
        high = torch.minimum(boxes[index, 2:], rest[:, 2:])
        overlap = (high - low).clamp_min(0).prod(dim=1)
        iou = overlap / (area[index] + area[index + 1 :] - overlap)
        dropped[index + 1 :] |= iou > iou_threshold
    return order[kept]
