"""Evolutionary placement: crossover and mutation of placements, every child brought to a local optimum."""

from __future__ import annotations

import random
from dataclasses import dataclass

from perception_core.platform.placement.greedy import starting_placements
from perception_core.platform.placement.local_search import descend
from perception_core.platform.placement.objective import PlacementObjective
from perception_core.platform.placement.solver import PlacementSolver


@dataclass(frozen=True)
class EvolutionSettings:
    """How long and how widely evolution looks.

    Attributes:
        population: Placements kept.
        generations: Generations at most.
        patience: Generations without a better placement after which it ends.
        mutation: Probability that a stage of a child is placed at random.
        tournament: Of so many placements drawn the best becomes a parent.
        pairs: The best placement is at last tried with all moves of two stages.
    """

    population: int = 16
    generations: int = 30
    patience: int = 5
    mutation: float = 0.12
    tournament: int = 3
    pairs: bool = True


class EvolutionSolver(PlacementSolver):
    """A genetic algorithm with local descent of its children (a memetic algorithm)."""

    name = "evolution"

    def __init__(self, settings: EvolutionSettings | None = None) -> None:
        self.settings = settings or EvolutionSettings()

    def _search(
        self, objective: PlacementObjective, seed: int, start: tuple[int, ...] | None
    ) -> tuple[tuple[int, ...], int | None, bool]:
        problem, settings = objective.problem, self.settings
        chance = random.Random(seed)
        begin = starting_placements(problem) + ([] if start is None else [start])
        while len(begin) < settings.population:
            begin.append(tuple(chance.choice(devices) for devices in problem.choices))
        population = _distinct_best(
            objective, [descend(objective, one) for one in begin], settings.population
        )
        stale = 0
        for _ in range(settings.generations):
            if stale >= settings.patience or not problem.free_stages:
                break
            children = [self._child(objective, population, chance) for _ in range(settings.population // 2)]
            best = objective.score(population[0])
            population = _distinct_best(objective, population + children, settings.population)
            stale = 0 if objective.score(population[0]) < best else stale + 1
        return descend(objective, population[0], pairs=settings.pairs), None, False

    def _child(
        self, objective: PlacementObjective, population: list[tuple[int, ...]], chance: random.Random
    ) -> tuple[int, ...]:
        def parent() -> tuple[int, ...]:
            drawn = [chance.choice(population) for _ in range(self.settings.tournament)]
            return min(drawn, key=objective.score)

        genes = [chance.choice(pair) for pair in zip(parent(), parent(), strict=True)]
        for i in objective.problem.free_stages:
            if chance.random() < self.settings.mutation:
                genes[i] = chance.choice(objective.problem.choices[i])
        return descend(objective, tuple(genes))


def _distinct_best(
    objective: PlacementObjective, placements: list[tuple[int, ...]], count: int
) -> list[tuple[int, ...]]:
    return sorted(dict.fromkeys(placements), key=objective.score)[:count]
