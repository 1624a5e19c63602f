"""The third option of a virtual computation node: leave the operator out.

AutoMTL (section 3.1): "Skip connection is an identity function if the input and output dimension match or a
down-sample function otherwise." It has no parameters, so that a task that skips everything costs nothing.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class SkipConnection(nn.Module):
    """Brings an operator's input to the form of its output without parameters.

    Space: the mean over each stride's window; where the operator's padding does not keep the size, the
    nearest pixel. Channels: the mean of neighbouring channels where there are too many, zeros where there are
    too few (as in the shortcuts of ResNet's option A).

    Args:
        in_channels, out_channels: Of the operator.
        channel_axis: 1 for images, -1 for linear operators.
        stride, kernel, padding, dilation: Of a convolution.
        output_padding: Of a transposed convolution; None: not transposed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channel_axis: int = 1,
        stride: tuple[int, int] = (1, 1),
        kernel: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        output_padding: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.channel_axis = channel_axis
        self.stride, self.kernel, self.padding, self.dilation = stride, kernel, padding, dilation
        self.output_padding = output_padding
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        #: The output has ceil(size / stride) rows and columns.
        self.keeps_size = output_padding is None and all(
            2 * p == r for p, r in zip(padding, reach, strict=True)
        )

    @property
    def is_identity(self) -> bool:
        """Whether input and output have the same form."""
        return self.in_channels == self.out_channels and self.keeps_size and self.stride == (1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, in, H, W) to the operator's output shape (channels last for linear operators)."""
        return self._fit_channels(self._fit_space(x))

    def _fit_space(self, x: torch.Tensor) -> torch.Tensor:
        if self.keeps_size:
            return x if self.stride == (1, 1) else functional.avg_pool2d(x, self.stride, ceil_mode=True)
        rows, columns = (self._output_side(axis, x.shape[axis - 2]) for axis in (0, 1))
        return functional.interpolate(x, size=(rows, columns), mode="nearest")

    def _output_side(self, axis: int, side: int) -> int:
        """Returns the operator's output rows or columns for so many of the input."""
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        if self.output_padding is not None:
            inner = (side - 1) * self.stride[axis] - 2 * self.padding[axis]
            return inner + reach + self.output_padding[axis] + 1
        return (side + 2 * self.padding[axis] - reach - 1) // self.stride[axis] + 1

    def _fit_channels(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_channels == self.out_channels:
            return x
        group = -(-self.in_channels // self.out_channels)  # channels averaged into one
        missing = group * self.out_channels - self.in_channels
        if missing:
            x = functional.pad(x, (0, missing) if self.channel_axis == -1 else (0, 0, 0, 0, 0, missing))
        if group == 1:
            return x
        if self.channel_axis == -1:
            return x.unflatten(-1, (self.out_channels, group)).mean(dim=-1)
        return x.unflatten(1, (self.out_channels, group)).mean(dim=2)

    def extra_repr(self) -> str:
        """Says what it does, for the printed network."""
        if self.is_identity:
            return "identity"
        return f"{self.in_channels} -> {self.out_channels}, stride {self.stride}"


def skip_of(operator: nn.Module) -> SkipConnection:
    """Returns the skip connection that fits an operator.

    Args:
        operator: A convolution, transposed convolution, linear or normalization layer, PReLU, or a sequence
            of which the first counts and the others keep their input's form.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(operator, nn.Sequential):
        return skip_of(operator[0])
    if isinstance(operator, nn.ConvTranspose2d):
        assert not isinstance(operator.padding, str)  # torch refuses names there
        return SkipConnection(
            operator.in_channels,
            operator.out_channels,
            stride=_pair(operator.stride),
            kernel=_pair(operator.kernel_size),
            padding=_pair(operator.padding),
            dilation=_pair(operator.dilation),
            output_padding=_pair(operator.output_padding),
        )
    if isinstance(operator, nn.Conv2d):
        kernel, dilation = _pair(operator.kernel_size), _pair(operator.dilation)
        if operator.padding == "same":  # of even kernels too, hence said by a kernel of one pixel
            kernel, padding = (1, 1), (0, 0)
        elif operator.padding == "valid":
            padding = (0, 0)
        else:
            assert not isinstance(operator.padding, str)
            padding = _pair(operator.padding)
        return SkipConnection(
            operator.in_channels,
            operator.out_channels,
            stride=_pair(operator.stride),
            kernel=kernel,
            padding=padding,
            dilation=dilation,
        )
    if isinstance(operator, nn.Linear):
        return SkipConnection(operator.in_features, operator.out_features, channel_axis=-1)
    if isinstance(operator, SHAPE_KEEPING):
        return SkipConnection(1, 1)
    raise TypeError(f"no skip connection is known for {type(operator).__name__}")


#: Operators with parameters or state whose output has the form of their input.
SHAPE_KEEPING: tuple[type[nn.Module], ...] = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm),
    nn.PReLU,
)

#: Operators that may become virtual computation nodes.
SUPPORTED: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, *SHAPE_KEEPING)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, second = value
    return int(first), int(second)
