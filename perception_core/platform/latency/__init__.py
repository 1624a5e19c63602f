"""How long a network takes on a device: measured operator by operator, computed, or fitted."""

from perception_core.platform.latency.accelerator import ACCELERATORS, Accelerator, AnalyticLatency
from perception_core.platform.latency.model import LatencyModel, PredictionError, prediction_error
from perception_core.platform.latency.operators import Operator, list_operators
from perception_core.platform.latency.regression import RegressionLatency
from perception_core.platform.latency.table import MeasuredLatency, OperatorTable

__all__ = [
    "ACCELERATORS",
    "Accelerator",
    "AnalyticLatency",
    "LatencyModel",
    "MeasuredLatency",
    "Operator",
    "OperatorTable",
    "PredictionError",
    "RegressionLatency",
    "list_operators",
    "prediction_error",
]
