"""The part of `mmmt export` that adds variants in other precisions to a bundle."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from perception_core.configuration import ConfigurationError

if TYPE_CHECKING:
    from perception_core.bundle import Bundle
    from training.evaluation.bundle_evaluation import DataChoice
    from training.export.variant_metrics import TogetherReport
    from training.export.variants import VariantReport

#: Beside bundle.yaml: which variants there are not and why, what all of a precision cost, and whose figures
#: these are.
VARIANTS_FILE = "variants.json"


@dataclass(frozen=True)
class VariantOptions:
    """What `mmmt export` was asked for.

    Attributes:
        precisions: Of the variants.
        components: That get them; empty: all.
        data: Data set to calibrate and judge on; None: calibrate on example frames, judge nothing.
        kind, version: Of the data set; None: found by its files.
        calibration_split, split: To calibrate and to judge on; None: the data set's own pair.
        frames: Number of frames to calibrate on.
        judge: Evaluate the tasks with and without each variant.
    """

    precisions: tuple[str, ...]
    components: tuple[str, ...] = ()
    data: Path | None = None
    kind: str | None = None
    version: str | None = None
    calibration_split: str | None = None
    split: str | None = None
    frames: int = 32
    judge: bool = True


def copy_bundle(source: Path, out: Path) -> Bundle:
    """Copies a bundle's files to another folder, unless it is the same.

    Raises:
        ConfigurationError: There is no bundle, or something else lies at the other place.
    """
    from perception_core.bundle import Bundle

    opened = Bundle.open(source)
    if source.resolve() == out.resolve():
        return opened
    if out.exists() and not (out / "bundle.yaml").is_file():
        raise ConfigurationError(f"{out}: is there and is no bundle; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        copied = Path(shutil.copytree(source, Path(folder) / "bundle"))
        if out.exists():
            shutil.rmtree(out)
        copied.rename(out)
    return Bundle.open(out)


def export_variants(bundle: Bundle, options: VariantOptions) -> None:
    """Adds variants to a bundle, judges them where there is data, and prints and writes what came out.

    Raises:
        ConfigurationError: Something asked for is not there, or the data cannot be used.
    """
    from training.datasets.files import DataError
    from training.evaluation.result import EvaluationError, write_json
    from training.export.calibration_frames import CalibrationFrames, FrameChoice
    from training.export.variant_metrics import judge_variants
    from training.export.variants import add_variants
    from training.provenance import describe_origin

    def say(text: str) -> None:
        typer.echo(text, err=True)

    try:
        calibrated_on, judged_on = _choices(options)
        frames = CalibrationFrames(bundle, FrameChoice(calibrated_on, calibration=options.frames))
        bundle, reports = add_variants(bundle, options.precisions, frames, options.components or None, say)
        together: tuple[TogetherReport, ...] = ()
        if judged_on is not None and options.judge:
            bundle, together = judge_variants(bundle, judged_on, say)
    except (DataError, EvaluationError) as error:
        raise ConfigurationError(str(error)) from error
    write_json(
        bundle.path / VARIANTS_FILE,
        {
            "calibration": frames.description,
            "notes": {
                precision: {
                    item.component: list(item.notes) for item in reports if item.precision == precision
                }
                for precision in options.precisions
            },
            "all_variants_together": {
                item.precision: {
                    "backend": item.backend,
                    "components": list(item.components),
                    "metrics": {name: change.model_dump() for name, change in item.metrics.items()},
                }
                for item in together
            },
            "origin": describe_origin(),
        },
    )
    _print(bundle, reports, together)


def _choices(options: VariantOptions) -> tuple[DataChoice | None, DataChoice | None]:
    """Returns what is calibrated on and what is judged on; None without data."""
    from training.evaluation.bundle_evaluation import DataChoice

    if options.data is None:
        if options.split or options.calibration_split:
            raise ConfigurationError("mmmt export: --split and --calibration-split are splits of --data")
        return None, None
    choice = DataChoice(options.data, options.kind, version=options.version)
    own = ("", "")
    if choice.is_nuscenes and not (options.split and options.calibration_split):
        from training.fuller.data import FullerDataConfig, choose_splits

        own = choose_splits(options.data, _version(options), FullerDataConfig())
    calibration, judged = options.calibration_split or own[0], options.split or own[1]
    return (
        DataChoice(options.data, options.kind, calibration, options.version),
        DataChoice(options.data, options.kind, judged, options.version),
    )


def _version(options: VariantOptions) -> str:
    assert options.data is not None
    found = sorted(path.parent.name for path in options.data.glob("v1.0-*/scene.json"))
    if options.version is None and len(found) > 1:
        raise ConfigurationError(
            f"{options.data}: has several versions, {', '.join(found)}; choose with --version"
        )
    return options.version or found[0]


def _print(bundle: Bundle, reports: tuple[VariantReport, ...], together: tuple[TogetherReport, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "component", "precision", "backend", "output", title=f"{bundle.path}: variants against fp32"
    )
    table.add_column("largest error", justify="right")
    table.add_column("relative", justify="right")
    for item in reports:
        for backend, errors in item.variant.errors.items() if item.variant is not None else ():
            for output, error in errors.items():
                table.add_row(
                    item.component,
                    item.precision,
                    backend,
                    output,
                    f"{error.max_abs_error:.3g}",
                    f"{error.max_rel_error:.2g}",
                )
    console = Console()
    console.print(table)
    metrics = Table("component", "precision", "metric", title="tasks' metrics")
    for column in ("fp32", "variant", "change"):
        metrics.add_column(column, justify="right")
    rows = [
        (name, precision, metric, change)
        for name, spec in bundle.spec.components.items()
        for precision, variant in spec.variants.items()
        for metric, change in variant.metrics.items()
    ]
    rows += [
        ("all", one.precision, metric, change) for one in together for metric, change in one.metrics.items()
    ]
    for name, precision, metric, change in rows:
        metrics.add_row(
            name,
            precision,
            metric,
            f"{change.fp32:.4g}",
            f"{change.variant:.4g}",
            f"{change.variant - change.fp32:+.2g}",
        )
    if rows:
        console.print(metrics)
    for item in reports:
        for note in item.notes:
            typer.echo(f"{item.precision} of {item.component}: {note}", err=True)
    typer.echo(f"written to {bundle.path / 'bundle.yaml'} and {VARIANTS_FILE}")
