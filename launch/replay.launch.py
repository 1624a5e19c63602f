"""The stack and a recording: `ros2 launch mmmt_perception replay.launch.py recording:=PATH`."""

from launch import LaunchDescription

from perception_nodes.runtime.launch_arguments import RECORDING
from perception_nodes.runtime.launch_description import describe
from perception_nodes.runtime.process_list import REPLAY


def generate_launch_description() -> LaunchDescription:
    """Called by launch."""
    return describe("replay.launch.py", [RECORDING], [REPLAY])
