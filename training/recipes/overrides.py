"""Settings of a recipe changed by `key=value`; keys are checked, values are YAML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

import pydantic

from perception_core.configuration import ConfigurationError, nearest
from perception_core.overrides import parse_value

Model = TypeVar("Model", bound=pydantic.BaseModel)

#: Last part of a key that chooses between several types of a group.
_KIND = "kind"


def apply_overrides(recipe: Model, assignments: Sequence[str], name: str) -> Model:
    """Returns a recipe with settings changed.

    A group that is given another `kind` starts from that kind's defaults.

    Args:
        recipe: Any typed configuration.
        assignments: E.g. `training.epochs=3`.
        name: Of the recipe, for messages.

    Raises:
        ConfigurationError: A key is unknown (names the nearest) or given twice, or a value is wrong.
    """
    given: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not all(key.split(".")):
            raise ConfigurationError(f"--set {assignment}: expected KEY=VALUE, e.g. training.epochs=3")
        value = parse_value(text, f"--set {key}")
        if given.get(key, value) != value:
            raise ConfigurationError(f"--set {key} is given twice: {given[key]} and {value}")
        given[key] = value
    kinds = {key: value for key, value in given.items() if key.split(".")[-1] == _KIND}
    others = {key: value for key, value in given.items() if key not in kinds}
    for chosen in (kinds, others):
        recipe = _changed(recipe, chosen, name)
    return recipe


def _changed(recipe: Model, given: dict[str, Any], name: str) -> Model:
    if not given:
        return recipe
    values = recipe.model_dump()
    known = dict(keys_of(recipe))
    for key, value in given.items():
        if not _is_known(key, known):
            raise ConfigurationError(f"recipe {name}: unknown setting '{key}'" + nearest(key, known))
        _put(values, key, value)
    try:
        return type(recipe).model_validate(values)
    except pydantic.ValidationError as error:
        lines = []
        for item in error.errors():
            where = _written(item["loc"], given)
            lines.append(f"recipe {name}: {where}: {item['msg']} (got {item['input']!r})")
        raise ConfigurationError("\n".join(lines)) from error


def _written(location: tuple[int | str, ...], given: dict[str, Any]) -> str:
    """Returns a setting's key; pydantic adds the kind of a group, which nobody has written."""
    parts = [str(part) for part in location]
    for key in given:
        wanted = key.split(".")
        if wanted[-1:] == parts[-1:] and all(part in parts for part in wanted):
            return key
    return ".".join(parts) or "settings"


def keys_of(model: pydantic.BaseModel, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Lists every key of a configuration; True: it is a dictionary, under which any key goes."""
    for field, info in type(model).model_fields.items():
        key, value = f"{prefix}{field}", getattr(model, field)
        yield key, isinstance(value, dict)
        if isinstance(value, pydantic.BaseModel):
            yield from keys_of(value, f"{key}.")
        elif value is None:
            for inner in _models_in(info.annotation):
                for name in inner.model_fields:
                    yield f"{key}.{name}", False


def _models_in(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, pydantic.BaseModel):
            yield part


def _is_known(key: str, known: dict[str, bool]) -> bool:
    if key in known:
        return True
    parts = key.split(".")
    return any(known.get(".".join(parts[:depth]), False) for depth in range(1, len(parts)))


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    target = values
    for group in groups:
        if not isinstance(target.get(group), dict):
            target[group] = {}
        target = target[group]
    if last == _KIND and target.get(_KIND) != value:
        target.clear()
    target[last] = value
