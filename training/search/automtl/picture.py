"""Pictures of sharing policies, as AutoMTL's Fig. 3."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from perception_core.atomic_write import write_atomically
from training.search.automtl.policy import Option, Policy

_OPTION_TITLES = {Option.SHARED: "shared", Option.SPECIFIC: "specific", Option.SKIP: "skip"}
#: Distinguishable for the colour-blind, and in grey.
_TASK_COLOURS = ("#c1272d", "#0072b2", "#009e73", "#e69f00", "#6a3d9a", "#56b4e9", "#555555")


def draw_policy(policy: Policy, probabilities_tl3: torch.Tensor, path: str | Path) -> None:
    """Draws a policy's distribution and one pattern drawn from it.

    Above, for each task, the distribution π: operators from the input (left) to the output, one row an
    option, brighter is more probable (Fig. 3a). Below, the pattern: the operators that are used, and each
    task's way through them (Fig. 3b); what nobody uses is faint.

    Args:
        policy: The pattern.
        probabilities_tl3: π (N, L, 3).
        path: PNG to write.
    """
    tasks, count = len(policy.tasks), len(policy.operators)
    width = max(7.0, min(22.0, 2.6 + 0.2 * count))
    rows = [1.0] * tasks + [0.55 * (tasks + 2) + 0.6]
    figure = Figure(figsize=(width, 1.05 * tasks + 0.62 * (tasks + 2) + 1.6), layout="constrained")
    axes = figure.subplots(tasks + 1, 1, sharex=True, gridspec_kw={"height_ratios": rows})
    distribution = probabilities_tl3.detach().cpu().numpy()
    for index, task in enumerate(policy.tasks):
        axis = axes[index]
        image = axis.imshow(
            distribution[index].T, vmin=0.0, vmax=1.0, aspect="auto", cmap="magma", interpolation="nearest"
        )
        axis.set_yticks(range(len(Option)), [_OPTION_TITLES[option] for option in Option], fontsize=8)
        axis.set_title(task, fontsize=9, loc="left", color=_colour(index))
        axis.tick_params(length=0)
    figure.colorbar(image, ax=list(axes[:tasks]), fraction=0.02, pad=0.01).set_label(
        "probability π", fontsize=8
    )
    _draw_pattern(axes[tasks], policy)
    step = max(1, round(count / 40))
    axes[tasks].set_xticks(range(0, count, step), [str(i + 1) for i in range(0, count, step)], fontsize=7)
    axes[tasks].set_xlabel("operator, from the input to the output", fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    write_atomically(Path(path), content.getvalue())


def _colour(task: int) -> str:
    return _TASK_COLOURS[task % len(_TASK_COLOURS)]


def _draw_pattern(axis: matplotlib.axes.Axes, policy: Policy) -> None:
    """Draws rows of operators (the shared one, each task's copies, skips) and each task's way."""
    tasks, count = len(policy.tasks), len(policy.operators)
    titles = ["shared", *(f"only {task}" for task in policy.tasks), "skip"]
    used = np.zeros((tasks + 2, count), dtype=bool)
    ways = np.zeros((tasks, count))
    for index, row in enumerate(policy.choices):
        for column, option in enumerate(row):
            level = {Option.SHARED: 0, Option.SPECIFIC: 1 + index, Option.SKIP: tasks + 1}[option]
            ways[index, column] = level
            used[level, column] = True
    columns = np.arange(count)
    for level in range(tasks + 2):
        for flag, alpha in ((False, 0.12), (True, 1.0)):
            at = columns[used[level] == flag]
            axis.scatter(
                at,
                np.full(len(at), float(level)),
                s=34,
                marker="s" if level <= tasks else "o",
                facecolor="#f4f4f4",
                edgecolor="#222222",
                linewidth=0.8,
                alpha=alpha,
                zorder=3,
            )
    for index in range(tasks):
        shift = (index - (tasks - 1) / 2) * 0.12  # so that ways along the same operators stay visible
        axis.plot(
            columns, ways[index] + shift, color=_colour(index), linewidth=1.4, label=policy.tasks[index]
        )
    axis.set_yticks(range(tasks + 2), titles, fontsize=8)
    axis.set_ylim(tasks + 1.6, -0.6)
    axis.set_xlim(-0.6, count - 0.4)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper left", bbox_to_anchor=(0.0, 1.22), ncols=tasks, fontsize=8, frameon=False)
