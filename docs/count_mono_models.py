"""Counts the monocular networks beside the TAG paper's Tab. II and writes the tables of docs/tag.md.

    python docs/count_mono_models.py            # prints the tables
    python docs/count_mono_models.py --write    # and puts them between the marks in docs/tag.md

Everything is counted on torch's meta device: weights and multiply-adds of shapes; no figure depends on
the machine.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import torch

from perception_core.models import create_model
from perception_core.models.profile import profile_model

PAGE = Path(__file__).parent / "tag.md"

#: Tab. II: multiply-adds in 10^9 (the paper's GFLOPs) and weights in 10^6.
TABLE_II: dict[str, tuple[str, float, float]] = {
    "mono_dla34": ("DLA34", 285, 20.4),
    "mono_resnet50": ("ResNet50", 373, 44.5),
    "mono_icnet": ("ICNet", 226, 44.4),
    "mono_ddrnet23_slim": ("DDRNet-23-slim", 75, 7.5),
    "mono_ddrnet23": ("DDRNet-23", 216, 23.9),
    "mono_ddrnet39": ("DDRNet-39", 345, 35.5),
    "mono_pidnet_s": ("PIDNet-S", 84, 9.4),
    "mono_pidnet_m": ("PIDNet-M", 241, 32.2),
    "mono_pidnet_l": ("PIDNet-L", 339, 40.3),
    "tag_full_no_tag": ("Ours (w/o TAG)", 218, 32.8),
    "tag_full": ("Ours", 219, 33.9),
}
#: Single-task rows: the task whose head is left.
SINGLE_TASK: dict[str, tuple[float, float]] = {
    "mono_detection3d": (246, 20.1),
    "semantic_segmentation": (222, 19.9),
    "depth": (223, 19.9),
}
TASKS = tuple(SINGLE_TASK)
FULL_SIZE = {"image_height": 1024, "image_width": 2048}


def counted(name: str, **arguments: Any) -> tuple[float, float]:
    """Returns multiply-adds in 10^9 and weights in 10^6."""
    with torch.device("meta"):
        model = create_model(name, **arguments)
    profiles = profile_model(model)
    return (
        sum(profile.multiply_adds for profile in profiles.values()) / 1e9,
        sum(profile.parameters for profile in profiles.values()) / 1e6,
    )


def row(label: str, name: str, paper: tuple[float, float], found: tuple[float, float]) -> str:
    """Returns one row: ours, the paper's, and by how much ours differs."""
    deviation = [100 * (ours / theirs - 1) for ours, theirs in zip(found, paper, strict=True)]
    return (
        f"| {label} | `{name}` | {found[0]:.1f} | {paper[0]:g} | {deviation[0]:+.1f} % "
        f"| {found[1]:.2f} | {paper[1]:g} | {deviation[1]:+.1f} % |"
    )


HEAD = "| | network | GMAC | paper | | weights [M] | paper | |\n|---|---|---:|---:|---:|---:|---:|---:|"


def table_ii() -> str:
    """Returns the networks beside Tab. II."""
    rows = []
    for task, paper in SINGLE_TASK.items():
        others = {other: {"enabled": False} for other in TASKS if other != task}
        found = counted("mono_dla34", camera=FULL_SIZE, **others)
        rows.append(row(f"DLA34, {task} alone", "mono_dla34", paper, found))
    for name, (label, *paper) in TABLE_II.items():
        rows.append(row(label, name, (paper[0], paper[1]), counted(name)))
    return "\n".join([HEAD, *rows])


def readings() -> str:
    """Returns every reading of Tab. I that was counted, those first that meet all four figures best."""
    choices = itertools.product(
        (("basic", 2), ("bottleneck", 1), ("bottleneck", 2), ("bottleneck", 3), ("bottleneck", 4)),
        (1, 3),
        (1, 3),
        (1, 3),
    )
    found = []
    for (layer5, blocks), projection, node, fusion in choices:
        backbone = {
            "layer5": layer5,
            "layer5_blocks": blocks,
            "projection_kernel": projection,
            "node_kernel": node,
            "fusion_kernel": fusion,
        }
        without = counted("tag_full_no_tag", backbone=backbone)
        with_tag = counted("tag_full", backbone=backbone)
        deviations = [
            100 * (ours / theirs - 1)
            for ours, theirs in zip((*without, *with_tag), (218, 32.8, 219, 33.9), strict=True)
        ]
        worst = max(map(abs, deviations))
        text = (
            f"| {layer5} x {blocks} | {projection}x{projection} | {node}x{node} | {fusion}x{fusion} "
            f"| {without[0]:.1f} | {without[1]:.2f} | {with_tag[0]:.1f} | {with_tag[1]:.2f} | {worst:.1f} % |"
        )
        found.append((worst, text))
    head = (
        "| layer 5 | W^P1 | W^P2 | g | GMAC without | weights [M] | GMAC with TAG | weights [M] "
        "| worst deviation |\n"
        "|---|---|---|---|---:|---:|---:|---:|---:|"
    )
    return "\n".join([head, *(text for _, text in sorted(found))])


def sizes() -> str:
    """Returns the registered sizes of TAG."""
    rows = ["| network | images | GMAC | weights [M] |", "|---|---|---:|---:|"]
    for name in ("tag_full", "tag_base", "tag_tiny", "tag_micro"):
        with torch.device("meta"):
            camera = create_model(name).bundle_input().mono
        assert camera is not None
        multiply_adds, weights = counted(name)
        rows.append(f"| `{name}` | {camera.height} x {camera.width} | {multiply_adds:.3f} | {weights:.3f} |")
    return "\n".join(rows)


def main() -> None:
    """Prints the tables; with --write also puts them into the page."""
    tables = {"sizes": sizes(), "table-ii": table_ii(), "readings": readings()}
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    for name, table in tables.items():
        print(f"{name}\n{table}\n")
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if "--write" in sys.argv[1:]:
            if begin not in text or end not in text:
                raise SystemExit(f"{PAGE}: the marks of '{name}' are missing")
            before, _, rest = text.partition(begin)
            text = f"{before}{begin}{table}\n{end}{rest.partition(end)[2]}"
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
