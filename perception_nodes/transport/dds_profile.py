"""The Fast DDS profile for sensor topics, and the environment that makes a process use it."""

from __future__ import annotations

import os
from pathlib import Path

from perception_core.configuration import ConfigurationError
from perception_core.resources import resource_roots

#: Fast DDS 3.x (Kilted) reads the first, 2.x (Jazzy) the second; each ignores the other's.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
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


def environment() -> dict[str, str]:
    """Returns the variables to set for a child process; none where the user has chosen a profile already.

    Other RMW implementations than Fast DDS ignore them.

    Raises:
        ConfigurationError: The shipped profile is missing.
    """
    if any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        return {}
    return dict.fromkeys(PROFILE_VARIABLES, str(profile_path()))
