"""Boxes as the numbers a query head regresses, relative to the query's position in the grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Numbers per encoded box: dx dy (cells), z (m), log l, log w, log h, sin yaw, cos yaw, vx, vy (m/s).
CODE_SIZE = 10

#: Largest |log size| decoded: 0.02 to 55 m. Keeps sizes finite whatever a network says.
_MAX_LOG_SIZE = 4.0


@dataclass(frozen=True)
class BoxCodec:
    """Encodes and decodes boxes (x y z l w h yaw vx vy; centre-based, metres, radians, metres a second).

    Attributes:
        cell_size: Length in metres that counts as 1 in dx and dy.
    """

    cell_size: float

    def encode(self, boxes: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Returns codes (..., 10) of boxes (..., 9) relative to query positions x y (..., 2).

        Sizes below 0.02 m or above 55 m are encoded as those.
        """
        offset = (boxes[..., 0:2] - positions) / self.cell_size
        log_size = boxes[..., 3:6].clamp_min(1e-6).log().clamp(-_MAX_LOG_SIZE, _MAX_LOG_SIZE)
        yaw = boxes[..., 6:7]
        return torch.cat((offset, boxes[..., 2:3], log_size, yaw.sin(), yaw.cos(), boxes[..., 7:9]), dim=-1)

    def decode(self, codes: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Returns boxes (..., 9) of codes (..., 10) relative to query positions (..., 2); yaw in -pi..pi."""
        centre = codes[..., 0:2] * self.cell_size + positions
        size = codes[..., 3:6].clamp(-_MAX_LOG_SIZE, _MAX_LOG_SIZE).exp()
        yaw = torch.atan2(codes[..., 6:7], codes[..., 7:8])
        return torch.cat((centre, codes[..., 2:3], size, yaw, codes[..., 8:10]), dim=-1)
