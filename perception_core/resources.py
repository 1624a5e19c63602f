"""Where deployments, rigs, bundles and other shipped files live: the source tree or the installed share
folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from perception_core.configuration import ConfigurationError, nearest

PACKAGE = "mmmt_perception"


def package_root() -> Path:
    """The folder of the Python packages: the repository, or site-packages where installed."""
    return Path(__file__).resolve().parents[1]


def resource_roots(search_paths: Sequence[str | Path] = ()) -> tuple[Path, ...]:
    """Folders that may hold hw_configs/ and bundles/, first match wins.

    In order: `search_paths`, the source tree, the share folder of every ROS workspace sourced
        (AMENT_PREFIX_PATH) and the share folder of this Python environment.
    """
    candidates = [Path(path) for path in search_paths]
    candidates.append(package_root())
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    candidates += [Path(prefix) / "share" / PACKAGE for prefix in (*prefixes, sys.prefix)]
    roots: list[Path] = []
    for candidate in candidates:
        if candidate.is_dir() and candidate not in roots:
            roots.append(candidate)
    return tuple(roots)


def names_in(folder: str, search_paths: Sequence[str | Path] = ()) -> dict[str, Path]:
    """Returns the YAML files of a resource folder by name (without suffix), e.g. every deployment of
    `hw_configs`.
    """
    found: dict[str, Path] = {}
    for root in resource_roots(search_paths):
        for path in sorted((root / folder).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_named(kind: str, folder: str, name: str | Path, search_paths: Sequence[str | Path] = ()) -> Path:
    """Finds a YAML file by path or by its name in a resource folder.

    Args:
        kind: What it is, for the message, e.g. `deployment`.
        folder: Resource folder, e.g. `hw_configs`.
        name: A path to a file, or a name with or without `.yaml`.
        search_paths: Further roots, looked at first.

    Raises:
        ConfigurationError: There is none; names the nearest one that exists.
    """
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path.resolve()
    known = names_in(folder, search_paths)
    stem = path.stem if path.suffix in (".yaml", ".yml") else path.name
    if len(path.parts) == 1 and stem in known:
        return known[stem].resolve()
    raise ConfigurationError(f"no {kind} '{name}' in {_folders(folder, search_paths)}" + nearest(stem, known))


def find_folder(
    kind: str, path: str | Path, beside: Path | None, search_paths: Sequence[str | Path] = ()
) -> Path:
    """Finds a folder given absolutely, or relative to a file's folder, to a resource root or to the working
    directory.

    Args:
        kind: What it is, for the message, e.g. `bundle`.
        path: As the user wrote it.
        beside: The file that names it.
        search_paths: Further roots, looked at first.

    Raises:
        ConfigurationError: There is none; lists where it was looked for.
    """
    given = Path(path).expanduser()
    places = [given] if given.is_absolute() else [root / given for root in resource_roots(search_paths)]
    if not given.is_absolute():
        places += [] if beside is None else [beside.parent / given]
        places.append(Path.cwd() / given)
    for place in places:
        if place.is_dir():
            return place.resolve()
    raise ConfigurationError(f"no {kind} folder '{path}'; looked at {_listed(places)}")


def _folders(folder: str, search_paths: Sequence[str | Path]) -> str:
    return _listed(root / folder for root in resource_roots(search_paths) if (root / folder).is_dir())


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(dict.fromkeys(str(path) for path in paths)) or "(no resource folder found)"
