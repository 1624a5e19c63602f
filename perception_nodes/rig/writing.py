"""Writes a drafted rig as YAML whose comments say what was guessed."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from perception_core.configuration import ConfigurationFile
from perception_core.rig import Rig
from perception_nodes.rig.draft import RigDraft, SensorDraft, Value

_WIDTH = 110


def rig_text(draft: RigDraft) -> str:
    """Returns the file's text; it is a valid rig as it stands.

    Raises:
        ConfigurationError: The draft is no valid rig.
    """
    survey = draft.survey
    lines = [
        *_comment(f"Drafted from {survey.path}: {survey.description}."),
        "# After each value: sure (the bag says so), likely (by convention), guess, or CHECK (needs you).",
    ]
    if draft.notes:
        lines += ["#", "# What was left out or does not fit:"]
        for note in draft.notes:
            lines += _comment(note, bullet="- ")
    lines += ["", f"name: {_scalar(draft.name)}"]
    lines += _value("ego_frame", draft.ego_frame, "")
    if draft.lidar is not None:
        lines += ["lidar:", *_sensor(draft.lidar, "  ")]
    if draft.cameras:
        lines.append("cameras:")
        for camera in draft.cameras:
            lines += [f"  {camera.modality}:", *_sensor(camera, "    ")]
    if draft.odometry is None:
        lines.append("odometry: null  # the bag has none")
    else:
        lines.append("odometry:")
        for key, value in draft.odometry.items():
            lines += _value(key, value, "  ")
    extrinsics = (
        "/tf_static has"
        if draft.survey.tree.frames
        else "CHECK: the bag has no /tf_static; write a file and name it here:"
    )
    lines += [
        "calibration:",
        f"  # {extrinsics} {len(draft.survey.tree.frames)} frames"
        if draft.survey.tree.frames
        else f"  # {extrinsics}",
        *([] if draft.survey.tree.frames else ["  # extrinsics: file", "  # file: calibration.yaml"]),
        "  extrinsics: tf_static",
        "  intrinsics: camera_info",
        "# A bag does not tell the vehicle's limits; these are a passenger car's. CHECK before driving.",
        "vehicle:",
        "  wheelbase_m: 2.7",
        "  width_m: 1.9",
        "  front_overhang_m: 3.7  # ego origin to front bumper",
        "  max_speed_mps: 13.9",
    ]
    text = "\n".join(lines) + "\n"
    ConfigurationFile(Path("drafted rig"), text).validate(Rig)
    return text


def _sensor(draft: SensorDraft, indent: str) -> list[str]:
    lines: list[str] = []
    for key, value in draft.keys.items():
        lines += _value(key, value, indent)
    return lines


def _value(key: str, value: Value, indent: str) -> list[str]:
    line = f"{indent}{key}: {_scalar(value.value)}"
    if not value.reason:
        return [line]
    remark = f"{value.certainty}: {value.reason}"
    if len(line) + len(remark) + 4 <= _WIDTH:
        return [f"{line}  # {remark}"]
    return [*_comment(remark, indent), line]


def _comment(text: str, indent: str = "", bullet: str = "") -> list[str]:
    flat = " ".join(text.split())  # a message may come with line breaks
    return textwrap.wrap(
        flat,
        _WIDTH,
        initial_indent=f"{indent}# {bullet}",
        subsequent_indent=f"{indent}# {' ' * len(bullet)}",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _scalar(value: Any) -> str:
    """JSON is YAML: quotes where text needs them, numbers and lists as they are."""
    if (
        isinstance(value, str)
        and value
        and all(c.isalnum() or c in "_/-." for c in value)
        and not value[0].isdigit()
    ):
        if value.lower() not in ("null", "true", "false", "yes", "no", "on", "off", "y", "n", "-", "."):
            return value
    return json.dumps(value)
