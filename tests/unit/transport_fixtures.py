"""Contexts and frames for the transport tests: a producer `net` whose consumers are placed where a test wants
them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import torch

from perception_core.bundle import Bundle, BundleSpec
from perception_core.deployment import Deployment
from perception_core.rig import LidarSensor, Rig
from perception_nodes.runtime.stack_node import ProcessContext

TENSORS = {
    "feature_bchw": {"dtype": "float32", "shape": [1, 4, "H", "W"]},
    "mask_bhw": {"dtype": "bool", "shape": [1, "H", "W"]},
    "scores_n": {"dtype": "float16", "shape": ["N"]},
}


def make_context(
    *,
    process: str,
    processes: Mapping[str, tuple[str, ...]],
    hosts: Mapping[str, str] | None = None,
    ring_size: int = 4,
    run_id: str | None = None,
    tensors: Mapping[str, Mapping[str, object]] = TENSORS,
    kinds: Mapping[str, str] | None = None,
    homes: Mapping[str, tuple[str, ...]] | None = None,
) -> ProcessContext:
    """Returns a context with the producer `net` and the consumers `near_head`, `far_head` in the given
    processes.
    """
    names = list(tensors)
    spec = BundleSpec.model_validate(
        {
            "format": 1,
            "name": "transport-test",
            "model": {"name": "none"},
            "input": {},
            "tensors": {
                **tensors,
                "near_n": {"dtype": "float32", "shape": [1]},
                "far_n": {"dtype": "float32", "shape": [1]},
            },
            "components": {
                "net": {"inputs": ["points_nc"], "outputs": names},
                "near_head": {"inputs": names, "outputs": ["near_n"]},
                "far_head": {"inputs": names[:1], "outputs": ["far_n"]},
            },
            "weights_sha256": "0" * 64,
            "training": {"trained": False, "seed": 0},
        }
    )
    components = ("net", "near_head", "far_head")
    deployment = Deployment.model_validate(
        {
            "name": "transport-test",
            "bundle": "unused",
            "devices": {
                f"device_of_{name}": {
                    "kind": (kinds or {}).get(name, "cpu"),
                    "host": (hosts or {}).get(name, "local"),
                }
                for name in components
            },
            "processes": {name: {"nodes": nodes} for name, nodes in processes.items()},
            "placement": {name: f"device_of_{name}" for name in components},
            "transport": {"ring_size": ring_size},
        }
    )
    return ProcessContext(
        deployment=deployment,
        rig=Rig(name="test", lidar=LidarSensor(topic="/points")),
        bundle=Bundle(Path("unused"), spec),
        process=process,
        processes=dict(processes),
        run_id=run_id or f"test-{secrets.token_hex(6)}",
        rig_path=Path("unused"),
        homes=homes or {},
    )


def make_frame(seed: int, height: int = 8, width: int = 6, points: int = 5) -> dict[str, torch.Tensor]:
    """Returns a frame that fits TENSORS and differs for each seed."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "feature_bchw": torch.randn(1, 4, height, width, generator=generator),
        "mask_bhw": torch.rand(1, height, width, generator=generator) > 0.5,
        "scores_n": torch.rand(points, generator=generator).half(),
    }


def assert_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Asserts that two frames hold the same tensors bit by bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name].cpu(), tensor), name
