"""Backends: run a component of a bundle with torch, onnxruntime or OpenVINO on a device of the deployment."""

from __future__ import annotations

from perception_core.backends.backend import ComponentRunner
from perception_core.bundle import Bundle
from perception_core.configuration import ConfigurationError
from perception_core.deployment import Device
from perception_core.precision import why_not

__all__ = ["ComponentRunner", "available_backends", "load_component"]

_NO_TENSORRT = "no TensorRT backend in this version; use backend torch on a gpu"


def load_component(bundle: Bundle, component: str, device: Device) -> ComponentRunner:
    """Loads a component with its device's backend and warms it up.

    Call it on the thread that will run it, already pinned to the device's cores: runtimes start their
    compute threads here, and those inherit the pinning.

    Args:
        bundle: The bundle.
        component: Name of the component.
        device: Where it runs, with which backend and in which precision.

    Raises:
        ConfigurationError: The bundle does not fit, or the backend or device cannot be used here; says what
            to do.
    """
    problem = why_not(device.precision, device.backend, device.kind)
    # A precision on a kind of device that no backend runs on is refused by the backend, for that reason.
    if problem is not None and device.kind in ("cpu", "gpu"):
        raise ConfigurationError(f"component '{component}': {problem}")
    # Each runtime is imported only where it is used: one costs a second and hundreds of megabytes a process.
    if device.backend == "torch":
        from perception_core.backends.torch_backend import load_with_torch

        return load_with_torch(bundle, component, device)
    if device.backend == "torch_compile":
        from perception_core.backends.torch_backend import load_with_torch_compile

        return load_with_torch_compile(bundle, component, device)
    if device.backend == "onnxruntime":
        from perception_core.backends.onnxruntime_backend import load_with_onnxruntime

        return load_with_onnxruntime(bundle, component, device)
    if device.backend == "openvino":
        from perception_core.backends.openvino_backend import load_with_openvino

        return load_with_openvino(bundle, component, device)
    raise ConfigurationError(f"backend '{device.backend}' cannot be used: {_NO_TENSORRT}")


def available_backends() -> dict[str, tuple[bool, str]]:
    """Says for each backend whether it can be used here, and its version or the reason and remedy."""
    import torch

    from perception_core.backends.onnxruntime_backend import onnxruntime_available
    from perception_core.backends.openvino_backend import openvino_available
    from perception_core.backends.torch_backend import torch_compile_available

    return {
        "torch": (True, f"torch {torch.__version__}"),
        "torch_compile": torch_compile_available(),
        "onnxruntime": onnxruntime_available(),
        "openvino": openvino_available(),
        "tensorrt": (False, _NO_TENSORRT),
    }
