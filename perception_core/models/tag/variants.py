"""TAG's registered sizes."""

from __future__ import annotations

from typing import Any

from perception_core.models.registry import register_model
from perception_core.models.tag.defaults import mono_configuration
from perception_core.models.tag.model import MonoModel


@register_model
def tag_full(**arguments: Any) -> MonoModel:
    """TAG at the size of its paper, on images of 1024 x 2048."""
    return MonoModel(mono_configuration("tag_full", **arguments))


@register_model
def tag_full_no_tag(**arguments: Any) -> MonoModel:
    """TAG's backbone and heads without the attention generator."""
    return MonoModel(mono_configuration("tag_full_no_tag", **arguments))


@register_model
def tag_base(**arguments: Any) -> MonoModel:
    """TAG with half of the channels, on images of 512 x 1024."""
    return MonoModel(mono_configuration("tag_base", **arguments))


@register_model
def tag_tiny(**arguments: Any) -> MonoModel:
    """TAG for one CPU core: about 2 billion multiply-adds on images of 256 x 512."""
    return MonoModel(mono_configuration("tag_tiny", **arguments))


@register_model
def tag_micro(**arguments: Any) -> MonoModel:
    """TAG for experiments on two CPU cores: images of 128 x 256."""
    return MonoModel(mono_configuration("tag_micro", **arguments))
