"""Multi-task training on Lightning, for any network: a `Learner` is trained as a `TrainingConfig` says.

`fit` trains and resumes; `evaluate` runs a learner over a data set. Nothing here knows a network or a task.
"""

from training.trainer.configuration import OptimizerConfig, ScheduleConfig, TrainingConfig
from training.trainer.learner import Learner, LearnerEvaluator, StepLosses

__all__ = [
    "Learner",
    "LearnerEvaluator",
    "OptimizerConfig",
    "ScheduleConfig",
    "StepLosses",
    "TrainingConfig",
]
