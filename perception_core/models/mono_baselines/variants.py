"""The baselines' registered names. `tasks` in a table of single-task networks is one head left enabled."""

from __future__ import annotations

from typing import Any

from perception_core.models.registry import register_model
from perception_core.models.tag.configuration import build_mono_configuration
from perception_core.models.tag.model import MonoModel


def _build(name: str, backbone: dict[str, Any], arguments: dict[str, Any]) -> MonoModel:
    defaults = {"backbone": backbone, "attention": {"channel": False, "spatial": False}}
    return MonoModel(build_mono_configuration(name, defaults, arguments))


@register_model
def mono_dla34(**arguments: Any) -> MonoModel:
    """DLA-34; with one head enabled, the single-task reference of the paper."""
    return _build("mono_dla34", {"kind": "dla34"}, arguments)


@register_model
def mono_resnet50(**arguments: Any) -> MonoModel:
    """ResNet-50 with a feature pyramid."""
    return _build("mono_resnet50", {"kind": "resnet50"}, arguments)


@register_model
def mono_icnet(**arguments: Any) -> MonoModel:
    """ICNet."""
    return _build("mono_icnet", {"kind": "icnet"}, arguments)


@register_model
def mono_ddrnet23_slim(**arguments: Any) -> MonoModel:
    """DDRNet-23-slim."""
    return _build("mono_ddrnet23_slim", {"kind": "ddrnet", "planes": 32}, arguments)


@register_model
def mono_ddrnet23(**arguments: Any) -> MonoModel:
    """DDRNet-23."""
    return _build("mono_ddrnet23", {"kind": "ddrnet", "planes": 64}, arguments)


@register_model
def mono_ddrnet39(**arguments: Any) -> MonoModel:
    """DDRNet-39."""
    backbone = {
        "kind": "ddrnet",
        "planes": 64,
        "stage_blocks": (3, 4, 3, 3),
        "detail_blocks": 3,
        "layer3_parts": 2,
    }
    return _build("mono_ddrnet39", backbone, arguments)


@register_model
def mono_pidnet_s(**arguments: Any) -> MonoModel:
    """PIDNet-S."""
    return _build("mono_pidnet_s", {"kind": "pidnet", "planes": 32}, arguments)


@register_model
def mono_pidnet_m(**arguments: Any) -> MonoModel:
    """PIDNet-M."""
    return _build("mono_pidnet_m", {"kind": "pidnet", "planes": 64}, arguments)


@register_model
def mono_pidnet_l(**arguments: Any) -> MonoModel:
    """PIDNet-L."""
    backbone = {
        "kind": "pidnet",
        "planes": 64,
        "pyramid_channels": 112,
        "early_blocks": 3,
        "late_blocks": 4,
        "large": True,
    }
    return _build("mono_pidnet_l", backbone, arguments)
