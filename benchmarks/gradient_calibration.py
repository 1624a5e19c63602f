"""Trains a FULLER network on invented frames and asks what gradient calibration adds to a step.

    forward ─► losses of T tasks ─► T gradients at the shared layer ─► weights ─► backward ─► gates ─► step

In milliseconds, medians over steps: `plain` sums the losses and measures nothing; `calibrated` is FULLER's
Algorithm 1 (IMTL-G between tasks, gates between modalities). The two take turns on the same network, so that
other load on the machine meets both. Memory is the peak of a process of its own for each, in MiB.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from types import SimpleNamespace
from typing import Annotated, Any

import typer

NAME = "gradient_calibration"


def run(
    model: Annotated[str, typer.Option(help="A FULLER network of `mmmt models list`.")] = "fuller_micro",
    tasks: Annotated[int, typer.Option(help="2: detection and map; 3: and foreground.", min=2, max=3)] = 2,
    batch: Annotated[int, typer.Option(help="Samples a step.", min=1)] = 4,
    steps: Annotated[int, typer.Option(help="Steps of each kind that are counted.", min=1)] = 20,
) -> dict[str, Any]:
    """Measures both kinds of step."""
    import torch

    trial = _Trial(model, tasks, batch)
    times: dict[str, list[float]] = {"plain": [], "calibrated": []}
    for step in range(steps + 2):
        for kind, found in times.items():
            start = time.perf_counter()
            trial.step(kind == "calibrated")
            if trial.device.type == "cuda":
                torch.cuda.synchronize()
            if step >= 2:  # the first steps allocate
                found.append((time.perf_counter() - start) * 1e3)
    context = multiprocessing.get_context("spawn")
    memory = {}
    for kind in times:
        with context.Pool(1) as pool:
            memory[kind] = pool.apply(_peak_memory_mib, (model, tasks, batch, kind == "calibrated"))
    medians = {kind: statistics.median(found) for kind, found in times.items()}
    # Pairs that ran one after the other: less of the machine's unrest is left than in the medians' ratio.
    ratios = [b / a for a, b in zip(times["plain"], times["calibrated"], strict=True)]
    return {
        "model": model,
        "tasks": tasks,
        "batch": batch,
        "device": str(trial.device),
        "threads": torch.get_num_threads(),
        "step_ms": medians,
        "time_ratio": statistics.median(ratios),
        "peak_memory_mib": memory,
        "memory_ratio": memory["calibrated"] / memory["plain"],
    }


def _peak_memory_mib(model: str, tasks: int, batch: int, calibrated: bool) -> float:
    """Runs a few steps in this process and returns its peak: the device's on CUDA, else of resident
    memory.
    """
    import torch

    trial = _Trial(model, tasks, batch)
    for _ in range(3):
        trial.step(calibrated)
    if trial.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class _Trial:
    """A network with frames, labels and an optimizer."""

    def __init__(self, model: str, tasks: int, batch: int) -> None:
        import torch

        from perception_core.backends.example_inputs import example_frame
        from perception_core.bundle_writer import create_seeded_model
        from training.gradient_calibration import (
            BranchGatingConfig,
            GradientCalibrationConfig,
            GradientCalibrator,
            TaskWeightingConfig,
        )
        from training.gradient_calibration.fuller_points import fuller_points
        from training.losses import BevMaskLoss, DetectionLoss, DetectionLossConfig, MaskLossConfig

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        arguments = {"foreground_segmentation": {"enabled": True}} if tasks == 3 else {}
        network: Any = create_seeded_model(model, 0, **arguments)
        self.network = network.to(self.device).train()
        frame = example_frame(network.bundle_input(), cameras=6, points=20_000)
        self.frame = {name: tensor.to(self.device) for name, tensor in frame.items()}
        self.batch = batch
        grid = network.config.grid
        generator = torch.Generator().manual_seed(0)
        boxes = torch.rand(20, 9, generator=generator)
        boxes[:, :2] = boxes[:, :2] * (grid.x_max - grid.x_min) + grid.x_min
        boxes[:, 3:6] = boxes[:, 3:6] * 3 + 1
        labels = torch.randint(0, 10, (20,), generator=generator)
        self.boxes = [
            SimpleNamespace(boxes_b9=boxes.to(self.device), labels_b=labels.to(self.device))
        ] * batch
        self.present = torch.ones(batch, dtype=torch.bool, device=self.device)
        self.detection_loss = DetectionLoss(DetectionLossConfig(), 10, grid)
        self.mask_loss = BevMaskLoss("masks", MaskLossConfig())
        names = network.config.tasks
        points = fuller_points(network)
        self.calibrators = {
            True: GradientCalibrator(network, points, names, GradientCalibrationConfig()),
            False: GradientCalibrator(
                network,
                points,
                names,
                GradientCalibrationConfig(
                    inter=TaskWeightingConfig(method="plain"),
                    intra=BranchGatingConfig(enabled=False),
                    measure_gradients=False,
                ),
            ),
        }
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step(self, calibrated: bool) -> None:
        import torch

        network, frame, batch = self.network, self.frame, self.batch
        self.optimizer.zero_grad()
        points = frame["points_nc"].repeat(batch, 1)
        sample = torch.arange(batch, device=self.device).repeat_interleave(len(frame["points_nc"]))
        names = ("images_vhwc", "camera_valid_v", "intrinsics_v33", "camera_from_ego_v44")
        camera = network.camera_net(*(frame[name].expand(batch, *frame[name].shape) for name in names))
        fused = network.bev_fuser(network.lidar_net(points, sample, batch), camera)
        losses = {}
        for task, head in network.heads.items():
            output = head(fused)
            if task == "detection3d":
                losses[task] = self.detection_loss(output, self.boxes, self.present).total
            else:
                masks = torch.zeros_like(output, dtype=torch.bool)
                masks[:, :, : masks.shape[2] // 2] = True
                losses[task] = self.mask_loss(output, masks, self.present).total
        self.calibrators[calibrated].backward(losses)
        self.optimizer.step()
