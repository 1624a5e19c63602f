"""Networks, one family a package, built by name through the registry."""

from perception_core.models.interface import Component, PerceptionModel
from perception_core.models.registry import create_model, list_models, register_model

__all__ = ["Component", "PerceptionModel", "create_model", "list_models", "register_model"]
