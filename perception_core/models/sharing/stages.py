"""The backbone all topologies are compared on: stages of residual blocks."""

from __future__ import annotations

import pydantic
from torch import nn

from perception_core.configuration import StrictModel
from perception_core.models.blocks import ConvNormAct, ResidualBlock


class StagePlan(StrictModel):
    """A backbone as a list of stages.

    Attributes:
        in_channels: Channels of the image.
        stem_channels: Channels after the stem, which halves the image's size.
        channels: Channels of each stage.
        blocks: Residual blocks of each stage.
        strides: Stride of each stage's first block.
    """

    in_channels: int = pydantic.Field(default=3, gt=0)
    stem_channels: int = pydantic.Field(default=32, gt=0)
    channels: tuple[int, ...] = (32, 64, 128, 256)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    strides: tuple[int, ...] = (2, 2, 2, 1)

    @pydantic.model_validator(mode="after")
    def _stages_are_whole(self) -> StagePlan:
        if not self.channels or not (len(self.channels) == len(self.blocks) == len(self.strides)):
            raise ValueError(
                f"channels, blocks and strides need one entry a stage, got {self.channels}, {self.blocks}, "
                f"{self.strides}"
            )
        if min(*self.channels, *self.blocks, *self.strides) < 1:
            raise ValueError("channels, blocks and strides must be positive")
        return self

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.channels)

    @property
    def out_channels(self) -> int:
        """Channels of the last stage."""
        return self.channels[-1]

    def inputs(self) -> tuple[int, ...]:
        """Returns the channels that each stage gets."""
        return (self.stem_channels, *self.channels[:-1])

    def make_stem(self) -> nn.Module:
        """Returns a new stem."""
        return ConvNormAct(self.in_channels, self.stem_channels, stride=2)

    def make_blocks(self, stage: int) -> nn.ModuleList:
        """Returns the new blocks of a stage."""
        source, target = self.inputs()[stage], self.channels[stage]
        return nn.ModuleList(
            ResidualBlock(source if index == 0 else target, target, self.strides[stage] if index == 0 else 1)
            for index in range(self.blocks[stage])
        )

    def make_stage(self, stage: int) -> nn.Sequential:
        """Returns a new stage."""
        return nn.Sequential(*self.make_blocks(stage))

    def make_column(self) -> Column:
        """Returns a new backbone: stem and all stages."""
        return Column(self)


class Column(nn.Module):
    """One whole backbone.

    Attributes:
        stem: Halves the image.
        stages: One module a stage.
    """

    def __init__(self, plan: StagePlan) -> None:
        super().__init__()
        self.stem = plan.make_stem()
        self.stages = nn.ModuleList(plan.make_stage(stage) for stage in range(plan.stages))
