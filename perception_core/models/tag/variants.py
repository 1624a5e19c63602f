"""TAG's registered sizes."""

from __future__ import annotations

from typing import Any

from perception_core.models.registry import register_model
from perception_core.models.tag.configuration import build_mono_configuration
from perception_core.models.tag.model import MonoModel

#: What makes the paper's network one without the generator (Tab. II, "Ours (w/o TAG)").
_NO_ATTENTION: dict[str, Any] = {"attention": {"channel": False, "spatial": False}}

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


@register_model
def tag_full(**arguments: Any) -> MonoModel:
    """TAG at the size of its paper, on images of 1024 x 2048."""
    return MonoModel(build_mono_configuration("tag_full", {}, arguments))


@register_model
def tag_full_no_tag(**arguments: Any) -> MonoModel:
    """TAG's backbone and heads without the attention generator."""
    return MonoModel(build_mono_configuration("tag_full_no_tag", _NO_ATTENTION, arguments))


@register_model
def tag_base(**arguments: Any) -> MonoModel:
    """TAG with half of the channels, on images of 512 x 1024."""
    return MonoModel(build_mono_configuration("tag_base", _BASE, arguments))


@register_model
def tag_tiny(**arguments: Any) -> MonoModel:
    """TAG for one CPU core: about 2 billion multiply-adds on images of 256 x 512."""
    return MonoModel(build_mono_configuration("tag_tiny", _TINY, arguments))


@register_model
def tag_micro(**arguments: Any) -> MonoModel:
    """TAG for experiments on two CPU cores: images of 128 x 256."""
    return MonoModel(build_mono_configuration("tag_micro", _MICRO, arguments))
