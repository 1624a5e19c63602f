"""Names of every topic and service of the stack, relative to its namespace, and the QoS each is used with."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

NAMESPACE = "/mmmt"

TIMING = "timing"  # StageTiming
LATENCY_STATUS = "latency_status"  # LatencyStatus
FUSION_STATUS = "fusion_status"  # FusionStatus
CONTROL_COMMAND = "control/command"  # ControlCommand
CONTROL_PROPOSAL = "control/proposal"  # ControlProposal, from a bundle's learned control head
FUSED_OBJECTS = "control/objects"  # DetectedObjectArray: the objects of all detection tasks as one list
CONTROL_ENGAGE = "control/engage"  # std_srvs/SetBool
DRIVER_OVERRIDE = "control/driver_override"  # std_msgs/Bool: true while the driver steers or brakes
REFERENCE_PATH = "control/reference_path"  # nav_msgs/Path in any frame odometry or the ego frame gives
GROUND_TRUTH_OBJECTS = "ground_truth/objects"  # DetectedObjectArray
GROUND_TRUTH_MARKERS = "ground_truth/markers"  # MarkerArray
REPLAY_PAUSE = "replay/pause"  # std_srvs/SetBool
REPLAY_PROGRESS = "replay/progress"  # std_msgs/Float32, 0..1
# std_msgs/Bool, latched: true when the recording was played to its end, false when it broke off
REPLAY_FINISHED = "replay/finished"
MOVE_COMPONENT = "move_component"  # mmmt_msgs/srv/MoveComponent
MOVE_STATUS = "move_status"  # MoveStatus, latched: how far the newest move of a component is
DIAGNOSTICS = "/diagnostics"  # DiagnosticArray
CLOCK = "/clock"
TF_STATIC = "/tf_static"


def hosting_of(process: str) -> str:
    """Service HostComponent of a process that may come to host other components."""
    return f"hosting/{name_of(process)}"


def name_of(text: str) -> str:
    """A process' or device's name as a part of ROS names, which have neither points nor hyphens."""
    return "".join(c if c == "_" or (c.isalnum() and c.isascii()) else f"x{ord(c):x}" for c in text)


def tensors_of(producer: str) -> str:
    """Topic on which a producer announces its tensors."""
    return f"tensors/{producer}"


def objects_of(task: str) -> str:
    """Topic of a detection task's DetectedObjectArray."""
    return f"tasks/{task}/objects"


def markers_of(task: str) -> str:
    """Topic of a detection task's MarkerArray for RViz and Foxglove."""
    return f"tasks/{task}/markers"


def map_of(task: str) -> str:
    """Topic of a map task's MapSegmentation."""
    return f"tasks/{task}/map"


def grid_of(task: str, layer: str) -> str:
    """Topic of one layer's OccupancyGrid."""
    return f"tasks/{task}/grid/{layer}"


def image_of(task: str) -> str:
    """Topic of an image-like task output (segmentation, depth)."""
    return f"tasks/{task}/image"


def picture_of(task: str) -> str:
    """Topic of the same as colours, for viewers."""
    return f"tasks/{task}/picture"


def points_of(task: str) -> str:
    """Topic of a dense depth task's PointCloud2."""
    return f"tasks/{task}/points"


def reliable(depth: int = 4) -> QoSProfile:
    """Small internal messages: announcements, timings, status, commands."""
    return QoSProfile(depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)


def latched() -> QoSProfile:
    """Kept for late joiners: tf_static."""
    return QoSProfile(
        depth=10,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def sensor(depth: int = 4) -> QoSProfile:
    """Subscription to a driver: best effort matches reliable and best-effort publishers alike."""
    return QoSProfile(depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)
