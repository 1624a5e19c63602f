"""`mmmt search automtl`: which operators of a backbone tasks share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

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
    stage_bars,
)


def automtl(
    data: DataArgument,
    task: TaskOption,
    backbone: Annotated[
        str, typer.Option(help="Name of a backbone, or a prototxt file of one.")
    ] = "deeplab_resnet34",
    out: OutOption = Path("runs/automtl"),
    image: ImageOption = "128x256",
    train_part: TrainPartOption = "train",
    judged_part: JudgedPartOption = "val",
    kind: KindOption = None,
    batch: BatchOption = 8,
    seed: SeedOption = 0,
    regularization: Annotated[
        float, typer.Option("--lambda-reg", min=0.0, help="λ_reg of Eq. 3: more shares more.")
    ] = 5e-4,
    pretrain_steps: Annotated[int, typer.Option(min=0, help="Steps of pre-training.")] = 500,
    policy_steps: Annotated[int, typer.Option(min=0, help="Steps of policy-training.")] = 1000,
    posttrain_steps: Annotated[int, typer.Option(min=0, help="Steps of post-training.")] = 1000,
    learning_rate: Annotated[float, typer.Option(help="Of weights.")] = 1e-3,
    head_channels: Annotated[int, typer.Option(min=1, help="Hidden channels of heads.")] = 128,
    policy: Annotated[
        str,
        typer.Option(
            help="learned, random (Fig. 2), shared (the Multi-Task baseline) or specific (Single-Task); the "
            "latter three skip the search."
        ),
    ] = "learned",
    depth_loss: Annotated[str, typer.Option(help="l1 or jared.")] = "l1",
    device: Annotated[str, typer.Option(help="Of torch: cpu, cuda …")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of a table.")] = False,
) -> None:
    """Search what tasks share, copy or skip of a backbone, and train the network that is found (AutoMTL).

    Writes policy.json, policy.png, network.safetensors and results.json into --out.
    """
    import torch
    from safetensors.torch import save_file

    from perception_core.configuration import ConfigurationError, nearest
    from training.evaluation.result import write_json
    from training.search import automtl as method
    from training.search.automtl.picture import draw_policy
    from training.search.backbones import create_backbone
    from training.search.data import FolderSources
    from training.search.records import NetworkRecord, metrics_of, write_records
    from training.search.tasks.network import evaluate, parameter_count

    policies = ("learned", "random", "shared", "specific")
    if policy not in policies:
        raise ConfigurationError(f"--policy: unknown '{policy}'" + nearest(policy, policies))
    if depth_loss not in ("l1", "jared"):
        raise ConfigurationError(
            f"--depth-loss: unknown '{depth_loss}'" + nearest(depth_loss, ("l1", "jared"))
        )
    sources = FolderSources(data, tuple(task), image_size(image), train_part, judged_part, batch, seed, kind)
    tasks = sources.dense_tasks("jared" if depth_loss == "jared" else "l1")
    train, judged = sources()
    torch.manual_seed(seed)
    network = method.read_prototxt(backbone) if backbone.endswith(".prototxt") else create_backbone(backbone)
    supermodel = method.compile(network.train(), tasks).to(device)
    config = method.SearchConfig(
        pretrain_steps=pretrain_steps if policy == "learned" else 0,
        policy_steps=policy_steps if policy == "learned" else 0,
        posttrain_steps=posttrain_steps,
        learning_rate=learning_rate,
        regularization=regularization,
        head_channels=head_channels,
        seed=seed,
    )
    with stage_bars() as progress:
        found = method.search(supermodel, tasks, train, config, out, progress=progress)
        chosen = {
            "learned": lambda: method.sample(supermodel, seed),
            "random": lambda: method.Policy.random(supermodel.tasks, supermodel.operators, seed),
            "shared": supermodel.all_shared,
            "specific": supermodel.all_specific,
        }[policy]()
        write_json(out / "policy.json", chosen.to_json())
        draw_policy(chosen, supermodel.probabilities_tl3(), out / "policy.png")
        result = method.build(found, chosen, seed)
        last = method.posttrain(result, tasks, train, config, out, progress)
    metrics = metrics_of(evaluate(result, judged.all_batches(), tasks))
    weights = {name: tensor.contiguous() for name, tensor in result.state_dict().items()}
    save_file(weights, out / "network.safetensors")
    record = NetworkRecord(
        f"automtl {policy} {backbone}",
        seed,
        parameter_count(result.backbone),
        parameter_count(result.heads),
        metrics,
        stages=(*found.stages, last),
        details={
            "lambda_reg": regularization,
            "option_shares": method.option_shares(chosen),
            "backbone_parameters": supermodel.parameter_count(supermodel.all_shared()),
        },
    )
    about = {"data": str(data), "image": image, "tasks": list(task), "backbone": backbone}
    write_records(out / "results.json", [record], about)
    if as_json:
        typer.echo(json.dumps(json.loads((out / "results.json").read_text(encoding="utf-8"))))
        return
    print_metrics(f"{record.name}: {record.parameters:,} parameters of the backbone", metrics)
    typer.echo(f"{out}: policy.json, policy.png, network.safetensors, results.json")
