"""Fast DDS takes the shipped profile: a participant's shared-memory segment has the size it asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from perception_nodes.transport import dds_profile

_REPORT_SEGMENT = """
import os, rclpy
rclpy.init()
node = rclpy.create_node("segment_probe")
paths = {line.split()[-1] for line in open("/proc/self/maps") if "/dev/shm/fastdds_" in line}
print(max(os.stat(path).st_size for path in paths if os.path.exists(path)))
node.destroy_node()
rclpy.shutdown()
"""


def segment_size(environment: dict[str, str]) -> int:
    """Returns the bytes of the largest Fast DDS segment that a new participant maps."""
    clean = {name: value for name, value in os.environ.items() if name not in dds_profile.PROFILE_VARIABLES}
    clean["RMW_IMPLEMENTATION"] = "rmw_fastrtps_cpp"
    done = subprocess.run(
        [sys.executable, "-c", _REPORT_SEGMENT],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return int(done.stdout.splitlines()[-1])


def test_profile_gives_the_participant_the_segment_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in dds_profile.PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    root = ElementTree.parse(dds_profile.profile_path()).getroot()
    (wanted,) = (int(element.text or 0) for element in root.iter() if element.tag.endswith("segment_size"))
    assert segment_size({}) < wanted
    assert wanted <= segment_size(dds_profile.environment()) < 1.2 * wanted
