"""Architectures of EDNAS's space: what each of EfficientNet-B0's 16 blocks is (Vu et al., 2023, section 3.1).

The tables of the paper are here under names. Their blocks agree with B0's filters times a multiplier of the
space, without rounding. `docs/search.md` says where the paper's parameter counts do not agree with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from perception_core.configuration import ConfigurationError, nearest

LayerKind = Literal["IBN", "FusedIBN"]

LAYER_KINDS: tuple[LayerKind, ...] = ("IBN", "FusedIBN")
KERNELS: tuple[int, ...] = (3, 5)
MULTIPLIERS: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5)
EXPANSIONS: tuple[int, ...] = (3, 6)

#: Filters, strides, kernels of EfficientNet-B0's 16 blocks.
B0_FILTERS: tuple[int, ...] = (16, *(24, 24), *(40, 40), *(80,) * 3, *(112,) * 3, *(192,) * 4, 320)
B0_STRIDES: tuple[int, ...] = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
B0_KERNELS: tuple[int, ...] = (3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3)
STEM_FILTERS = 32
BLOCKS = len(B0_FILTERS)
#: 1-based blocks behind which the features P3, P4, P5 (strides 8, 16, 32) are taken.
FEATURE_BLOCKS: tuple[int, int, int] = (5, 11, 16)


@dataclass(frozen=True)
class BlockChoice:
    """What one block is.

    Attributes:
        kind: Inverted bottleneck (expand 1x1, depthwise, project 1x1), or fused (expand by a full
            convolution, project 1x1).
        kernel: Side of the depthwise or full convolution.
        multiplier: Times the filters of B0's block gives this block's filters.
        expansion: Hidden channels are so many times the input's. Block 1 keeps B0's 1, whatever is said
            here.
    """

    kind: LayerKind = "IBN"
    kernel: int = 3
    multiplier: float = 1.0
    expansion: int = 6

    def __post_init__(self) -> None:
        """Refuses what the space does not have.

        Raises:
            ConfigurationError: A value is not in the space.
        """
        for name, value, valid in (
            ("kind", self.kind, LAYER_KINDS),
            ("kernel", self.kernel, KERNELS),
            ("multiplier", self.multiplier, MULTIPLIERS),
            ("expansion", self.expansion, EXPANSIONS),
        ):
            if value not in valid:
                raise ConfigurationError(
                    f"a block's {name} is {value!r}" + nearest(str(value), map(str, valid))
                )


@dataclass(frozen=True)
class Block:
    """One block with everything that follows from a choice and its place.

    Attributes:
        kind, kernel: As chosen.
        in_channels, filters: Channels in and out.
        stride: B0's.
        expansion: As chosen; 1 for block 1.
    """

    kind: LayerKind
    kernel: int
    in_channels: int
    filters: int
    stride: int
    expansion: int


@dataclass(frozen=True)
class EdgeArchitecture:
    """Choices for all 16 blocks."""

    choices: tuple[BlockChoice, ...]

    def __post_init__(self) -> None:
        """Refuses another number of blocks.

        Raises:
            ConfigurationError: There are not 16.
        """
        if len(self.choices) != BLOCKS:
            raise ConfigurationError(f"an architecture has {BLOCKS} blocks, got {len(self.choices)}")

    def blocks(self) -> tuple[Block, ...]:
        """Returns the blocks with their channels."""
        blocks = []
        channels = STEM_FILTERS
        for index, choice in enumerate(self.choices):
            filters = round(B0_FILTERS[index] * choice.multiplier)
            expansion = 1 if index == 0 else choice.expansion
            blocks.append(Block(choice.kind, choice.kernel, channels, filters, B0_STRIDES[index], expansion))
            channels = filters
        return tuple(blocks)

    def feature_channels(self) -> tuple[int, int, int]:
        """Returns the channels of P3, P4 and P5."""
        blocks = self.blocks()
        third, fourth, fifth = (blocks[index - 1].filters for index in FEATURE_BLOCKS)
        return third, fourth, fifth

    def fused_blocks(self) -> int:
        """Returns how many blocks are FusedIBN."""
        return sum(choice.kind == "FusedIBN" for choice in self.choices)

    def effective(self) -> EdgeArchitecture:
        """Returns the one architecture that stands for all that build the same network."""
        first = self.choices[0]
        same = BlockChoice(first.kind, first.kernel, first.multiplier, EXPANSIONS[0])
        return EdgeArchitecture((same, *self.choices[1:]))

    def to_json(self) -> list[list[Any]]:
        """Returns a row a block: kind, kernel, multiplier, expansion."""
        return [[c.kind, c.kernel, c.multiplier, c.expansion] for c in self.choices]

    @classmethod
    def from_json(cls, rows: Sequence[Sequence[Any]]) -> EdgeArchitecture:
        """Reads what `to_json` gave.

        Raises:
            ConfigurationError: It is no architecture of the space.
        """
        try:
            return cls(tuple(BlockChoice(*row) for row in rows))
        except TypeError as error:
            raise ConfigurationError(f"this is no architecture: {error}") from error


def _of_table(rows: Sequence[tuple[LayerKind, int, int, int]]) -> EdgeArchitecture:
    """Returns the architecture of a table's rows: layer, kernel, filters, expansion."""
    choices = []
    for index, (kind, kernel, filters, expansion) in enumerate(rows):
        multiplier = filters / B0_FILTERS[index]
        choices.append(BlockChoice(kind, kernel, multiplier, EXPANSIONS[0] if index == 0 else expansion))
    return EdgeArchitecture(tuple(choices))


#: EfficientNet-B0 itself in the space: the base, baseline and seed of the search. Without Swish and squeeze
#: and excitation.
EDGE_BASE = _of_table(
    [("IBN", B0_KERNELS[index], B0_FILTERS[index], 1 if index == 0 else 6) for index in range(BLOCKS)]
)

#: Table 6: found by EDNAS for segmentation and depth together on Cityscapes.
EDNAS_MULTI_TASK = _of_table(
    [
        ("FusedIBN", 3, 16, 1),
        ("IBN", 5, 36, 6),
        ("FusedIBN", 5, 24, 6),
        ("FusedIBN", 3, 60, 6),
        ("FusedIBN", 3, 40, 3),
        ("FusedIBN", 5, 120, 3),
        ("IBN", 3, 120, 3),
        ("FusedIBN", 5, 80, 6),
        ("FusedIBN", 5, 168, 6),
        ("FusedIBN", 5, 84, 3),
        ("FusedIBN", 5, 84, 6),
        ("FusedIBN", 5, 288, 3),
        ("FusedIBN", 3, 96, 3),
        ("FusedIBN", 3, 96, 6),
        ("FusedIBN", 3, 96, 3),
        ("FusedIBN", 5, 160, 6),
    ]
)

#: Table 7: found by a search for depth alone.
EDNAS_DEPTH = _of_table(
    [
        ("FusedIBN", 3, 24, 1),
        ("IBN", 3, 36, 6),
        ("IBN", 3, 36, 6),
        ("FusedIBN", 5, 40, 6),
        ("FusedIBN", 5, 40, 3),
        ("IBN", 3, 80, 6),
        ("FusedIBN", 3, 120, 3),
        ("FusedIBN", 3, 80, 6),
        ("FusedIBN", 3, 168, 3),
        ("FusedIBN", 3, 56, 6),
        ("FusedIBN", 3, 112, 3),
        ("FusedIBN", 5, 192, 6),
        ("FusedIBN", 3, 192, 6),
        ("IBN", 5, 192, 3),
        ("IBN", 5, 192, 3),
        ("FusedIBN", 5, 240, 3),
    ]
)


@dataclass(frozen=True)
class NamedArchitecture:
    """An architecture of the paper.

    Attributes:
        architecture: What the table says.
        source: Which table.
        paper_parameters_m: Parameters of the whole model in millions as the paper has them; None: not told.
        paper_gflop: Giga-operations at 256x256 as the paper has them.
    """

    architecture: EdgeArchitecture
    source: str
    paper_parameters_m: float | None
    paper_gflop: float | None


NAMED_ARCHITECTURES: Mapping[str, NamedArchitecture] = {
    "edge-base": NamedArchitecture(EDGE_BASE, "section 3.1; Tab. 2, MT edge baseline", 3.4, 1.2),
    "ednas": NamedArchitecture(EDNAS_MULTI_TASK, "Tab. 6; Tab. 2, EDNAS", 4.3, 4.1),
    "ednas-depth": NamedArchitecture(EDNAS_DEPTH, "Tab. 7; Tab. 5, NAS-Dep", 3.6, 2.5),
}


def named_architecture(name: str) -> EdgeArchitecture:
    """Returns an architecture by name.

    Raises:
        ConfigurationError: There is none.
    """
    if name not in NAMED_ARCHITECTURES:
        raise ConfigurationError(f"unknown architecture '{name}'" + nearest(name, NAMED_ARCHITECTURES))
    return NAMED_ARCHITECTURES[name].architecture
