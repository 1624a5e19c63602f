"""The `mmmt` command. Sub-commands are imported when they are used, so that help comes at once."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

EXIT_CONFIGURATION = 2


@dataclass(frozen=True)
class SubCommand:
    """A sub-command's place and its line in the help.

    Attributes:
        target: `module:attribute`; the attribute is a typer.Typer or a function with typer annotations.
        help: One line.
    """

    target: str
    help: str


#: In the order of the help. A command whose module is not there is not listed.
COMMANDS: dict[str, SubCommand] = {
    "demo": SubCommand("mmmt_cli.demo:demo", "Play a recording through the stack and write a report."),
    "launch": SubCommand("mmmt_cli.launch:launch", "Start the stack of a deployment."),
    "move": SubCommand("mmmt_cli.move:move", "Move a component of the running stack to another device."),
    "rig": SubCommand("mmmt_cli.rig:rig_app", "Show, check and draft rigs."),
    "doctor": SubCommand(
        "mmmt_cli.doctor:doctor", "Say what this machine has, what it lacks and how to mend it."
    ),
    "bench": SubCommand("mmmt_cli.bench:bench_app", "Measure parts of the stack."),
    "models": SubCommand("mmmt_cli.models:models_app", "List models and make bundles."),
    "data": SubCommand("mmmt_cli.data:data_app", "Inspect and generate recordings and data sets."),
    "train": SubCommand("mmmt_cli.train:train_app", "Train a model."),
    "eval": SubCommand("mmmt_cli.eval:eval_app", "Evaluate a bundle."),
    "search": SubCommand("mmmt_cli.search:search_app", "Search architectures and placements."),
    "plan": SubCommand("mmmt_cli.plan:plan_app", "Plan a placement for a deployment."),
    "profile": SubCommand("mmmt_cli.profile:profile_app", "Measure components on devices."),
    "export": SubCommand("mmmt_cli.export:export_app", "Export a bundle's components for a backend."),
    "replay": SubCommand("mmmt_cli.replay:replay_app", "Publish a recording without starting the stack."),
    "report": SubCommand("mmmt_cli.report:report_app", "Write a report from what a run recorded."),
}


class LazyCommand(TyperCommand):
    """Stands for a sub-command in the help and becomes the real one when it is run."""

    def __init__(self, name: str, help_line: str) -> None:
        super().__init__(name, help=help_line, short_help=help_line)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Imports the command and lets it read its arguments."""
        return load_command(str(self.name)).make_context(info_name, args, parent=parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Runs the real command."""
        return ctx.command.invoke(ctx)


class LazyGroup(TyperGroup):
    """A group that knows its commands' names and help lines and imports a command only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the commands whose modules exist."""
        return [name for name, command in COMMANDS.items() if _exists(command)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns the stand-in of a command, None when there is no such command."""
        command = COMMANDS.get(cmd_name)
        return LazyCommand(cmd_name, command.help) if command is not None and _exists(command) else None


def load_command(name: str) -> Any:
    """Imports a sub-command.

    Args:
        name: A key of COMMANDS.

    Returns:
        The click command.
    """
    module, _, attribute = COMMANDS[name].target.partition(":")
    loaded = getattr(importlib.import_module(module), attribute)
    if not isinstance(loaded, typer.Typer):
        application = typer.Typer(add_completion=False)
        application.command(name, context_settings=getattr(loaded, "context_settings", None))(loaded)
        loaded = application
    command = typer.main.get_command(loaded)
    command.name = name
    return command


def _exists(command: SubCommand) -> bool:
    return importlib.util.find_spec(command.target.partition(":")[0]) is not None


application = typer.Typer(
    cls=LazyGroup,
    name="mmmt",
    help="MMMT Perception: launch, measure, train and place multi-task networks on multi-modal sensors.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@application.callback()
def _root() -> None:
    pass


def main() -> None:
    """Entry point `mmmt`: a wrong configuration is one message and exit code 2, never a traceback."""
    try:
        application()
    except ValueError as error:
        if not _is_configuration_error(error):
            raise
        print(f"mmmt: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIGURATION)


def _is_configuration_error(error: ValueError) -> bool:
    module = sys.modules.get("perception_core.configuration")  # not imported: then it cannot have been raised
    return module is not None and isinstance(error, module.ConfigurationError)


if __name__ == "__main__":
    main()
