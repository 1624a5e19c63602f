"""The deployment: devices, processes, placement and budgets. Schema of hw_configs/*.yaml."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from perception_core.configuration import StrictModel

#: Nodes of the stack that are not components of a bundle.
STACK_NODES = ("sensor_fusion", "latency_monitor", "control")


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
        power_w: Power model.
        memory_mb: Memory limit for components' weights and activations, None: not limited.
        host: Host the device belongs to; tensors between hosts are serialized.
    """

    kind: Literal["cpu", "gpu", "npu", "fpga"]
    cores: tuple[int, ...] = ()
    index: int = pydantic.Field(default=0, ge=0)
    backend: Literal["torch", "torch_compile", "onnxruntime", "openvino", "tensorrt"] = "torch"
    power_w: PowerModel | None = None
    memory_mb: float | None = None
    host: str = "local"


class Link(StrictModel):
    """Connection between two devices, written `a->b`."""

    bandwidth_gbps: float = pydantic.Field(gt=0)
    latency_us: float = pydantic.Field(ge=0)


class ProcessSpec(StrictModel):
    """One operating-system process.

    Attributes:
        nodes: Names of stack nodes or components; `components` stands for every component no other process names,
            `components@DEVICE` for every such component placed on DEVICE.
        executor: rclpy executor of the process.
        threads: Threads of a `multi` executor.
        one_process_per_component: Split this entry so that each component gets a process `<name>.<component>`.
        cores: CPU affinity of the process; empty: cores of the devices its components are placed on, else all.
        environment: Extra environment variables.
    """

    nodes: tuple[str, ...]
    executor: Literal["single", "multi", "events"] = "single"
    threads: int = pydantic.Field(default=2, gt=0)
    one_process_per_component: bool = False
    cores: tuple[int, ...] = ()
    environment: dict[str, str] = {}


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
        budgets_ms: Latency budget of paths written `modality->task`; modality `*` stands for every modality.
        parameters: ROS parameters by node name.
    """

    name: str
    description: str = ""
    bundle: str
    rig: str = "nuscenes"
    devices: dict[str, Device]
    links: dict[str, Link] = {}
    processes: dict[str, ProcessSpec]
    placement: dict[str, str]
    budgets_ms: dict[str, float] = {}
    transport: TransportOptions = TransportOptions()
    parameters: dict[str, dict[str, Any]] = {}
