"""LiDAR net of the full-size network: voxels, a sparse 3D backbone (VoxelNet, SECOND), flattened to the
BEV.
"""

from __future__ import annotations

import torch
from torch import nn

from perception_core.models.fuller.configuration import VoxelLidarNetConfig
from perception_core.models.fuller.lidar_net import LidarComponent
from perception_core.ops.bev_grid import BevGrid
from perception_core.ops.sparse_conv import SparseConvNormAct, SparseConvolution, SparseResidualBlock
from perception_core.ops.sparse_tensor import SparseTensor, convolved_shape
from perception_core.ops.voxels import voxelize_mean

#: x y z intensity time.
_POINT_CHANNELS = 5

#: Padding of the three strided convolutions along z; the last sees no empty layer, as in SECOND.
_HEIGHT_PADDING = (1, 1, 0)


class SparseBackbone(nn.Module):
    """Four stages of submanifold residual blocks, three of them ending at half the resolution.

    The layout of SECOND's sparse encoder with residual blocks, which CenterPoint, TransFusion, BEVFusion and
    FULLER share.
    """

    def __init__(self, config: VoxelLidarNetConfig, layers: int, layer_channels: int) -> None:
        super().__init__()
        first, *_ = config.stage_channels
        self.stem = SparseConvNormAct(SparseConvolution(_POINT_CHANNELS, first, submanifold=True))
        stages: list[nn.Module] = []
        for index, channels in enumerate(config.stage_channels):
            stages += [SparseResidualBlock(channels) for _ in range(config.stage_blocks)]
            if index < len(_HEIGHT_PADDING):
                following = config.stage_channels[index + 1]
                stages.append(
                    SparseConvNormAct(
                        SparseConvolution(
                            channels, following, stride=(2, 2, 2), padding=(_HEIGHT_PADDING[index], 1, 1)
                        )
                    )
                )
        self.stages = nn.ModuleList(stages)
        last = config.stage_channels[-1]
        self.flatten_height = SparseConvNormAct(
            SparseConvolution(last, layer_channels, kernel=(3, 1, 1), stride=(2, 1, 1))
        )

    @staticmethod
    def output_layers(layers: int) -> int:
        """Returns how many layers are left of a volume of so many.

        Raises:
            ValueError: Too few to begin with.
        """
        shape = (layers, 64, 64)
        for padding in _HEIGHT_PADDING:
            shape = convolved_shape(shape, (3, 3, 3), (2, 2, 2), (padding, 1, 1))
        return convolved_shape(shape, (3, 1, 1), (2, 1, 1), (0, 0, 0))[0]

    def forward(self, voxels: SparseTensor) -> torch.Tensor:
        """Maps voxels to (B, C * layers, Y / 8, X / 8)."""
        voxels = self.stem(voxels)
        for stage in self.stages:
            voxels = stage(voxels)
        return self.flatten_height(voxels).dense().flatten(1, 2)


class VoxelLidarNet(nn.Module):
    """Point clouds of any size to one BEV feature."""

    def __init__(self, config: VoxelLidarNetConfig, grid: BevGrid, z_range: tuple[float, float]) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.z_range = z_range
        self.voxel_grid = grid.refined(config.voxels_per_cell)
        # One empty layer on top, as in SECOND: 40 layers would be halved to fewer than 41 are.
        self.layers = round((z_range[1] - z_range[0]) / config.voxel_height) + 1
        output_layers = SparseBackbone.output_layers(self.layers)
        if config.bev_channels % output_layers:
            raise ValueError(
                f"lidar.bev_channels must be a multiple of {output_layers}, the layers left of "
                f"{self.layers} voxels of height, got {config.bev_channels}"
            )
        self.backbone = SparseBackbone(config, self.layers, config.bev_channels // output_layers)

    def forward(self, points_nc: torch.Tensor, batch_index_n: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Encodes a batch of clouds; arguments and result as of `LidarNet`."""
        # What is no number in intensity and time does not spoil a voxel's mean.
        intensity_and_time = torch.nan_to_num(points_nc[:, 3:5]).clamp(-10.0, 10.0)
        voxels = voxelize_mean(
            torch.cat((points_nc[:, :3], intensity_and_time), dim=1),
            batch_index_n,
            batch_size,
            self.voxel_grid,
            self.z_range,
            self.config.voxel_height,
            self.layers,
        )
        if len(voxels.cell_n) == 0:
            shape = (batch_size, self.config.bev_channels, self.grid.rows, self.grid.columns)
            return torch.zeros(shape, dtype=points_nc.dtype, device=points_nc.device)
        # Kilometres would do as well, but networks start from numbers of the order of 1.
        features = voxels.features_nc * voxels.features_nc.new_tensor(self.config.point_scale)
        feature_bchw: torch.Tensor = self.backbone(voxels.with_features(features))
        return feature_bchw


class VoxelLidarComponent(LidarComponent):
    """`lidar_net` of voxels for one frame; sparse operators have no graph in other runtimes."""

    dense_name = ""
    exportable = False
