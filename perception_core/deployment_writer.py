"""Writes a deployment with another placement, as a file that `mmmt launch` runs as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from perception_core.configuration import ConfigurationError
from perception_core.deployment import ResolvedDeployment, load_deployment
from perception_core.resources import names_in, package_root

_WIDTH = 110


def write_deployment(
    resolved: ResolvedDeployment,
    placement: Mapping[str, str],
    path: Path,
    *,
    name: str | None = None,
    bundle: Path | None = None,
    comments: Sequence[str] = (),
) -> ResolvedDeployment:
    """Writes a deployment file; an earlier one there stays as it was unless the new one is whole and right.

    Args:
        resolved: The deployment to begin from, overrides applied.
        placement: Component to device, complete.
        path: The file, `.yaml`.
        name: Name of the new deployment, default the file's.
        bundle: Another bundle; None: the same.
        comments: Lines for the head of the file: where the placement comes from.

    Returns:
        The new deployment, read back.

    Raises:
        ConfigurationError: It does not fit rig and bundle, or cannot be written.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigurationError(f"{path}: a deployment file ends in .yaml")
    changed = resolved.deployment.model_copy(
        update={
            "name": name or path.stem,
            "bundle": _portable(bundle or resolved.bundle.path),
            "rig": _rig_text(resolved.rig_path),
            "placement": dict(placement),
        }
    )
    values = changed.model_dump(mode="json", exclude_defaults=True)
    text = "".join(f"# {line}\n" for line in comments)
    text += yaml.safe_dump(values, sort_keys=False, width=_WIDTH, default_flow_style=None)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        load_deployment(unfinished)  # refuses what cannot be launched before anything is replaced
        unfinished.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return load_deployment(path)


def _portable(folder: Path) -> str:
    """Relative to the source tree where it lies in it, else absolute."""
    try:
        return str(folder.resolve().relative_to(package_root()))
    except ValueError:
        return str(folder.resolve())


def _rig_text(path: Path) -> str:
    known = names_in("hw_configs/rigs").get(path.stem)
    return path.stem if known is not None and known.resolve() == path.resolve() else str(path.resolve())
