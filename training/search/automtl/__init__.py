"""AutoMTL: which operators of a backbone tasks share, copy or skip (Zhang et al., 2022).

supermodel = automtl.compile(backbone, tasks)
found = automtl.search(supermodel, tasks, batches)
network = automtl.build(found, automtl.sample(supermodel, seed=0))
"""

from training.search.automtl.compact import compact, reset_parameters
from training.search.automtl.compiler import compile
from training.search.automtl.configuration import SearchConfig
from training.search.automtl.errors import UnsupportedOperatorError
from training.search.automtl.policy import (
    Option,
    Policy,
    TemperatureSchedule,
    policy_regularizer,
    soft_policy,
)
from training.search.automtl.prototxt import PrototxtError
from training.search.automtl.prototxt_backbone import read_prototxt
from training.search.automtl.search import SearchResult, build, option_shares, posttrain, sample, search
from training.search.automtl.supermodel import Supermodel

__all__ = [
    "Option",
    "Policy",
    "PrototxtError",
    "SearchConfig",
    "SearchResult",
    "Supermodel",
    "TemperatureSchedule",
    "UnsupportedOperatorError",
    "build",
    "compact",
    "compile",
    "option_shares",
    "policy_regularizer",
    "posttrain",
    "read_prototxt",
    "reset_parameters",
    "sample",
    "search",
    "soft_policy",
]
