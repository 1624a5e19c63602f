"""FPGA-like devices: what they are made into is chosen together with what is placed on them.

As in EDD (Li et al., 2020) an implementation has variables of its own: how many multipliers work in parallel,
and how many bits they take.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydantic

from perception_core.configuration import ConfigurationError, StrictModel
from perception_core.platform.devices import ComputeRate, Platform, PlatformDevice


class FpgaFabric(StrictModel):
    """What an FPGA offers.

    Attributes:
        dsp_blocks: Multiplier blocks.
        clock_mhz: Clock of the implementations.
        multiply_adds_by_bits: Multiply-adds one block does in a cycle, by bit width.
        efficiency: Share of the cycles it computes in.
        static_w: Power whatever it does.
        watts_per_block: Power of one block at work with 16 bits; with fewer bits it is less in proportion.
    """

    dsp_blocks: int = pydantic.Field(gt=0)
    clock_mhz: float = pydantic.Field(gt=0)
    multiply_adds_by_bits: dict[int, float] = {16: 1.0, 8: 2.0}
    efficiency: float = pydantic.Field(gt=0, le=1)
    static_w: float = pydantic.Field(ge=0)
    watts_per_block: float = pydantic.Field(ge=0)


class FpgaImplementation(StrictModel):
    """One way to use it.

    Attributes:
        parallelism: Multiplier blocks that work at once.
        bits: Bit width of weights and activations.
    """

    parallelism: int = pydantic.Field(gt=0)
    bits: int = pydantic.Field(gt=0)

    @property
    def name(self) -> str:
        """Written form."""
        return f"{self.parallelism}x{self.bits}bit"


def implement(device: PlatformDevice, fabric: FpgaFabric, chosen: FpgaImplementation) -> PlatformDevice:
    """Returns the device that an implementation makes of an FPGA.

    Its memory holds as many more weights as their bits are fewer than the 32 that components are counted
    with.

    Raises:
        ConfigurationError: It does not fit the fabric.
    """
    if chosen.parallelism > fabric.dsp_blocks:
        raise ConfigurationError(
            f"{chosen.name} needs {chosen.parallelism} multiplier blocks, the FPGA has {fabric.dsp_blocks}"
        )
    if chosen.bits not in fabric.multiply_adds_by_bits:
        known = ", ".join(str(bits) for bits in fabric.multiply_adds_by_bits)
        raise ConfigurationError(f"{chosen.name}: the FPGA's blocks take {known} bits")
    rate = fabric.multiply_adds_by_bits[chosen.bits] * chosen.parallelism * fabric.clock_mhz * 1e6
    before = device.compute
    return device.model_copy(
        update={
            "compute": ComputeRate(
                multiply_adds_per_s=rate,
                efficiency=fabric.efficiency,
                memory_gb_per_s=None
                if before is None or before.memory_gb_per_s is None
                else before.memory_gb_per_s * 32 / chosen.bits,
                overhead_ms=before.overhead_ms if before else 0.0,
            ),
            "idle_w": fabric.static_w,
            "busy_w": fabric.static_w + fabric.watts_per_block * chosen.parallelism * chosen.bits / 16,
            "memory_mb": None if device.memory_mb is None else device.memory_mb * 32 / chosen.bits,
        }
    )


def implementations(
    platform: Platform, device: str, fabric: FpgaFabric, chosen: Sequence[FpgaImplementation]
) -> dict[str, Platform]:
    """Returns a platform for each implementation of one of its devices, by the implementation's name."""
    return {
        one.name: platform.model_copy(
            update={"devices": platform.devices | {device: implement(platform.devices[device], fabric, one)}}
        )
        for one in chosen
    }
