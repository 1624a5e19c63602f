"""The search space as PyGlove's symbolic objects (EDNAS, section 3.1).

Four decisions for each of 16 blocks: (2 · 2 · 4 · 2)^16 = 2^80. Block 1 keeps EfficientNet-B0's expansion 1,
as Tables 6 and 7 have it: its decision exists, so that the space has the size the paper gives, but means
nothing. So there are 2^79 different networks; `EdgeArchitecture.effective` gives the one that stands for each
pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pyglove as pg

from perception_core.configuration import ConfigurationError
from perception_core.models.edge.architecture import (
    BLOCKS,
    EXPANSIONS,
    KERNELS,
    LAYER_KINDS,
    MULTIPLIERS,
    BlockChoice,
    EdgeArchitecture,
)

#: Indices into the candidates, four a block: kind, kernel, multiplier, expansion.
Decisions = tuple[int, ...]

CANDIDATES: tuple[tuple[Any, ...], ...] = (LAYER_KINDS, KERNELS, MULTIPLIERS, EXPANSIONS)


@pg.members(
    [
        ("kind", pg.typing.Enum(LAYER_KINDS[0], list(LAYER_KINDS)), "Layer type."),
        ("kernel", pg.typing.Enum(KERNELS[0], list(KERNELS)), "Side of the kernel."),
        ("multiplier", pg.typing.Enum(1.0, list(MULTIPLIERS)), "Of B0's filters."),
        ("expansion", pg.typing.Enum(EXPANSIONS[-1], list(EXPANSIONS)), "Hidden channels over input's."),
    ]
)
class SymbolicBlock(pg.Object):  # type: ignore[misc]
    """One block; its values may be `pg.oneof(...)`."""


@pg.members([("blocks", pg.typing.List(pg.typing.Object(SymbolicBlock)), "The 16 blocks.")])
class SymbolicBackbone(pg.Object):  # type: ignore[misc]
    """A backbone, or the space of them."""

    def architecture(self) -> EdgeArchitecture:
        """Returns the architecture; only of a backbone without open decisions."""
        return EdgeArchitecture(
            tuple(BlockChoice(b.kind, b.kernel, b.multiplier, b.expansion) for b in self.blocks)
        )


def search_space() -> SymbolicBackbone:
    """Returns the space: every value of every block is open."""
    kind, kernel, multiplier, expansion = (list(values) for values in CANDIDATES)
    return SymbolicBackbone(
        blocks=[
            SymbolicBlock(
                kind=pg.oneof(kind),
                kernel=pg.oneof(kernel),
                multiplier=pg.oneof(multiplier),
                expansion=pg.oneof(expansion),
            )
            for _ in range(BLOCKS)
        ]
    )


@lru_cache(maxsize=1)
def _template() -> Any:
    return pg.template(search_space())


def space_specification() -> Any:
    """Returns PyGlove's DNASpec of the space, which controllers work on."""
    return _template().dna_spec()


def architecture_of(decisions: Sequence[int]) -> EdgeArchitecture:
    """Returns the architecture of decisions.

    Raises:
        ConfigurationError: They are not 64 indices of candidates.
    """
    try:
        dna = pg.DNA.from_numbers(list(decisions), space_specification())
        backbone = _template().decode(dna)
    except (ValueError, IndexError, TypeError) as error:
        raise ConfigurationError(f"these decisions are outside of the search space: {error}") from error
    architecture: EdgeArchitecture = backbone.architecture()
    return architecture


def decisions_of(architecture: EdgeArchitecture) -> Decisions:
    """Returns the decisions of an architecture."""
    found: list[int] = []
    for choice in architecture.choices:
        values = (choice.kind, choice.kernel, choice.multiplier, choice.expansion)
        found += [candidates.index(value) for candidates, value in zip(CANDIDATES, values, strict=True)]
    return tuple(found)
