"""A latency model fitted to whole networks that were measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_core.atomic_write import write_atomically
from perception_core.configuration import ConfigurationError
from perception_core.platform.latency.operators import KINDS, Operator

#: What a network's time is made of; each has one coefficient, never negative.
FEATURES: tuple[str, ...] = (
    "dense multiply-adds",
    "1x1 multiply-adds",
    "depthwise multiply-adds",
    "linear multiply-adds",
    *(f"{kind} values" for kind in KINDS if kind not in ("convolution", "linear")),
    "activation values",
    "weights",
    "operators",
    "constant",
)


def features_of(operators: Sequence[Operator]) -> NDArray[np.float64]:
    """Returns the FEATURES of a network, in millions where they count values."""
    total = dict.fromkeys(FEATURES, 0.0)
    for operator in operators:
        if operator.kind == "convolution":
            if operator.is_depthwise:
                which = "depthwise multiply-adds"
            else:
                which = "1x1 multiply-adds" if operator.kernel == (1, 1) else "dense multiply-adds"
            total[which] += operator.multiply_adds / 1e6
        elif operator.kind == "linear":
            total["linear multiply-adds"] += operator.multiply_adds / 1e6
        else:
            total[f"{operator.kind} values"] += operator.output_elements / 1e6
        total["activation values"] += (operator.input_elements + operator.output_elements) / 1e6
        total["weights"] += operator.weight_elements / 1e6
    total["operators"] = float(len(operators))
    total["constant"] = 1.0
    return np.array([total[name] for name in FEATURES])


@dataclass(frozen=True)
class RegressionLatency:
    """Latency as a sum of features times coefficients.

    Attributes:
        device: What was measured.
        coefficients_f: Milliseconds a unit of each of FEATURES.
    """

    device: str
    coefficients_f: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Name of the device."""
        return f"regression {self.device}"

    @classmethod
    def fit(
        cls, networks: Sequence[Sequence[Operator]], measured_ms: Sequence[float], device: str
    ) -> RegressionLatency:
        """Fits coefficients that are not negative, by least squares of the relative errors.

        Args:
            networks: Operators of each measured network.
            measured_ms: Milliseconds of each.
            device: For records.

        Raises:
            ConfigurationError: There are too few networks, or a measurement is not positive.
        """
        from scipy.optimize import nnls

        times = np.asarray(measured_ms, float)
        if len(networks) != len(times) or len(times) < 3:
            raise ConfigurationError(
                f"a regression needs at least 3 measured networks, got {len(networks)} and {len(times)} times"
            )
        if not (times > 0).all():
            raise ConfigurationError("a measured latency is not positive")
        matrix = np.stack([features_of(operators) for operators in networks]) / times[:, None]
        scale = np.maximum(np.abs(matrix).max(axis=0), 1e-12)  # so that no feature's unit matters
        coefficients, _ = nnls(matrix / scale, np.ones(len(times)))
        return cls(device, coefficients / scale)

    def latency_ms(self, operators: Sequence[Operator]) -> float:
        """Returns milliseconds of one inference."""
        return float(features_of(operators) @ self.coefficients_f)

    def save(self, path: str | Path) -> None:
        """Writes the coefficients as JSON, all of it or nothing."""
        content = {
            "device": self.device,
            "milliseconds": dict(zip(FEATURES, self.coefficients_f, strict=True)),
        }
        write_atomically(path, json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> RegressionLatency:
        """Reads what `save` wrote.

        Raises:
            ConfigurationError: The file is missing or something else.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            coefficients = np.array([float(content["milliseconds"][name]) for name in FEATURES])
            return cls(str(content["device"]), coefficients)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{path}: is no fitted latency model: {error}") from error
