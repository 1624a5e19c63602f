"""A cycle-level model of an edge accelerator: a systolic array, a vector unit, memory on and off the chip.

EDNAS (section 3.1) searches with an "in-house cycle-accurate performance simulator" that is not published.
This one counts, for each operator, the cycles of the unit that executes it and those its data take from
memory outside; whichever is longer is its time.

- Convolution, linear: weights stay in the array. A filter of K = k·k·C_in/groups rows and N = C_out/groups
  columns takes ceil(K / rows) · ceil(N / columns) passes; each streams all M output pixels and fills and
  drains the array.
- Depthwise convolution: one channel does not fill an array; it runs `depthwise_lanes` multiply-adds a cycle.
- Everything else runs in the vector unit. Bilinear resizing has a rate of its own: accelerators made for
  classification do it slowly or leave it to their host, which is why dense predictions are slow on them
  (EDNAS, section 1). Resizing to the nearest pixel is a copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pydantic

from perception_core.configuration import ConfigurationError, StrictModel, nearest
from perception_core.platform.latency.operators import Operator


class Accelerator(StrictModel):
    """What an accelerator has.

    Attributes:
        name: For records.
        rows, columns: Of the systolic array.
        clock_mhz: Clock.
        memory_kib: Memory on the chip, for weights and activations.
        bandwidth_gb_per_s: To the memory outside, in 10⁹ bytes a second.
        bytes_per_element: 1 for int8.
        depthwise_lanes: Multiply-adds a cycle of depthwise convolutions.
        vector_lanes: Values a cycle of element-wise operators, pooling and concatenation.
        resize_lanes: Result values a cycle of bilinear resizing; may be below 1.
        overhead_cycles: Of starting an operator.
    """

    name: str
    rows: int = pydantic.Field(gt=0)
    columns: int = pydantic.Field(gt=0)
    clock_mhz: float = pydantic.Field(gt=0)
    memory_kib: float = pydantic.Field(gt=0)
    bandwidth_gb_per_s: float = pydantic.Field(gt=0)
    bytes_per_element: float = pydantic.Field(default=1.0, gt=0)
    depthwise_lanes: float = pydantic.Field(gt=0)
    vector_lanes: float = pydantic.Field(gt=0)
    resize_lanes: float = pydantic.Field(gt=0)
    overhead_cycles: float = pydantic.Field(default=0.0, ge=0)


@dataclass(frozen=True)
class OperatorCost:
    """What an operator costs.

    Attributes:
        compute_cycles: Of the unit that executes it.
        memory_cycles: Its data take from or to memory outside.
        cycles: The larger of the two and the overhead.
    """

    compute_cycles: float
    memory_cycles: float
    cycles: float


class AnalyticLatency:
    """Latency model of an accelerator."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    @property
    def name(self) -> str:
        """Name of the accelerator."""
        return f"analytic {self.accelerator.name}"

    def latency_ms(self, operators: Sequence[Operator]) -> float:
        """Returns milliseconds of one inference."""
        return sum(cost.cycles for cost in self.costs(operators)) / (self.accelerator.clock_mhz * 1e3)

    def costs(self, operators: Sequence[Operator]) -> list[OperatorCost]:
        """Returns what each operator costs within this network.

        Weights that fit on the chip beside the largest operator's activations stay there between
        inferences; the rest is read each time. Activations leave the chip where one operator's do not fit.
        """
        device = self.accelerator
        on_chip = device.memory_kib * 1024.0
        width = device.bytes_per_element
        activations = [(op.input_elements + op.output_elements) * width for op in operators]
        weights = sum(op.weight_elements for op in operators) * width
        room = max(0.0, on_chip - max((a for a in activations if a <= on_chip), default=0.0))
        read_share = max(0.0, 1.0 - room / weights) if weights else 0.0
        bytes_per_cycle = device.bandwidth_gb_per_s * 1e3 / device.clock_mhz
        costs = []
        for operator, activation in zip(operators, activations, strict=True):
            outside = operator.weight_elements * width * read_share
            outside += activation if activation > on_chip else 0.0
            memory = outside / bytes_per_cycle
            compute = self.compute_cycles(operator)
            costs.append(OperatorCost(compute, memory, max(compute, memory) + device.overhead_cycles))
        return costs

    def compute_cycles(self, operator: Operator) -> float:
        """Returns the cycles of the unit that executes an operator."""
        device = self.accelerator
        if operator.is_depthwise:
            return operator.multiply_adds / device.depthwise_lanes
        if operator.kind == "convolution":
            inner = operator.weight_elements // operator.output[1]
            outer = operator.output[1] // operator.groups
            pixels = operator.output_elements // operator.output[1]
            passes = math.ceil(inner / device.rows) * math.ceil(outer / device.columns) * operator.groups
            return passes * (pixels + device.rows + device.columns)
        if operator.kind == "linear":
            inner, outer = operator.inputs[0][-1], operator.output[-1]
            rows = operator.output_elements // outer
            passes = math.ceil(inner / device.rows) * math.ceil(outer / device.columns)
            return passes * (rows + device.rows + device.columns)
        if operator.kind == "resize" and operator.detail != "nearest":
            return operator.output_elements / device.resize_lanes
        if operator.kind == "pooling":
            window = math.prod(operator.kernel) if operator.kernel != (1, 1) else 1
            values = max(operator.output_elements * window, operator.input_elements)
            return values / device.vector_lanes
        return max(operator.input_elements, operator.output_elements) / device.vector_lanes


#: `edge-tpu-like`: 64 x 64 multiply-adds at 480 MHz are the 4 TOPS Coral's Edge TPU is sold with, 8 MiB are
#: its memory. The rates of depthwise convolution and of bilinear resizing are not published; these two were
#: chosen so that EDNAS's base and its Tab. 6 have the speeds of its Tab. 2 (x1.2 and x1.3). Tab. 7, which was
#: not used for that, then has the x1.3 of Tab. 5.
ACCELERATORS: Mapping[str, Accelerator] = {
    accelerator.name: accelerator
    for accelerator in (
        Accelerator(
            name="edge-tpu-like",
            rows=64,
            columns=64,
            clock_mhz=480.0,
            memory_kib=8192.0,
            bandwidth_gb_per_s=4.0,
            depthwise_lanes=16.0,
            vector_lanes=64.0,
            resize_lanes=0.1,
            overhead_cycles=500.0,
        ),
        # A small array whose vector unit is as wide as the array: depthwise convolutions cost little.
        Accelerator(
            name="balanced-npu",
            rows=32,
            columns=32,
            clock_mhz=800.0,
            memory_kib=2048.0,
            bandwidth_gb_per_s=12.8,
            depthwise_lanes=512.0,
            vector_lanes=128.0,
            resize_lanes=64.0,
            overhead_cycles=300.0,
        ),
        # A large array behind a narrow memory: weights are what costs.
        Accelerator(
            name="memory-bound-npu",
            rows=128,
            columns=128,
            clock_mhz=600.0,
            memory_kib=1024.0,
            bandwidth_gb_per_s=2.0,
            depthwise_lanes=256.0,
            vector_lanes=128.0,
            resize_lanes=32.0,
            overhead_cycles=300.0,
        ),
    )
}


def analytic_latency(name: str) -> AnalyticLatency:
    """Returns the model of a preset.

    Raises:
        ConfigurationError: There is no such preset.
    """
    if name not in ACCELERATORS:
        raise ConfigurationError(f"unknown accelerator '{name}'" + nearest(name, ACCELERATORS))
    return AnalyticLatency(ACCELERATORS[name])
