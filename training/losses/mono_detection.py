"""Loss of monocular 3D detection, after MonoDLE (Ma et al., CVPR 2021) with pitch and roll after FCOS3D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional

from perception_core.models.tag.configuration import MonoDetectionConfig
from perception_core.models.tag.decoding import MonoBoxCodec, MonoCode
from perception_core.models.tag.heads import MonoDetectionOutput
from perception_core.models.tag.reading import depth_of, split_code
from training.losses.focal import gaussian_focal_loss
from training.losses.heatmap_target import draw_peaks, peak_radius
from training.losses.mono_configuration import MonoDetectionLossConfig
from training.losses.task_loss import TaskLoss, present_index

TASK = "mono_detection3d"


class MonoBoxTargets(Protocol):
    """Annotated boxes of one sample, e.g. `training.datasets.batch.BoxBatch`.

    Attributes:
        boxes_b9: x y z l w h yaw vx vy, ego frame.
        labels_b: int64 class.
        pitch_roll_b2: Radians.
    """

    boxes_b9: torch.Tensor
    labels_b: torch.Tensor
    pitch_roll_b2: torch.Tensor


class MonoDetectionLoss:
    """Loss of `MonoDetectionHead`.

    Args:
        config: Weights.
        head: Configuration of the head.
        codec: Of the network.
    """

    def __init__(
        self, config: MonoDetectionLossConfig, head: MonoDetectionConfig, codec: MonoBoxCodec
    ) -> None:
        self.config, self.head, self.codec = config, head, codec

    def __call__(
        self,
        output: MonoDetectionOutput,
        boxes: Sequence[MonoBoxTargets | None],
        intrinsics_b33: torch.Tensor,
        camera_from_ego_b44: torch.Tensor,
        present_b: torch.Tensor,
    ) -> TaskLoss:
        """Returns the loss of a batch.

        Args:
            output: Of the head, B samples.
            boxes: Annotation of each sample, in the classes of the head; looked at only where present.
            intrinsics_b33: Pixels of the images.
            camera_from_ego_b44: Rigid.
            present_b: bool (B), samples that are annotated (perhaps with no box at all).

        Raises:
            NonFiniteLossError: A term is not finite.
        """
        present = present_index(present_b, len(boxes), TASK)
        if len(present) == 0:
            return TaskLoss.without_labels(output.heatmap_logits_bkhw, output.code_behw)
        codes, values, heatmaps = [], [], []
        for sample in present.tolist():
            targets = boxes[sample]
            assert targets is not None
            code, _ = self.codec.encode(
                targets.boxes_b9.float(),
                targets.pitch_roll_b2.float(),
                targets.labels_b,
                intrinsics_b33[sample],
                camera_from_ego_b44[sample],
            )
            codes.append(code)
            column_n, row_n = code.cell_n2.unbind(dim=1)
            values.append(output.code_behw[sample][:, row_n, column_n].T.float())
            heatmaps.append(self._heatmap(code, output.heatmap_logits_bkhw.shape[1:]))
        target_pkhw = torch.stack(heatmaps)
        peaks = (target_pkhw >= 1).sum().clamp_min(1)
        heat = gaussian_focal_loss(output.heatmap_logits_bkhw[present].float(), target_pkhw).sum() / peaks
        terms = {"heatmap": self.config.heatmap_weight * heat}
        terms |= self._object_terms(split_code(torch.cat(values), self.head), _joined(codes))
        weighted = {name: self.config.weight * term for name, term in terms.items()}
        return TaskLoss.of_terms(TASK, weighted, len(present))

    def _heatmap(self, code: MonoCode, shape: torch.Size) -> torch.Tensor:
        column_n, row_n = code.cell_n2.unbind(dim=1)
        radius_n = peak_radius(code.size_2d_n2, self.config.heatmap_overlap).clamp_min(0).floor()
        classes, rows, columns = shape
        return draw_peaks(row_n, column_n, radius_n.float(), code.labels_n, (classes, rows, columns))

    def _object_terms(self, found: dict[str, torch.Tensor], code: MonoCode) -> dict[str, torch.Tensor]:
        """Returns the terms of what is regressed at the objects' cells; 0, with a graph, without objects."""
        config, bins = self.config, self.head.heading_bins
        count = len(code.labels_n)
        if count == 0:
            nothing = sum(part.sum() for part in found.values())
            return {"objects": torch.as_tensor(nothing)}
        depth, log_variance = depth_of(found["depth"][:, 0]), found["depth"][:, 1]
        # Laplacian of unknown width (MonoDLE's Eq. for uncertainty): sqrt(2) / sigma |d - d*| + log sigma.
        uncertain = math.sqrt(2) * torch.exp(-0.5 * log_variance) * (depth - code.depth_n).abs()
        usual_n3 = code.size_3d_n3.new_tensor(self.codec.usual_sizes)[code.labels_n]
        heading = functional.cross_entropy(found["heading"][:, :bins], code.heading_bin_n)
        residual_n = found["heading"][:, bins:].gather(1, code.heading_bin_n.unsqueeze(1)).squeeze(1)
        tilts = []
        for axis, name in enumerate(("pitch", "roll")):
            difference = torch.sin(found[name][:, 0] - code.tilt_n2[:, axis])
            angle = functional.smooth_l1_loss(difference, torch.zeros_like(difference), beta=config.tilt_beta)
            direction = functional.cross_entropy(found[name][:, 1:], code.tilt_direction_n2[:, axis])
            tilts.append(angle + config.direction_weight * direction)
        l1 = functional.l1_loss
        return {
            "offset_2d": config.offset_2d_weight * l1(found["offset_2d"], code.offset_2d_n2),
            "size_2d": config.size_2d_weight * l1(found["size_2d"], code.size_2d_n2),
            "offset_3d": config.offset_3d_weight * l1(found["offset_3d"], code.offset_3d_n2),
            "size_3d": config.size_3d_weight
            * _dimension_aware(found["size_3d"], code.size_3d_n3, code.size_3d_n3 + usual_n3),
            "depth": config.depth_weight * (uncertain + 0.5 * log_variance).mean(),
            "heading": config.heading_weight * (heading + l1(residual_n, code.heading_residual_n)),
            "tilt": config.tilt_weight * (tilts[0] + tilts[1]),
        }


def _dimension_aware(found: torch.Tensor, target: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """MonoDLE's L1 relative to the true dimension, scaled to the plain L1's value."""
    difference = (found - target).abs()
    relative = difference / size
    with torch.no_grad():
        compensation = difference.mean() / relative.mean().clamp_min(1e-6)
    return relative.mean() * compensation


def _joined(codes: Sequence[MonoCode]) -> MonoCode:
    fields = MonoCode.__dataclass_fields__
    return MonoCode(**{name: torch.cat([getattr(code, name) for code in codes]) for name in fields})
