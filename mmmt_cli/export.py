"""`mmmt export`: makes a bundle of a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmmt_cli.export_variants import VariantOptions, copy_bundle, export_variants

if TYPE_CHECKING:
    from perception_core.bundle import Bundle

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
    bundle: Annotated[
        Path | None, typer.Option(help="Take this bundle as it is, to add variants to a copy of it.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="Add this precision of the components: int8, bf16 or fp16. May be repeated."),
    ] = None,
    component: Annotated[
        list[str] | None,
        typer.Option(help="Only this component gets variants. May be repeated. Default: all."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data set to calibrate int8 and to judge variants on; default: example frames, whose images "
            "are noise, and no judgement."
        ),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Kind of the data set; default: by its files.")] = None,
    version: Annotated[str | None, typer.Option(help="Tables' folder, e.g. v1.0-mini.")] = None,
    calibration_split: Annotated[
        str | None, typer.Option(help="Split that int8 is calibrated on; default: the one for training.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split that variants are judged on; default: the one for validation.")
    ] = None,
    calibration_frames: Annotated[int, typer.Option(min=1, help="Frames that int8 is calibrated on.")] = 32,
    judge: Annotated[
        bool,
        typer.Option(help="Evaluate the tasks on --data with and without each variant: one pass for each."),
    ] = True,
) -> None:
    """Make a bundle: of a trained checkpoint, of a network with seeded, untrained weights, or of another
    bundle; with variants of its components in other precisions where asked for.
    """
    from perception_core.bundle import TrainingRecord
    from perception_core.bundle_writer import create_seeded_model, write_bundle
    from perception_core.configuration import ConfigurationError

    def with_variants(made: Bundle) -> None:
        if variant:
            export_variants(made, options)

    options = VariantOptions(
        precisions=tuple(dict.fromkeys(variant or ())),
        components=tuple(dict.fromkeys(component or ())),
        data=data,
        kind=kind,
        version=version,
        calibration_split=calibration_split,
        split=split,
        frames=calibration_frames,
        judge=judge,
    )
    _refuse_contradictions(options, graphs, bundle, model, checkpoint, arguments)
    if bundle is not None:
        with_variants(copy_bundle(bundle, out))
        return
    if checkpoint is not None:
        if model is not None or arguments:
            raise ConfigurationError(
                "mmmt export --checkpoint: the network is the checkpoint's; leave out MODEL and --set"
            )
        from mmmt_cli.train import print_bundle
        from training.export.checkpoint_bundle import bundle_of_checkpoint

        exported = bundle_of_checkpoint(checkpoint, out, graphs=graphs)
        print_bundle(exported)
        with_variants(exported.bundle)
        return
    if model is None:
        raise ConfigurationError("mmmt export: name a network of `mmmt models list`, or give --checkpoint")
    record = TrainingRecord(
        trained=False, seed=seed, note="Untrained: seeded initial weights, for integration and latency only."
    )
    network = create_seeded_model(model, seed, **parse_arguments(arguments or []))
    written = write_bundle(network, model, out, record, graphs=graphs)
    size = sum(file.stat().st_size for file in written.path.iterdir())
    typer.echo(f"{written.path}: {', '.join(written.spec.components)}; {size / 1e6:.1f} MB")
    with_variants(written)


def _refuse_contradictions(
    options: VariantOptions,
    graphs: bool,
    bundle: Path | None,
    model: str | None,
    checkpoint: Path | None,
    arguments: list[str] | None,
) -> None:
    """Refuses options that cannot go together, before anything is written."""
    from perception_core.configuration import ConfigurationError, nearest
    from perception_core.precision import REDUCED_PRECISIONS

    for precision in options.precisions:
        if precision not in REDUCED_PRECISIONS:
            raise ConfigurationError(
                f"mmmt export --variant {precision}: no such precision"
                + nearest(precision, REDUCED_PRECISIONS)
            )
    if bundle is not None:
        if model is not None or checkpoint is not None or arguments or graphs:
            raise ConfigurationError(
                "mmmt export --bundle: network, weights and graphs are the bundle's; leave out MODEL, "
                "--checkpoint, --graphs and --set"
            )
        if not options.precisions:
            raise ConfigurationError("mmmt export --bundle: name what to add, e.g. --variant int8")
    elif "int8" in options.precisions and not graphs:
        raise ConfigurationError("mmmt export --variant int8: it is made of the graphs; add --graphs")
    if not options.precisions and (options.data is not None or options.components):
        raise ConfigurationError("mmmt export: --data and --component are for variants; add --variant")


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
