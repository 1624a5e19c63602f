"""EDNAS: which layers to share between tasks, for a device (Vu et al., 2023)."""

from training.search.ednas.controllers import CONTROLLERS, make_controller
from training.search.ednas.objective import Objective
from training.search.ednas.reach import UnreachableLatencyError, fastest_architecture
from training.search.ednas.store import StudyStore, Trial
from training.search.ednas.study import StudyConfig, StudyResult, run_study
from training.search.ednas.trial import Proxy, TrialOutcome, TrialRequest

__all__ = [
    "CONTROLLERS",
    "Objective",
    "Proxy",
    "StudyConfig",
    "StudyResult",
    "StudyStore",
    "Trial",
    "TrialOutcome",
    "TrialRequest",
    "UnreachableLatencyError",
    "fastest_architecture",
    "make_controller",
    "run_study",
]
