"""Which class hosts which node; classes are imported only in the processes that need them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perception_core.bundle import BundleSpec
from perception_core.configuration import ConfigurationError, nearest

if TYPE_CHECKING:
    from perception_nodes.runtime.stack_node import ProcessContext, StackNode

#: Node name to `module:class`; each is made with the process' context.
NODES = {
    "sensor_fusion": "perception_nodes.nodes.sensor_fusion:SensorFusionNode",
    "latency_monitor": "perception_nodes.nodes.latency_monitor:LatencyMonitorNode",
    "control": "perception_nodes.nodes.control:ControlNode",
    "replay": "perception_nodes.nodes.replay:ReplayNode",
    "move_coordinator": "perception_nodes.nodes.move_coordinator:MoveCoordinatorNode",
    "recorder": "perception_nodes.report.recorder:RecorderNode",
}
#: Components are made with the context and their name.
COMPONENT = "perception_nodes.nodes.component:ComponentNode"
TASK_HEAD = "perception_nodes.nodes.task_head:TaskHeadNode"


def node_factory(name: str, bundle: BundleSpec) -> Callable[[ProcessContext], StackNode]:
    """Returns a function that makes a node; its module is imported now.

    Args:
        name: A stack node, `replay`, `recorder`, or a component of the bundle.
        bundle: Says what is a component and which components are heads of a task.

    Raises:
        ConfigurationError: There is no such node.
    """
    if name in NODES:
        node_class = _load(NODES[name])
        return lambda context: node_class(context)
    if name in bundle.components:
        host_class = component_class(name, bundle)
        return lambda context: host_class(context, name)
    raise ConfigurationError(f"no node or component '{name}'" + nearest(name, (*NODES, *bundle.components)))


def component_class(name: str, bundle: BundleSpec) -> Callable[..., Any]:
    """Returns the class that hosts a component of the bundle; its module is imported now."""
    return _load(TASK_HEAD if bundle.components[name].task is not None else COMPONENT)


def _load(target: str) -> Callable[..., StackNode]:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
