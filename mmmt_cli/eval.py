"""`mmmt eval`: evaluate bundles and predictions with the official tools; a table, JSON and pictures."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmmt_cli.data import progress_bar
from perception_core.configuration import ConfigurationError, nearest

if TYPE_CHECKING:
    import torch

    from perception_core.bundle import Bundle, ComponentSpec
    from training.datasets.sample import Sample
    from training.evaluation.bundle_evaluation import Watch
    from training.evaluation.result import Result

eval_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Evaluate bundles and predictions with the official tools.",
)

#: Written into the folder of every evaluation.
RESULTS_FILE = "results.json"

OutOption = Annotated[Path, typer.Option("--out", help="Folder for results.json and pictures.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print results.json instead of a table.")]


@contextlib.contextmanager
def _said_plainly() -> Iterator[None]:
    """Turns errors of data and evaluation into the command's one message."""
    from training.datasets.files import DataError
    from training.evaluation.result import EvaluationError

    try:
        yield
    except (DataError, EvaluationError) as error:
        raise ConfigurationError(str(error)) from error


@eval_app.command("bundle")
def bundle_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    out: OutOption = Path("evaluation"),
    split: Annotated[
        str, typer.Option(help="Split of the data set; `all` for every scene of one in nuScenes' format.")
    ] = "val",
    task: Annotated[
        list[str] | None, typer.Option(help="Evaluate this task only; may be repeated. Default: all heads.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Kind of the data set; default: by its files.")] = None,
    version: Annotated[str | None, typer.Option(help="Tables' folder, e.g. v1.0-mini.")] = None,
    sweeps: Annotated[int, typer.Option(min=1, help="LiDAR sweeps a frame; the vehicle gives one.")] = 1,
    backend: Annotated[str, typer.Option(help="How components run, e.g. onnxruntime.")] = "torch",
    gpu: Annotated[bool, typer.Option("--gpu", help="Run on the first GPU.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read samples.")] = 0,
    pictures: Annotated[int, typer.Option(min=0, help="Frames drawn from above.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Run a bundle over a data set and judge every task that both have."""
    from perception_core.bundle import Bundle
    from training.evaluation.bundle_evaluation import DataChoice, evaluate_bundle
    from training.evaluation.bundle_outputs import evaluation_device

    opened = Bundle.open(bundle)
    with _said_plainly():
        choice = DataChoice(data, kind, split, version, sweeps)
        with progress_bar(f"Evaluating {opened.spec.name}") as progress:
            evaluation = evaluate_bundle(
                opened,
                choice,
                evaluation_device("gpu" if gpu else "cpu", backend),
                task or None,
                workers=workers,
                progress=progress,
                watch=_artist(opened, out, pictures) if pictures else None,
            )
        about = {
            "bundle": str(bundle),
            "weights_sha256": opened.spec.weights_sha256,
            "data": str(data),
            "split": split,
            "samples": evaluation.samples,
            "skipped": evaluation.skipped,
        }
        _report(evaluation.results, out, about, as_json)
    for name, why in evaluation.skipped.items():
        typer.echo(f"not evaluated: {name}: {why}", err=True)


def _artist(bundle: Bundle, out: Path, pictures: int) -> Watch:
    """Draws a few frames from above, spread over the data set."""
    from training.evaluation.bundle_outputs import read_boxes
    from training.evaluation.plots import plot_frame_from_above

    heads = bundle.task_heads()

    def outputs_of(task: str, outputs: dict[str, torch.Tensor]) -> ComponentSpec | None:
        spec = bundle.spec.components[heads[task]] if task in heads else None
        return spec if spec is not None and spec.outputs[0] in outputs else None

    def draw(index: int, count: int, sample: Sample, outputs: dict[str, torch.Tensor]) -> None:
        chosen = {round(number * (count - 1) / max(pictures - 1, 1)) for number in range(pictures)}
        if index not in chosen or not (sample.lidar_valid or sample.boxes or sample.map_masks):
            return
        boxes = probability = None
        layers: tuple[str, ...] = ()
        if (spec := outputs_of("detection3d", outputs)) is not None:
            boxes = read_boxes(spec, bundle.spec.labels["detection3d"], outputs)
        if (spec := outputs_of("map_segmentation", outputs)) is not None and sample.map_masks is not None:
            probability = outputs[spec.outputs[0]].numpy()
            layers = bundle.spec.labels["map_segmentation"]
        plot_frame_from_above(out / "frames" / f"{index:05d}.png", sample, boxes, probability, layers)

    return draw


@eval_app.command("submission")
def submission_command(
    submission: Annotated[Path, typer.Argument(help="Submission file of nuScenes' detection task (JSON).")],
    data: Annotated[Path, typer.Argument(help="Folder of the data set in nuScenes' format.")],
    out: OutOption = Path("evaluation"),
    split: Annotated[str, typer.Option(help="Split by name, or `all`.")] = "val",
    version: Annotated[str | None, typer.Option(help="Tables' folder, e.g. v1.0-mini.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge 3D boxes by nuScenes' devkit: mAP, true-positive errors and NDS."""
    from training.evaluation.nuscenes_detection import evaluate_submission
    from training.evaluation.nuscenes_split import open_nuscenes
    from training.evaluation.nuscenes_submission import Submission

    with _said_plainly():
        boxes = Submission.read(submission)
        result = evaluate_submission(open_nuscenes(data, version), boxes, split)
        about = {"submission": str(submission), "data": str(data), "split": split}
        _report({result.task: result}, out, about, as_json)
    empty = [name for name, count in result.truth_boxes.items() if not count]
    if empty:
        typer.echo(f"no truth in this split, so AP 0 whatever was predicted: {', '.join(empty)}", err=True)


@eval_app.command("ground-truth")
def ground_truth_command(
    data: Annotated[Path, typer.Argument(help="Folder of the data set in nuScenes' format.")],
    submission: Annotated[Path, typer.Argument(help="Submission file to write.")],
    split: Annotated[str, typer.Option(help="Split by name, or `all`.")] = "val",
    version: Annotated[str | None, typer.Option(help="Tables' folder, e.g. v1.0-mini.")] = None,
) -> None:
    """Write the annotations of a split as a perfect submission, to check a data set and the evaluation."""
    from training.evaluation.nuscenes_detection import class_coverage
    from training.evaluation.nuscenes_split import open_nuscenes, split_samples
    from training.evaluation.nuscenes_submission import ground_truth_submission

    with _said_plainly():
        tables = open_nuscenes(data, version)
        ground_truth_submission(tables, split_samples(tables, split)).write(submission)
        for name, count in class_coverage(tables, split).items():
            typer.echo(
                f"{name}: {count} boxes that are evaluated" if count else f"{name}: none, so its AP is 0"
            )


@eval_app.command("cityscapes-3d")
def cityscapes_3d_command(
    predictions: Annotated[Path, typer.Argument(help="Folder with one JSON file an image.")],
    truth: Annotated[Path, typer.Argument(help="Folder with *_gtBbox3d.json, e.g. gtBbox3d/val.")],
    out: OutOption = Path("evaluation"),
    as_json: JsonOption = False,
) -> None:
    """Judge 3D boxes by Cityscapes' scripts: the Detection Score."""
    from training.evaluation.cityscapes3d_detection import evaluate_folder

    with _said_plainly():
        result = evaluate_folder(truth, predictions)
        _report({result.task: result}, out, {"predictions": str(predictions), "truth": str(truth)}, as_json)


@eval_app.command("dense")
def dense_command(
    task: Annotated[str, typer.Argument(help="semantic_segmentation, depth, normals, edges or keypoints.")],
    predictions: Annotated[Path, typer.Argument(help="Folder of .png or .npy files.")],
    truth: Annotated[Path, typer.Argument(help="Folder of files with the same names.")],
    out: OutOption = Path("evaluation"),
    classes: Annotated[
        str,
        typer.Option(help="Class names of segmentation in the order of their numbers, with commas between."),
    ] = "",
    ignored: Annotated[int, typer.Option(help="Class number in the truth that does not count.")] = 255,
    scale: Annotated[float, typer.Option(help="Steps of 16-bit depth images a metre.")] = 256.0,
    as_json: JsonOption = False,
) -> None:
    """Judge folders of images: segmentation, depth, normals, edges, keypoints."""
    from training.evaluation.dense_folders import evaluate_folders

    names = [name.strip() for name in classes.split(",") if name.strip()]
    with _said_plainly(), progress_bar(f"Evaluating {task}") as progress:
        result = evaluate_folders(
            task, predictions, truth, class_names=names, ignored=ignored, scale=scale, progress=progress
        )
    with _said_plainly():
        _report({task: result}, out, {"predictions": str(predictions), "truth": str(truth)}, as_json)


@eval_app.command("relative")
def relative_command(
    model: Annotated[Path, typer.Argument(help="results.json of the multi-task model.")],
    baselines: Annotated[
        list[Path], typer.Argument(help="results.json of the baselines, one or one a task.")
    ],
    measure: Annotated[str, typer.Option(help="fuller, tag, automtl or ednas.")] = "automtl",
    metric: Annotated[
        list[str] | None,
        typer.Option(help="task.metric to compare, e.g. depth.rmse; may be repeated. Default: the papers'."),
    ] = None,
) -> None:
    """Compare a model with its baselines by the measure of one of the papers."""
    from training.evaluation import relative

    measures = {
        "fuller": relative.fuller_delta_mtl,
        "tag": relative.tag_delta_t,
        "automtl": relative.automtl_delta_t,
        "ednas": relative.ednas_delta_t,
    }
    if measure not in measures:
        raise ConfigurationError(f"no measure '{measure}'" + nearest(measure, measures))
    measured, reference = _read_results(model), {}
    for baseline in baselines:
        for task, values in _read_results(baseline).items():
            if task in reference:
                raise ConfigurationError(f"{baseline}: task '{task}' is in another baseline already")
            reference[task] = values
    with _said_plainly():
        ours, theirs = relative.comparable(measured, reference, measure, metric)
        result = measures[measure](ours, theirs)
    _print_relative(result, ours, theirs)


def _read_results(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["results"]
        return {str(task): dict(values) for task, values in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path}: is no {RESULTS_FILE} of mmmt eval: {error}") from error


def _print_relative(result: Any, ours: Any, theirs: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="positive: better than the baseline")
    for column in ("task", "metric", "model", "baseline", "gain"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for task, gains in result.per_metric.items():
        for name, gain in gains.items():
            table.add_row(
                task, name, f"{ours[task][name]:.4g}", f"{theirs[task][name]:.4g}", f"{gain:+.2f} %"
            )
        table.add_row(task, "mean", "", "", f"{result.per_task[task]:+.2f} %", end_section=True)
    Console().print(table)
    metric = result.metrics["delta"]
    better = "higher" if metric.higher_is_better else "lower"
    typer.echo(f"{metric.title} {result.delta:+.2f} % ({better} is better)")
    typer.echo(f"mean over tasks {result.mean_over_tasks:+.2f} %")


def _report(results: Mapping[str, Result], out: Path, about: Mapping[str, Any], as_json: bool) -> None:
    """Writes results.json and pictures, prints the table or the JSON."""
    from training.evaluation.plots import plot_result
    from training.evaluation.result import write_json

    try:
        write_json(out / RESULTS_FILE, {"about": about, "results": results})
        for result in results.values():
            plot_result(result, out)
    except OSError as error:
        raise ConfigurationError(f"{out}: cannot be written: {error}") from error
    if as_json:
        typer.echo((out / RESULTS_FILE).read_text(encoding="utf-8"), nl=False)
        return
    from rich.console import Console

    console = Console()
    for result in results.values():
        console.print(_table(result))
        for table in _class_tables(result):
            console.print(table)
    typer.echo(f"written to {out}")


def _number(value: float, unit: str) -> str:
    if value != value:  # NaN
        return "–"
    return f"{100 * value:.2f} %" if unit == "%" else f"{value:.4g}{unit and ' '}{unit}"


def _table(result: Result) -> Any:
    from rich.table import Table

    table = Table(title=result.task.replace("_", " "))
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("better")
    for name, value in result.scalars().items():
        metric = result.metrics[name]
        table.add_row(
            metric.title, _number(value, metric.unit), "higher" if metric.higher_is_better else "lower"
        )
    return table


def _class_tables(result: Result) -> Iterator[Any]:
    """Tables by class, for the kinds of results that have classes."""
    from rich.table import Table

    from training.evaluation.bev_maps import BevMapResult
    from training.evaluation.cityscapes3d_detection import Cityscapes3dResult
    from training.evaluation.nuscenes_detection import NuscenesDetectionResult
    from training.evaluation.semantic import SegmentationResult

    columns: dict[str, Mapping[str, Any]] = {}
    if isinstance(result, NuscenesDetectionResult):
        columns = {"AP": result.class_ap, "boxes in the truth": result.truth_boxes}
        for name, title in (
            ("trans_err", "ATE m"),
            ("scale_err", "ASE"),
            ("orient_err", "AOE rad"),
            ("vel_err", "AVE m/s"),
            ("attr_err", "AAE"),
        ):
            columns[title] = {label: errors[name] for label, errors in result.class_errors.items()}
    elif isinstance(result, Cityscapes3dResult):
        columns = {"Detection Score": result.class_scores, "boxes in the truth": result.truth_boxes}
    elif isinstance(result, BevMapResult):
        columns = {"IoU": result.class_iou, "best threshold": result.best_threshold}
    elif isinstance(result, SegmentationResult):
        columns = {"IoU": result.class_iou}
    if not columns:
        return
    table = Table("class", *columns)
    table.columns[0].no_wrap = True
    shares = {"AP", "IoU", "Detection Score"}
    for label in next(iter(columns.values())):
        cells = []
        for title, values in columns.items():
            value = values[label]
            cells.append(
                str(value) if isinstance(value, int) else _number(value, "%" if title in shares else "")
            )
        table.add_row(label.replace("_", " "), *cells)
    yield table
