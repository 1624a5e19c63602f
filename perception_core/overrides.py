"""Overrides of a deployment, written `key:=value` on a command line; values are YAML, keys are checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from perception_core.bundle import BundleSpec
from perception_core.configuration import ConfigurationError, ConfigurationFile, nearest
from perception_core.rig import Rig

if TYPE_CHECKING:
    from perception_core.deployment import Deployment

SEPARATOR = ":="

#: Every form an override can take, for help texts and errors.
FORMS = (
    "rig:=NAME",
    "bundle:=PATH",
    "placement.COMPONENT:=DEVICE",
    "precision.COMPONENT:=PRECISION",
    "movable:=[COMPONENT, ...]",
    "processes.PROCESS.FIELD:=VALUE",
    "devices.DEVICE.FIELD:=VALUE",
    "links.A->B.FIELD:=VALUE",
    "budgets_ms.MODALITY->TASK:=MS",
    "transport.FIELD:=VALUE",
    "parameters.NODE.PARAMETER:=VALUE",
)
SECTIONS = tuple(sorted({re.split(r"[.:]", form)[0] for form in FORMS}))

# YAML 1.1 reads 1e-3 as text because it has no dot; nobody who writes an override means that.
_EXPONENT_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def parse_overrides(overrides: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Splits `key:=value` texts.

    Raises:
        ConfigurationError: A text is not of that form or a key is given twice with different values.
    """
    if isinstance(overrides, Mapping):
        return {str(key): str(value) for key, value in overrides.items()}
    parsed: dict[str, str] = {}
    for text in overrides:
        key, separator, value = text.partition(SEPARATOR)
        if not separator or not key:
            raise ConfigurationError(
                f"override '{text}' is not written KEY{SEPARATOR}VALUE; forms are: {', '.join(FORMS)}"
            )
        if parsed.get(key, value) != value:
            raise ConfigurationError(f"override '{key}' is given twice: {parsed[key]} and {value}")
        parsed[key] = value
    return parsed


def parse_value(text: str, origin: str) -> Any:
    """Reads a value as YAML.

    Args:
        text: E.g. `multi`, `[0, 1]`, `true`, `2.5`.
        origin: For the message.

    Raises:
        ConfigurationError: It is not YAML.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"{origin}: the value is not valid YAML: {getattr(error, 'problem', error)}"
        ) from error
    if isinstance(value, str) and _EXPONENT_NUMBER.fullmatch(value):
        return float(value)
    return value


def override_keys(deployment: Deployment, rig: Rig, bundle: BundleSpec) -> dict[str, tuple[str, ...]]:
    """Lists the keys an override of this deployment can name, as locations in its file.

    Parameters are listed by node only (`parameters.control.`), since each node knows its own.
    """
    from perception_core.deployment import (
        ALL_NODES,
        EXTRA_NODES,
        STACK_NODES,
        Device,
        Link,
        PowerModel,
        ProcessSpec,
        TransportOptions,
    )

    locations: list[tuple[str, ...]] = [("rig",), ("bundle",), ("movable",)]
    locations += [("placement", name) for name in dict.fromkeys((*deployment.placement, *bundle.components))]
    locations += [("precision", name) for name in dict.fromkeys((*deployment.precision, *bundle.components))]
    locations += [
        ("processes", name, field) for name in deployment.processes for field in ProcessSpec.model_fields
    ]
    locations += [("devices", name, field) for name in deployment.devices for field in Device.model_fields]
    locations += [
        ("devices", name, "power_w", field)
        for name in deployment.devices
        for field in PowerModel.model_fields
    ]
    locations += [("links", name, field) for name in deployment.links for field in Link.model_fields]
    tasks = (*bundle_tasks(bundle), "control")
    budgets = (f"{modality}->{task}" for modality in ("*", *rig.modalities) for task in tasks)
    locations += [("budgets_ms", path) for path in dict.fromkeys((*deployment.budgets_ms, *budgets))]
    locations += [("transport", field) for field in TransportOptions.model_fields]
    nodes = (ALL_NODES, *STACK_NODES, *EXTRA_NODES, *bundle.components)
    locations += [("parameters", node, "") for node in nodes]
    return {".".join(location): location for location in locations}


def bundle_tasks(bundle: BundleSpec) -> tuple[str, ...]:
    """Returns the tasks a bundle's heads output."""
    return tuple(component.task for component in bundle.components.values() if component.task is not None)


def apply_overrides(
    file: ConfigurationFile,
    overrides: Mapping[str, str],
    deployment: Deployment,
    rig: Rig,
    bundle: BundleSpec,
) -> None:
    """Writes overrides into a deployment file's values. `rig` and `bundle` are expected to be applied
    already.

    Raises:
        ConfigurationError: A key names nothing that can be overridden, or a value is not YAML.
    """
    known = override_keys(deployment, rig, bundle)
    for key, text in overrides.items():
        if key in ("rig", "bundle"):
            continue
        origin = f"override '{key}{SEPARATOR}{text}'"
        location = _locate(key, known)
        if location is None:
            raise ConfigurationError(f"{origin}: there is no such key{_suggestion(key, known)}")
        file.override(location, _typed(location, text, origin), origin)


def _locate(key: str, known: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    if key in known and not key.endswith("."):
        return known[key]
    parts = key.split(".")
    if parts[0] == "parameters" and len(parts) >= 3 and parts[2]:
        node = f"parameters.{parts[1]}."
        return (*known[node][:2], ".".join(parts[2:])) if node in known else None
    if parts[0] == "processes" and len(parts) == 4 and parts[2] == "environment":
        process = f"processes.{parts[1]}.environment"
        return (*known[process], parts[3]) if process in known else None
    return None


def _typed(location: tuple[str, ...], text: str, origin: str) -> Any:
    if "environment" in location[2:3] and len(location) == 4:
        return text  # environment variables are text, also where they look like numbers
    return parse_value(text, origin)


def _suggestion(key: str, known: Mapping[str, tuple[str, ...]]) -> str:
    if key.startswith("parameters.") and key.count(".") >= 2:
        _, node, parameter = key.split(".", 2)
        nodes = [name.split(".")[1] for name in known if name.startswith("parameters.")]
        return nearest(node, nodes) + f" (for 'parameters.NODE.{parameter}')"
    hint = nearest(key, (name for name in known if not name.endswith(".")))
    return hint if "did you mean" in hint else f"; forms are: {', '.join(FORMS)}"
