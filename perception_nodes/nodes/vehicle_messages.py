"""The command in the messages vehicles listen to, as far as their packages are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from mmmt_msgs.msg import ControlCommand

ACKERMANN_TOPIC = "control/ackermann"
AUTOWARE_TOPIC = "control/autoware"


def available_outputs() -> list[tuple[type[Any], str, Callable[[ControlCommand], Any]]]:
    """Returns message type, topic and converter of every vehicle message whose package can be imported."""
    outputs: list[tuple[type[Any], str, Callable[[ControlCommand], Any]]] = []
    ackermann = _message_type("ackermann_msgs", "AckermannDriveStamped")
    if ackermann is not None:
        outputs.append((ackermann, ACKERMANN_TOPIC, lambda command: ackermann_message(ackermann, command)))
    autoware = _message_type("autoware_control_msgs", "Control")
    if autoware is not None:
        outputs.append((autoware, AUTOWARE_TOPIC, lambda command: autoware_message(autoware, command)))
    return outputs


def _message_type(package: str, name: str) -> type[Any] | None:
    try:
        module = importlib.import_module(f"{package}.msg")
    except ImportError:
        return None  # not installed on this vehicle: it does not listen to this message
    return getattr(module, name, None)


def ackermann_message(message_type: type[Any], command: ControlCommand) -> Any:
    """Fills an ackermann_msgs/AckermannDriveStamped."""
    message = message_type()
    message.header = command.header
    message.drive.steering_angle = command.steering_angle
    message.drive.steering_angle_velocity = abs(command.steering_rate)  # defined as a magnitude there
    message.drive.speed = command.speed
    message.drive.acceleration = command.acceleration
    return message


def autoware_message(message_type: type[Any], command: ControlCommand) -> Any:
    """Fills an autoware_control_msgs/Control."""
    message = message_type()
    message.stamp = command.header.stamp
    message.control_time = command.header.stamp
    for part in (message.lateral, message.longitudinal):
        part.stamp = command.header.stamp
        part.control_time = command.header.stamp
    message.lateral.steering_tire_angle = command.steering_angle
    message.lateral.steering_tire_rotation_rate = command.steering_rate
    message.lateral.is_defined_steering_tire_rotation_rate = True
    message.longitudinal.velocity = command.speed
    message.longitudinal.acceleration = command.acceleration
    message.longitudinal.is_defined_acceleration = True
    return message
