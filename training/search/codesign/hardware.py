"""Loss_hw of a network on its best placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from perception_core.configuration import ConfigurationError
from perception_core.platform.component_latency import ComponentLatency, RooflineLatency
from perception_core.platform.devices import Platform
from perception_core.platform.placement.build import HardwareLoss, HostTimes, build_problem
from perception_core.platform.placement.problem import PlacementProblem
from perception_core.platform.placement.solver import PlacementSolver, check_problem
from perception_core.platform.schedule import Schedule, schedule
from training.search.codesign.work import NetworkCost

LatencyFactory = Callable[[Platform, NetworkCost], ComponentLatency]


def roofline(platform: Platform, cost: NetworkCost) -> ComponentLatency:
    """Latencies reckoned from speeds and multiply-adds alone."""
    return RooflineLatency(platform, cost.work)


@dataclass(frozen=True)
class HardwareTarget:
    """Where networks are to run.

    Attributes:
        platforms: The platform by the name of its implementation; one unless it has an FPGA to implement.
        loss: Weights of Loss_hw.
        host: What the stack itself takes.
        latency: Makes the latency source of a network on a platform: a model, or one corrected by
            measurements.
        extra_loss_sw: What an implementation adds to Loss_sw, e.g. by its few bits, by name; it has to be
            measured, none by itself.
    """

    platforms: Mapping[str, Platform]
    loss: HardwareLoss = field(default_factory=HardwareLoss)
    host: HostTimes = field(default_factory=HostTimes)
    latency: LatencyFactory = roofline
    extra_loss_sw: Mapping[str, float] = field(default_factory=dict)

    def problem(
        self, cost: NetworkCost, implementation: str, gamma2: float | None = None
    ) -> PlacementProblem:
        """Returns the placement problem of a network on one implementation of the platform.

        Args:
            cost: The network.
            implementation: Key of `platforms`.
            gamma2: Instead of the target's own γ2.
        """
        platform = self.platforms[implementation]
        loss = self.loss if gamma2 is None else self.loss.model_copy(update={"gamma2": gamma2})
        return build_problem(cost.graph, platform, self.latency(platform, cost), loss, self.host)


@dataclass(frozen=True)
class Deployed:
    """A network placed.

    Attributes:
        implementation: Which of the target's platforms.
        placement: Component to device.
        schedule: What that leads to; `loss_hw` by the target's own γ2.
    """

    implementation: str
    placement: Mapping[str, str]
    schedule: Schedule


def deploy(
    target: HardwareTarget,
    cost: NetworkCost,
    solver: PlacementSolver,
    seed: int,
    gamma2: float | None = None,
) -> Deployed | None:
    """Returns the best placement of a network, over all implementations; None where nothing fits.

    Args:
        target: The platform.
        cost: The network.
        solver: Finds placements.
        seed: For the solver.
        gamma2: Place by another γ2, to see the trade between latency and power; what is returned is still
            judged by the target's own.
    """
    best: Deployed | None = None
    for name in target.platforms:
        problem = target.problem(cost, name, gamma2)
        try:
            check_problem(problem)
        except ConfigurationError:
            continue  # too large, or nothing can run it: no candidate on this implementation
        result = solver.solve(problem, seed=seed)
        if not result.score.feasible:
            continue
        found = Deployed(
            name, problem.by_name(result.placement), schedule(target.problem(cost, name), result.placement)
        )
        extra = target.extra_loss_sw.get(name, 0.0)
        if best is None or found.schedule.loss_hw + extra < best.schedule.loss_hw + target.extra_loss_sw.get(
            best.implementation, 0.0
        ):
            best = found
    return best
