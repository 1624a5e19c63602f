"""Loads a deployment for a bundle that it was not written for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perception_core.bundle import Bundle
from perception_core.configuration import ConfigurationFile
from perception_core.deployment import Deployment, ResolvedDeployment, load_deployment
from perception_core.overrides import bundle_tasks, parse_overrides
from perception_core.platform.stage_report import CONTROL
from perception_core.resources import find_folder, find_named


def load_for_bundle(
    hw_config: str | Path, overrides: Sequence[str], bundle: Path | None
) -> tuple[ResolvedDeployment, tuple[str, ...]]:
    """Loads a deployment for planning what runs where.

    Where the bundle has other components than the deployment places, those are put on the first device for
    now, and budgets for tasks it does not have are left out: the plan is what says where they belong.

    Returns:
        The deployment, and notes on what was changed.

    Raises:
        ConfigurationError: The deployment or the bundle is wrong.
    """
    given = parse_overrides(overrides)
    if bundle is not None:
        given["bundle"] = str(bundle)
    path = find_named("deployment", "hw_configs", hw_config)
    written = ConfigurationFile.read(path).validate(Deployment)
    spec = Bundle.open(find_folder("bundle", given.get("bundle", written.bundle), path)).spec
    notes = []
    device = next(iter(written.devices), "")
    for component in spec.components:
        if component not in written.placement and f"placement.{component}" not in given:
            given[f"placement.{component}"] = device
            notes.append(f"{component} is not placed by {path.name}; compared as if it were on {device}")
    for component in written.placement:
        if component not in spec.components:
            given[f"placement.{component}"] = "null"
            notes.append(f"bundle {spec.name} has no {component}; its placement is left out")
    for component in written.precision:
        if component not in spec.components:
            given[f"precision.{component}"] = "null"
            notes.append(f"bundle {spec.name} has no {component}; its precision is left out")
    tasks = (*bundle_tasks(spec), CONTROL)
    for budget in written.budgets_ms:
        if budget.partition("->")[2] not in tasks:
            given[f"budgets_ms.{budget}"] = "null"
            notes.append(f"bundle {spec.name} has no task of budget {budget}; it is left out")
    resolved = load_deployment(path, given)
    return resolved, (*notes, *resolved.notes)
