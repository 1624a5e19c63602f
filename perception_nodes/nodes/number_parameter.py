"""Declares numeric ROS parameters that accept whole numbers too and refuse what lies outside their range."""

from __future__ import annotations

import math

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from perception_core.configuration import ConfigurationError


def declare_number(node: Node, name: str, default: float, description: str, low: float, high: float) -> float:
    """Declares a numeric parameter and returns its value.

    A deployment may write `rate_hz: 10`, which ROS would refuse for a floating-point parameter.

    Args:
        node: The node.
        name: Parameter name.
        default: Value where the deployment gives none.
        description: What it is, with its unit.
        low: Smallest value allowed.
        high: Largest value allowed.

    Raises:
        ConfigurationError: The value is no finite number within the range; names the parameter.
    """
    descriptor = ParameterDescriptor(
        description=f"{description}; {low:g} to {high:g}", dynamic_typing=True, read_only=True
    )
    value: object = node.declare_parameter(name, default, descriptor).value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigurationError(
            f"parameter '{name}' of node '{node.get_name()}' must be a finite number, got {value!r}"
        )
    if not low <= value <= high:
        raise ConfigurationError(
            f"parameter '{name}' of node '{node.get_name()}' must lie in {low:g}..{high:g}, got {value}"
        )
    return float(value)
