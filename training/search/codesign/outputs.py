"""What a co-search leaves: a bundle of the network picked, and a deployment that `mmmt launch` runs."""

from __future__ import annotations

from pathlib import Path

from perception_core.bundle import Bundle, TrainingRecord
from perception_core.configuration import ConfigurationError, nearest
from perception_core.deployment import ResolvedDeployment
from perception_core.deployment_for_bundle import load_for_bundle
from perception_core.deployment_writer import write_deployment
from training.search.codesign.space import ArchitectureSpace
from training.search.codesign.study import Candidate


def write_picked_bundle(
    space: ArchitectureSpace, picked: Candidate, path: Path, seed: int = 0, graphs: bool = False
) -> Bundle:
    """Writes the bundle of a network with seeded, untrained weights: what training then begins from.

    Raises:
        ConfigurationError: Graphs are asked for and the packages for them are missing.
    """
    from perception_core.bundle_writer import create_seeded_model, write_bundle

    model = create_seeded_model(space.model, seed, **space.arguments_of(picked.architecture))
    choices = ", ".join(f"{name} {option}" for name, option in space.names_of(picked.architecture).items())
    record = TrainingRecord(
        trained=False,
        seed=seed,
        note=f"Untrained: found by co-search ({choices}); for integration and latency only.",
    )
    return write_bundle(model, space.model, path, record, graphs=graphs)


def write_picked_deployment(
    template: str | Path, picked: Candidate, bundle: Path, path: Path, study: Path
) -> ResolvedDeployment:
    """Writes a deployment of the network picked, on its placement.

    Args:
        template: Deployment to begin from; its devices are those of the platform that was searched.
        picked: From the study.
        bundle: The picked network's bundle.
        path: File to write.
        study: The study's record, named in the file's head.

    Raises:
        ConfigurationError: The placement names a device that the template does not have, or it does not fit.
    """
    resolved, notes = load_for_bundle(template, (), bundle)
    components = resolved.bundle.spec.components
    placement = {name: device for name, device in picked.placement.items() if name in components}
    for name, device in placement.items():
        if device not in resolved.deployment.devices:
            raise ConfigurationError(
                f"{name} was placed on '{device}', which deployment '{resolved.deployment.name}' does not "
                "have; take a deployment of the platform that was searched"
                + nearest(device, resolved.deployment.devices)
            )
    comments = [
        f"Found by co-search of network and placement, study {study}.",
        f"Loss_sw {picked.loss_sw:.4f} ({'trained' if picked.measured else 'fitted'}).",
        f"Predicted: longest path {picked.longest_path_ms:.1f} ms, power {picked.power_w:.1f} W.",
        *notes,
    ]
    return write_deployment(resolved, placement, path, comments=comments)
