"""The bird's-eye-view grid: rows run along +y, columns along +x, as in nav_msgs/OccupancyGrid."""

from __future__ import annotations

import pydantic
import torch

from perception_core.configuration import StrictModel


class BevGrid(StrictModel):
    """A rectangle of the ego frame's x-y plane, cut into square cells.

    Attributes:
        x_min, x_max, y_min, y_max: Borders in metres; each side is a whole number of cells.
        cell_size: Metres.
    """

    x_min: float
    x_max: float
    y_min: float
    y_max: float
    cell_size: float = pydantic.Field(gt=0)

    @pydantic.model_validator(mode="after")
    def _whole_cells(self) -> BevGrid:
        for low, high, axis in ((self.x_min, self.x_max, "x"), (self.y_min, self.y_max, "y")):
            cells = (high - low) / self.cell_size
            if high <= low or abs(cells - round(cells)) > 1e-6 * cells:
                raise ValueError(
                    f"{axis} from {low} to {high} m is not a whole number of {self.cell_size} m cells"
                )
        return self

    @property
    def rows(self) -> int:
        """Cells along y."""
        return round((self.y_max - self.y_min) / self.cell_size)

    @property
    def columns(self) -> int:
        """Cells along x."""
        return round((self.x_max - self.x_min) / self.cell_size)

    @property
    def cells(self) -> int:
        """Cells of the whole grid."""
        return self.rows * self.columns

    def refined(self, factor: int) -> BevGrid:
        """Returns the grid of the same rectangle whose cells are `factor` times smaller."""
        return self.model_copy(update={"cell_size": self.cell_size / factor})

    def contains(self, xy: torch.Tensor) -> torch.Tensor:
        """Says which positions (..., 2) lie inside, bool (...); those that are not finite do not."""
        x, y = xy[..., 0], xy[..., 1]
        return (x >= self.x_min) & (x < self.x_max) & (y >= self.y_min) & (y < self.y_max)

    def cell_index(self, xy: torch.Tensor) -> torch.Tensor:
        """Returns row * columns + column, int64 (...), of positions (..., 2) that lie inside."""
        column = ((xy[..., 0] - self.x_min) / self.cell_size).floor().long().clamp_(0, self.columns - 1)
        row = ((xy[..., 1] - self.y_min) / self.cell_size).floor().long().clamp_(0, self.rows - 1)
        return row * self.columns + column

    def cell_centre(self, index: torch.Tensor) -> torch.Tensor:
        """Returns x, y in metres, float32 (..., 2), of the centres of cells by flat index (...)."""
        column = index % self.columns
        row = torch.div(index, self.columns, rounding_mode="floor")
        x = self.x_min + (column.to(torch.float32) + 0.5) * self.cell_size
        y = self.y_min + (row.to(torch.float32) + 0.5) * self.cell_size
        return torch.stack((x, y), dim=-1)

    def normalized(self, xy: torch.Tensor) -> torch.Tensor:
        """Maps positions (..., 2) so that the grid's borders lie at -1 and 1."""
        low = xy.new_tensor([self.x_min, self.y_min])
        high = xy.new_tensor([self.x_max, self.y_max])
        return (xy - low) / (high - low) * 2.0 - 1.0
