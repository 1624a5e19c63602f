"""Order of the samples: a function of seed, epoch, process and number of processes, and of nothing else.

That is what makes a run that was stopped after an epoch continue exactly as it would have gone on: there is
no state of a sampler to lose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from perception_core.configuration import ConfigurationError

#: Keeps the streams of random numbers drawn from one seed apart.
_ORDER_STREAM = 1
_NETWORK_STREAM = 2


@dataclass(frozen=True)
class BatchPlan:
    """How a step's samples are divided.

    Attributes:
        processes: Devices that train together.
        samples_a_pass: Samples each takes through the network at once.
        passes: Passes of a step, whose gradients are accumulated.
    """

    processes: int
    samples_a_pass: int
    passes: int

    @property
    def samples_a_step(self) -> int:
        """Samples of a step over all processes."""
        return self.processes * self.samples_a_pass * self.passes


def plan_batches(batch_size: int, samples_a_pass: int | None, processes: int) -> BatchPlan:
    """Divides a batch over processes and passes.

    Raises:
        ConfigurationError: It cannot be divided evenly.
    """
    share, rest = divmod(batch_size, processes)
    if rest or share == 0:
        raise ConfigurationError(
            f"a batch of {batch_size} samples cannot be divided over {processes} devices; choose "
            f"training.batch_size among multiples of {processes}"
        )
    at_once = min(samples_a_pass or share, share)
    if share % at_once:
        raise ConfigurationError(
            f"{share} samples a device and step cannot be divided into passes of {at_once}; choose "
            f"training.samples_a_pass among the divisors of {share}"
        )
    return BatchPlan(processes, at_once, share // at_once)


class EpochBatches(Sampler[list[int]]):
    """Batches of one process: each epoch another order of all samples, of which every process gets its part.

    The last samples that do not fill a step are left out of an epoch; where there are fewer samples than a
    step takes, they are gone through again until the step is full.
    """

    def __init__(self, samples: int, plan: BatchPlan, seed: int, rank: int = 0) -> None:
        """Plans the order.

        Raises:
            ConfigurationError: There are no samples.
        """
        if samples < 1:
            raise ConfigurationError("there are no samples to train on")
        self.samples, self.plan, self.seed, self.rank = samples, plan, seed, rank
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order `__iter__` gives."""
        self._epoch = epoch

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return max(self.samples // self.plan.samples_a_step, 1)

    def __len__(self) -> int:
        return self.steps * self.plan.passes

    def __iter__(self) -> Iterator[list[int]]:
        plan = self.plan
        order = np.random.default_rng([self.seed, self._epoch, _ORDER_STREAM]).permutation(self.samples)
        order = np.resize(order, self.steps * plan.samples_a_step)  # repeats where there are too few
        for part in order.reshape(-1, plan.processes, plan.samples_a_pass)[:, self.rank]:
            yield [int(index) for index in part]


class EvaluationBatches(Sampler[list[int]]):
    """Batches of one process in the data set's order; every sample once over all processes."""

    def __init__(self, samples: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        self._own = range(rank, samples, processes)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._own) // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(0, len(self._own), self._batch_size):
            yield list(self._own[first : first + self._batch_size])


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """Returns the seed of everything random inside the network (dropout) in one epoch of one process."""
    state = np.random.SeedSequence([seed, epoch, rank, _NETWORK_STREAM]).generate_state(1)
    return int(state[0])
