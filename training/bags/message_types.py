"""The ROS message types that bags are written with, without ROS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from perception_core.resources import package_root


def interface_folder() -> Path | None:
    """Finds the folder with the text of the mmmt_msgs definitions; None where the package is not there."""
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    candidates = [
        package_root() / "ros_ws" / "src" / "mmmt_msgs" / "msg",
        *(Path(prefix) / "share" / "mmmt_msgs" / "msg" for prefix in prefixes),
    ]
    return next((folder for folder in candidates if folder.is_dir()), None)


def make_typestore() -> Any:
    """Makes the message types of ROS 2 Jazzy, with mmmt_msgs where its definitions are found."""
    store = get_typestore(Stores.ROS2_JAZZY)
    folder = interface_folder()
    definitions: dict[str, Any] = {}
    for file in sorted(folder.glob("*.msg")) if folder is not None else ():
        definitions.update(get_types_from_msg(file.read_text(encoding="utf-8"), f"mmmt_msgs/msg/{file.stem}"))
    if definitions:
        store.register(definitions)
    return store
