"""The paper's architectures counted: parameters, operations and speeds beside the paper's (Tab. 2)."""

from __future__ import annotations

from typing import Any

import torch

from perception_core.models.edge.architecture import EDGE_BASE, NAMED_ARCHITECTURES
from perception_core.models.edge.network import EdgeBackbone
from perception_core.platform.latency.model import LatencyModel
from training.search.ednas.network_operators import NetworkForm, latency_ms, network_operators
from training.search.tasks.network import parameter_count

#: The two tasks of Tab. 2 on Cityscapes.
PAPER_TASKS = {"semantic_segmentation": 19, "depth": 1}


def single_task_latency_ms(model: LatencyModel, image_size: tuple[int, int] = (256, 256)) -> float:
    """Returns the time of one base network for each task: the *ST edge baseline*, speed x1.0."""
    return sum(
        latency_ms(EDGE_BASE, NetworkForm.of({task: channels}, image_size), model)
        for task, channels in PAPER_TASKS.items()
    )


def describe_named(model: LatencyModel, image_size: tuple[int, int] = (256, 256)) -> list[dict[str, Any]]:
    """Returns, for each named architecture, what is counted here and what the paper says.

    `speed` is the time of two single-task base networks over this one's, as in Tab. 2.
    """
    form = NetworkForm.of(PAPER_TASKS, image_size)
    single_task = single_task_latency_ms(model, image_size)
    rows = []
    for name, named in NAMED_ARCHITECTURES.items():
        with torch.device("meta"):
            whole = parameter_count(form.build(named.architecture))
            backbone = parameter_count(EdgeBackbone(named.architecture))
        operators = network_operators(named.architecture, form)
        time_ms = model.latency_ms(operators)
        rows.append(
            {
                "name": name,
                "source": named.source,
                "parameters": whole,
                "backbone_parameters": backbone,
                "paper_parameters_m": named.paper_parameters_m,
                "multiply_adds": sum(operator.multiply_adds for operator in operators),
                "paper_gflop": named.paper_gflop,
                "fused_blocks": named.architecture.fused_blocks(),
                "latency_ms": time_ms,
                "speed": single_task / time_ms,
            }
        )
    return rows
