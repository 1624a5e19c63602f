"""The architecture space A of Eq. 3: which networks there are to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from random import Random
from typing import Any

from perception_core.configuration import ConfigurationError, nearest

#: A network of a space: the number of the option taken at each choice. The α of the paper in short.
Architecture = tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """One decision.

    Attributes:
        name: Its name.
        options: Arguments of the registered model by option; keys are dotted paths. The first is what the
            hand-made network has.
        components: Components whose work it changes; empty: all.
    """

    name: str
    options: Mapping[str, Mapping[str, Any]]
    components: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(self.options)


@dataclass(frozen=True)
class ArchitectureSpace:
    """All combinations of the options of some choices.

    Attributes:
        model: Registered model.
        choices: The decisions.
        arguments: Arguments that all networks share.
    """

    model: str
    choices: tuple[Choice, ...]
    arguments: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Number of networks."""
        return prod(len(choice.options) for choice in self.choices)

    @property
    def hand_made(self) -> Architecture:
        """The network nobody searched for: every choice's first option."""
        return (0,) * len(self.choices)

    def arguments_of(self, architecture: Architecture) -> dict[str, Any]:
        """Returns the arguments that build a network."""
        arguments: dict[str, Any] = _deep_copy(self.arguments)
        for choice, option in zip(self.choices, architecture, strict=True):
            for path, value in choice.options[choice.names[option]].items():
                *groups, last = path.split(".")
                target = arguments
                for group in groups:
                    target = target.setdefault(group, {})
                target[last] = value
        return arguments

    def names_of(self, architecture: Architecture) -> dict[str, str]:
        """Returns choice to option, by name."""
        return {
            choice.name: choice.names[option]
            for choice, option in zip(self.choices, architecture, strict=True)
        }

    def from_names(self, names: Mapping[str, str]) -> Architecture:
        """Returns the network of options by name; what is not named is as in the hand-made one.

        Raises:
            ConfigurationError: A choice or an option is unknown.
        """
        known = {choice.name: choice for choice in self.choices}
        for name, option in names.items():
            if name not in known:
                raise ConfigurationError(f"no choice '{name}'" + nearest(name, known))
            if option not in known[name].options:
                raise ConfigurationError(
                    f"choice '{name}' has no option '{option}'" + nearest(option, known[name].options)
                )
        return tuple(
            choice.names.index(names[choice.name]) if choice.name in names else 0 for choice in self.choices
        )

    def key_of(self, component: str, architecture: Architecture) -> tuple[tuple[str, str], ...]:
        """Returns the options that a component's work depends on."""
        return tuple(
            (choice.name, choice.names[option])
            for choice, option in zip(self.choices, architecture, strict=True)
            if not choice.components or component in choice.components
        )

    def random(self, chance: Random) -> Architecture:
        """Draws a network."""
        return tuple(chance.randrange(len(choice.options)) for choice in self.choices)

    def mutate(self, architecture: Architecture, chance: Random) -> Architecture:
        """Changes one choice to another option."""
        able = [k for k, choice in enumerate(self.choices) if len(choice.options) > 1]
        if not able:
            return architecture
        k = chance.choice(able)
        others = [option for option in range(len(self.choices[k].options)) if option != architecture[k]]
        return (*architecture[:k], chance.choice(others), *architecture[k + 1 :])


def _deep_copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def fuller_space(model: str = "fuller_tiny") -> ArchitectureSpace:
    """Returns what is chosen of a FULLER network: widths, resolutions, modality nets and what tasks share.

    Widths and sizes are those around `fuller_tiny`; `default` and `medium` are the model's own.

    `sharing` is hard sharing of the BEV encoder (Fig. 2 a of the MMMT paper) or an encoder for each task: the
    point from which on tasks part. FULLER fuses modalities in the bird's eye view; a decision-level (late)
    fusion is not among its configurations.
    """
    fused = ("bev_fuser", "detection3d_head", "map_segmentation_head", "control_head")
    choices = (
        Choice(
            "camera_width",
            {
                "medium": {},
                "narrow": {
                    "camera.stem_channels": 12,
                    "camera.stage_channels": (24, 40, 64),
                    "camera.neck_channels": 40,
                },
                "wide": {
                    "camera.stem_channels": 24,
                    "camera.stage_channels": (48, 80, 128),
                    "camera.neck_channels": 80,
                },
            },
            ("camera_net",),
        ),
        Choice(
            "camera_resolution",
            {
                "default": {},
                "96x256": {"camera.image_height": 96, "camera.image_width": 256},
                "160x448": {"camera.image_height": 160, "camera.image_width": 448},
            },
            ("camera_net",),
        ),
        Choice(
            "lidar_width",
            {
                "medium": {},
                "narrow": {"lidar.pillar_channels": 24, "lidar.stage_channels": (32, 56)},
                "wide": {"lidar.pillar_channels": 48, "lidar.stage_channels": (64, 112)},
            },
            ("lidar_net",),
        ),
        Choice("pillars_per_cell", {"default": {}, "one": {"lidar.pillars_per_cell": 1}}, ("lidar_net",)),
        Choice(
            "modalities",
            {"both": {}, "lidar": {"modalities": ("lidar",)}, "camera": {"modalities": ("camera",)}},
        ),
        Choice(
            "fuser_width",
            {
                "medium": {},
                "narrow": {"fuser.layer_channels": (32, 64), "fuser.out_channels": 48},
                "wide": {"fuser.layer_channels": (64, 128), "fuser.out_channels": 96},
            },
            fused,
        ),
        Choice("sharing", {"shared": {}, "separate": {"bev_encoder": "separate"}}, fused),
        Choice(
            "bev_cell",
            {
                "default": {},
                "1.6 m": {
                    "grid": {"x_min": -51.2, "x_max": 51.2, "y_min": -51.2, "y_max": 51.2, "cell_size": 1.6}
                },
            },
        ),
    )
    return ArchitectureSpace(model, choices, {"control": {"enabled": True}})
