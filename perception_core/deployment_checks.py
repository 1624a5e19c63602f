"""Checks of a deployment that need more than its schema: do names exist, is everything placed once, do rig
and bundle fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from perception_core.bundle import BundleSpec, missing_variant
from perception_core.configuration import ConfigurationError, ConfigurationFile, nearest
from perception_core.deployment import (
    ALL_NODES,
    COMPONENTS,
    COMPONENTS_ON,
    EXTRA_NODES,
    LOCAL_HOST,
    STACK_NODES,
    Deployment,
    expand_processes,
)
from perception_core.movable import possible_homes
from perception_core.overrides import bundle_tasks
from perception_core.precision import FULL_PRECISION, why_not
from perception_core.rig import Rig

ANY_MODALITY = "*"
CONTROL_TASK = "control"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_CPU_BACKENDS = ("torch", "torch_compile", "onnxruntime", "openvino")
_BACKENDS_OF_KIND = {"cpu": _CPU_BACKENDS, "gpu": ("torch", "torch_compile", "onnxruntime", "tensorrt")}


def check(
    file: ConfigurationFile, deployment: Deployment, rig: Rig, bundle: BundleSpec, modalities: set[str]
) -> None:
    """Raises one error with a line for everything that does not fit.

    Args:
        file: Where the deployment was read from; says the lines.
        deployment: With overrides applied.
        rig: The vehicle.
        bundle: What is to run.
        modalities: Modalities a budget may name: those of the rig in use and of the rig the file names.

    Raises:
        ConfigurationError: Something does not fit.
    """
    errors = [
        *_check_devices(file, deployment),
        *_check_links(file, deployment),
        *_check_placement(file, deployment, bundle),
        *_check_precisions(file, deployment, bundle),
        *_check_processes(file, deployment, bundle),
        *_check_budgets(file, deployment, bundle, modalities),
        *_check_parameters(file, deployment, bundle),
        *_check_rig(file, rig, bundle),
    ]
    if not errors:  # only a consistent table can be expanded
        errors += _check_hosts(file, deployment, bundle)
        errors += _check_movable(file, deployment, bundle)
    if errors:
        raise ConfigurationError("\n".join(str(error) for error in errors))


def notes(deployment: Deployment, rig: Rig, bundle: BundleSpec) -> tuple[str, ...]:
    """Says what a correct deployment leaves unused."""
    found = [
        f"budget '{path}' is not watched: rig '{rig.name}' has no {path.partition('->')[0]}"
        for path in deployment.budgets_ms
        if path not in applicable_budgets(deployment, rig)
    ]
    started = {name.split(".", 1)[0] for name in expand_processes(deployment, bundle)}
    found += [
        f"process '{name}' has no nodes and is not started"
        for name in deployment.processes
        if name not in started
    ]
    return tuple(found)


def applicable_budgets(deployment: Deployment, rig: Rig) -> dict[str, float]:
    """Returns the budgets whose modality the rig has."""
    return {
        path: budget
        for path, budget in deployment.budgets_ms.items()
        if path.partition("->")[0] in (ANY_MODALITY, *rig.modalities)
    }


def _check_devices(file: ConfigurationFile, deployment: Deployment) -> Iterator[ConfigurationError]:
    if not deployment.devices:
        yield file.error(("devices",), "a deployment needs at least one device")
    owner: dict[tuple[str, int], str] = {}
    for name, device in deployment.devices.items():
        if not _NAME.fullmatch(name):
            yield file.error(("devices", name), f"a name is letters, digits, _ and -, not '{name}'")
        allowed = _BACKENDS_OF_KIND.get(device.kind)
        if allowed and device.backend not in allowed:
            message = (
                f"backend '{device.backend}' does not run on a {device.kind}; valid are: {', '.join(allowed)}"
            )
            yield file.error(("devices", name, "backend"), message)
        for core in device.cores:
            if core < 0:
                yield file.error(("devices", name, "cores"), f"core {core} is negative")
            other = owner.setdefault((device.host, core), name)
            if other != name and device.kind == "cpu" and deployment.devices[other].kind == "cpu":
                message = f"core {core} already belongs to device '{other}'; a core is part of one CPU device"
                yield file.error(("devices", name, "cores"), message)


def _check_links(file: ConfigurationFile, deployment: Deployment) -> Iterator[ConfigurationError]:
    for link in deployment.links:
        ends = link.split("->")
        if len(ends) != 2:
            yield file.error(("links", link), "a link is written DEVICE->DEVICE")
            continue
        for end in ends:
            if end not in deployment.devices:
                yield file.error(("links", link), f"no device '{end}'" + nearest(end, deployment.devices))
        if ends[0] == ends[1]:
            yield file.error(("links", link), "a link connects two different devices")


def _check_placement(
    file: ConfigurationFile, deployment: Deployment, bundle: BundleSpec
) -> Iterator[ConfigurationError]:
    for component, device in deployment.placement.items():
        if component not in bundle.components:
            message = f"bundle '{bundle.name}' has no component '{component}'" + nearest(
                component, bundle.components
            )
            yield file.error(("placement", component), message)
        if device not in deployment.devices:
            yield file.error(
                ("placement", component), f"no device '{device}'" + nearest(device, deployment.devices)
            )
    for component in bundle.components:
        if component not in deployment.placement:
            message = f"component '{component}' of bundle '{bundle.name}' is placed nowhere"
            close = nearest(
                component, (name for name in deployment.placement if name not in bundle.components)
            )
            hint = f"add '{component}: DEVICE' with one of: {', '.join(deployment.devices)}"
            yield file.error(("placement",), f"{message}{close if 'did you mean' in close else ''}; {hint}")


def _check_precisions(
    file: ConfigurationFile, deployment: Deployment, bundle: BundleSpec
) -> Iterator[ConfigurationError]:
    for component in deployment.precision:
        if component not in bundle.components:
            message = f"bundle '{bundle.name}' has no component '{component}'"
            yield file.error(("precision", component), message + nearest(component, bundle.components))
    for component, spec in bundle.components.items():
        placed = deployment.placement.get(component)
        if placed is None or placed not in deployment.devices:
            continue  # the placement is reported already
        device = deployment.device_for(component)
        if device.precision == FULL_PRECISION:
            continue
        chosen = component in deployment.precision
        location = ("precision", component) if chosen else ("devices", placed, "precision")
        problem = why_not(device.precision, device.backend, device.kind)
        if problem is None:
            problem = missing_variant(component, spec, device.precision, device.backend)
        if problem is not None:
            remedy = (
                f"write precision: {{{component}: {FULL_PRECISION}}} to run this one component on '{placed}' "
                f"in {FULL_PRECISION}"
            )
            yield file.error(location, problem if chosen else f"{problem}; {remedy}")


def _check_processes(
    file: ConfigurationFile, deployment: Deployment, bundle: BundleSpec
) -> Iterator[ConfigurationError]:
    valid = (
        *STACK_NODES,
        *bundle.components,
        COMPONENTS,
        *(COMPONENTS_ON + name for name in deployment.devices),
    )
    home: dict[str, str] = {}
    for name, process in deployment.processes.items():
        if not _NAME.fullmatch(name):
            yield file.error(("processes", name), f"a name is letters, digits, _ and -, not '{name}'")
        if name in EXTRA_NODES:
            yield file.error(
                ("processes", name), f"'{name}' is the name of a process the launcher adds; choose another"
            )
        for position, node in enumerate(process.nodes):
            location = ("processes", name, "nodes", position)
            if node not in valid:
                yield file.error(location, f"no node or component '{node}'" + nearest(node, valid))
            elif node in home:
                where = (
                    "twice in this process" if home[node] == name else f"already in process '{home[node]}'"
                )
                yield file.error(location, f"'{node}' is {where}")
            elif process.one_process_per_component and node in STACK_NODES:
                message = f"'{node}' is not a component; one_process_per_component takes components only"
                yield file.error(location, message)
            home.setdefault(node, name)
        for core in process.cores:
            if core < 0:
                yield file.error(("processes", name, "cores"), f"core {core} is negative")
    for node in STACK_NODES:
        if node not in home:
            yield file.error(("processes",), f"node '{node}' is in no process; add it to the nodes of one")
    for component in bundle.components:
        if deployment.placement.get(component) not in deployment.devices:
            continue  # the placement is reported already
        placeholder = COMPONENTS_ON + deployment.placement[component]
        if not {component, placeholder, COMPONENTS} & set(home):
            message = (
                f"component '{component}' is in no process; name it, '{placeholder}' or '{COMPONENTS}' in one"
            )
            yield file.error(("processes",), message)


def _check_hosts(
    file: ConfigurationFile, deployment: Deployment, bundle: BundleSpec
) -> Iterator[ConfigurationError]:
    for name, nodes in expand_processes(deployment, bundle).items():
        placed = {node: deployment.placement[node] for node in nodes if node in deployment.placement}
        hosts = {deployment.devices[device].host for device in placed.values()}
        if len(hosts) > 1:
            message = (
                f"its components are placed on devices of several hosts: {', '.join(sorted(hosts))}; split it"
            )
            yield file.error(("processes", name.split(".", 1)[0]), message)


def _check_movable(
    file: ConfigurationFile, deployment: Deployment, bundle: BundleSpec
) -> Iterator[ConfigurationError]:
    known = [name for name in deployment.movable if name in bundle.components]
    for position, name in enumerate(deployment.movable):
        location = ("movable", position)
        if name not in bundle.components:
            message = f"bundle '{bundle.name}' has no component '{name}'" + nearest(name, bundle.components)
            yield file.error(location, message)
        elif name in deployment.movable[:position]:
            yield file.error(location, f"'{name}' is listed twice")
    processes = expand_processes(deployment, bundle)
    homes = possible_homes(deployment.model_copy(update={"movable": tuple(known)}), processes)
    for name, possible in homes.items():
        if len(possible) < 2:
            message = (
                f"'{name}' could be moved nowhere: no other device of host '{LOCAL_HOST}' is served by a "
                f"process; place another component on one (it is on '{deployment.placement[name]}')"
            )
            yield file.error(("movable", deployment.movable.index(name)), message)


def _check_budgets(
    file: ConfigurationFile, deployment: Deployment, bundle: BundleSpec, modalities: Iterable[str]
) -> Iterator[ConfigurationError]:
    valid_modalities = {ANY_MODALITY, *modalities}
    valid_tasks = {*bundle_tasks(bundle), CONTROL_TASK}
    for path, budget in deployment.budgets_ms.items():
        location = ("budgets_ms", path)
        modality, arrow, task = path.partition("->")
        if not arrow:
            yield file.error(location, "a path is written MODALITY->TASK, e.g. lidar->control or *->control")
            continue
        if modality not in valid_modalities:
            yield file.error(location, f"no modality '{modality}'" + nearest(modality, valid_modalities))
        if task not in valid_tasks:
            yield file.error(location, f"no task '{task}'" + nearest(task, valid_tasks))
        if not budget > 0:
            yield file.error(location, f"a budget is a positive number of milliseconds, not {budget}")


def _check_parameters(
    file: ConfigurationFile, deployment: Deployment, bundle: BundleSpec
) -> Iterator[ConfigurationError]:
    valid = (ALL_NODES, *STACK_NODES, *EXTRA_NODES, *bundle.components)
    for node, parameters in deployment.parameters.items():
        if node not in valid:
            yield file.error(("parameters", node), f"no node '{node}'" + nearest(node, valid))
        for key, value in parameters.items():
            if not _is_ros_parameter(value):
                message = (
                    f"a ROS parameter is true/false, a number, text or a list of one of these (got {value!r})"
                )
                yield file.error(("parameters", node, key), message)


def _is_ros_parameter(value: Any) -> bool:
    scalars = (bool, int, float, str)
    if isinstance(value, list):
        return all(isinstance(item, scalars) and type(item) is type(value[0]) for item in value)
    return isinstance(value, scalars)


def _check_rig(file: ConfigurationFile, rig: Rig, bundle: BundleSpec) -> Iterator[ConfigurationError]:
    needs, cameras = bundle.input, len(rig.cameras)
    reasons = []
    if needs.needs_lidar and rig.lidar is None:
        reasons.append("it needs a LiDAR and the rig has none")
    if cameras < needs.min_cameras:
        reasons.append(f"it needs at least {needs.min_cameras} camera(s) and the rig has {cameras}")
    if needs.max_cameras is not None and cameras > needs.max_cameras:
        reasons.append(f"it takes at most {needs.max_cameras} camera(s) and the rig has {cameras}")
    if needs.mono is not None and needs.mono.camera not in rig.cameras:
        reasons.append(
            f"its monocular model takes camera '{needs.mono.camera}', which the rig has not"
            + nearest(needs.mono.camera, rig.cameras)
        )
    for reason in reasons:
        message = (
            f"bundle '{bundle.name}' cannot run on rig '{rig.name}': {reason}; choose another rig or bundle"
        )
        yield file.error(("rig",), message)
