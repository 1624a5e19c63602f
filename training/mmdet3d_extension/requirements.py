"""Whether mmdet3d is there, and what to do where it is not."""

from __future__ import annotations

import importlib
import importlib.util

from perception_core.configuration import ConfigurationError
from perception_core.torchvision_compat import import_torchvision

_MODULES = ("mmengine", "mmcv", "mmdet", "mmdet3d")


def mmdet3d_available() -> tuple[bool, str]:
    """Says whether mmdet3d and what it needs are installed, without loading them; else what is missing."""
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return False, f"{', '.join(missing)} not installed; docs/mmdet3d.md says how"
    return True, "installed"


def import_mmdet3d() -> None:
    """Imports mmdet3d with its operators.

    Raises:
        ConfigurationError: A package is missing, or the compiled operators do not fit this torch.
    """
    there, why = mmdet3d_available()
    if not there:
        raise ConfigurationError(f"the mmdet3d extension cannot be used: {why}")
    import_torchvision()  # mmdet imports it, and beside a CPU build of torch it needs help
    try:
        importlib.import_module("mmcv.ops")
        importlib.import_module("mmdet3d.models")
    except (ImportError, AssertionError, OSError) as error:  # mmdet3d asserts versions
        raise ConfigurationError(
            f"mmdet3d is installed but cannot be imported: {type(error).__name__}: {error}; versions that "
            "fit are in docs/mmdet3d.md"
        ) from error
