"""Strict YAML configuration: pydantic models whose errors name the file, the line and the nearest valid
name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml


class ConfigurationError(ValueError):
    """A configuration file or override is wrong; the message says where, what and what to do."""


class StrictModel(pydantic.BaseModel):
    """Base of all typed configurations: immutable, unknown keys refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=pydantic.BaseModel)


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns a suffix such as `; did you mean 'cpu0'?` or the list of valid names, ready to append to an
    error.

    Args:
        name: What the user wrote.
        valid: The names that would have been accepted.
    """
    names = sorted(str(item) for item in valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid are: {', '.join(names)}" if names else ""


def _line_of(node: yaml.Node | None, location: Sequence[int | str]) -> int | None:
    """Returns the 1-based line of the deepest part of `location` that exists in the composed YAML tree."""
    line = None if node is None else node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _find_duplicate_keys(node: yaml.Node | None) -> list[tuple[str, int]]:
    """Lists every mapping key that is written twice in one mapping, with its line: YAML itself keeps the
    last silently.
    """
    found: list[tuple[str, int]] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                found.append((key.value, key.start_mark.line + 1))
            seen.add(key.value)
            found += _find_duplicate_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            found += _find_duplicate_keys(value)
    return found


def _valid_keys(model: type[pydantic.BaseModel], location: Sequence[int | str]) -> list[str]:
    """Follows `location` through nested models and returns the keys valid where its last part stands."""
    current: Any = model
    for part in location[:-1]:
        if isinstance(current, type) and issubclass(current, pydantic.BaseModel):
            field = current.model_fields.get(str(part))
            if field is None:
                return []
            current = field.annotation
        else:  # dict[str, X], list[X] or tuple[X, ...]: its last type argument that is not `...` or None
            current = _element_type(current)
        while not (isinstance(current, type) and issubclass(current, pydantic.BaseModel)):
            inner = [a for a in getattr(current, "__args__", ()) if a is not type(None)]
            if len(inner) == 1 and getattr(current, "__origin__", None) not in (list, dict, tuple, set):
                current = inner[0]
            else:
                break
    if isinstance(current, type) and issubclass(current, pydantic.BaseModel):
        return list(current.model_fields)
    return []


def _element_type(annotation: Any) -> Any:
    arguments = [a for a in getattr(annotation, "__args__", ()) if a not in (Ellipsis, type(None))]
    return arguments[-1] if arguments else None


class ConfigurationFile:
    """A parsed YAML file that can still say on which line a value stands.

    Attributes:
        path: Where it was read from; only used for messages.
        values: The plain values, overrides applied.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._overridden: dict[tuple[int | str, ...], str] = {}
        try:
            self._tree = yaml.compose(text, Loader=yaml.SafeLoader)
            self.values: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            raise ConfigurationError(
                f"{where}: not valid YAML: {getattr(error, 'problem', error)}"
            ) from error
        duplicates = _find_duplicate_keys(self._tree)
        if duplicates:
            key, line = duplicates[0]
            raise ConfigurationError(f"{path}:{line}: key '{key}' is written twice")

    @classmethod
    def read(cls, path: str | Path) -> ConfigurationFile:
        """Reads a file.

        Raises:
            ConfigurationError: The file is missing, unreadable or not YAML.
        """
        path = Path(path)
        try:
            return cls(path, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}: cannot be read: {error}") from error

    def override(self, location: Sequence[str], value: Any, origin: str) -> None:
        """Replaces one value; later errors about it name `origin` instead of a line of the file.

        Args:
            location: Keys from the root to the value; missing mappings on the way are created.
            value: The new value; None removes the key.
            origin: Who says so, e.g. `override 'rig:=kitti'`.

        Raises:
            ConfigurationError: A key on the way is not a mapping.
        """
        mapping = self.values
        for depth, part in enumerate(location[:-1]):
            if mapping.get(part) is None:
                mapping[part] = {}
            mapping = mapping[part]
            if not isinstance(mapping, dict):
                raise ConfigurationError(
                    f"{origin}: '{'.'.join(location[: depth + 1])}' has no keys of its own"
                )
        if value is None:
            mapping.pop(location[-1], None)
        else:
            mapping[location[-1]] = value
        self._overridden[tuple(location)] = origin

    def error(self, location: Sequence[int | str], message: str) -> ConfigurationError:
        """Returns an error that names the file and the line of `location`, or the override that set it."""
        line = _line_of(self._tree, location)
        where = f"{self.path}:{line}" if line else str(self.path)
        for depth in range(len(location), 0, -1):
            if tuple(location[:depth]) in self._overridden:
                where = self._overridden[tuple(location[:depth])]
                break
        dotted = ".".join(str(part) for part in location)
        return ConfigurationError(f"{where}: {dotted + ': ' if dotted else ''}{message}")

    def validate(self, model: type[Model]) -> Model:
        """Turns the values into `model`.

        Raises:
            ConfigurationError: A key is unknown or missing or a value is wrong; names file, line and nearest
                key.
        """
        if not isinstance(self.values, dict):
            raise self.error((), f"expected a mapping with the keys {', '.join(model.model_fields)}")
        try:
            return model.model_validate(self.values)
        except pydantic.ValidationError as error:
            messages = []
            for item in error.errors():
                location = item["loc"]
                if item["type"] == "extra_forbidden":
                    text = f"unknown key '{location[-1]}'" + nearest(
                        str(location[-1]), _valid_keys(model, location)
                    )
                elif item["type"] == "missing":
                    text = f"required key '{location[-1]}' is missing"
                else:
                    text = f"{item['msg']} (got {item['input']!r})"
                messages.append(str(self.error(location, text)))
            raise ConfigurationError("\n".join(messages)) from error
