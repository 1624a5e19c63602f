"""A whole monocular multi-task network, built from its configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from perception_core.bundle import BundleInput, ComponentSpec, MonoInput, TensorSpec
from perception_core.models.interface import Component, PerceptionModel
from perception_core.models.tag.components import (
    DepthComponent,
    MonoDetectionComponent,
    SegmentationComponent,
)
from perception_core.models.tag.configuration import MONO_TASKS, MonoConfig
from perception_core.models.tag.decoding import MonoBoxCodec
from perception_core.models.tag.heads import (
    AttentionInputs,
    DepthHead,
    MonoDetectionHead,
    SegmentationHead,
)
from perception_core.models.tag.mono_backbone import MonoBackbone, MonoBackboneComponent

_HEADS: dict[str, Any] = {
    "mono_detection3d": MonoDetectionHead,
    "semantic_segmentation": SegmentationHead,
    "depth": DepthHead,
}


class MonoModel(PerceptionModel):
    """One camera to 3D boxes, semantic segmentation and dense depth (TAG and its baselines)."""

    runs_on_meta = True

    def __init__(self, config: MonoConfig) -> None:
        super().__init__()
        self.config = config
        self.mono_backbone = MonoBackbone(config)
        channels = self.mono_backbone.out_channels
        attention = config.attention
        for index, task in enumerate(config.tasks):
            inputs = AttentionInputs(attention.channel, attention.spatial, index)
            self.add_module(f"{task}_head", _HEADS[task](getattr(config, task), channels, inputs))

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The heads' batched networks by task."""
        networks = dict(self.named_children())
        return {task: networks[f"{task}_head"] for task in self.config.tasks}

    @property
    def codec(self) -> MonoBoxCodec:
        """Encodes and decodes boxes for this network's images."""
        camera, detection = self.config.camera, self.config.mono_detection3d
        return MonoBoxCodec(
            self.mono_backbone.stride,
            (camera.image_width, camera.image_height),
            detection.sizes(),
            detection.heading_bins,
            camera.reference_focal,
        )

    def shared_feature(self, images_bhwc: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns what `mono_backbone` gives for a batch; each head takes all of it. For training."""
        outputs: tuple[torch.Tensor, ...] = self.mono_backbone(images_bhwc)
        return outputs

    @property
    def components(self) -> dict[str, Component]:
        """Shells around the networks, made anew at each call; parameters are shared with this model."""
        shells: dict[str, Component] = {"mono_backbone": MonoBackboneComponent(self.mono_backbone)}
        for task, head in self.heads.items():
            if task == "mono_detection3d":
                shell: Component = MonoDetectionComponent(head, self.codec)
            elif task == "depth":
                shell = DepthComponent(head, self.codec)
            else:
                shell = SegmentationComponent(head)
            shell.dense_dynamic = ((),) * len(self.mono_backbone.shapes())
            shells[f"{task}_head"] = shell
        shells["mono_backbone"].exportable = self.mono_backbone.exportable
        for shell in shells.values():
            shell.training = self.training
        return shells

    def component_specs(self) -> dict[str, ComponentSpec]:
        """Signature of each component."""
        feature = tuple(self.mono_backbone.shapes())
        detection = self.config.mono_detection3d
        camera = self.config.camera
        # Half of the image's size: finer than the network knows it, and a quarter of the bytes.
        published = {
            "camera": camera.name,
            "height": camera.image_height // 2,
            "width": camera.image_width // 2,
        }
        specs = {
            "mono_backbone": ComponentSpec(inputs=("mono_image_hwc", "mono_valid"), outputs=feature),
            "mono_detection3d_head": ComponentSpec(
                inputs=("mono_valid", "mono_intrinsics_33", "mono_camera_from_ego_44", *feature),
                outputs=(
                    "mono_detection_boxes_q9",
                    "mono_detection_scores_q",
                    "mono_detection_labels_q",
                    "mono_detection_tilt_q2",
                ),
                task="mono_detection3d",
                decoder="boxes3d",
                decoder_options={
                    "score_threshold": detection.score_threshold,
                    "max_objects": detection.objects,
                    "has_velocity": False,
                },
            ),
            "semantic_segmentation_head": ComponentSpec(
                inputs=("mono_valid", *feature),
                outputs=("semantic_logits_vkhw",),
                task="semantic_segmentation",
                decoder="semantic_image",
                decoder_options=published,
            ),
            "depth_head": ComponentSpec(
                inputs=("mono_valid", "mono_intrinsics_33", "mono_camera_from_ego_44", *feature),
                outputs=("depth_vhw", "depth_points_nc"),
                task="depth",
                decoder="depth_image",
                decoder_options=published,
            ),
        }
        return {name: specs[name] for name, _ in self.named_children()}

    def tensor_specs(self) -> dict[str, TensorSpec]:
        """Types of the tensors that components output."""
        shapes: dict[str, tuple[int | str, ...]] = {**self.mono_backbone.shapes()}
        _, _, rows, columns = self.mono_backbone.shapes()["mono_feature_bchw"]
        objects = min(
            self.config.mono_detection3d.objects, len(self.config.mono_detection3d.classes) * rows * columns
        )
        shapes |= {
            "mono_detection_boxes_q9": (objects, 9),
            "mono_detection_scores_q": (objects,),
            "mono_detection_labels_q": (objects,),
            "mono_detection_tilt_q2": (objects, 2),
            "semantic_logits_vkhw": (1, len(self.config.semantic_segmentation.classes), rows, columns),
            "depth_vhw": (1, rows, columns),
            "depth_points_nc": (rows * columns, 3),
        }
        return {
            name: TensorSpec(
                dtype="int64" if name == "mono_detection_labels_q" else "float32", shape=shapes[name]
            )
            for spec in self.component_specs().values()
            for name in spec.outputs
        }

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Class names by task."""
        classes = {
            "mono_detection3d": self.config.mono_detection3d.classes,
            "semantic_segmentation": self.config.semantic_segmentation.classes,
        }
        return {task: classes[task] for task in self.config.tasks if task in classes}

    def bundle_input(self) -> BundleInput:
        """One camera, by its name."""
        camera = self.config.camera
        return BundleInput(
            mono=MonoInput(camera=camera.name, height=camera.image_height, width=camera.image_width)
        )

    def configuration(self) -> dict[str, Any]:
        """The configuration, defaults written out, so that a bundle outlives a change of defaults."""
        values: dict[str, Any] = self.config.model_dump(mode="json")
        return values


__all__ = ["MONO_TASKS", "MonoModel"]
