"""Differentiable joint search: α and ω as distributions, descended in turn like DARTS' two levels."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from perception_core.configuration import ConfigurationError
from perception_core.platform.placement.relaxed import RelaxedProblem, gumbel_softmax
from training.search.codesign.evolution import JointSearch
from training.search.codesign.hardware import HardwareTarget
from training.search.codesign.quality import FittedQuality
from training.search.codesign.space import Architecture, ArchitectureSpace
from training.search.codesign.study import Study
from training.search.codesign.work import WorkEvaluator


@dataclass(frozen=True)
class BilevelSettings:
    """How α and ω are descended.

    Attributes:
        steps: Steps of the upper level, α.
        lower_steps: Steps of the lower level, ω, before each.
        samples: Placements drawn a step.
        learning_rate: Of both.
        temperature: Of the Gumbel-softmax of ω and the softmax of α, first and last.
        maximum_temperature: Of the softmax that stands for the maximum over paths.
        candidates: Networks that are judged at the end, the likeliest ones.
    """

    steps: int = 60
    lower_steps: int = 2
    samples: int = 6
    learning_rate: float = 0.15
    temperature: tuple[float, float] = (1.5, 0.3)
    maximum_temperature: float = 0.03
    candidates: int = 12


class BilevelSearch:
    """Upper level: Loss_sw(α) + γ1 · Loss_hw(α, ω). Lower level: Loss_hw(α, ω) at the α there is.

    Loss_sw is that of a fitted quality model, whose additive terms a distribution over options turns into an
    expectation. A component's duration is the expectation over the options it depends on. All networks must
    have the same component graph as the hand-made one, so choices that change it (such as leaving a modality
    out) stay as they are there; evolution searches those.
    """

    def __init__(
        self,
        space: ArchitectureSpace,
        quality: FittedQuality,
        work: WorkEvaluator,
        target: HardwareTarget,
        search: JointSearch,
        settings: BilevelSettings | None = None,
    ) -> None:
        """Prepares the relaxed problem.

        Args:
            space: The networks.
            quality: Fitted to trained networks.
            work: Tells what networks cost; asked for every combination of options a component depends on.
            target: The platform; its first implementation is searched.
            search: Judges the networks found, and gives γ1 and λ.
            settings: How it is searched.
        """
        self.space, self.quality, self.work, self.target = space, quality, work, target
        self.search, self.settings = search, settings or BilevelSettings()
        cost = work.cost(space.hand_made)
        self.problem = target.problem(cost, next(iter(target.platforms)))
        self.relaxed = RelaxedProblem(self.problem)
        self._relevant = self._relevant_choices()
        self._tables = {i: self._durations(i) for i in range(len(self.problem.stages))}

    def _relevant_choices(self) -> list[int]:
        """Choices none of whose options changes the component graph."""
        graph = self.work.cost(self.space.hand_made).graph.stages.keys()
        kept = []
        for k, choice in enumerate(self.space.choices):
            others = [
                (*self.space.hand_made[:k], option, *self.space.hand_made[k + 1 :])
                for option in range(len(choice.options))
            ]
            if all(self.work.cost(one).graph.stages.keys() == graph for one in others):
                kept.append(k)
        if not kept:
            raise ConfigurationError("every choice changes the component graph; search by evolution instead")
        return kept

    def _durations(self, i: int) -> tuple[tuple[int, ...], torch.Tensor]:
        """Returns the choices stage i depends on, and its durations: (options of each of them …, devices), in
        units of time.
        """
        stage = self.problem.stages[i]
        choices = tuple(
            k
            for k in self._relevant
            if not self.space.choices[k].components or stage in self.space.choices[k].components
        )
        if stage not in self.work.cost(self.space.hand_made).work:
            choices = ()  # the stack's own work is the same for every network
        sizes = [len(self.space.choices[k].options) for k in choices]
        table = torch.zeros((*sizes, len(self.problem.devices)))
        for options in itertools.product(*(range(size) for size in sizes)):
            architecture = list(self.space.hand_made)
            for k, option in zip(choices, options, strict=True):
                architecture[k] = option
            problem = self.target.problem(
                self.work.cost(tuple(architecture)), next(iter(self.target.platforms))
            )
            row = [value or 0 for value in problem.duration_us[i]]
            table[options] = torch.tensor(row, dtype=torch.float32) / self.relaxed.scale_us
        return choices, table

    def _expected_durations(self, alpha: list[torch.Tensor]) -> torch.Tensor:
        """(N, D): durations under the options' probabilities."""
        rows = []
        for i in range(len(self.problem.stages)):
            choices, table = self._tables[i]
            for k in choices:
                table = torch.tensordot(alpha[k], table, dims=([0], [0]))
            rows.append(table)
        return torch.stack(rows)

    def run(self, seed: int = 0, progress: Callable[[int, float], None] | None = None) -> Study:
        """Searches, and judges the likeliest networks exactly.

        Args:
            seed: Of the samples.
            progress: Called after each step with its number and the relaxed objective.
        """
        settings = self.settings
        generator = torch.Generator().manual_seed(seed)
        alpha = [
            torch.zeros(len(choice.options), requires_grad=k in self._relevant)
            for k, choice in enumerate(self.space.choices)
        ]
        omega = torch.zeros(self.relaxed.allowed_nd.shape, requires_grad=True)
        upper = torch.optim.Adam([alpha[k] for k in self._relevant], lr=settings.learning_rate)
        lower = torch.optim.Adam([omega], lr=settings.learning_rate)
        mean, terms = self.quality.hybrid_effects(self.search.settings.task_weight)
        effects = [torch.tensor(term, dtype=torch.float32) for term in terms]
        gamma1_per_unit = self.search.settings.gamma1 * self.relaxed.scale_us / 1000.0
        first, last = settings.temperature
        for step in range(settings.steps):
            temperature = first * (last / first) ** (step / max(1, settings.steps - 1))
            for _ in range(settings.lower_steps):
                with torch.no_grad():
                    durations = self._expected_durations(self._probabilities(alpha, temperature))
                loss_hw = self._loss_hw(omega, durations, temperature, generator)
                lower.zero_grad()
                loss_hw.backward()
                lower.step()
            probabilities = self._probabilities(alpha, temperature)
            loss_sw = mean + sum(
                (probabilities[k] * effects[k]).sum() if k in self._relevant else effects[k][0]
                for k in range(len(effects))
            )
            durations = self._expected_durations(probabilities)
            objective = loss_sw + gamma1_per_unit * self._loss_hw(
                omega.detach(), durations, temperature, generator
            )
            upper.zero_grad()
            objective.backward()
            upper.step()
            if progress is not None:
                progress(step, float(objective))
        return self._judge(alpha)

    def _probabilities(self, alpha: list[torch.Tensor], temperature: float) -> list[torch.Tensor]:
        return [
            torch.softmax(logits / temperature, dim=0)
            if k in self._relevant
            else torch.nn.functional.one_hot(torch.tensor(0), len(logits)).float()
            for k, logits in enumerate(alpha)
        ]

    def _loss_hw(
        self, omega: torch.Tensor, durations_nd: torch.Tensor, temperature: float, generator: torch.Generator
    ) -> torch.Tensor:
        m_bnd = gumbel_softmax(omega, self.relaxed.allowed_nd, self.settings.samples, temperature, generator)
        likeliest = tuple(
            omega.detach().masked_fill(~self.relaxed.allowed_nd, -torch.inf).argmax(-1).tolist()
        )
        order = self.relaxed.order(likeliest)
        return self.relaxed.loss(m_bnd, order, self.settings.maximum_temperature, durations_nd).mean()

    def _judge(self, alpha: list[torch.Tensor]) -> Study:
        study = Study(self.space, {"search": "bilevel", "gamma1": self.search.settings.gamma1})
        for architecture in self._likeliest(alpha):
            judged = self.search.judge(architecture)
            study.candidates += judged
            if not judged:
                study.refused.append(architecture)
        study.history = [min((one.objective for one in study.candidates), default=float("inf"))]
        return study

    def _likeliest(self, alpha: list[torch.Tensor]) -> list[Architecture]:
        """The networks of greatest probability, best first."""
        logarithms = [torch.log_softmax(logits.detach(), dim=0).tolist() for logits in alpha]
        beam: list[tuple[float, Architecture]] = [(0.0, ())]
        for k, values in enumerate(logarithms):
            options = range(len(values)) if k in self._relevant else (0,)
            grown = [(total + values[o], (*prefix, o)) for total, prefix in beam for o in options]
            beam = sorted(grown, key=lambda one: -one[0])[: self.settings.candidates]
        return [architecture for _, architecture in beam]
