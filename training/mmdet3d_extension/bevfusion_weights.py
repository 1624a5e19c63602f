"""Loads the backbones of a BEVFusion checkpoint into a FULLER network, by name.

Names are those of mmdet3d's BEVFusion project and of the authors' own repository (Liu et al., ICRA 2023):
Swin-T image backbone, sparse LiDAR encoder, and the SECOND backbone with its pyramid on the BEV. Three things
differ beside the names, and are converted:

- BEVFusion works in nuScenes' LiDAR frame (x right, y ahead) with cells ordered x, y, z; we work in the ego
  frame (x ahead, y left) ordered z, y, x. Kernels are turned and reordered.
- The first sparse layer sees intensity 0..255, the seconds a point is old and unscaled metres; ours sees
  0..1, the time relative to the stamp (negative for the past), and `lidar.point_scale`. Its weights are
  scaled.
- mmdet's patch merging orders channels otherwise than torchvision's. Its weights are permuted.

What is not converted: heights are the LiDAR's there and the ego frame's here, 1.84 m apart, and layers that
halve an even grid begin at its other end once it is turned. A checkpoint is a start for training, not a
network that detects at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from perception_core.configuration import ConfigurationError
from perception_core.models.fuller import FullerModel
from perception_core.models.fuller.configuration import (
    SecondFuserConfig,
    SwinCameraNetConfig,
    VoxelLidarNetConfig,
)

State = Mapping[str, torch.Tensor]

#: Prefixes in the authors' checkpoints and what mmdet3d calls the same.
_PREFIXES = {
    "encoders.camera.backbone.": "img_backbone.",
    "encoders.lidar.backbone.": "pts_middle_encoder.",
    "decoder.backbone.": "pts_backbone.",
    "decoder.neck.": "pts_neck.",
}
#: Buffers that follow from the layer's size.
_CONSTANTS = ("relative_position_index", "num_batches_tracked")

_INTENSITY_RANGE = 255.0
_MERGE_ORDER = (0, 2, 1, 3)  # of the four neighbours: torchvision goes down first, mmdet to the right


@dataclass(frozen=True)
class WeightReport:
    """What became of a checkpoint's tensors.

    Attributes:
        loaded: Name in the network to name in the checkpoint.
        missing: Names of the network's backbones that the checkpoint has no tensor for.
        unexpected: Names of the checkpoint's that were left: other parts of BEVFusion.
        mismatched: Name in the network to what does not fit; these keep their initial weights too.
    """

    loaded: dict[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, str]

    def summary(self) -> str:
        """One line for a log."""
        parts: dict[str, int] = {}
        for name in self.unexpected:
            parts[name.partition(".")[0]] = parts.get(name.partition(".")[0], 0) + 1
        left = ", ".join(f"{part} ({count})" for part, count in sorted(parts.items())) or "nothing"
        return (
            f"{len(self.loaded)} tensors loaded, {len(self.missing)} missing, "
            f"{len(self.mismatched)} of another shape; not used: {left}"
        )


def load_bevfusion_backbones(network: FullerModel, path: Path) -> WeightReport:
    """Reads a checkpoint file and loads its backbones, see `load_backbone_state`.

    Raises:
        ConfigurationError: It cannot be read, or fits no backbone of the network.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises unpickling, zip and runtime errors alike
        raise ConfigurationError(f"{path}: cannot be read as a checkpoint of tensors: {error}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    tensors = (
        {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
        if isinstance(state, dict)
        else {}
    )
    return load_backbone_state(network, tensors, str(path))


def load_backbone_state(network: FullerModel, state: State, origin: str) -> WeightReport:
    """Loads what fits of a BEVFusion state dict into a network's backbones.

    Args:
        network: Changed in place; its heads, pyramid and fusion layer are left as they are.
        state: Tensors by name.
        origin: Of the state, for messages.

    Raises:
        ConfigurationError: Nothing of it fits; names what is there.
    """
    named = {_renamed(name): (name, tensor) for name, tensor in state.items()}
    own = network.state_dict()
    wanted = _targets(network)
    loaded: dict[str, str] = {}
    mismatched: dict[str, str] = {}
    missing: list[str] = []
    used: set[str] = set()
    order = _axis_order({name: tensor for name, (_, tensor) in named.items()})
    changed: dict[str, torch.Tensor] = {}
    for target, source in wanted.items():
        if source not in named:
            missing.append(target)
            continue
        original, tensor = named[source]
        used.add(original)
        converted = _converted(source, target, tensor, own[target], order, network)
        if converted.shape != own[target].shape:
            mismatched[target] = (
                f"'{original}' has shape {tuple(tensor.shape)}, the network needs {tuple(own[target].shape)}"
            )
            continue
        changed[target] = converted.to(own[target].dtype)
        loaded[target] = original
    if not loaded:
        parts = sorted({name.partition(".")[0] for name in state}) or ["nothing"]
        reason = next(iter(mismatched.values()), "no name of its backbones is there")
        raise ConfigurationError(
            f"{origin}: no BEVFusion checkpoint that fits this network: {reason}; it holds {', '.join(parts)}"
        )
    network.load_state_dict(changed, strict=False)
    unexpected = [name for name in state if name not in used and not name.endswith(_CONSTANTS)]
    return WeightReport(loaded, tuple(missing), tuple(unexpected), mismatched)


def _renamed(name: str) -> str:
    for theirs, mmdet3d in _PREFIXES.items():
        if name.startswith(theirs):
            return mmdet3d + name.removeprefix(theirs)
    return name


def _targets(network: FullerModel) -> dict[str, str]:
    """Returns, for every tensor of the network's backbones, its name in mmdet3d's BEVFusion."""
    config = network.config
    names: dict[str, str] = {}
    for own in network.state_dict():
        if own.endswith(_CONSTANTS):
            continue
        if "camera" in config.modalities and isinstance(config.camera, SwinCameraNetConfig):
            source = _image_source(own)
        else:
            source = None
        if source is None and "lidar" in config.modalities and isinstance(config.lidar, VoxelLidarNetConfig):
            source = _lidar_source(own, config.lidar.stage_blocks, len(config.lidar.stage_channels))
        if source is None and isinstance(config.fuser, SecondFuserConfig):
            source = _bev_source(own)
        if source is not None:
            names[own] = source
    return names


_IMAGE_PARTS = (
    (r"mlp\.0\.", "ffn.layers.0.0."),
    (r"mlp\.3\.", "ffn.layers.1."),
    (r"attn\.", "attn.w_msa."),
)


def _image_source(name: str) -> str | None:
    """Mmdet's name of a tensor of our Swin-T, whose layers are torchvision's."""
    prefix = "camera_net.image_encoder."
    if not name.startswith(prefix):
        return None
    rest = name.removeprefix(prefix)
    if found := re.fullmatch(r"norms\.(\d)\.(\w+)", rest):
        return f"img_backbone.norm{int(found[1]) + 1}.{found[2]}"
    if found := re.fullmatch(r"backbone\.0\.([02])\.(\w+)", rest):
        return f"img_backbone.patch_embed.{'projection' if found[1] == '0' else 'norm'}.{found[2]}"
    if found := re.fullmatch(r"backbone\.(\d)\.(\d)\.(.+)", rest):
        part = found[3]
        for pattern, theirs in _IMAGE_PARTS:
            part = re.sub(f"^{pattern}", theirs, part)
        return f"img_backbone.stages.{(int(found[1]) - 1) // 2}.blocks.{found[2]}.{part}"
    if found := re.fullmatch(r"backbone\.(\d)\.((?:norm|reduction)\.\w+)", rest):
        return f"img_backbone.stages.{int(found[1]) // 2 - 1}.downsample.{found[2]}"
    return None


def _lidar_source(name: str, blocks: int, stages: int) -> str | None:
    """mmdet3d's name of a tensor of our sparse backbone."""
    prefix = "lidar_net.backbone."
    if not name.startswith(prefix):
        return None
    layer, _, rest = name.removeprefix(prefix).partition(".")
    encoder = "pts_middle_encoder."
    if layer in ("stem", "flatten_height"):
        part, _, tensor = rest.partition(".")
        theirs = "conv_input" if layer == "stem" else "conv_out"
        return f"{encoder}{theirs}.{'0' if part == 'convolution' else '1'}.{tensor}"
    index, _, part = rest.partition(".")
    # Each stage but the last ends with the convolution that halves.
    stage, place = divmod(int(index), blocks + 1)
    where = f"{encoder}encoder_layers.encoder_layer{stage + 1}.{place}"
    if place == blocks and stage < stages - 1:
        kind, _, tensor = part.partition(".")
        return f"{where}.{'0' if kind == 'convolution' else '1'}.{tensor}"
    half, kind, tensor = part.split(".", 2)
    number = 1 if half == "first" else 2
    return f"{where}.{'conv' if kind == 'convolution' else 'bn'}{number}.{tensor}"


def _bev_source(name: str) -> str | None:
    """mmdet3d's name of a tensor of our SECOND encoder on the BEV."""
    prefix = "bev_fuser.encoder."
    if not name.startswith(prefix):
        return None
    rest = name.removeprefix(prefix)
    if found := re.fullmatch(r"(fine|coarse)\.(\d+)\.(convolution|normalization)\.(\w+)", rest):
        place = 3 * int(found[2]) + (found[3] == "normalization")  # convolution, normalization, ReLU
        return f"pts_backbone.blocks.{int(found[1] == 'coarse')}.{place}.{found[4]}"
    if found := re.fullmatch(r"outputs\.fine\.(convolution|normalization)\.(\w+)", rest):
        return f"pts_neck.deblocks.0.{int(found[1] == 'normalization')}.{found[2]}"
    if found := re.fullmatch(r"outputs\.coarse\.(\w+)", rest):
        return f"pts_neck.deblocks.1.0.{found[1]}"
    if found := re.fullmatch(r"outputs\.coarse_normalization\.(\w+)", rest):
        return f"pts_neck.deblocks.1.1.{found[1]}"
    return None


def _axis_order(state: State) -> str:
    """Returns `xyz` or `zyx`: the encoder's last convolution is long along z alone."""
    last = state.get("pts_middle_encoder.conv_out.0.weight")
    if last is None or last.ndim != 5:
        return "xyz"
    sizes = _spconv2_layout(last).shape[1:4]
    return "zyx" if sizes[0] > sizes[2] else "xyz"


def _spconv2_layout(weight: torch.Tensor) -> torch.Tensor:
    """Brings a sparse kernel to (out, k, k, k, in): mmcv and spconv 1 have (k, k, k, in, out)."""
    # Kernel sides are 1 or 3, channels 5 and more.
    return weight.permute(4, 0, 1, 2, 3) if weight.shape[0] <= 3 else weight


def sparse_kernel(weight: torch.Tensor, order: str) -> torch.Tensor:
    """Turns a sparse kernel from the LiDAR frame to the ego frame.

    Args:
        weight: In either layout of spconv.
        order: `xyz` or `zyx`, the order of its three sides.

    Returns:
        (out, kz, ky, kx, in) over the ego frame's axes.
    """
    kernel_oxyzi = _spconv2_layout(weight)
    if order == "zyx":
        kernel_oxyzi = kernel_oxyzi.permute(0, 3, 2, 1, 4)
    # Ego y is minus the LiDAR's x, ego x is its y.
    return kernel_oxyzi.flip(1).permute(0, 3, 1, 2, 4).contiguous()


def bev_kernel(weight: torch.Tensor, order: str) -> torch.Tensor:
    """Turns a kernel on the BEV (…, first, second) from the LiDAR frame to rows (ego y), columns (ego x)."""
    xy = weight if order == "xyz" else weight.transpose(-1, -2)
    return xy.flip(-2).contiguous()


def first_layer(kernel: torch.Tensor, point_scale: tuple[float, ...]) -> torch.Tensor:
    """Adapts the first sparse layer to our five channels.

    Args:
        kernel: (out, kz, ky, kx, 5) over x y z [m], intensity 0..255, age [s] in the LiDAR frame.
        point_scale: Factors on our channels.

    Returns:
        The same over x y z [m] of the ego frame, intensity 0..1 and time [s], each times its factor.
    """
    x, y, z, intensity, age = kernel.unbind(-1)
    turned = torch.stack((y, -x, z, intensity * _INTENSITY_RANGE, -age), dim=-1)
    return turned / turned.new_tensor(point_scale)


def merging(weight: torch.Tensor) -> torch.Tensor:
    """Reorders the last axis (4 C) of mmdet's patch merging to torchvision's."""
    channels = weight.shape[-1] // 4
    by_neighbour = weight.unflatten(-1, (channels, 4)).transpose(-1, -2)[..., list(_MERGE_ORDER), :]
    return by_neighbour.flatten(-2)


def _converted(
    source: str, target: str, tensor: torch.Tensor, own: torch.Tensor, order: str, network: FullerModel
) -> torch.Tensor:
    if ".downsample." in source and tensor.shape[-1] % 4 == 0:
        return merging(tensor)
    if tensor.ndim == 5:
        kernel = sparse_kernel(tensor, order)
        is_first = target == "lidar_net.backbone.stem.convolution.weight"
        if is_first and kernel.shape == own.shape and isinstance(network.config.lidar, VoxelLidarNetConfig):
            return first_layer(kernel, network.config.lidar.point_scale)
        return kernel
    if tensor.ndim == 4 and target.startswith("bev_fuser."):
        return bev_kernel(tensor, order)
    return tensor
