"""Weights of bundles: one safetensors file whose tensor names start with the component they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from perception_core.bundle import Bundle
from perception_core.configuration import ConfigurationError, nearest


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_component_weights(bundle: Bundle, component: str) -> dict[str, torch.Tensor]:
    """Reads one component's tensors, named as in its network's state dict.

    Raises:
        ConfigurationError: The file cannot be read, is not the one bundle.yaml was written for, or has no
            such component.
    """
    path = bundle.path / bundle.spec.weights
    try:
        actual = sha256_of(path)
        if actual != bundle.spec.weights_sha256:
            raise ConfigurationError(
                f"{path}: SHA-256 is {actual}, but {bundle.path / 'bundle.yaml'} was written for "
                f"{bundle.spec.weights_sha256}; the file is damaged or of another bundle: "
                "fetch or export the bundle anew"
            )
        prefix = f"{component}."
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            state = {
                name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)
            }
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigurationError(
            f"{path}: weights cannot be read: {error}; the file is damaged: fetch or export the bundle anew"
        ) from error
    if not state:
        present = {name.split(".", 1)[0] for name in names}
        raise ConfigurationError(
            f"{path}: no weights of component '{component}'" + nearest(component, present)
        )
    return state


def load_component_weights(bundle: Bundle, component: str, network: nn.Module) -> None:
    """Loads a component's tensors into its network.

    Raises:
        ConfigurationError: As `read_component_weights`, or names or shapes do not fit the network.
    """
    path = bundle.path / bundle.spec.weights
    state = read_component_weights(bundle, component)
    expected = network.state_dict()
    problems = [_describe("lacks", name, state) for name in expected if name not in state]
    problems += [_describe("has unknown", name, expected) for name in state if name not in expected]
    problems += [
        f"'{name}' has shape {tuple(state[name].shape)}, the model needs {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ConfigurationError(
            f"{path}: weights of component '{component}' do not fit model '{bundle.spec.model.name}': "
            + "; ".join(problems[:3])
            + more
        )
    network.load_state_dict(state)


def _describe(what: str, name: str, valid: Iterable[str]) -> str:
    suffix = nearest(name, valid)
    return f"{what} '{name}'" + (suffix if "did you mean" in suffix else "")
