"""`mmmt doctor`: what this machine has, what it lacks, and how to mend it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmmt_cli.doctor_checks import Check

_MARKS = {"ok": "[green]✓[/green]", "missing": "[red]✗[/red]", "note": "[yellow]·[/yellow]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Say what this machine has, what it lacks and how to mend it.

    Exit code 1 when something is missing that the stack cannot run without.
    """
    from mmmt_cli.doctor_checks import all_checks, essentials_are_there

    checks = all_checks()
    good = essentials_are_there(checks)
    if as_json:
        typer.echo(json.dumps({"ok": good, "checks": [dataclasses.asdict(check) for check in checks]}))
    else:
        _print_table(checks, good)
    raise typer.Exit(0 if good else 1)


def _print_table(checks: list[Check], good: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_lines=False)
    for column in ("", "what", "found", "how to mend"):
        table.add_column(column, overflow="fold")
    for check in checks:
        name = f"[bold]{escape(check.name)}[/bold]" if check.essential else escape(check.name)
        table.add_row(_MARKS[check.state], name, escape(check.found), escape(check.remedy))
    console = Console()
    console.print(table)
    console.print(
        "[green]ready to run[/green]" if good else "[red]something essential (bold) is missing[/red]"
    )
