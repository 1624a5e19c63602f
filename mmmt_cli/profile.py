"""`mmmt profile`: measure a bundle's components on the devices of a deployment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perception_core.platform.measured_table import MeasuredTable

profile_app = typer.Typer(add_completion=False)


@profile_app.command()
def profile(
    deployment: Annotated[str, typer.Argument(help="A name in hw_configs/ or a file.")],
    bundle: Annotated[
        str | None, typer.Option(help="Folder of the bundle; default: the deployment's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object and nothing else.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the measurements, which planning reads.")] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Frames of each component.")] = 50,
    budget: Annotated[float, typer.Option(min=0.1, help="Seconds a component and backend at most.")] = 5.0,
    points: Annotated[int, typer.Option(min=1, help="LiDAR points of the frame.")] = 30_000,
    own_backend: Annotated[
        bool, typer.Option("--own-backend", help="Only the backend the deployment gives each device.")
    ] = False,
    own_precision: Annotated[
        bool,
        typer.Option("--own-precision", help="Only the precision the deployment asks for."),
    ] = False,
) -> None:
    """Measure every component and each of its variants on every device and backend of a deployment."""
    from perception_core.bundle import Bundle
    from perception_core.deployment import load_deployment
    from perception_core.platform.component_timing import TimingOptions, measure_deployment
    from perception_core.resources import find_folder

    resolved = load_deployment(deployment)
    opened = resolved.bundle
    if bundle is not None:
        opened = Bundle.open(find_folder("bundle", bundle, resolved.path))
    options = TimingOptions(
        repeats=repeats,
        budget_s=budget,
        cameras=len(resolved.rig.cameras),
        points=points,
        every_backend=not own_backend,
        every_precision=not own_precision,
    )

    def say(text: str) -> None:
        typer.echo(f"measuring {opened.spec.name} on {text}", err=True)

    table = measure_deployment(resolved.deployment, opened, options, say)
    if out is not None:
        table.save(out)
    if as_json:
        typer.echo(table.model_dump_json())
        return
    _print(table)
    if out is not None:
        typer.echo(f"written to {out}")


def _print(table: MeasuredTable) -> None:
    from rich.console import Console
    from rich.table import Table

    ways = tuple(dict.fromkeys((entry.backend, entry.precision) for entry in table.entries))
    shown = Table(
        title=f"{table.bundle} on {table.deployment}: median ms (p95), fastest in bold",
        caption=f"{table.machine.processor}, {table.cameras} cameras, {table.points} points",
    )
    shown.add_column("component")
    shown.add_column("device")
    for backend, precision in ways:
        shown.add_column(_way(backend, precision), justify="right")
    measured = {
        (entry.component, entry.device, entry.backend, entry.precision): entry for entry in table.entries
    }
    for component in table.components:
        for device in table.devices:
            cells = []
            if not any((component, device, *way) in measured for way in ways):
                continue
            fastest = table.fastest(component, device)
            for way in ways:
                entry = measured.get((component, device, *way))
                text = "–" if entry is None else f"{entry.median_ms:.2f} ({entry.p95_ms:.2f})"
                cells.append(f"[bold]{text}[/bold]" if entry is fastest else text)
            shown.add_row(component, device, *cells)
    Console().print(shown)
    for item in table.unmeasured:
        what = item.component or "nothing"
        how = _way(item.backend, item.precision)
        typer.echo(f"not measured: {what} on {item.device} with {how}: {item.why}", err=True)


def _way(backend: str, precision: str) -> str:
    from perception_core.precision import FULL_PRECISION

    return backend if precision == FULL_PRECISION else f"{backend} {precision}"
