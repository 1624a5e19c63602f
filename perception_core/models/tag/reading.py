"""Reads objects out of the detection head's maps."""

from __future__ import annotations

import torch

from perception_core.models.tag.configuration import MonoDetectionConfig
from perception_core.models.tag.decoding import MonoBoxCodec, MonoCode
from perception_core.models.tag.heads import MonoDetectionOutput, detection_channels
from perception_core.ops.peaks import suppress_non_peaks, top_peaks

#: Farther than this no depth is believed; keeps an untrained network's boxes finite.
FARTHEST_M = 500.0


def depth_of(raw: torch.Tensor) -> torch.Tensor:
    """Returns metres of the head's raw depth: 1 / sigmoid - 1 (MonoDLE after CenterNet), which is exp(-raw).

    Raw values are limited so that the result lies between 1 / FARTHEST_M and FARTHEST_M.
    """
    limit = torch.tensor(FARTHEST_M, dtype=raw.dtype, device=raw.device).log()
    return torch.exp(-torch.minimum(torch.maximum(raw, -limit), limit))


def split_code(code_behw: torch.Tensor, config: MonoDetectionConfig) -> dict[str, torch.Tensor]:
    """Splits the code along its second axis by sub-head; works for (B, E, H, W) and (N, E) alike."""
    sizes = detection_channels(config)
    del sizes["heatmap"]
    return dict(zip(sizes, code_behw.split(list(sizes.values()), dim=1), strict=True))


def code_at(
    parts: dict[str, torch.Tensor], cell_n2: torch.Tensor, labels_n: torch.Tensor, bins: int
) -> MonoCode:
    """Turns the sub-heads' values at some cells into a code.

    Args:
        parts: Values (N, C) by sub-head, see `split_code`.
        cell_n2: Column and row.
        labels_n: Class.
        bins: Heading bins.
    """
    heading_bin_n = parts["heading"][:, :bins].argmax(dim=1)
    residual_n = parts["heading"][:, bins:].gather(1, heading_bin_n.unsqueeze(1)).squeeze(1)
    directions = [parts[name][:, 1:].argmax(dim=1) for name in ("pitch", "roll")]
    return MonoCode(
        cell_n2=cell_n2,
        labels_n=labels_n,
        offset_2d_n2=parts["offset_2d"],
        size_2d_n2=parts["size_2d"],
        offset_3d_n2=parts["offset_3d"],
        depth_n=depth_of(parts["depth"][:, 0]),
        size_3d_n3=parts["size_3d"],
        heading_bin_n=heading_bin_n,
        heading_residual_n=residual_n,
        tilt_n2=torch.stack([parts[name][:, 0] for name in ("pitch", "roll")], dim=1),
        tilt_direction_n2=torch.stack(directions, dim=1),
    )


def confidence_of(heat: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Returns the score of objects: their heat, less where the depth is uncertain.

    MonoDLE multiplies by exp(-s) with s the predicted log variance; here by at most 1, so that the score
    stays within 0..1.
    """
    return heat * torch.exp(-log_variance.clamp_min(0.0))


def read_objects(
    output: MonoDetectionOutput,
    config: MonoDetectionConfig,
    codec: MonoBoxCodec,
    intrinsics_b33: torch.Tensor,
    camera_from_ego_b44: torch.Tensor,
    valid_b: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reads the best objects of a batch.

    Args:
        output: Of the head.
        config: Of the head.
        codec: For the images' size.
        intrinsics_b33: Pixels of the images.
        camera_from_ego_b44: Rigid.
        valid_b: bool; a frame without its camera has objects of score 0 only.

    Returns:
        boxes (B, Q, 9) with velocity 0, scores (B, Q) descending, labels (B, Q), pitch and roll (B, Q, 2);
        ego frame. Where the calibration is unusable, boxes are zero and scores 0.
    """
    heat_bkhw = suppress_non_peaks(output.heatmap_logits_bkhw.float().sigmoid(), config.peak_window)
    count = min(config.objects, heat_bkhw[0].numel())
    heat_bq, label_bq, cell_bq = top_peaks(heat_bkhw, count)
    columns = heat_bkhw.shape[-1]
    results = []
    for sample in range(len(heat_bkhw)):
        cell_q = cell_bq[sample]
        values_qe = output.code_behw[sample].flatten(1)[:, cell_q].T.float()
        parts = split_code(values_qe, config)
        cell_q2 = torch.stack((cell_q % columns, torch.div(cell_q, columns, rounding_mode="floor")), dim=1)
        code = code_at(parts, cell_q2, label_bq[sample], config.heading_bins)
        boxes_q9, tilt_q2 = codec.decode(code, intrinsics_b33[sample], camera_from_ego_b44[sample])
        score_q = confidence_of(heat_bq[sample], parts["depth"][:, 1])
        usable_q = torch.isfinite(boxes_q9).all(dim=1) & valid_b[sample]
        usable_q = usable_q & (intrinsics_b33[sample, 0, 0] > 0) & torch.isfinite(score_q)
        score_q = torch.where(usable_q, score_q, torch.zeros_like(score_q))
        score_q, order = score_q.sort(descending=True, stable=True)
        usable_q1 = usable_q[order].unsqueeze(1)
        results.append(
            (
                torch.where(usable_q1, boxes_q9[order], torch.zeros_like(boxes_q9)),
                score_q,
                label_bq[sample][order],
                torch.where(usable_q1, tilt_q2[order], torch.zeros_like(tilt_q2)),
            )
        )
    boxes, scores, labels, tilts = (torch.stack(part) for part in zip(*results, strict=True))
    return boxes, scores, labels, tilts
