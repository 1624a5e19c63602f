"""The deployment: devices, processes, placement and budgets. Schema of hw_configs/*.yaml and how one is
resolved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from perception_core.bundle import Bundle, BundleSpec
from perception_core.configuration import ConfigurationError, ConfigurationFile, StrictModel
from perception_core.precision import FULL_PRECISION, Precision
from perception_core.resources import find_folder, find_named
from perception_core.rig import Rig, load_rig

#: Nodes of the stack that are not components of a bundle. Each is in exactly one process.
STACK_NODES = ("sensor_fusion", "latency_monitor", "control")
#: Nodes that a launcher adds in a process of their own; a deployment may give them parameters.
EXTRA_NODES = ("replay", "recorder", "move_coordinator")
#: Under this name the parameters of every node stand.
ALL_NODES = "all"

#: The host that devices belong to where a deployment names none.
LOCAL_HOST = "local"

COMPONENTS = "components"
COMPONENTS_ON = "components@"


class PowerModel(StrictModel):
    """Electrical power of a device in watts."""

    idle: float = pydantic.Field(ge=0)
    busy: float = pydantic.Field(ge=0)


class Device(StrictModel):
    """Something a component can run on.

    Attributes:
        kind: What it is.
        cores: CPU cores of a `cpu` device; threads of its components are pinned to them.
        index: Device index of a GPU.
        backend: How components run on it (perception_core.backends).
        precision: Which variant of a component runs on it, where `precision` of the deployment does not say
            otherwise for the component.
        power_w: Power model.
        memory_mb: Memory limit for components' weights and activations, None: not limited.
        host: Host the device belongs to; tensors between hosts are serialized.
    """

    kind: Literal["cpu", "gpu", "npu", "fpga"]
    cores: tuple[int, ...] = ()
    index: int = pydantic.Field(default=0, ge=0)
    backend: Literal["torch", "torch_compile", "onnxruntime", "openvino", "tensorrt"] = "torch"
    precision: Precision = FULL_PRECISION
    power_w: PowerModel | None = None
    memory_mb: float | None = None
    host: str = LOCAL_HOST


class Link(StrictModel):
    """Connection between two devices, written `a->b`."""

    bandwidth_gbps: float = pydantic.Field(gt=0)
    latency_us: float = pydantic.Field(ge=0)


class ProcessSpec(StrictModel):
    """One operating-system process.

    Attributes:
        nodes: Names of stack nodes or components; `components` stands for every component no other process
            names, `components@DEVICE` for every such component placed on DEVICE.
        executor: rclpy executor of the process.
        threads: Threads of a `multi` executor.
        one_process_per_component: Split this entry so that each component gets a process
            `<name>.<component>`.
        cores: CPU affinity of the process; empty: cores of the devices its components are placed on, else
            all.
        environment: Extra environment variables.
    """

    nodes: tuple[str, ...]
    executor: Literal["single", "multi", "events"] = "single"
    threads: int = pydantic.Field(default=2, gt=0)
    one_process_per_component: bool = False
    cores: tuple[int, ...] = ()
    environment: dict[str, str] = pydantic.Field(default={})


class TransportOptions(StrictModel):
    """How tensors travel.

    Attributes:
        ring_size: Frames a writer keeps for slow readers; older ones are lost to them, a writer never waits.
        dds_profile: Use the Fast DDS profile shipped with the stack for sensor topics.
    """

    ring_size: int = pydantic.Field(default=4, ge=2, le=32)
    dds_profile: bool = True


class Deployment(StrictModel):
    """One YAML file of hw_configs/.

    Attributes:
        bundle: Bundle folder, relative to the repository or share folder, or absolute.
        rig: Rig name in hw_configs/rigs or a path.
        precision: Which variant of a component runs, by component; others run in their device's precision.
        movable: Components that can be moved to another device while the stack runs (docs/replacement.md).
            Their tensors are offered to every process they or their consumers may come to be in.
        budgets_ms: Latency budget of paths written `modality->task`; modality `*` stands for every modality.
        parameters: ROS parameters by node name.
    """

    name: str
    description: str = ""
    bundle: str
    rig: str = "nuscenes"
    devices: dict[str, Device]
    links: dict[str, Link] = pydantic.Field(default={})
    processes: dict[str, ProcessSpec]
    placement: dict[str, str]
    precision: dict[str, Precision] = pydantic.Field(default={})
    movable: tuple[str, ...] = ()
    budgets_ms: dict[str, float] = pydantic.Field(default={})
    transport: TransportOptions = TransportOptions()
    parameters: dict[str, dict[str, Any]] = pydantic.Field(default={})

    def device_for(self, component: str) -> Device:
        """Returns the device a component is placed on, with the precision the component has there."""
        device = self.devices[self.placement[component]]
        if component not in self.precision:
            return device
        return device.model_copy(update={"precision": self.precision[component]})


@dataclass(frozen=True)
class ResolvedDeployment:
    """A deployment that fits its rig and bundle: overrides applied, placement complete, processes expanded.

    Attributes:
        path: The deployment file.
        deployment: Its contents with the overrides applied.
        rig: The vehicle.
        rig_path: Where the rig was read from.
        bundle: The opened bundle.
        process_specs: Every process to start; entries with one_process_per_component are split, empty ones
            left out.
        processes: Every process' name to the nodes it hosts, placeholders expanded.
        overrides: The overrides as given, `key:=value`.
        notes: What the reader of a log should know, e.g. a budget that the chosen rig has no sensor for.
    """

    path: Path
    deployment: Deployment
    rig: Rig
    rig_path: Path
    bundle: Bundle
    process_specs: dict[str, ProcessSpec]
    processes: dict[str, tuple[str, ...]]
    overrides: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def devices_of(self, process: str) -> dict[str, Device]:
        """Returns the devices that the components of a process are placed on."""
        used = {
            self.deployment.placement[node]
            for node in self.processes[process]
            if node in self.deployment.placement
        }
        return {name: device for name, device in self.deployment.devices.items() if name in used}

    def cores_of(self, process: str) -> tuple[int, ...]:
        """Returns the cores a process is pinned to; empty: it is not pinned.

        A process without `cores` of its own gets those of the CPU devices it serves, and is not pinned where
        it serves none or where one of them has no core list.
        """
        if self.process_specs[process].cores:
            return self.process_specs[process].cores
        devices = [device for device in self.devices_of(process).values() if device.kind == "cpu"]
        if not all(device.cores for device in devices):
            return ()
        return tuple(sorted({core for device in devices for core in device.cores}))

    def host_of(self, process: str) -> str:
        """Returns the host a process runs on: that of its components' devices, `local` where it has none."""
        return next((device.host for device in self.devices_of(process).values()), LOCAL_HOST)


def expand_processes(deployment: Deployment, bundle: BundleSpec) -> dict[str, tuple[str, ...]]:
    """Replaces the placeholders of the process table.

    `components@DEVICE` becomes the components placed on DEVICE that no process names, `components` those
    that then remain, and an entry with one_process_per_component becomes one process `<name>.<component>`
    for each. Processes left without nodes are left out.

    Args:
        deployment: With its placement complete.
        bundle: Gives the components and their order.

    Returns:
        Process name to node names.
    """
    expanded: dict[str, tuple[str, ...]] = {}
    for name, nodes in _nodes_by_entry(deployment, bundle).items():
        if deployment.processes[name].one_process_per_component:
            expanded.update({f"{name}.{node}": (node,) for node in nodes})
        elif nodes:
            expanded[name] = nodes
    return expanded


def _nodes_by_entry(deployment: Deployment, bundle: BundleSpec) -> dict[str, tuple[str, ...]]:
    written = [node for process in deployment.processes.values() for node in process.nodes]
    free = [component for component in bundle.components if component not in written]
    by_device: dict[str, list[str]] = {}
    for component in free:
        by_device.setdefault(deployment.placement.get(component, ""), []).append(component)
    claimed = {node.removeprefix(COMPONENTS_ON) for node in written if node.startswith(COMPONENTS_ON)}
    remaining = [component for component in free if deployment.placement.get(component, "") not in claimed]

    def expand(node: str) -> Sequence[str]:
        if node == COMPONENTS:
            return remaining
        if node.startswith(COMPONENTS_ON):
            return by_device.get(node.removeprefix(COMPONENTS_ON), [])
        return [node]

    return {
        name: tuple(found for node in process.nodes for found in expand(node))
        for name, process in deployment.processes.items()
    }


def load_deployment(
    path_or_name: str | Path,
    overrides: Sequence[str] | Mapping[str, str] = (),
    search_paths: Sequence[str | Path] = (),
) -> ResolvedDeployment:
    """Reads a deployment, applies overrides, opens its rig and bundle and checks that all of it fits
    together.

    Args:
        path_or_name: A file, or the name of one in hw_configs/.
        overrides: `key:=value` texts, e.g. `placement.detection3d_head:=cpu0`, or the same as a mapping.
            Values are YAML.
        search_paths: Folders with hw_configs/ and bundles/ to look at before the shipped ones.

    Raises:
        ConfigurationError: Something is wrong; names file and line, or the override, and the nearest valid
            name.
    """
    from perception_core import deployment_checks  # imports this module's classes
    from perception_core.overrides import apply_overrides, parse_overrides

    given = parse_overrides(overrides)
    path = find_named("deployment", "hw_configs", path_or_name, search_paths)
    file = ConfigurationFile.read(path)
    as_written = file.validate(Deployment)
    written_for = _modalities_of(file, as_written.rig, search_paths, path) if "rig" in given else set()
    for key in ("rig", "bundle"):
        if key in given:
            file.override((key,), given[key], f"override '{key}:={given[key]}'")
    rig_path = _find_rig(file, file.values.get("rig", as_written.rig), search_paths, path)
    rig = load_rig(rig_path)
    bundle = _open_bundle(file, file.values["bundle"], search_paths, path)
    apply_overrides(file, given, as_written, rig, bundle.spec)
    deployment = file.validate(Deployment)
    deployment_checks.check(file, deployment, rig, bundle.spec, written_for | set(rig.modalities) | {"lidar"})
    notes = deployment_checks.notes(deployment, rig, bundle.spec)
    deployment = deployment.model_copy(
        update={"budgets_ms": deployment_checks.applicable_budgets(deployment, rig)}
    )
    processes = expand_processes(deployment, bundle.spec)
    specs = {name: deployment.processes[name.split(".", 1)[0]] for name in processes}
    return ResolvedDeployment(
        path=path,
        deployment=deployment,
        rig=rig,
        rig_path=rig_path,
        bundle=bundle,
        process_specs=specs,
        processes=processes,
        overrides=tuple(f"{key}:={value}" for key, value in given.items()),
        notes=notes,
    )


def _find_rig(file: ConfigurationFile, name: str, search_paths: Sequence[str | Path], beside: Path) -> Path:
    relative = beside.parent / name
    try:
        if relative.is_file():
            return relative.resolve()
        return find_named("rig", "hw_configs/rigs", name, search_paths)
    except ConfigurationError as error:
        raise file.error(("rig",), str(error)) from error


def _modalities_of(
    file: ConfigurationFile, rig: str, search_paths: Sequence[str | Path], beside: Path
) -> set[str]:
    """Modalities of a rig that is not going to be used, none where it does not exist."""
    try:
        return set(load_rig(_find_rig(file, rig, search_paths, beside)).modalities)
    except ConfigurationError:
        return set()


def _open_bundle(
    file: ConfigurationFile, path: str, search_paths: Sequence[str | Path], beside: Path
) -> Bundle:
    try:
        folder = find_folder("bundle", path, beside, search_paths)
    except ConfigurationError as error:
        raise file.error(("bundle",), str(error)) from error
    return Bundle.open(folder)
