"""The stack of a deployment: `ros2 launch mmmt_perception perception.launch.py hw_config:=cpu-2core --show-
args`.
"""

from launch import LaunchDescription

from perception_nodes.runtime.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    """Called by launch."""
    return describe("perception.launch.py")
