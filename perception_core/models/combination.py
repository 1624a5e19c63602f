"""Several models as one: their components side by side, for one bundle and one deployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from perception_core.bundle import BundleInput, ComponentSpec, TensorSpec
from perception_core.configuration import ConfigurationError
from perception_core.models.interface import Component, PerceptionModel
from perception_core.models.registry import create_model, register_model

Value = TypeVar("Value")


class CombinedModel(PerceptionModel):
    """Models that share nothing but the frame, e.g. a BEV model and a monocular one.

    Args:
        models: The models by a name of their own.
        references: Registered name and arguments of each, which `configuration` gives again.
    """

    models: dict[str, PerceptionModel]

    def __init__(
        self, models: Mapping[str, PerceptionModel], references: Mapping[str, Mapping[str, Any]]
    ) -> None:
        super().__init__()
        self._references = {name: dict(reference) for name, reference in references.items()}
        # The models themselves are no sub-modules: the components' networks are, under their own names.
        self.__dict__["models"] = dict(models)
        for name, model in models.items():
            for component, network in model.named_children():
                if component in self._modules:
                    raise ConfigurationError(
                        f"model '{name}' has a component '{component}' and so has one before it; models "
                        "can be combined only where all of their components differ"
                    )
                self.add_module(component, network)
        self._merged("tensor", lambda model: model.tensor_specs())
        self._merged("task", lambda model: model.labels())
        self.bundle_input()

    def train(self, mode: bool = True) -> CombinedModel:
        """Sets the mode of all models."""
        super().train(mode)
        for model in self.models.values():
            model.train(mode)
        return self

    @property
    def runs_on_meta(self) -> bool:  # type: ignore[override]
        """Whether all of the models do."""
        return all(model.runs_on_meta for model in self.models.values())

    def _merged(self, what: str, part: Callable[[PerceptionModel], Mapping[str, Value]]) -> dict[str, Value]:
        merged: dict[str, Value] = {}
        for name, model in self.models.items():
            for key, value in part(model).items():
                if key in merged:
                    raise ConfigurationError(
                        f"model '{name}' has the {what} '{key}' and so has one before it"
                    )
                merged[key] = value
        return merged

    @property
    def components(self) -> dict[str, Component]:
        """Components of all models, in their order."""
        return self._merged("component", lambda model: model.components)

    def component_specs(self) -> dict[str, ComponentSpec]:
        """Signature of each component."""
        return self._merged("component", lambda model: model.component_specs())

    def tensor_specs(self) -> dict[str, TensorSpec]:
        """Types of the tensors that components output."""
        return self._merged("tensor", lambda model: model.tensor_specs())

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Class names by task."""
        return self._merged("task", lambda model: model.labels())

    def bundle_input(self) -> BundleInput:
        """What all models need together.

        Raises:
            ConfigurationError: Two models want the images of all cameras, or one camera's, in different ways.
        """
        inputs = [model.bundle_input() for model in self.models.values()]
        values: dict[str, Any] = {}
        for field in ("image", "mono"):
            wanted = {getattr(item, field) for item in inputs} - {None}
            if len(wanted) > 1:
                raise ConfigurationError(
                    f"the models want '{field}' in different ways: {' and '.join(map(str, wanted))}"
                )
            values[field] = wanted.pop() if wanted else None
        limits = [item.max_cameras for item in inputs if item.max_cameras is not None]
        return BundleInput(
            **values,
            max_points=max(item.max_points for item in inputs),
            needs_lidar=any(item.needs_lidar for item in inputs),
            min_cameras=max(item.min_cameras for item in inputs),
            max_cameras=min(limits, default=None),
        )

    def configuration(self) -> dict[str, Any]:
        """Registered names and arguments of the models."""
        return {
            "models": {
                name: {"name": self._references[name]["name"], "arguments": model.configuration()}
                for name, model in self.models.items()
            }
        }


@register_model
def combined(models: Mapping[str, Mapping[str, Any]] | None = None, **unknown: Any) -> CombinedModel:
    """Several registered models in one: `models={"bev": {"name": "fuller_tiny"}, "mono": {...}}`.

    Without arguments, `fuller_tiny` and `tag_tiny`.
    """
    if unknown:
        raise ConfigurationError(
            f"model 'combined': unknown argument '{next(iter(unknown))}'; it takes 'models'"
        )
    references = models or {"bev": {"name": "fuller_tiny"}, "mono": {"name": "tag_tiny"}}
    built = {}
    for name, reference in references.items():
        if not isinstance(reference, Mapping) or not {"name"} <= set(reference) <= {"name", "arguments"}:
            raise ConfigurationError(
                f"model 'combined': argument 'models.{name}' needs 'name' and may have 'arguments', "
                f"got {reference!r}"
            )
        built[name] = create_model(str(reference["name"]), **reference.get("arguments", {}))
    return CombinedModel(built, references)
