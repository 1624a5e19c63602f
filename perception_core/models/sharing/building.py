"""The topologies by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perception_core.configuration import ConfigurationError, nearest
from perception_core.models.sharing.adashare import AdaShare
from perception_core.models.sharing.attention import Mtan
from perception_core.models.sharing.branching import LearnToBranch
from perception_core.models.sharing.hard import HardSharing, Independent
from perception_core.models.sharing.interface import SharingNetwork
from perception_core.models.sharing.soft import CrossStitch, NddrCnn, Sluice
from perception_core.models.sharing.stages import StagePlan

#: By the names of the papers' tables; the kind of Fig. 2 of MMMT beside each.
TOPOLOGIES: dict[str, type[SharingNetwork]] = {
    "independent": Independent,
    "hard": HardSharing,
    "cross_stitch": CrossStitch,  # soft
    "sluice": Sluice,  # soft
    "nddr_cnn": NddrCnn,  # cross-talk
    "mtan": Mtan,  # modular
    "adashare": AdaShare,  # adaptive
    "learn_to_branch": LearnToBranch,  # adaptive
}


def build_sharing(name: str, plan: StagePlan, tasks: Sequence[str], **options: Any) -> SharingNetwork:
    """Builds a topology.

    Args:
        name: One of TOPOLOGIES.
        plan: The backbone's stages.
        tasks: Task names.
        options: What the topology takes beside these.

    Raises:
        ConfigurationError: There is no such topology, or it does not take an option.
    """
    if name not in TOPOLOGIES:
        raise ConfigurationError(f"unknown topology '{name}'" + nearest(name, TOPOLOGIES))
    try:
        return TOPOLOGIES[name](plan, tasks, **options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"topology '{name}': {error}") from error
