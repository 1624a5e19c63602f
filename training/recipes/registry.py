"""The registry of recipes: functions without arguments, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from perception_core.configuration import ConfigurationError, nearest
from training.recipes.overrides import apply_overrides
from training.recipes.recipe import Recipe

RecipeFunction = Callable[[], Recipe]
Function = TypeVar("Function", bound=RecipeFunction)

_registry: dict[str, RecipeFunction] = {}


def register_recipe(function: Function) -> Function:
    """Enters a function that returns a recipe under the function's name; its docstring is the help."""
    name = function.__name__
    if name in _registry:
        raise ValueError(f"recipe '{name}' is registered twice")
    _registry[name] = function
    return function


def _fill() -> None:
    """Imports the families of recipes, which register themselves; late, because they import this module."""
    from training.recipes import fuller, tag  # noqa: F401


def list_recipes() -> dict[str, str]:
    """Returns every recipe's name and the first line of its description."""
    _fill()
    return {name: (_registry[name].__doc__ or "").strip().split("\n")[0] for name in sorted(_registry)}


def create_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Returns a recipe with settings changed.

    Args:
        name: One of `list_recipes()`.
        overrides: `key=value` texts.

    Raises:
        ConfigurationError: The name or a setting is unknown, or a value is wrong.
    """
    _fill()
    if name not in _registry:
        raise ConfigurationError(f"unknown recipe '{name}'" + nearest(name, _registry))
    return apply_overrides(_registry[name](), overrides, name)
