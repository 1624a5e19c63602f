"""Latency models: what a network's operators are, the analytic accelerator, measured tables, regression."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from perception_core.configuration import ConfigurationError
from perception_core.models.profile import MultiplyAddCounter
from perception_core.platform.latency import (
    ACCELERATORS,
    AnalyticLatency,
    MeasuredLatency,
    Operator,
    OperatorTable,
    RegressionLatency,
    list_operators,
    prediction_error,
)
from perception_core.platform.latency.accelerator import analytic_latency
from perception_core.platform.latency.runners import RUNNERS, TorchOperatorRunner, operator_runner


class Small(nn.Module):
    """One of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.grouped = nn.Conv2d(8, 4, 1, groups=2)
        self.linear = nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(self.norm(self.dense(x)))
        y = self.grouped(self.depthwise(x) + x)
        y = functional.interpolate(functional.max_pool2d(y, 3, 2, 1), scale_factor=2.0, mode="bilinear")
        y = torch.cat((y, x), dim=1)
        return self.linear(functional.adaptive_avg_pool2d(y, 1).flatten(1))


@pytest.fixture(scope="module")
def operators() -> tuple[Operator, ...]:
    with torch.device("meta"):
        return list_operators(Small(), (2, 3, 16, 20))


def test_operators_are_listed_in_order_with_their_shapes(operators: tuple[Operator, ...]) -> None:
    kinds = [operator.kind for operator in operators]
    assert kinds == [
        *("convolution", "convolution", "elementwise", "convolution"),
        *("pooling", "resize", "concatenation", "pooling", "linear"),
    ]
    dense, depthwise, add, grouped, pool, resize, joined, mean, linear = operators
    assert dense.inputs == ((2, 3, 16, 20),)
    assert dense.output == (2, 8, 8, 10)
    assert (dense.kernel, dense.stride, dense.padding) == ((3, 3), (2, 2), (1, 1))
    assert depthwise.is_depthwise
    assert not grouped.is_depthwise
    assert (grouped.groups, grouped.weight_elements) == (2, 16)
    assert add.detail == "add"
    assert (pool.detail, pool.output) == ("max", (2, 4, 4, 5))
    assert resize.detail == "bilinear"
    assert joined.output == (2, 12, 8, 10)
    assert mean.output[:2] == (2, 12)
    assert (linear.weight_elements, linear.multiply_adds) == (72, 144)


def test_folding_leaves_out_what_runtimes_fold() -> None:
    with torch.device("meta"):
        kinds = [operator.kind for operator in list_operators(Small(), (1, 3, 16, 16), fold=False)]
    assert kinds.count("normalization") == 1
    assert kinds.count("activation") == 1


def test_multiply_adds_agree_with_the_profilers() -> None:
    network = Small().eval()
    image = torch.rand(2, 3, 16, 20)
    with torch.no_grad(), MultiplyAddCounter() as counter:
        network(image)
    with torch.device("meta"):
        found = list_operators(Small(), image.shape)
    assert sum(operator.multiply_adds for operator in found) == counter.total


def test_systolic_array_counts_passes_and_pixels() -> None:
    device = ACCELERATORS["edge-tpu-like"]
    operator = Operator("convolution", ((1, 32, 8, 8),), (1, 100, 8, 8), kernel=(3, 3))
    passes = math.ceil(32 * 9 / 64) * math.ceil(100 / 64)
    cycles = AnalyticLatency(device).compute_cycles(operator)
    assert cycles == passes * (64 + 64 + 64)
    depthwise = Operator("convolution", ((1, 32, 8, 8),), (1, 32, 8, 8), kernel=(3, 3), groups=32)
    assert AnalyticLatency(device).compute_cycles(depthwise) == 9 * 32 * 64 / device.depthwise_lanes


def test_weights_beyond_the_chip_are_read_each_time() -> None:
    device = ACCELERATORS["memory-bound-npu"]
    small = [Operator("convolution", ((1, 64, 4, 4),), (1, 64, 4, 4), kernel=(3, 3))]
    large = [Operator("convolution", ((1, 1024, 4, 4),), (1, 1024, 4, 4), kernel=(3, 3))]
    model = AnalyticLatency(device)
    assert model.costs(small)[0].memory_cycles == 0
    weights = 1024 * 1024 * 9
    kept = device.memory_kib * 1024 - 2 * 1024 * 16
    expected = (weights - kept) / (device.bandwidth_gb_per_s * 1e9) * device.clock_mhz * 1e6
    assert model.costs(large)[0].memory_cycles == pytest.approx(expected)


dense_layers = st.builds(
    lambda inner, outer, side: Operator(
        "convolution", ((1, inner, side, side),), (1, outer, side, side), kernel=(3, 3)
    ),
    st.integers(1, 200),
    st.integers(1, 200),
    st.integers(1, 40),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(layers=st.lists(dense_layers, min_size=1, max_size=5), more=dense_layers)
def test_analytic_latency_grows_with_work_and_falls_with_clock(
    layers: list[Operator], more: Operator
) -> None:
    device = ACCELERATORS["balanced-npu"]
    faster = device.model_copy(update={"clock_mhz": device.clock_mhz * 2})
    time = AnalyticLatency(device).latency_ms(layers)
    assert 0 < time < AnalyticLatency(device).latency_ms([*layers, more])
    assert AnalyticLatency(faster).latency_ms(layers) <= time * (1 + 1e-9)


def test_unknown_accelerator_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'edge-tpu-like'"):
        analytic_latency("edge-tpu")


class CountingRunner:
    """Takes as long as the operator has values; counts what it is asked."""

    device = "test device"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def measure_ms(self, operator: Operator) -> float:
        self.asked.append(operator.key)
        return operator.output_elements / 1e3


def test_table_measures_each_operator_once_and_keeps_it(
    operators: tuple[Operator, ...], tmp_path: Path
) -> None:
    path, runner = tmp_path / "folder" / "table.json", CountingRunner()
    model = MeasuredLatency(OperatorTable(path), runner)
    expected = sum(operator.output_elements for operator in operators) / 1e3
    assert model.latency_ms(operators) == pytest.approx(expected)
    assert len(runner.asked) == len({operator.key for operator in operators})
    again = MeasuredLatency(OperatorTable(path), device="test device")
    assert again.latency_ms([*operators, operators[0]]) == pytest.approx(
        expected + operators[0].output_elements / 1e3
    )
    assert len(list(path.parent.iterdir())) == 1


def test_table_without_a_runner_says_what_it_lacks(operators: tuple[Operator, ...], tmp_path: Path) -> None:
    model = MeasuredLatency(OperatorTable(tmp_path / "table.json"), device="other")
    with pytest.raises(ConfigurationError, match="no measurement of 9 of the network's operators"):
        model.latency_ms(operators)
    with pytest.raises(ConfigurationError, match="which device"):
        MeasuredLatency(OperatorTable(tmp_path / "table.json"))


def test_broken_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"table\.json: is no table"):
        OperatorTable(path)


def test_two_writers_keep_each_others_measurements(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    first, second = OperatorTable(path), OperatorTable(path)
    first.enter("a", {"x": 1.0})
    second.enter("b", {"y": 2.0})
    assert OperatorTable(path).devices() == {"a": 1, "b": 1}


def random_networks(count: int) -> list[list[Operator]]:
    generator = random.Random(0)
    networks = []
    for _ in range(count):
        layers = []
        for _ in range(generator.randint(3, 9)):
            channels, side = generator.choice((8, 16, 64)), generator.choice((8, 16, 32))
            shape = (1, channels, side, side)
            depthwise = generator.random() < 0.5
            groups = channels if depthwise else 1
            kernel = generator.choice(((1, 1), (3, 3), (5, 5)))
            layers.append(Operator("convolution", (shape,), shape, kernel=kernel, groups=groups))
            layers.append(Operator("resize", (shape,), shape, detail="bilinear"))
        networks.append(layers)
    return networks


def test_regression_finds_a_linear_law_and_survives_its_file(tmp_path: Path) -> None:
    networks = random_networks(40)

    def law(layers: list[Operator]) -> float:
        dense = sum(op.multiply_adds for op in layers if op.kind == "convolution" and not op.is_depthwise)
        depthwise = sum(op.multiply_adds for op in layers if op.is_depthwise)
        return 0.05 + 0.02 * len(layers) + 3e-8 * dense + 4e-7 * depthwise

    measured = [law(layers) for layers in networks]
    model = RegressionLatency.fit(networks[:30], measured[:30], "test device")
    model.save(tmp_path / "model.json")
    loaded = RegressionLatency.load(tmp_path / "model.json")
    error = prediction_error([loaded.latency_ms(layers) for layers in networks[30:]], measured[30:])
    assert error.mape < 0.02
    assert error.spearman > 0.99
    assert (loaded.coefficients_f >= 0).all()


def test_regression_refuses_too_little(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least 3"):
        RegressionLatency.fit(random_networks(2), [1.0, 2.0], "device")
    with pytest.raises(ConfigurationError, match="no fitted latency model"):
        RegressionLatency.load(tmp_path / "nothing.json")


def test_prediction_error_is_what_it_says() -> None:
    error = prediction_error([1.0, 2.0, 4.0, 8.0], [2.0, 2.0, 3.0, 10.0])
    assert error.mape == pytest.approx(np.mean([0.5, 0.0, 1 / 3, 0.2]))
    assert error.worst == 0.5
    assert prediction_error([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]).spearman == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="positive"):
        prediction_error([1.0], [0.0])


@pytest.mark.parametrize("backend", sorted(RUNNERS))
def test_every_kind_of_operator_is_measured(backend: str, operators: tuple[Operator, ...]) -> None:
    pytest.importorskip(backend)
    runner = RUNNERS[backend](threads=1, repeats=1, least_ms=0.0)
    odd = Operator("pooling", ((1, 4, 9, 9),), (1, 4, 5, 5), (2, 2), (2, 2), detail="max")
    transposed = Operator("convolution", ((1, 4, 6, 6),), (1, 2, 12, 12), (2, 2), (2, 2), detail="transposed")
    for operator in (*operators, odd, transposed):
        assert 0 < runner.measure_ms(operator) < 1000
    assert backend in runner.device


def test_longer_work_takes_longer() -> None:
    runner = TorchOperatorRunner(threads=1, repeats=5)
    small = Operator("convolution", ((1, 8, 16, 16),), (1, 8, 16, 16), (3, 3), padding=(1, 1))
    large = Operator("convolution", ((1, 64, 96, 96),), (1, 64, 96, 96), (3, 3), padding=(1, 1))
    assert runner.measure_ms(large) > 3 * runner.measure_ms(small)


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'onnxruntime'"):
        operator_runner("onnxruntim")
