"""Building blocks that several networks share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalization, ReLU; keeps the size at stride 1.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Odd kernel side.
        stride: Stride.
        activation: Ends with a ReLU.
        dilation: Distance between the kernel's taps.
        groups: Groups of channels that are convolved by themselves.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        activation: bool = True,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.normalization: nn.Module = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
        self.activation: nn.Module = nn.ReLU(inplace=True) if activation else nn.Identity()
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        """Maps (B, in, H, W) to (B, out, H / stride, W / stride)."""
        return self.activation(self.normalization(self.convolution(x_bchw)))

    def fuse(self) -> None:
        """Folds the normalization into the convolution; only for evaluation mode."""
        if isinstance(self.normalization, nn.BatchNorm2d):
            self.convolution = fuse_conv_bn_eval(self.convolution, self.normalization)
            self.normalization = nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., 2016), the first with the block's stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvNormAct(in_channels, out_channels, stride=stride)
        self.second = ConvNormAct(out_channels, out_channels, activation=False)
        self.shortcut: nn.Module = (
            nn.Identity()
            if in_channels == out_channels and stride == 1
            else ConvNormAct(in_channels, out_channels, kernel_size=1, stride=stride, activation=False)
        )

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        """Maps (B, in, H, W) to (B, out, H / stride, W / stride)."""
        return functional.relu(self.second(self.first(x_bchw)) + self.shortcut(x_bchw))


class TopDownMerge(nn.Module):
    """One top-down step of a feature pyramid (Lin et al., 2017).

    The coarse map, resized, plus the fine map, each brought to the same channels by a 1x1 convolution.
    """

    def __init__(self, fine_channels: int, coarse_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lateral = ConvNormAct(fine_channels, out_channels, kernel_size=1, activation=False)
        self.reduce = ConvNormAct(coarse_channels, out_channels, kernel_size=1, activation=False)

    def forward(self, fine_bchw: torch.Tensor, coarse_bchw: torch.Tensor) -> torch.Tensor:
        """Returns (B, out, H, W) at the fine map's size."""
        coarse_bchw = functional.interpolate(
            self.reduce(coarse_bchw), size=fine_bchw.shape[-2:], mode="nearest"
        )
        return functional.relu(self.lateral(fine_bchw) + coarse_bchw)


class FeedForward(nn.Sequential):
    """Linear, ReLU, linear."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Linear(in_channels, hidden_channels),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_channels, out_channels),
        )


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with several heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split into {heads} heads")
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(
        self, query_bqc: torch.Tensor, key_btc: torch.Tensor, value_btc: torch.Tensor
    ) -> torch.Tensor:
        """Returns (B, Q, C)."""

        def split(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        attended = functional.scaled_dot_product_attention(
            split(self.query(query_bqc)), split(self.key(key_btc)), split(self.value(value_btc))
        )
        return self.output(attended.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Transformer decoder layer: self-attention among queries, cross-attention to tokens, feed-forward.

    Normalized after each step; as in DETR, position embeddings are added to queries and keys, not to values.
    """

    def __init__(self, channels: int, heads: int, hidden_channels: int) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(channels, heads)
        self.cross_attention = MultiHeadAttention(channels, heads)
        self.feed_forward = FeedForward(channels, hidden_channels, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))

    def forward(
        self,
        query_bqc: torch.Tensor,
        query_position_bqc: torch.Tensor,
        token_btc: torch.Tensor,
        token_position_tc: torch.Tensor,
    ) -> torch.Tensor:
        """Returns refined queries (B, Q, C)."""
        placed = query_bqc + query_position_bqc
        query_bqc = self.norms[0](query_bqc + self.self_attention(placed, placed, query_bqc))
        placed = query_bqc + query_position_bqc
        query_bqc = self.norms[1](
            query_bqc + self.cross_attention(placed, token_btc + token_position_tc, token_btc)
        )
        return self.norms[2](query_bqc + self.feed_forward(query_bqc))
