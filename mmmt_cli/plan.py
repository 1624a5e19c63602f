"""`mmmt plan`: a better placement for a deployment, from measurements where there are any."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perception_core.platform.placement_plan import PlacementPlan

plan_app = typer.Typer(add_completion=False)


@plan_app.command()
def plan(
    hw_config: Annotated[str, typer.Argument(help="Deployment: a name in hw_configs/ or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Overrides as of `mmmt launch`, e.g. 'budgets_ms.lidar->control:=300'.", metavar="KEY:=VALUE"
        ),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Plan for this bundle instead of the deployment's.")
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            help="Measurements: a table of `mmmt profile`, or a run (its report's folder, summary.json, or a "
            "record of stage timings). May be repeated."
        ),
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option(help="Platform that tells the speed of what was not measured: a preset or a YAML file."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the planned deployment to this YAML file.")] = None,
    solver: Annotated[
        str, typer.Option(help="evolution, exact (proves its plan to be best), greedy or differentiable.")
    ] = "evolution",
    gamma2: Annotated[
        float, typer.Option(help="γ2 of Eq. 3: milliseconds that a watt is worth.", min=0.0)
    ] = 0.0,
    power: Annotated[
        str, typer.Option(help="Power(d) of Eq. 3: active (while at work) or average (over --period-ms).")
    ] = "active",
    period_ms: Annotated[
        float | None, typer.Option(help="Milliseconds between frames; no device may get more work than that.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="A component that stays where it is. May be repeated.")
    ] = None,
    ignore_budgets: Annotated[
        bool, typer.Option("--ignore-budgets", help="Plan although budgets cannot be met.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the solver.")] = 0,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Plan which component runs on which device.

    Without --measured, latencies are reckoned from the network's multiply-adds and a platform's speeds;
    that is good enough to compare placements and not to promise milliseconds.
    """
    from perception_core.platform.placement.solver import make_solver
    from perception_core.platform.placement_plan import plan_placement

    chosen = make_solver(solver)
    prepared = _prepare(
        hw_config, overrides or [], bundle, measured or [], platform, (gamma2, power, period_ms), keep or [],
        ignore_budgets,
    )  # fmt: skip
    planned = plan_placement(prepared.problem, prepared.current, chosen, seed)
    if out is not None:
        _write(prepared, planned, out)
    if json_output:
        typer.echo(json.dumps(_as_json(planned, prepared.notes), indent=2))
    else:
        _print(planned, prepared.notes, out)


@dataclass(frozen=True)
class _Prepared:
    """What a plan is made from."""

    resolved: Any
    problem: Any
    current: dict[str, str]
    notes: tuple[str, ...]


def _prepare(
    hw_config: str,
    overrides: list[str],
    bundle: Path | None,
    measured: list[Path],
    platform: str | None,
    loss: tuple[float, str, float | None],
    keep: list[str],
    ignore_budgets: bool,
) -> _Prepared:
    from dataclasses import replace

    import pydantic

    from mmmt_cli.plan_latency import Measurements, latency_source
    from perception_core.configuration import ConfigurationError, nearest
    from perception_core.deployment_for_bundle import load_for_bundle
    from perception_core.platform.component_work import work_of_bundle
    from perception_core.platform.devices import platform_of
    from perception_core.platform.placement.build import HardwareLoss, build_problem
    from perception_core.platform.refit import host_times, path_offsets
    from perception_core.platform.task_graph import task_graph

    resolved, notes = load_for_bundle(hw_config, overrides, bundle)
    deployment, spec = resolved.deployment, resolved.bundle.spec
    for component in keep:
        if component not in spec.components:
            raise ConfigurationError(
                f"--keep {component}: no such component" + nearest(component, spec.components)
            )
    measurements = Measurements.read(measured, resolved)
    latency, speeds, found = latency_source(resolved, measurements, platform)
    notes += found
    budgets = {} if ignore_budgets else deployment.budgets_ms
    graph = task_graph(spec, resolved.rig, work_of_bundle(resolved.bundle, resolved.rig), budgets)
    try:
        weights = HardwareLoss.model_validate(dict(zip(("gamma2", "power", "period_ms"), loss, strict=True)))
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"--power {loss[1]}: {error.errors()[0]['msg']}") from error
    if weights.power == "average" and weights.period_ms is None:
        raise ConfigurationError("--power average needs --period-ms, the time between two frames")
    host = host_times(measurements.runs)
    target = platform_of(deployment, speeds)
    fixed = {component: deployment.placement[component] for component in keep}
    problem = build_problem(graph, target, latency, weights, host, fixed)
    for run in measurements.runs:
        unseen = [name for name in spec.components if name not in run.placement()]
        if unseen:
            notes += (f"{run.source}: {', '.join(unseen)} seen too seldom: paths are not corrected by it",)
            continue
        host = replace(
            host, path_offset_ms=path_offsets(build_problem(graph, target, latency, weights, host), run)
        )
        problem = build_problem(graph, target, latency, weights, host, fixed)
        break  # one run's offsets; several placements' would not add up
    return _Prepared(resolved, problem, dict(deployment.placement), notes)


def _write(prepared: _Prepared, planned: PlacementPlan, out: Path) -> None:
    from perception_core.deployment_writer import write_deployment

    after = planned.schedule_after
    comments = [
        (
            f"Planned from deployment '{prepared.resolved.deployment.name}' by `mmmt plan`, "
            f"solver {planned.result.solver}."
        ),
        f"Predicted: longest path {after.longest_path_ms:.1f} ms, power {after.power_w:.1f} W.",
        *prepared.notes,
    ]
    write_deployment(prepared.resolved, planned.after, out, comments=comments)


def _as_json(planned: PlacementPlan, notes: tuple[str, ...]) -> dict[str, Any]:
    def figures(one: Any) -> dict[str, Any] | None:
        if one is None:
            return None
        return {
            "longest_path_ms": one.longest_path_ms,
            "path_ms": one.path_ms,
            "critical_path": list(one.critical_path),
            "slack_ms": one.slack_ms,
            "load": one.load,
            "power_w": one.power_w,
            "energy_j": one.energy_j,
            "loss_hw": one.loss_hw,
            "max_rate_hz": one.max_rate_hz if one.load else None,
        }

    return {
        "placement": planned.after,
        "moves": {name: list(move) for name, move in planned.moves.items()},
        "before": figures(planned.schedule_before),
        "after": figures(planned.schedule_after),
        "gain_ms": planned.gain_ms,
        "solver": planned.result.solver,
        "optimal": planned.result.optimal,
        "elapsed_s": planned.result.elapsed_s,
        "notes": list(notes),
    }


def _print(planned: PlacementPlan, notes: tuple[str, ...], out: Path | None) -> None:
    from rich.console import Console

    from mmmt_cli.plan_tables import component_table, figure_table, path_table

    console = Console()
    console.print(component_table(planned))
    console.print(path_table(planned))
    console.print(figure_table(planned))
    for note in notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    if planned.not_before:
        console.print(f"note: nothing to compare with: {planned.not_before}", highlight=False, soft_wrap=True)
    if not planned.moves:
        console.print("The placement is already the best one found.")
    if out is not None:
        console.print(f"wrote {out}; start it with: mmmt launch {out}", highlight=False, soft_wrap=True)
