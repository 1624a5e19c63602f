"""Joint search of α and ω: evolution of networks outside, the best placement of each inside."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from perception_core.configuration import ConfigurationError
from perception_core.platform.placement.solver import PlacementSolver, check_problem, make_solver
from perception_core.platform.schedule import schedule
from training.search.codesign.hardware import Deployed, HardwareTarget, deploy
from training.search.codesign.pareto import crowding, ranks
from training.search.codesign.quality import FittedQuality, QualityEvaluator
from training.search.codesign.space import Architecture, ArchitectureSpace
from training.search.codesign.study import Candidate, Study, architectures_of
from training.search.codesign.work import WorkEvaluator


@dataclass(frozen=True)
class SearchSettings:
    """How it is searched.

    Attributes:
        gamma1: γ1 of Eq. 3: what a millisecond of Loss_hw is worth in Loss_sw.
        task_weight: λ of Eq. 1.
        population: Networks kept.
        generations: Generations.
        crossover: Probability that a child has two parents.
        seed: Of all that is random.
        power_views: Each network is also placed by these multiples of γ2, so that the front shows what power
            costs in latency.
        solver: Inner placement solver.
    """

    gamma1: float = 0.01
    task_weight: float = 0.5
    population: int = 16
    generations: int = 20
    crossover: float = 0.5
    seed: int = 0
    power_views: tuple[float, ...] = (0.0, 4.0)
    solver: str = "greedy"


@dataclass
class JointSearch:
    """Evolution with non-dominated sorting (NSGA-II), the network of least objective always kept.

    Attributes:
        space: The networks.
        quality: Tells Loss_sw.
        work: Tells what networks cost.
        target: The platform.
        settings: How it is searched.
    """

    space: ArchitectureSpace
    quality: QualityEvaluator
    work: WorkEvaluator
    target: HardwareTarget
    settings: SearchSettings = field(default_factory=SearchSettings)

    def __post_init__(self) -> None:
        self._solver: PlacementSolver = make_solver(self.settings.solver)
        self._judged: dict[Architecture, list[Candidate]] = {}

    def judge(self, architecture: Architecture) -> list[Candidate]:
        """Returns a network's candidates, that of least objective first; none where it fits nowhere."""
        if architecture not in self._judged:
            cost = self.work.cost(architecture)
            views = (None, *(self.target.loss.gamma2 * factor for factor in self.settings.power_views))
            found = [
                deployed
                for gamma2 in views
                if (deployed := deploy(self.target, cost, self._solver, self.settings.seed, gamma2))
                is not None
            ]
            distinct = {
                (one.implementation, tuple(one.placement.items())): self._candidate(architecture, one)
                for one in found
            }
            self._judged[architecture] = sorted(distinct.values(), key=lambda one: one.objective)
        return self._judged[architecture]

    def _candidate(self, architecture: Architecture, deployed: Deployed) -> Candidate:
        record = self.quality.quality(architecture)
        loss_sw = record.hybrid_loss(self.settings.task_weight)
        loss_sw += self.target.extra_loss_sw.get(deployed.implementation, 0.0)
        found = deployed.schedule
        return Candidate(
            architecture=architecture,
            placement=deployed.placement,
            implementation=deployed.implementation,
            loss_sw=loss_sw,
            measured=record.measured,
            longest_path_ms=found.longest_path_ms,
            power_w=found.power_w,
            energy_j=found.energy_j,
            loss_hw=found.loss_hw,
            objective=loss_sw + self.settings.gamma1 * found.loss_hw,
        )

    def run(self, progress: Callable[[int, Study], None] | None = None, resume: Study | None = None) -> Study:
        """Searches.

        Args:
            progress: Called after each generation with its number and the study so far.
            resume: A study to go on from; its networks are judged again, which is cheap, and kept.

        Returns:
            The study; the same inputs and seed give the same.
        """
        study = Study(self.space, asdict(self.settings) | {"gamma2": self.target.loss.gamma2})
        chance = random.Random(self.settings.seed)
        population = [self.space.hand_made]
        if resume is not None:
            population += [one for one in architectures_of(resume.front) if one not in population]
        while len(population) < min(self.settings.population, self.space.size):
            drawn = self.space.random(chance)
            if drawn not in population:
                population.append(drawn)
        for generation in range(self.settings.generations + 1):
            if generation:
                population += self._children(population, chance)
            population = self._survivors(population, study)
            study.history.append(min((c.objective for c in study.candidates), default=float("inf")))
            if progress is not None:
                progress(generation, study)
            if not population:
                population = [self.space.random(chance) for _ in range(self.settings.population)]
        return study

    def _children(self, population: list[Architecture], chance: random.Random) -> list[Architecture]:
        children: list[Architecture] = []
        for _ in range(self.settings.population * 4):
            if len(children) == self.settings.population:
                break
            child = chance.choice(population)
            if chance.random() < self.settings.crossover:
                other = chance.choice(population)
                child = tuple(chance.choice(pair) for pair in zip(child, other, strict=True))
            child = self.space.mutate(child, chance)
            if child not in self._judged and child not in children:
                children.append(child)
        return children

    def _survivors(self, population: list[Architecture], study: Study) -> list[Architecture]:
        known = set(architectures_of(study.candidates)) | set(study.refused)
        for architecture in dict.fromkeys(population):
            judged = self.judge(architecture)
            if architecture not in known:
                study.candidates += judged
                if not judged:
                    study.refused.append(architecture)
        able = [one for one in dict.fromkeys(population) if self.judge(one)]
        if not able:
            return []
        points = [self.judge(one)[0].point for one in able]
        rank, spread = ranks(points), crowding(points)
        order = sorted(range(len(able)), key=lambda k: (rank[k], -spread[k], k))
        kept = [able[k] for k in order[: self.settings.population]]
        champion = min(able, key=lambda one: self.judge(one)[0].objective)
        return kept if champion in kept else [*kept[:-1], champion]

    # -- what to compare with --------------------------------------------------------------------------------

    def best_network_then_best_placement(self, study: Study) -> Candidate:
        """Returns the network of least Loss_sw among those judged, on its best placement.

        Where quality is fitted, all networks of a space that is small enough are asked for theirs.

        Raises:
            ConfigurationError: No network fits.
        """
        able = architectures_of(study.candidates)
        if isinstance(self.quality, FittedQuality) and self.space.size <= _SMALL_SPACE:
            able = _all_of(self.space)
        order = sorted(able, key=lambda one: self.quality.quality(one).hybrid_loss(self.settings.task_weight))
        for architecture in order:
            judged = self.judge(architecture)
            if judged:
                return judged[0]
        raise ConfigurationError("no network of the space fits on the platform within memory and budgets")

    def hand_made(self, placement: Mapping[str, str] | None = None) -> Candidate | None:
        """Returns the hand-made network on a hand-made placement; None where that cannot run.

        Args:
            placement: Component to device; None: everything on the device where that is best.
        """
        cost = self.work.cost(self.space.hand_made)
        found: list[Candidate] = []
        for name, platform in self.target.platforms.items():
            problem = self.target.problem(cost, name)
            check_problem(problem)
            tried = [placement] if placement is not None else [
                dict.fromkeys(cost.work, device) for device in platform.devices
            ]  # fmt: skip
            for one in tried:
                chosen = problem.indices({k: v for k, v in one.items() if k in problem.stages})
                if all(d in problem.choices[i] for i, d in enumerate(chosen)):
                    deployed = Deployed(name, problem.by_name(chosen), schedule(problem, chosen))
                    found.append(self._candidate(self.space.hand_made, deployed))
        return min(found, key=lambda one: one.objective, default=None)


#: Spaces up to this size are asked for the quality of every network.
_SMALL_SPACE = 5000


def _all_of(space: ArchitectureSpace) -> list[Architecture]:
    return list(itertools.product(*(range(len(choice.options)) for choice in space.choices)))
