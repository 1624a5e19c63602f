"""Imports Lightning, which imports torchvision, which must be made importable first beside a CPU build of
torch.
"""

from __future__ import annotations

import contextlib

from perception_core.configuration import ConfigurationError
from perception_core.torchvision_compat import import_torchvision

with contextlib.suppress(ImportError):  # Lightning does without torchvision, but not with a broken one
    import_torchvision()

try:
    import lightning.pytorch as lightning
except ImportError as error:  # pragma: no cover - every training environment has it
    raise ConfigurationError(f"training needs the package lightning: {error}") from error

__all__ = ["lightning"]
