"""`mmmt move`: move a component of the running stack to another device."""

from __future__ import annotations

from typing import Annotated

import typer


def move(
    component: Annotated[str, typer.Argument(help="Component; the deployment lists it as movable.")],
    device: Annotated[str, typer.Argument(help="Device of the deployment.")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the stack, and for the move.")] = 90.0,
) -> None:
    """Move a component of the running stack to another device, without a restart and without losing a frame.

    Exit code 0: moved; 1: refused or taken back, the component is where it was and the reason is printed.
    """
    from perception_nodes.move_client import MoveRefusedError, move_component

    def show(step: str) -> None:
        typer.echo(f"{component} to {device}: {step}", err=True)

    try:
        outcome = move_component(component, device, timeout, show)
    except MoveRefusedError as error:
        typer.echo(f"mmmt: {error}", err=True)
        raise typer.Exit(1) from error
    if not outcome.done:
        typer.echo(f"mmmt: {component} was not moved: {outcome.reason}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{component} is on {device} from frame {outcome.switch_frame} on ({outcome.elapsed_s:.1f} s)")
