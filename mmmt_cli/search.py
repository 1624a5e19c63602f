"""`mmmt search`: search architectures and placements. Each command is a module of its own."""

from __future__ import annotations

import importlib
import importlib.util

import typer

search_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Search architectures and placements."
)

#: `module:function` by name; a command whose module is not there is not listed.
_COMMANDS: dict[str, str] = {
    "automtl": "mmmt_cli.search_automtl:automtl",
    "ednas": "mmmt_cli.search_ednas:ednas",
    "edge-train": "mmmt_cli.search_ednas:edge_train",
    "architectures": "mmmt_cli.search_ednas:architectures",
    "codesign": "mmmt_cli.search_codesign:codesign",
}


def _register() -> None:
    for name, target in _COMMANDS.items():
        module, _, function = target.partition(":")
        if importlib.util.find_spec(module) is not None:
            search_app.command(name)(getattr(importlib.import_module(module), function))


_register()
