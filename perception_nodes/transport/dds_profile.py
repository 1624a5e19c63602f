"""The Fast DDS profile for sensor topics, and the environment that makes a process use it."""

from __future__ import annotations

import os
from pathlib import Path

from perception_core.configuration import ConfigurationError
from perception_core.resources import resource_roots

#: What Fast DDS 3.x (Kilted and newer) reads, and what 2.x does; 3.x still takes the old name but complains.
VARIABLE, VARIABLE_BEFORE_3 = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
PROFILE_VARIABLES = (VARIABLE, VARIABLE_BEFORE_3)
DISTRIBUTIONS_BEFORE_3 = ("foxy", "galactic", "humble", "iron", "jazzy")
PROFILE = Path("hw_configs") / "dds" / "fastdds.xml"


def profile_path() -> Path:
    """Returns the shipped profile.

    Raises:
        ConfigurationError: It is in no resource folder.
    """
    roots = resource_roots()
    for root in roots:
        path = root / PROFILE
        if path.is_file():
            return path
    places = ", ".join(str(root / PROFILE) for root in roots)
    raise ConfigurationError(f"the Fast DDS profile is missing; looked at {places}; reinstall the package")


def profile_variable() -> str:
    """Returns the variable that the Fast DDS of the sourced ROS distribution reads."""
    return VARIABLE_BEFORE_3 if os.environ.get("ROS_DISTRO") in DISTRIBUTIONS_BEFORE_3 else VARIABLE


def environment() -> dict[str, str]:
    """Returns the variables to set for a child process; none where the user has chosen a profile already.

    Other RMW implementations than Fast DDS ignore them.

    Raises:
        ConfigurationError: The shipped profile is missing.
    """
    if any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        return {}
    return {profile_variable(): str(profile_path())}
