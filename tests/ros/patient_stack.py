"""What a stack is given where reactions are tested and not the machine's speed: limits on ages are wide."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import yaml

from perception_core.resources import find_named

#: A sweep a second is the usual in these tests, not silence.
PERIOD_S = 1.0
PATIENCE_S = 90.0


@functools.cache
def patient_rig(name: str = "synthetic") -> Path:
    """A rig, by default that of the generated street, with sensors that may be late."""
    rig = yaml.safe_load(find_named("rig", "hw_configs/rigs", name).read_text(encoding="utf-8"))
    rig["name"] = "patient"
    for camera in rig["cameras"].values():
        camera["max_delay_s"] = 3.0
    rig["odometry"]["max_delay_s"] = 5.0
    folder = Path(tempfile.mkdtemp(prefix="mmmt_patient_rig_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "patient.yaml"
    path.write_text(yaml.safe_dump(rig, sort_keys=False), encoding="utf-8")
    return path


def patient_overrides() -> tuple[str, ...]:
    """Overrides of a deployment."""
    return (
        f"rig:={patient_rig()}",
        "parameters.control.engage_on_start:=true",
        "parameters.control.object_score_threshold:=1.0",  # the bundle is untrained: its objects mean nothing
        "parameters.control.comfortable_stop_age_s:=7.0",
        "parameters.control.full_stop_age_s:=10.0",
        "parameters.control.monitor_age_s:=7.0",
        "parameters.control.max_output_latency_s:=30.0",
        "parameters.sensor_fusion.fallback_after_s:=6.0",
    )
