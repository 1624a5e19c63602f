"""`mmmt bench NAME`: runs one of the measurements in benchmarks/.

A benchmark is a module of benchmarks/ with

- a docstring that opens with the graph under test and names the units,
- `NAME`, its name on the command line,
- `run(...) -> dict`, whose typer-annotated parameters become options and whose result `--json` prints.

Heavy imports belong inside `run`: every benchmark is imported to list them.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import logging
import os
import shlex
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from perception_core.configuration import ConfigurationError
from perception_core.resources import package_root

bench_app = typer.Typer(
    name="bench",
    help="Measure parts of the stack.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

FOLDER = "benchmarks"


def benchmark_names() -> list[str]:
    """Returns the module names in benchmarks/, none where the source tree is absent."""
    folder = package_root() / FOLDER
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def load_benchmark(module: str) -> ModuleType:
    """Imports a module of benchmarks/.

    Raises:
        ConfigurationError: The source tree is absent.
    """
    root = package_root()
    if not (root / FOLDER).is_dir():
        raise ConfigurationError(
            f"{root / FOLDER}: no such folder; benchmarks are part of the source tree, not of the installed "
            "package: clone the repository and install it with `pip install -e .`"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(f"{FOLDER}.{module}")


@contextlib.contextmanager
def _stdout_is_stderr() -> Iterator[Callable[[str], None]]:
    """Sends all that goes to stdout, children's too, to stderr; yields a way to the real one."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        # Python's own stream too: it may have been replaced by one that does not write to descriptor 1.
        with (
            os.fdopen(real, "w", encoding="utf-8", closefd=False) as output,
            contextlib.redirect_stdout(sys.stderr),
        ):

            def write(text: str) -> None:
                output.write(text)
                output.flush()

            yield write
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


def describe_machine() -> dict[str, str]:
    """Returns what a figure depends on: processor, cores, memory, system and library versions."""
    from perception_nodes.report.machine import machine_details

    return machine_details()


def _commit() -> str | None:
    from perception_nodes.report.machine import source_commit

    return source_commit()


def _lines(result: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in result.items():
        if isinstance(value, Mapping):
            yield f"{prefix}{key}"
            yield from _lines(value, prefix + "  ")
        else:
            shown = f"{value:.3f}" if isinstance(value, float) else value
            yield f"{prefix}{key:<24} {shown}"


def _command_of(module: ModuleType) -> Callable[..., None]:
    """Wraps a benchmark's `run` into a command that also takes --json and --out."""
    function = module.run
    hints = typing.get_type_hints(function, include_extras=True)
    own = [p.replace(annotation=hints[name]) for name, p in inspect.signature(function).parameters.items()]

    def command(json_output: bool, out: Path | None, **options: Any) -> None:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
        with _stdout_is_stderr() as write:
            result = dict(function(**options))
            result |= {
                "machine": describe_machine(),
                "commit": _commit(),
                "command": shlex.join(["mmmt", *sys.argv[1:]]),
                "options": {name: str(v) if isinstance(v, Path) else v for name, v in options.items()},
            }
            text = json.dumps(result, indent=2, allow_nan=False)
            if out is not None:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(text + "\n", encoding="utf-8")
            write((text if json_output else "\n".join(_lines(result))) + "\n")

    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(
            "json_output",
            keyword,
            default=False,
            annotation=Annotated[
                bool, typer.Option("--json", help="Print one JSON object and nothing else.")
            ],
        ),
        inspect.Parameter(
            "out",
            keyword,
            default=None,
            annotation=Annotated[
                Path | None, typer.Option("--out", help="Also write the JSON object to this file.")
            ],
        ),
    ]
    parameters = [parameter.replace(kind=keyword) for parameter in own] + shared
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = module.__doc__
    return command


def _broken(name: str, error: Exception) -> Callable[[], None]:
    def command() -> None:
        raise ConfigurationError(
            f"benchmark '{name}' cannot be imported: {type(error).__name__}: {error}"
        ) from error

    command.__doc__ = f"Cannot be imported: {error}"
    return command


@bench_app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if not (package_root() / FOLDER).is_dir():
        load_benchmark("")  # says what is missing and what to do


def _register() -> None:
    for module_name in benchmark_names():
        name = module_name.replace("_", "-")
        try:
            module = load_benchmark(module_name)
            name = module.NAME
            command = _command_of(module)
        except Exception as error:  # one broken benchmark must not take the others away
            command = _broken(name, error)
        bench_app.command(name, short_help=(command.__doc__ or "").strip().splitlines()[0])(command)


_register()
