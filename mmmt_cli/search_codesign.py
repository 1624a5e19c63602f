"""`mmmt search codesign`: network and placement together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perception_core.platform.devices import Platform
    from training.search.codesign.evolution import JointSearch
    from training.search.codesign.study import Candidate, Study
    from training.search.codesign.work import NetworkCost


def codesign(
    hw: Annotated[
        str,
        typer.Option("--hw", help="Deployment to search for (its devices), a name in hw_configs/ or a file."),
    ],
    quality: Annotated[
        Path,
        typer.Option(
            help="Training records: JSON lines with choices, control and tasks (losses on validation)."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for study.json, index.html, bundle/ and deployment.yaml.")
    ],
    model: Annotated[str, typer.Option(help="Registered FULLER model to vary.")] = "fuller_tiny",
    platform: Annotated[
        str | None,
        typer.Option(help="Platform whose speeds hold; default: the preset of the deployment's name."),
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(help="Measurements of the hand-made network, to correct the model by. May be repeated."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="Latency budget, e.g. 'lidar->control=300', in ms. May be repeated.", metavar="PATH=MS"
        ),
    ] = None,
    gamma1: Annotated[float, typer.Option(help="γ1: Loss_sw that a millisecond of Loss_hw is worth.")] = 0.01,
    gamma2: Annotated[float, typer.Option(help="γ2: milliseconds that a watt is worth.")] = 1.0,
    task_weight: Annotated[float, typer.Option(help="λ of Eq. 1, the weight of the auxiliary tasks.")] = 0.5,
    power: Annotated[str, typer.Option(help="Power(d): active, or average over --period-ms.")] = "active",
    period_ms: Annotated[float | None, typer.Option(help="Milliseconds between frames.")] = None,
    search: Annotated[str, typer.Option(help="evolution, or bilevel (differentiable).")] = "evolution",
    population: Annotated[int, typer.Option(help="Networks kept.", min=2)] = 16,
    generations: Annotated[int, typer.Option(help="Generations.", min=0)] = 20,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    solver: Annotated[
        str, typer.Option(help="Inner placement solver: greedy, evolution or exact.")
    ] = "greedy",
    pick: Annotated[
        str,
        typer.Option(
            help="Which candidate becomes bundle and deployment: objective, knee, quality, latency or power, "
            "after limits: 'latency<=120,quality'."
        ),
    ] = "objective",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the study in --out.")] = False,
    graphs: Annotated[
        bool, typer.Option("--graphs", help="Also export the picked network's graphs.")
    ] = False,
) -> None:
    """Search a network and its placement together, and write a bundle and a deployment of what is picked."""
    from perception_core.configuration import ConfigurationError

    if search not in ("evolution", "bilevel"):
        raise ConfigurationError(f"--search {search}: evolution or bilevel")
    joint = _prepare(
        hw, quality, out, model, platform, measured or [], budget or [],
        {"gamma2": gamma2, "power": power, "period_ms": period_ms},
        {
            "gamma1": gamma1, "task_weight": task_weight, "population": population,
            "generations": generations, "seed": seed, "solver": solver,
        },
    )  # fmt: skip
    study = _run(joint, search, seed, out / "study.json" if resume else None)
    study.baselines["best network, then placement"] = joint.best_network_then_best_placement(study)
    hand_made = joint.hand_made(_hand_made_placement(hw, joint))
    if hand_made is not None:
        study.baselines["hand-made"] = hand_made
    study.write(out / "study.json")
    picked = study.pick(pick)
    _write(joint, study, picked, hw, out, seed, graphs)
    _print(study, picked, out)


def _prepare(
    hw: str,
    quality: Path,
    out: Path,
    model: str,
    platform: str | None,
    measured: list[Path],
    budget: list[str],
    loss: dict[str, Any],
    settings: dict[str, Any],
) -> JointSearch:
    import pydantic

    from mmmt_cli.plan_latency import Measurements
    from perception_core.configuration import ConfigurationError
    from perception_core.deployment import load_deployment
    from perception_core.platform.component_latency import FirstKnownLatency, RooflineLatency
    from perception_core.platform.devices import load_platform, platform_of
    from perception_core.platform.placement.build import HardwareLoss
    from perception_core.platform.refit import (
        CorrectedLatency,
        RefittedLatency,
        host_times,
        measured_by_device,
    )
    from training.search.codesign.evolution import JointSearch, SearchSettings
    from training.search.codesign.hardware import HardwareTarget
    from training.search.codesign.quality import FittedQuality, QualityTable
    from training.search.codesign.space import fuller_space
    from training.search.codesign.work import ModelWork

    resolved = load_deployment(hw, [f"budgets_ms.{text.replace('=', ':=', 1)}" for text in budget])
    speeds = load_platform(platform or resolved.deployment.name)
    target_platform = platform_of(resolved.deployment, speeds)
    space = fuller_space(model)
    if not quality.is_file():
        raise ConfigurationError(
            f"--quality {quality}: no such file; train a few networks first, see docs/codesign.md"
        )
    measurements = Measurements.read(measured, resolved)
    work = ModelWork(space, resolved.rig, resolved.deployment.budgets_ms, out / "multiply_adds.json")
    try:
        weights = HardwareLoss.model_validate(loss)
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"--power {loss['power']}: {error.errors()[0]['msg']}") from error
    own_ms = {
        (component, device): value
        for component in resolved.bundle.spec.components
        for device in resolved.deployment.devices
        if (value := FirstKnownLatency(measurements.tables).latency_ms(component, device)) is not None
    } | measured_by_device(measurements.runs)

    corrections: dict[str, RefittedLatency] = {}

    def latency(platform: Platform, cost: NetworkCost) -> CorrectedLatency:
        if platform.name not in corrections:
            hand_made = RooflineLatency(platform, work.cost(space.hand_made).work)
            corrections[platform.name] = RefittedLatency(hand_made, own_ms)
        return CorrectedLatency(RooflineLatency(platform, cost.work), corrections[platform.name])

    target = HardwareTarget({"as it is": target_platform}, weights, host_times(measurements.runs), latency)
    return JointSearch(
        space, FittedQuality(QualityTable(space, quality)), work, target, SearchSettings(**settings)
    )


def _run(joint: JointSearch, search: str, seed: int, resume: Path | None) -> Study:
    from rich.progress import Progress

    from training.search.codesign.study import read_study

    earlier = read_study(resume, joint.space) if resume is not None and resume.is_file() else None
    steps = joint.settings.generations + 1
    with Progress() as progress:
        if search == "bilevel":
            from training.search.codesign.bilevel import BilevelSearch
            from training.search.codesign.quality import FittedQuality

            assert isinstance(joint.quality, FittedQuality)
            bilevel = BilevelSearch(joint.space, joint.quality, joint.work, joint.target, joint)
            bar = progress.add_task("steps", total=bilevel.settings.steps)
            return bilevel.run(seed, lambda step, _: progress.update(bar, completed=step + 1))
        bar = progress.add_task("generations", total=steps)
        return joint.run(lambda generation, _: progress.update(bar, completed=generation + 1), earlier)


def _hand_made_placement(hw: str, joint: JointSearch) -> dict[str, str] | None:
    """The deployment's own placement; what it does not place goes where the fuser is."""
    from perception_core.deployment import load_deployment

    placement = load_deployment(hw).deployment.placement
    rest = placement.get("bev_fuser", next(iter(placement.values())))
    return {name: placement.get(name, rest) for name in joint.work.cost(joint.space.hand_made).work}


def _write(
    joint: JointSearch, study: Study, picked: Candidate, hw: str, out: Path, seed: int, graphs: bool
) -> None:
    from perception_core.platform.schedule import schedule
    from training.search.codesign.charts import ScheduleView
    from training.search.codesign.outputs import write_picked_bundle, write_picked_deployment
    from training.search.codesign.page import write_page

    views = []
    for title, one in (("picked", picked), *study.baselines.items()):
        problem = joint.target.problem(joint.work.cost(one.architecture), one.implementation)
        views.append(ScheduleView(title, problem, schedule(problem, problem.indices(dict(one.placement)))))
    write_page(study, out / "index.html", views)
    bundle = write_picked_bundle(joint.space, picked, out / "bundle", seed, graphs)
    write_picked_deployment(hw, picked, bundle.path, out / "deployment.yaml", out / "study.json")


def _print(study: Study, picked: Candidate, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"co-search of {study.space.model}", title_justify="left")
    table.add_column("candidate")
    for column in ("objective", "Loss_sw", "Loss_hw", "longest path ms", "W"):
        table.add_column(column, justify="right")
    for name, one in (("picked", picked), ("joint search", study.best), *study.baselines.items()):
        table.add_row(
            name,
            f"{one.objective:.4f}",
            f"{one.loss_sw:.4f}",
            f"{one.loss_hw:.2f}",
            f"{one.longest_path_ms:.1f}",
            f"{one.power_w:.1f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"wrote {out / 'study.json'}, {out / 'index.html'}, {out / 'bundle'} and {out / 'deployment.yaml'}; "
        f"start it with: mmmt launch {out / 'deployment.yaml'}",
        highlight=False,
        soft_wrap=True,
    )
