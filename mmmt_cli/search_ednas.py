"""`mmmt search ednas`, `edge-train` and `architectures`: which layers tasks share, for a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmmt_cli.search_options import (
    BatchOption,
    DataArgument,
    ImageOption,
    JudgedPartOption,
    KindOption,
    OutOption,
    SeedOption,
    TaskOption,
    TrainPartOption,
    image_size,
    print_metrics,
)

if TYPE_CHECKING:
    from perception_core.models.edge import EdgeArchitecture
    from perception_core.platform.latency import LatencyModel

DeviceOption = Annotated[
    str,
    typer.Option(
        "--for",
        help="What latency is of: a preset of an accelerator (edge-tpu-like, balanced-npu, "
        "memory-bound-npu), `measured:BACKEND` (torch, onnxruntime, openvino on this machine), or a fitted "
        "model's JSON file.",
    ),
]
TableOption = Annotated[Path, typer.Option(help="File that keeps measured operators.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads of a measured backend.")]
DepthLossOption = Annotated[str, typer.Option(help="l1 or jared.")]
StepsOption = Annotated[int, typer.Option(min=1, help="Training steps.")]
RateOption = Annotated[float, typer.Option(help="3e-4 as the paper's baselines, 1e-2 as its stronger ones.")]
TorchDeviceOption = Annotated[str, typer.Option("--device", help="Of torch: cpu, cuda …")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]

DEFAULT_TABLE = Path("runs/operators.json")


def latency_model(device: str, table: Path = DEFAULT_TABLE, threads: int = 1) -> LatencyModel:
    """Returns the latency model an option names.

    Raises:
        ConfigurationError: There is none of that name.
    """
    from perception_core.platform.latency import MeasuredLatency, OperatorTable, RegressionLatency
    from perception_core.platform.latency.accelerator import analytic_latency
    from perception_core.platform.latency.runners import operator_runner

    if device.startswith("measured:"):
        return MeasuredLatency(
            OperatorTable(table), operator_runner(device.removeprefix("measured:"), threads)
        )
    if device.endswith(".json"):
        return RegressionLatency.load(device)
    return analytic_latency(device)


def ednas(
    data: DataArgument,
    task: TaskOption,
    target_ms: Annotated[float, typer.Option(min=0.0, help="Latency target l_h.")],
    device: DeviceOption = "edge-tpu-like",
    out: OutOption = Path("runs/ednas"),
    image: ImageOption = "128x256",
    train_part: TrainPartOption = "train",
    judged_part: JudgedPartOption = "val",
    kind: KindOption = None,
    batch: BatchOption = 8,
    trials: Annotated[int, typer.Option(min=1, help="Architectures to try.")] = 100,
    controller: Annotated[
        str, typer.Option(help="evolution, random, hill_climbing or policy_gradient.")
    ] = "evolution",
    seed: SeedOption = 0,
    population: Annotated[int, typer.Option(min=2, help="Of evolution.")] = 20,
    tournament: Annotated[int, typer.Option(min=2, help="Of evolution.")] = 5,
    parallel: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    workers: Annotated[str, typer.Option(help="inline, processes or ray.")] = "inline",
    steps: StepsOption = 150,
    checks: Annotated[
        int, typer.Option(min=1, help="Evaluations of a trial; at each it may be stopped.")
    ] = 3,
    early_stop: Annotated[bool, typer.Option(help="Stop trials that lag behind.")] = True,
    learning_rate: RateOption = 1e-2,
    depth_loss: DepthLossOption = "jared",
    table: TableOption = DEFAULT_TABLE,
    threads: ThreadsOption = 1,
    torch_device: TorchDeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Search the layers of an edge network for several tasks and a device (EDNAS).

    Writes study.jsonl, into which every finished trial goes at once, and best.json into --out.
    """
    from rich.console import Console

    from perception_core.configuration import ConfigurationError, nearest
    from training.evaluation.result import write_json
    from training.search.data import FolderSources
    from training.search.ednas.network_operators import NetworkForm, latency_ms
    from training.search.ednas.objective import Objective
    from training.search.ednas.proxy import EdgeTrainingConfig, TrainingProxy
    from training.search.ednas.reach import require_reachable
    from training.search.ednas.store import Trial
    from training.search.ednas.study import StudyConfig, run_study

    if workers not in ("inline", "processes", "ray"):
        raise ConfigurationError(
            f"--workers: unknown '{workers}'" + nearest(workers, ("inline", "processes", "ray"))
        )
    size = image_size(image)
    model = latency_model(device, table, threads)
    sources = FolderSources(data, tuple(task), size, train_part, judged_part, batch, seed, kind)
    tasks = sources.dense_tasks(_depth_loss(depth_loss))
    form = NetworkForm.of({t.name: t.channels for t in tasks}, size)
    require_reachable(lambda architecture: latency_ms(architecture, form, model), target_ms)
    objective = Objective.of_tasks(tasks, target_ms)
    training = EdgeTrainingConfig(steps=steps, checks=checks, learning_rate=learning_rate)
    proxy = TrainingProxy(sources, tasks, form, model, objective, training, torch_device)
    config = StudyConfig(
        trials=trials,
        controller=controller,
        seed=seed,
        population=population,
        tournament=tournament,
        parallel=parallel,
        stop_early=early_stop,
    )
    console = Console(stderr=True)

    def progress(trial: Trial, total: int) -> None:
        outcome = trial.outcome
        end = outcome.failure or ("stopped early" if outcome.stopped_early else f"{outcome.seconds:.1f} s")
        console.print(
            f"trial {trial.id + 1}/{total}: reward {trial.reward:.4f}, Acc {trial.accuracy:.4f}, "
            f"{outcome.latency_ms:.2f} ms, {end}"
        )

    about = {
        "data": str(data),
        "tasks": list(task),
        "image": image,
        "batch": batch,
        "latency": model.name,
        "training": training.model_dump(mode="json"),
        "depth_loss": depth_loss,
    }
    kind_of_workers: Any = workers
    result = run_study(
        proxy, objective, config, out / "study.jsonl", about=about, workers=kind_of_workers, progress=progress
    )
    best = result.best
    content = {
        **about,
        "trial": best.id,
        "reward": best.reward,
        "accuracy": best.accuracy,
        "latency_ms": best.outcome.latency_ms,
        "meets_target": best.outcome.latency_ms <= target_ms,
        "parameters": best.outcome.parameters,
        "fused_blocks": result.best_architecture.fused_blocks(),
        "metrics": best.outcome.metrics,
        "architecture": result.best_architecture.to_json(),
        "pareto_front": [
            {"trial": t.id, "latency_ms": t.outcome.latency_ms, "accuracy": t.accuracy}
            for t in result.pareto_front()
        ],
    }
    write_json(out / "best.json", content)
    if as_json:
        typer.echo(json.dumps(content))
        return
    print_metrics(
        f"best: trial {best.id}, {best.outcome.latency_ms:.2f} ms, {best.outcome.parameters:,} parameters",
        best.outcome.metrics,
    )
    typer.echo(f"{out}: study.jsonl, best.json")


def edge_train(
    data: DataArgument,
    architecture: Annotated[
        str, typer.Argument(help="edge-base, ednas, ednas-depth, or best.json of a search.")
    ],
    task: TaskOption,
    device: DeviceOption = "edge-tpu-like",
    out: OutOption = Path("runs/edge-train"),
    image: ImageOption = "128x256",
    train_part: TrainPartOption = "train",
    judged_part: JudgedPartOption = "val",
    kind: KindOption = None,
    batch: BatchOption = 8,
    seed: SeedOption = 0,
    steps: StepsOption = 3000,
    learning_rate: RateOption = 1e-2,
    depth_loss: DepthLossOption = "jared",
    table: TableOption = DEFAULT_TABLE,
    threads: ThreadsOption = 1,
    torch_device: TorchDeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Train one architecture fully: what a search found, a table of the paper, or one found for other tasks.

    Writes network.safetensors and results.json into --out.
    """
    from safetensors.torch import save_file

    from training.search.data import FolderSources
    from training.search.ednas.network_operators import NetworkForm, latency_ms
    from training.search.ednas.objective import Objective
    from training.search.ednas.proxy import EdgeTrainingConfig, train_architecture
    from training.search.records import NetworkRecord, write_records
    from training.search.tasks.network import parameter_count

    size = image_size(image)
    chosen = _read_architecture(architecture)
    model = latency_model(device, table, threads)
    sources = FolderSources(data, tuple(task), size, train_part, judged_part, batch, seed, kind)
    tasks = sources.dense_tasks(_depth_loss(depth_loss))
    form = NetworkForm.of({t.name: t.channels for t in tasks}, size)
    config = EdgeTrainingConfig(steps=steps, checks=1, learning_rate=learning_rate)
    objective = Objective.of_tasks(tasks, 1.0)
    trained = train_architecture(
        chosen, form, tasks, sources(), objective.accuracy, config, seed, device=torch_device
    )
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in trained.network.state_dict().items()}
    save_file(weights, out / "network.safetensors")
    record = NetworkRecord(
        architecture,
        seed,
        parameter_count(trained.network.get_submodule("backbone")),
        parameter_count(trained.network.get_submodule("heads")),
        trained.metrics,
        latency_ms(chosen, form, model),
        details={
            "architecture": chosen.to_json(),
            "latency": model.name,
            "accuracy": trained.accuracy_curve[-1],
        },
    )
    about = {"data": str(data), "image": image, "tasks": list(task), "steps": steps, "depth_loss": depth_loss}
    write_records(out / "results.json", [record], about)
    if as_json:
        typer.echo(json.dumps(json.loads((out / "results.json").read_text(encoding="utf-8"))))
        return
    print_metrics(f"{architecture}: {record.latency_ms:.2f} ms on {model.name}", trained.metrics)


def architectures(
    device: DeviceOption = "edge-tpu-like",
    image: ImageOption = "256x256",
    table: TableOption = DEFAULT_TABLE,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Show the paper's architectures: parameters and operations as counted here and as the paper has them."""
    from training.search.ednas.named import describe_named

    rows = describe_named(latency_model(device, table, threads), image_size(image))
    if as_json:
        typer.echo(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"Segmentation (19 classes) and depth at {image}; latency: {device}")
    for title in ("architecture", "parameters", "paper", "multiply-adds", "paper's FLOP", "ms", "speed"):
        shown.add_column(title, justify="left" if title == "architecture" else "right")
    for row in rows:
        shown.add_row(
            row["name"],
            f"{row['parameters'] / 1e6:.2f} M",
            "" if row["paper_parameters_m"] is None else f"{row['paper_parameters_m']} M",
            f"{row['multiply_adds'] / 1e9:.2f} G",
            "" if row["paper_gflop"] is None else f"{row['paper_gflop']} G",
            f"{row['latency_ms']:.2f}",
            f"×{row['speed']:.2f}",
        )
    Console().print(shown)


def _depth_loss(name: str) -> Any:
    from perception_core.configuration import ConfigurationError, nearest

    if name not in ("l1", "jared"):
        raise ConfigurationError(f"--depth-loss: unknown '{name}'" + nearest(name, ("l1", "jared")))
    return name


def _read_architecture(name: str) -> EdgeArchitecture:
    from perception_core.configuration import ConfigurationError
    from perception_core.models.edge.architecture import EdgeArchitecture, named_architecture

    if not name.endswith(".json"):
        return named_architecture(name)
    try:
        rows = json.loads(Path(name).read_text(encoding="utf-8"))["architecture"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{name}: holds no architecture: {error}") from error
    return EdgeArchitecture.from_json(rows)
