"""`mmmt export`: makes a bundle of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

export_app = typer.Typer(add_completion=False)


@export_app.command()
def export(
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an earlier bundle there is replaced.")],
    model: Annotated[str | None, typer.Argument(help="A name of `mmmt models list`.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Take network and weights from this checkpoint of `mmmt train`.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights.")] = 0,
    graphs: Annotated[
        bool, typer.Option(help="Also export ONNX graphs, for devices with backend onnxruntime or openvino.")
    ] = False,
    arguments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Argument of the model, e.g. control.enabled=true. May be repeated.",
        ),
    ] = None,
) -> None:
    """Make a bundle: of a trained checkpoint, or of a network with seeded, untrained weights."""
    from perception_core.bundle import TrainingRecord
    from perception_core.bundle_writer import create_seeded_model, write_bundle
    from perception_core.configuration import ConfigurationError

    if checkpoint is not None:
        if model is not None or arguments:
            raise ConfigurationError(
                "mmmt export --checkpoint: the network is the checkpoint's; leave out MODEL and --set"
            )
        from mmmt_cli.train import print_bundle
        from training.export.checkpoint_bundle import bundle_of_checkpoint

        print_bundle(bundle_of_checkpoint(checkpoint, out, graphs=graphs))
        return
    if model is None:
        raise ConfigurationError("mmmt export: name a network of `mmmt models list`, or give --checkpoint")
    record = TrainingRecord(
        trained=False, seed=seed, note="Untrained: seeded initial weights, for integration and latency only."
    )
    network = create_seeded_model(model, seed, **parse_arguments(arguments or []))
    bundle = write_bundle(network, model, out, record, graphs=graphs)
    size = sum(file.stat().st_size for file in bundle.path.iterdir())
    typer.echo(f"{bundle.path}: {', '.join(bundle.spec.components)}; {size / 1e6:.1f} MB")


def parse_arguments(assignments: list[str]) -> dict[str, Any]:
    """Turns ["a.b=1"] into {"a": {"b": 1}}; values are read as YAML."""
    import yaml

    from perception_core.configuration import ConfigurationError

    result: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not all(key.split(".")):
            raise ConfigurationError(f"--set {assignment}: expected KEY=VALUE, e.g. control.enabled=true")
        *groups, last = key.split(".")
        target = result
        for group in groups:
            target = target.setdefault(group, {})
            if not isinstance(target, dict):
                raise ConfigurationError(f"--set {assignment}: '{group}' was already set to a single value")
        try:
            target[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"--set {assignment}: the value is not valid YAML: {error}") from error
    return result
