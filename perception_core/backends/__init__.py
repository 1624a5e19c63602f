"""Backends: run a component of a bundle with torch, onnxruntime or openvino on a device of the deployment."""

from __future__ import annotations

from perception_core.backends.backend import ComponentRunner
from perception_core.bundle import Bundle
from perception_core.configuration import ConfigurationError
from perception_core.deployment import Device

__all__ = ["ComponentRunner", "available_backends", "load_component"]


def load_component(bundle: Bundle, component: str, device: Device) -> ComponentRunner:
    """Loads a component with its device's backend and warms it up.

    Call it on the thread that will run it, already pinned to the device's cores: runtimes start their compute threads
    here, and those inherit the pinning.

    Args:
        bundle: The bundle.
        component: Name of the component.
        device: Where it runs and with which backend.

    Raises:
        ConfigurationError: The bundle does not fit, or the backend or device cannot be used here; says what to do.
    """
    if device.backend == "torch":
        from perception_core.backends.torch_backend import load_with_torch

        return load_with_torch(bundle, component, device)
    if device.backend == "torch_compile":
        from perception_core.backends.torch_backend import load_with_torch_compile

        return load_with_torch_compile(bundle, component, device)
    raise ConfigurationError(f"backend '{device.backend}' cannot be used: {available_backends()[device.backend][1]}")


def available_backends() -> dict[str, tuple[bool, str]]:
    """Says for each backend whether it can be used here, and a version or the reason and remedy."""
    import torch

    from perception_core.backends.torch_backend import torch_compile_available

    return {
        "torch": (True, f"torch {torch.__version__}"),
        "torch_compile": torch_compile_available(),
    }
