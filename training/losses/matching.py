"""Assignment of objects to queries, one to one, at the least total cost (Hungarian method)."""

from __future__ import annotations

import scipy.optimize
import torch
from torch.nn import functional

from perception_core.ops.bev_grid import BevGrid
from training.losses.configuration import DetectionLossConfig


def aligned_extent(boxes_n9: torch.Tensor) -> torch.Tensor:
    """Returns x_min y_min x_max y_max (N, 4) of boxes turned to the nearest multiple of 90 degrees."""
    sideways_n1 = boxes_n9[:, 6:7].sin().abs() > boxes_n9[:, 6:7].cos().abs()
    size_n2 = torch.where(sideways_n1, boxes_n9[:, [4, 3]], boxes_n9[:, [3, 4]])
    return torch.cat((boxes_n9[:, :2] - size_n2 / 2, boxes_n9[:, :2] + size_n2 / 2), dim=1)


def aligned_iou(first_n9: torch.Tensor, second_m9: torch.Tensor) -> torch.Tensor:
    """Returns the IoU (N, M) in the bird's-eye view of boxes turned to the nearest multiple of 90 degrees.

    TransFusion's assignment takes the 3D IoU of turned boxes; for telling which of several queries lies best
    on an object this cheap stand-in ranks alike.
    """
    first_n4, second_m4 = aligned_extent(first_n9), aligned_extent(second_m9)
    low = torch.maximum(first_n4[:, None, :2], second_m4[None, :, :2])
    high = torch.minimum(first_n4[:, None, 2:], second_m4[None, :, 2:])
    overlap = (high - low).clamp_min(0).prod(dim=-1)
    area_n = first_n9[:, 3] * first_n9[:, 4]
    area_m = second_m9[:, 3] * second_m9[:, 4]
    return overlap / (area_n.unsqueeze(1) + area_m.unsqueeze(0) - overlap).clamp_min(1e-9)


@torch.no_grad()
def match_queries(
    class_logits_qk: torch.Tensor,
    boxes_q9: torch.Tensor,
    target_boxes_n9: torch.Tensor,
    target_labels_n: torch.Tensor,
    grid: BevGrid,
    config: DetectionLossConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Assigns every object a query of its own, or as many objects as there are queries.

    The cost is that of TransFusion: focal classification, distance of the centres relative to the grid, and
    overlap.

    Returns:
        Indices of the matched queries and of their objects, int64, equally long.
    """
    device = class_logits_qk.device
    if len(target_boxes_n9) == 0:
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        return empty, empty
    logits_qn = class_logits_qk.float()[:, target_labels_n]
    probability_qn = logits_qn.sigmoid()
    alpha, gamma = config.focal_alpha, config.focal_gamma
    as_object = alpha * (1 - probability_qn) ** gamma * -functional.logsigmoid(logits_qn)
    as_background = (1 - alpha) * probability_qn**gamma * -functional.logsigmoid(-logits_qn)
    distance_qn = torch.cdist(
        grid.normalized(boxes_q9[:, :2].float()) / 2, grid.normalized(target_boxes_n9[:, :2].float()) / 2, p=1
    )
    cost_qn = (
        config.class_cost * (as_object - as_background)
        + config.position_cost * distance_qn
        - config.overlap_cost * aligned_iou(boxes_q9.float(), target_boxes_n9.float())
    )
    # Costs of a network gone astray must not stop the assignment: the loss itself reports it, by name.
    cost_qn = torch.nan_to_num(cost_qn, nan=1e6, posinf=1e6, neginf=-1e6)
    query, target = scipy.optimize.linear_sum_assignment(cost_qn.cpu().numpy())
    return torch.as_tensor(query, device=device), torch.as_tensor(target, device=device)
