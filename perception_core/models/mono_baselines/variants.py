"""The baselines' registered names. With one head left enabled, each is a single-task network."""

from __future__ import annotations

from typing import Any

from perception_core.models.registry import register_model
from perception_core.models.tag.defaults import mono_configuration
from perception_core.models.tag.model import MonoModel


@register_model
def mono_dla34(**arguments: Any) -> MonoModel:
    """DLA-34; with one head enabled, the single-task reference of the paper."""
    return MonoModel(mono_configuration("mono_dla34", **arguments))


@register_model
def mono_resnet50(**arguments: Any) -> MonoModel:
    """ResNet-50 with a feature pyramid."""
    return MonoModel(mono_configuration("mono_resnet50", **arguments))


@register_model
def mono_icnet(**arguments: Any) -> MonoModel:
    """ICNet."""
    return MonoModel(mono_configuration("mono_icnet", **arguments))


@register_model
def mono_ddrnet23_slim(**arguments: Any) -> MonoModel:
    """DDRNet-23-slim."""
    return MonoModel(mono_configuration("mono_ddrnet23_slim", **arguments))


@register_model
def mono_ddrnet23(**arguments: Any) -> MonoModel:
    """DDRNet-23."""
    return MonoModel(mono_configuration("mono_ddrnet23", **arguments))


@register_model
def mono_ddrnet39(**arguments: Any) -> MonoModel:
    """DDRNet-39."""
    return MonoModel(mono_configuration("mono_ddrnet39", **arguments))


@register_model
def mono_pidnet_s(**arguments: Any) -> MonoModel:
    """PIDNet-S."""
    return MonoModel(mono_configuration("mono_pidnet_s", **arguments))


@register_model
def mono_pidnet_m(**arguments: Any) -> MonoModel:
    """PIDNet-M."""
    return MonoModel(mono_configuration("mono_pidnet_m", **arguments))


@register_model
def mono_pidnet_l(**arguments: Any) -> MonoModel:
    """PIDNet-L."""
    return MonoModel(mono_configuration("mono_pidnet_l", **arguments))
