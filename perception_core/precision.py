"""In which number format a component computes, and which backend can do so on which kind of device."""

from __future__ import annotations

from typing import Literal, get_args

#: `fp32` is the network as it was trained; the others are variants that a bundle may hold of a component.
Precision = Literal["fp32", "bf16", "fp16", "int8"]

FULL_PRECISION: Precision = "fp32"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
#: Precisions a bundle holds as variants.
REDUCED_PRECISIONS: tuple[Precision, ...] = tuple(name for name in PRECISIONS if name != FULL_PRECISION)

# torch has no fast half-precision kernels on CPUs, and onnxruntime's CPU kernels know no 16-bit floats.
_REDUCED: dict[tuple[str, str], tuple[Precision, ...]] = {
    ("torch", "cpu"): ("bf16",),
    ("torch", "gpu"): ("bf16", "fp16"),
    ("torch_compile", "cpu"): ("bf16",),
    ("torch_compile", "gpu"): ("bf16", "fp16"),
    ("onnxruntime", "cpu"): ("int8",),
    ("openvino", "cpu"): ("bf16", "fp16", "int8"),
}


def precisions_of(backend: str, kind: str) -> tuple[Precision, ...]:
    """Returns the precisions that a backend can run on devices of a kind, `fp32` first.

    Whether the processor at hand has the instructions is only known where it is loaded.
    """
    return (FULL_PRECISION, *_REDUCED.get((backend, kind), ()))


def why_not(precision: str, backend: str, kind: str) -> str | None:
    """Says why a backend cannot run a precision on a device of a kind and what can, None where it can."""
    if precision in precisions_of(backend, kind):
        return None
    able = [f"{other} on a {where}" for (other, where), reduced in _REDUCED.items() if precision in reduced]
    return (
        f"backend '{backend}' cannot run {precision} on a {kind} (it runs "
        f"{', '.join(precisions_of(backend, kind))} there); {precision} runs with {', '.join(able)}"
    )
