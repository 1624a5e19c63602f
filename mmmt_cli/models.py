"""`mmmt models`: which networks there are, and how large and costly each part of one is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

models_app = typer.Typer(
    help="List networks and show their parts.", no_args_is_help=True, add_completion=False
)


@models_app.command("list")
def list_command() -> None:
    """List the networks that can be built by name."""
    from perception_core.models import list_models

    for name in list_models():
        typer.echo(name)


@models_app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A name of `mmmt models list`.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object and nothing else.")] = False,
    image: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="HEIGHTxWIDTH",
            help="Size of the images, e.g. 256x704; default: the network's own.",
        ),
    ] = None,
    cameras: Annotated[int, typer.Option(help="Cameras of the frame that is counted.", min=0)] = 6,
    points: Annotated[int, typer.Option(help="LiDAR points of the frame that is counted.", min=0)] = 30_000,
    arguments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Argument of the network, e.g. bev_encoder=separate. May be repeated.",
        ),
    ] = None,
) -> None:
    """Show a network's components with their inputs, outputs, weights and multiply-adds a frame."""
    from mmmt_cli.export import parse_arguments
    from perception_core.models import create_model
    from perception_core.models.profile import profile_model

    chosen = parse_arguments(arguments or [])
    if image is not None:
        height, width = _parse_size(image)
        chosen["camera"] = {**chosen.get("camera", {}), "image_height": height, "image_width": width}
    model = create_model(name, **chosen)
    specs = model.component_specs()
    bundle_input = model.bundle_input()
    profiles = profile_model(model, cameras, points)
    description = {
        "name": name,
        "input": {
            "image": bundle_input.image.model_dump() if bundle_input.image else None,
            "mono": bundle_input.mono.model_dump() if bundle_input.mono else None,
            "max_points": bundle_input.max_points,
            "cameras": cameras,
            "points": points,
        },
        "parameters": sum(profile.parameters for profile in profiles.values()),
        "multiply_adds": sum(profile.multiply_adds for profile in profiles.values()),
        "components": {
            component: {
                "parameters": profile.parameters,
                "multiply_adds": profile.multiply_adds,
                "inputs": list(specs[component].inputs),
                "outputs": list(specs[component].outputs),
                "task": specs[component].task,
            }
            for component, profile in profiles.items()
        },
    }
    if as_json:
        typer.echo(json.dumps(description))
        return
    _print_table(description)


def _parse_size(text: str) -> tuple[int, int]:
    """Turns `256x704` into height and width."""
    height, separator, width = text.partition("x")
    if not (separator and height.isdigit() and width.isdigit()):
        raise typer.BadParameter(
            f"expected HEIGHTxWIDTH in pixels, e.g. 256x704, got '{text}'", param_hint="--input"
        )
    return int(height), int(width)


def _print_table(description: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    seen = description["input"]
    mono = seen["mono"]
    frame = f"{seen['cameras']} cameras and {seen['points']} points"
    if mono is not None and seen["image"] is None:
        frame = f"{mono['height']} x {mono['width']} pixels of {mono['camera']}"
    table = Table(title=f"{description['name']}: one frame of {frame}")
    table.add_column("component", overflow="fold")
    table.add_column("weights", justify="right")
    table.add_column("multiply-adds", justify="right")
    table.add_column("inputs", overflow="fold")
    table.add_column("outputs", overflow="fold")
    for name, component in description["components"].items():
        table.add_row(
            name,
            f"{component['parameters']:,}",
            f"{component['multiply_adds'] / 1e9:.3f} G",
            "\n".join(component["inputs"]),
            "\n".join(component["outputs"]),
            end_section=True,
        )
    table.add_row("all", f"{description['parameters']:,}", f"{description['multiply_adds'] / 1e9:.3f} G")
    Console().print(table)
