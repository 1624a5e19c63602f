"""Controllers: they propose architectures and learn from rewards, repeatably for a seed.

A controller is restored by replaying: a new one of the same seed is given the rewards of the trials that are
done, in the order of their numbers. (PyGlove's own `recover` leaves its random generators where they were at
the start.)
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyglove as pg

from perception_core.configuration import ConfigurationError, nearest
from perception_core.models.edge.architecture import BLOCKS, EDGE_BASE
from training.search.ednas.space import CANDIDATES, Decisions, decisions_of, space_specification


class Controller(Protocol):
    """Proposes decisions. `feedback` is called for every proposal, in their order."""

    def propose(self) -> Decisions:
        """Returns the next trial's decisions."""
        ...

    def feedback(self, reward: float) -> None:
        """Takes the reward of the earliest proposal that has none yet."""
        ...


@pg.members(
    [
        ("seed", pg.typing.Int(), "Of the random ones."),
        ("first", pg.typing.List(pg.typing.Int()), "Decisions of the first."),
    ]
)
class _BaseThenRandom(pg.DNAGenerator):  # type: ignore[misc]
    """The base architecture, which seeds the search, then random ones."""

    def _setup(self) -> None:
        self._generator = random.Random(self.seed)
        self._is_first = True

    def _propose(self) -> Any:
        if self._is_first:
            self._is_first = False
            return pg.DNA.from_numbers(list(self.first), self.dna_spec)
        return pg.random_dna(self.dna_spec, self._generator)


class PyGloveController:
    """One of PyGlove's algorithms.

    Args:
        algorithm: A DNAGenerator that is not set up yet, all of whose parts are seeded.
    """

    def __init__(self, algorithm: Any) -> None:
        self._algorithm = algorithm
        self._algorithm.setup(space_specification())
        self._waiting: deque[Any] = deque()

    def propose(self) -> Decisions:
        """Returns the next trial's decisions."""
        dna = self._algorithm.propose()
        self._waiting.append(dna)
        return tuple(int(number) for number in dna.to_numbers())

    def feedback(self, reward: float) -> None:
        """Takes the reward of the earliest proposal that has none yet."""
        self._algorithm.feedback(self._waiting.popleft(), reward)


def regularized_evolution(seed: int, population: int, tournament: int) -> PyGloveController:
    """Regularized evolution (Real et al., 2019), the paper's controller, seeded with the base architecture.

    Args:
        seed: Of the first population, of tournaments and of mutations.
        population: The youngest so many live.
        tournament: So many are drawn; the best of them gets a child.
    """
    evolution = pg.evolution
    return PyGloveController(
        evolution.Evolution(
            evolution.selectors.Random(tournament, seed=seed)
            >> evolution.selectors.Top(1)
            >> evolution.mutators.Uniform(seed=seed),
            population_init=(_first_population(seed), population),
            population_update=evolution.selectors.Last(population),
        )
    )


def hill_climbing(seed: int, population: int, tournament: int) -> PyGloveController:
    """Mutates the best architecture so far; the first ones are random."""
    evolution = pg.evolution
    return PyGloveController(
        evolution.Evolution(
            evolution.selectors.Top(1) >> evolution.mutators.Uniform(seed=seed),
            population_init=(_first_population(seed), tournament),
            population_update=evolution.selectors.Top(1),
        )
    )


def random_search(seed: int, population: int, tournament: int) -> PyGloveController:
    """Draws every architecture evenly, after the base."""
    return PyGloveController(_first_population(seed))


def _first_population(seed: int) -> _BaseThenRandom:
    return _BaseThenRandom(seed=seed, first=list(decisions_of(EDGE_BASE)))


class PolicyGradientController:
    """REINFORCE over independent decisions: the kind of controller earlier works trained by PPO.

    Args:
        seed: Of the draws.
        learning_rate: Of the logits.
        momentum: Of the rewards' running mean, the baseline.
        exploration: Weight of the entropy, which keeps decisions open.
    """

    def __init__(
        self, seed: int, learning_rate: float = 0.3, momentum: float = 0.9, exploration: float = 0.01
    ) -> None:
        self._random = np.random.default_rng(seed)
        sizes = [len(values) for values in CANDIDATES] * BLOCKS
        self._logits = [np.zeros(size) for size in sizes]
        self._rate, self._momentum, self._exploration = learning_rate, momentum, exploration
        self._mean: float | None = None
        self._spread = 0.0
        self._waiting: deque[Decisions] = deque()
        self._first: Decisions | None = decisions_of(EDGE_BASE)

    def propose(self) -> Decisions:
        """Returns the next trial's decisions."""
        if self._first is not None:
            decisions, self._first = self._first, None
        else:
            decisions = tuple(
                int(self._random.choice(len(logits), p=_softmax(logits))) for logits in self._logits
            )
        self._waiting.append(decisions)
        return decisions

    def feedback(self, reward: float) -> None:
        """Takes the reward of the earliest proposal that has none yet."""
        decisions = self._waiting.popleft()
        if self._mean is None:
            self._mean, self._spread = reward, abs(reward)
        advantage = (reward - self._mean) / max(self._spread, 1e-9)
        self._mean += (1 - self._momentum) * (reward - self._mean)
        self._spread += (1 - self._momentum) * (abs(reward - self._mean) - self._spread)
        for logits, decision in zip(self._logits, decisions, strict=True):
            probability = _softmax(logits)
            towards = -probability
            towards[decision] += 1.0
            log_probability = np.log(probability)
            entropy_gradient = -probability * (log_probability - probability @ log_probability)
            logits += self._rate * (np.clip(advantage, -3.0, 3.0) * towards)
            logits += self._rate * self._exploration * entropy_gradient


def _softmax(logits: np.ndarray) -> np.ndarray:
    power = np.exp(logits - logits.max())
    return np.asarray(power / power.sum())


CONTROLLERS: dict[str, Callable[[int, int, int], Controller]] = {
    "evolution": regularized_evolution,
    "random": random_search,
    "hill_climbing": hill_climbing,
    "policy_gradient": lambda seed, population, tournament: PolicyGradientController(seed),
}


def make_controller(name: str, seed: int, population: int = 20, tournament: int = 5) -> Controller:
    """Returns a new controller.

    Args:
        name: Key of CONTROLLERS.
        seed: Of all it draws.
        population: Of evolution.
        tournament: Of evolution; of hill climbing the number of random trials at the start.

    Raises:
        ConfigurationError: The name is unknown, or the numbers do not fit.
    """
    if name not in CONTROLLERS:
        raise ConfigurationError(f"unknown controller '{name}'" + nearest(name, CONTROLLERS))
    if not 2 <= tournament <= population:
        raise ConfigurationError(
            f"a tournament of {tournament} in a population of {population}: it must be 2 or more and not "
            "more than the population"
        )
    return CONTROLLERS[name](seed, population, tournament)
