"""torchvision can be imported beside a CPU build of torch, and its operators then do what they shall."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core import torchvision_compat


def suppress_in_loops(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    def iou(a: list[float], b: list[float]) -> float:
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
        return width * height / union

    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -float(scores[i])):
        if all(iou(boxes[index].tolist(), boxes[other].tolist()) <= threshold for other in kept):
            kept.append(index)
    return kept


def random_boxes(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 10
    size = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 6 + 0.1
    return torch.cat((corner, corner + size), dim=1), torch.rand(
        count, generator=generator, dtype=torch.float64
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 25), threshold=st.sampled_from([0.1, 0.5, 0.9]))
def test_suppression_agrees_with_loops(seed: int, count: int, threshold: float) -> None:
    boxes, scores = random_boxes(seed, count)
    found = torchvision_compat.non_maximum_suppression(boxes, scores, threshold)
    assert found.tolist() == suppress_in_loops(boxes, scores, threshold)


def test_torchvision_works() -> None:
    torchvision = torchvision_compat.import_torchvision()
    boxes, scores = random_boxes(1, 20)
    kept = torchvision.ops.nms(boxes, scores, 0.5)
    assert kept.tolist() == suppress_in_loops(boxes, scores, 0.5)
    if torchvision_compat.is_active():  # else the library itself loaded, and nothing was registered
        assert not torch.cuda.is_available()
        assert torchvision_compat.import_torchvision() is torchvision
