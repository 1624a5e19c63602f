"""What each registered monocular network is, as arguments laid over `MonoConfig`'s defaults."""

from __future__ import annotations

from typing import Any

from perception_core.configuration import ConfigurationError, nearest
from perception_core.models.tag.configuration import MonoConfig, build_mono_configuration

#: What makes the paper's network one without the generator (Tab. II, "Ours (w/o TAG)").
_NO_ATTENTION: dict[str, Any] = {"channel": False, "spatial": False}

#: Half of the full size's channels on images of half the size.
_BASE: dict[str, Any] = {
    "camera": {"image_height": 512, "image_width": 1024},
    "backbone": {"stage_channels": (32, 64, 128, 256, 512), "detail_channels": 64},
    "attention": {"hidden_channels": 128},
    "mono_detection3d": {"hidden_channels": 32},
    "semantic_segmentation": {"hidden_channels": 128},
    "depth": {"hidden_channels": 128},
}

#: For one CPU core beside the BEV model. Most of its weights lie where the maps are large.
_TINY: dict[str, Any] = {
    "camera": {"image_height": 256, "image_width": 512, "reference_focal": 0.8},
    "backbone": {"stage_channels": (40, 56, 64, 72, 96), "detail_channels": 56},
    "attention": {"hidden_channels": 32},
    "mono_detection3d": {"hidden_channels": 20},
    "semantic_segmentation": {"hidden_channels": 64},
    "depth": {"hidden_channels": 64},
}

#: For experiments on two CPU cores.
_MICRO: dict[str, Any] = {
    "camera": {"image_height": 128, "image_width": 256, "reference_focal": 0.8},
    "backbone": {
        "stage_channels": (16, 24, 32, 40, 48),
        "stage_blocks": (1, 1, 1, 1),
        "detail_channels": 24,
        "detail_blocks": 1,
        "layer5_blocks": 1,
    },
    "attention": {"hidden_channels": 16},
    "mono_detection3d": {"hidden_channels": 12, "objects": 32},
    "semantic_segmentation": {"hidden_channels": 32},
    "depth": {"hidden_channels": 32},
}


def _baseline(**backbone: Any) -> dict[str, Any]:
    return {"backbone": backbone, "attention": _NO_ATTENTION}


#: By registered name.
MONO_DEFAULTS: dict[str, dict[str, Any]] = {
    "tag_full": {},
    "tag_full_no_tag": {"attention": _NO_ATTENTION},
    "tag_base": _BASE,
    "tag_tiny": _TINY,
    "tag_micro": _MICRO,
    "mono_dla34": _baseline(kind="dla34"),
    "mono_resnet50": _baseline(kind="resnet50"),
    "mono_icnet": _baseline(kind="icnet"),
    "mono_ddrnet23_slim": _baseline(kind="ddrnet", planes=32),
    "mono_ddrnet23": _baseline(kind="ddrnet", planes=64),
    "mono_ddrnet39": _baseline(
        kind="ddrnet", planes=64, stage_blocks=(3, 4, 3, 3), detail_blocks=3, layer3_parts=2
    ),
    "mono_pidnet_s": _baseline(kind="pidnet", planes=32),
    "mono_pidnet_m": _baseline(kind="pidnet", planes=64),
    "mono_pidnet_l": _baseline(
        kind="pidnet", planes=64, pyramid_channels=112, early_blocks=3, late_blocks=4, large=True
    ),
}


def mono_configuration(name: str, **arguments: Any) -> MonoConfig:
    """Returns the configuration of a registered monocular network without building it.

    Args:
        name: Key of MONO_DEFAULTS.
        arguments: Laid over its defaults, group by group.

    Raises:
        ConfigurationError: The name or an argument is unknown or wrong.
    """
    if name not in MONO_DEFAULTS:
        raise ConfigurationError(f"'{name}' is no monocular network" + nearest(name, MONO_DEFAULTS))
    return build_mono_configuration(name, MONO_DEFAULTS[name], arguments)
