"""The space, the paper's architectures in it, the networks they build and the accelerator they run on."""

from __future__ import annotations

import json
import random

import pyglove as pg
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.configuration import ConfigurationError
from perception_core.models.edge import EDGE_BASE, NAMED_ARCHITECTURES, EdgeArchitecture, EdgeNetwork
from perception_core.models.edge.architecture import (
    B0_FILTERS,
    EDNAS_DEPTH,
    EDNAS_MULTI_TASK,
    BlockChoice,
    named_architecture,
)
from perception_core.models.edge.network import EdgeBackbone
from perception_core.platform.latency import AnalyticLatency, list_operators
from perception_core.platform.latency.accelerator import ACCELERATORS, analytic_latency
from training.search.ednas.named import describe_named
from training.search.ednas.network_operators import NetworkForm, latency_ms, network_operators
from training.search.ednas.reach import UnreachableLatencyError, fastest_architecture, require_reachable
from training.search.ednas.space import (
    CANDIDATES,
    architecture_of,
    decisions_of,
    search_space,
    space_specification,
)

SIZES = [len(values) for values in CANDIDATES] * 16
decisions = st.tuples(*(st.integers(0, size - 1) for size in SIZES))
FORM = NetworkForm.of({"semantic_segmentation": 19, "depth": 1}, (96, 128))


def test_space_has_the_papers_size() -> None:
    assert space_specification().space_size == 2**80
    assert not pg.is_abstract(pg.template(search_space()).decode(pg.DNA([0] * 64)))
    assert pg.is_abstract(search_space())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(values=decisions)
def test_decisions_and_architectures_are_the_same_thing(values: tuple[int, ...]) -> None:
    architecture = architecture_of(values)
    assert decisions_of(architecture) == values
    assert EdgeArchitecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


def test_decisions_outside_of_the_space_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="outside of the search space"):
        architecture_of([9] * 64)
    with pytest.raises(ConfigurationError, match="outside of the search space"):
        architecture_of([0] * 63)


def test_block_1_keeps_expansion_1() -> None:
    first = EDGE_BASE.choices[0]
    other = EdgeArchitecture(
        (BlockChoice(first.kind, first.kernel, first.multiplier, 6), *EDGE_BASE.choices[1:])
    )
    assert other != EDGE_BASE
    assert other.blocks() == EDGE_BASE.blocks()
    assert other.effective() == EDGE_BASE.effective()
    assert EDGE_BASE.blocks()[0].expansion == 1


def test_base_is_efficientnet_b0() -> None:
    blocks = EDGE_BASE.blocks()
    assert tuple(block.filters for block in blocks) == B0_FILTERS
    assert {block.kind for block in blocks} == {"IBN"}
    assert EDGE_BASE.feature_channels() == (40, 112, 320)


def test_tables_are_as_printed() -> None:
    multi_task, depth = EDNAS_MULTI_TASK.blocks(), EDNAS_DEPTH.blocks()
    assert [block.filters for block in multi_task] == [
        *(16, 36, 24, 60, 40, 120, 120, 80, 168, 84, 84, 288, 96, 96, 96, 160),
    ]
    assert [block.filters for block in depth] == [
        *(24, 36, 36, 40, 40, 80, 120, 80, 168, 56, 112, 192, 192, 192, 192, 240),
    ]
    assert EDNAS_MULTI_TASK.fused_blocks() == 14
    assert EDNAS_DEPTH.fused_blocks() == 11
    assert [index for index, block in enumerate(multi_task, start=1) if block.kind == "IBN"] == [2, 7]
    assert [block.stride for block in multi_task] == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]


def test_a_choice_outside_of_the_space_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="kernel is 7"):
        BlockChoice(kernel=7)
    with pytest.raises(ConfigurationError, match="has 16 blocks"):
        EdgeArchitecture((BlockChoice(),))
    with pytest.raises(ConfigurationError, match="did you mean 'ednas'"):
        named_architecture("edna")


@pytest.mark.parametrize("name", sorted(NAMED_ARCHITECTURES))
def test_networks_have_the_shapes_of_their_images(name: str) -> None:
    with torch.device("meta"):
        network = EdgeNetwork(
            NAMED_ARCHITECTURES[name].architecture, {"semantic_segmentation": 19, "depth": 1}
        )
        outputs = network(torch.empty(2, 3, 95, 130))
        features = EdgeBackbone(NAMED_ARCHITECTURES[name].architecture)(torch.empty(1, 3, 64, 96))
    assert {task: tuple(output.shape) for task, output in outputs.items()} == {
        "semantic_segmentation": (2, 19, 95, 130),
        "depth": (2, 1, 95, 130),
    }
    assert [tuple(feature.shape[2:]) for feature in features] == [(8, 12), (4, 6), (2, 3)]


def test_a_network_learns_end_to_end() -> None:
    torch.manual_seed(0)
    network = EdgeNetwork(EDGE_BASE, {"depth": 1}, fpn_channels=8, fpn_layers=1).train()
    network(torch.rand(2, 3, 64, 64))["depth"].square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_parameters_as_counted_and_as_the_paper_has_them() -> None:
    rows = {row["name"]: row for row in describe_named(analytic_latency("edge-tpu-like"))}
    assert rows["edge-base"]["backbone_parameters"] == 2_958_848
    assert rows["ednas"]["backbone_parameters"] == 12_342_824
    assert rows["ednas-depth"]["backbone_parameters"] == 10_945_528
    assert rows["ednas"]["paper_parameters_m"] == 4.3


def test_edge_tpu_like_has_the_speeds_of_the_papers_tables() -> None:
    rows = {row["name"]: row for row in describe_named(analytic_latency("edge-tpu-like"))}
    assert rows["edge-base"]["speed"] == pytest.approx(1.2, abs=0.05)  # Tab. 2
    assert rows["ednas"]["speed"] == pytest.approx(1.3, abs=0.05)  # Tab. 2
    assert rows["ednas-depth"]["speed"] == pytest.approx(1.3, abs=0.05)  # Tab. 5; not used for the preset


def test_operators_by_blocks_are_the_networks() -> None:
    generator = random.Random(3)
    architecture = architecture_of([generator.randrange(size) for size in SIZES])
    with torch.device("meta"):
        whole = list_operators(FORM.build(architecture), (1, 3, *FORM.image_size))
    by_blocks = network_operators(architecture, FORM)
    assert sorted(operator.key for operator in by_blocks) == sorted(operator.key for operator in whole)


def test_a_target_nobody_can_meet_names_the_nearest() -> None:
    model = AnalyticLatency(ACCELERATORS["edge-tpu-like"])

    def latency(architecture: EdgeArchitecture) -> float:
        return latency_ms(architecture, FORM, model)

    nearest, nearest_ms = fastest_architecture(latency)
    generator = random.Random(0)
    others = [architecture_of([generator.randrange(size) for size in SIZES]) for _ in range(20)]
    assert nearest_ms <= min(latency(architecture) for architecture in others)
    require_reachable(latency, nearest_ms * 1.01)
    with pytest.raises(UnreachableLatencyError, match=r"meets 0\.001 ms .*the nearest") as caught:
        require_reachable(latency, 1e-3)
    assert caught.value.nearest == nearest
    assert caught.value.nearest_ms == pytest.approx(latency(nearest))
