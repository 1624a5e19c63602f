"""The registry of networks: a bundle names an entry and its arguments, and any side can build it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from perception_core.configuration import ConfigurationError, nearest
from perception_core.models.interface import PerceptionModel

ModelFactory = Callable[..., PerceptionModel]
Factory = TypeVar("Factory", bound=ModelFactory)

_registry: dict[str, ModelFactory] = {}


def register_model(factory: Factory) -> Factory:
    """Enters a function that builds a model under the function's name."""
    name = factory.__name__
    if name in _registry:
        raise ValueError(f"model '{name}' is registered twice")
    _registry[name] = factory
    return factory


def _fill() -> None:
    """Imports the model families, which register themselves; late, because they import this module."""
    from perception_core.models import combination, fuller  # noqa: F401
    from perception_core.models.mono_baselines import variants as mono_baseline_variants  # noqa: F401
    from perception_core.models.tag import variants as tag_variants  # noqa: F401


def list_models() -> list[str]:
    """Returns the names of all registered models, sorted."""
    _fill()
    return sorted(_registry)


def create_model(name: str, **arguments: Any) -> PerceptionModel:
    """Builds a model with freshly initialized weights, in evaluation mode.

    The weights are drawn from torch's global generator; see `create_seeded_model` for reproducible ones.

    Args:
        name: One of `list_models()`.
        arguments: Whatever the model's configuration takes, e.g. `detection={"queries": 200}`.

    Raises:
        ConfigurationError: The name or an argument is unknown or wrong.
    """
    _fill()
    if name not in _registry:
        raise ConfigurationError(f"unknown model '{name}'" + nearest(name, _registry))
    return _registry[name](**arguments).eval()
