"""Camera net: image encoder, then lift-splat into the bird's-eye view."""

from __future__ import annotations

import torch
from torch import nn

from perception_core.models.blocks import ConvNormAct, ResidualBlock, TopDownMerge
from perception_core.models.fuller.configuration import CameraNetConfig, SwinCameraNetConfig
from perception_core.models.interface import Component
from perception_core.ops.bev_grid import BevGrid
from perception_core.ops.bev_pool import LiftPlan, LiftPlanCache, bev_pool, frustum_points, plan_lift

#: Image pixels per pixel of the feature that is lifted.
FEATURE_STRIDE = 8

#: Mean and standard deviation of ImageNet's RGB values, 0..255, as all pre-trained image backbones expect.
IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_DEVIATION = (58.395, 57.12, 57.375)


class ImageEncoder(nn.Module):
    """Residual backbone, feature pyramid to stride 8, depth distribution and context of each pixel."""

    image_mean: torch.Tensor
    image_deviation: torch.Tensor

    def __init__(self, config: CameraNetConfig) -> None:
        super().__init__()
        # Not persistent: constants of the code, no weights.
        self.register_buffer("image_mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            "image_deviation", torch.tensor(IMAGE_DEVIATION).view(1, 3, 1, 1), persistent=False
        )
        self.stem = ConvNormAct(3, config.stem_channels, stride=2)
        stages, channels = [], config.stem_channels
        for stage_channels, blocks in zip(config.stage_channels, config.stage_blocks, strict=True):
            layers: list[nn.Module] = [ConvNormAct(channels, stage_channels, stride=2)]
            layers += [ResidualBlock(stage_channels, stage_channels) for _ in range(blocks)]
            stages.append(nn.Sequential(*layers))
            channels = stage_channels
        self.stages = nn.ModuleList(stages)
        self.merge = TopDownMerge(config.stage_channels[1], config.stage_channels[2], config.neck_channels)
        self.smooth = ConvNormAct(config.neck_channels, config.neck_channels)
        self.depth_and_context = nn.Conv2d(
            config.neck_channels, config.depth_bins + config.bev_channels, kernel_size=1
        )
        self.depth_bins = config.depth_bins

    def forward(self, images_mhwc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodes images.

        Args:
            images_mhwc: RGB, uint8 or float 0..255.

        Returns:
            Depth distribution (M, H / 8, W / 8, D), which sums to 1 over D, and context (M, H / 8, W / 8, C).
        """
        # The permuted view has channels-last memory, which convolutions on CPUs and tensor cores prefer.
        images_mchw = images_mhwc.permute(0, 3, 1, 2).to(self.image_mean.dtype)
        stride_4 = self.stages[0](self.stem((images_mchw - self.image_mean) / self.image_deviation))
        stride_8 = self.stages[1](stride_4)
        stride_16 = self.stages[2](stride_8)
        feature = self.smooth(self.merge(stride_8, stride_16))
        output_mhwc = self.depth_and_context(feature).permute(0, 2, 3, 1)
        depth_mhwd = output_mhwc[..., : self.depth_bins].softmax(dim=-1)
        return depth_mhwd, output_mhwc[..., self.depth_bins :]


class CameraNet(nn.Module):
    """Images of any number of calibrated cameras to one BEV feature (Lift-Splat-Shoot)."""

    def __init__(
        self,
        config: CameraNetConfig | SwinCameraNetConfig,
        grid: BevGrid,
        z_range: tuple[float, float],
    ) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.pool_grid = grid
        self.z_range = z_range
        self.reduce: nn.Module = nn.Identity()
        if isinstance(config, SwinCameraNetConfig):
            from perception_core.models.fuller.swin_encoder import SwinImageEncoder  # needs torchvision

            self.image_encoder: nn.Module = SwinImageEncoder(config)
            self.pool_grid = grid.refined(config.pool_subdivision)
            channels = config.bev_channels
            self.reduce = nn.Sequential(
                ConvNormAct(channels, channels),
                ConvNormAct(channels, channels, stride=config.pool_subdivision),
                ConvNormAct(channels, channels),
            )
        else:
            self.image_encoder = ImageEncoder(config)
        self._plans = LiftPlanCache()

    def forward(
        self,
        images_bvhwc: torch.Tensor,
        camera_valid_bv: torch.Tensor,
        intrinsics_bv33: torch.Tensor,
        camera_from_ego_bv44: torch.Tensor,
    ) -> torch.Tensor:
        """Lifts the valid cameras' images into the BEV.

        Args:
            images_bvhwc: RGB, uint8 or float 0..255, any V.
            camera_valid_bv: bool; a camera that is not valid contributes nothing and costs nothing.
            intrinsics_bv33: Pixels of these images. Augmentation of the images belongs into them.
            camera_from_ego_bv44: Ego points to camera points. Augmentation of the BEV belongs into them.

        Returns:
            camera_bev_bchw, zero where no valid camera looks.
        """
        return self.lift(images_bvhwc, camera_valid_bv, intrinsics_bv33, camera_from_ego_bv44)[0]

    def lift(
        self,
        images_bvhwc: torch.Tensor,
        camera_valid_bv: torch.Tensor,
        intrinsics_bv33: torch.Tensor,
        camera_from_ego_bv44: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `forward`, and returns the depth distribution too, for its supervision.

        Returns:
            camera_bev_bchw, and depth_mhwd of the M valid cameras (in the order of
            `camera_valid_bv.nonzero()`), None where there are none.
        """
        batch_size = images_bvhwc.shape[0]
        valid_bv = camera_valid_bv.bool()
        if not bool(valid_bv.any()):
            shape = (batch_size, self.config.bev_channels, self.grid.rows, self.grid.columns)
            return torch.zeros(shape, dtype=intrinsics_bv33.dtype, device=intrinsics_bv33.device), None
        depth_mhwd, context_mhwc = self.image_encoder(images_bvhwc[valid_bv])
        plan = self._plan(
            valid_bv, intrinsics_bv33[valid_bv], camera_from_ego_bv44[valid_bv], depth_mhwd.shape[1:3]
        )
        pooled_bchw = bev_pool(depth_mhwd, context_mhwc.to(depth_mhwd.dtype), plan)
        camera_bev_bchw: torch.Tensor = self.reduce(pooled_bchw)
        if batch_size > 1 and not bool(valid_bv.any(dim=1).all()):
            # A sample without cameras contributes nothing, whatever normalization makes of zeros.
            camera_bev_bchw = camera_bev_bchw * valid_bv.any(dim=1).view(-1, 1, 1, 1)
        return camera_bev_bchw, depth_mhwd

    @torch.no_grad()
    def _plan(
        self,
        valid_bv: torch.Tensor,
        intrinsics_m33: torch.Tensor,
        camera_from_ego_m44: torch.Tensor,
        feature_size: torch.Size,
    ) -> LiftPlan:
        """Returns where the rays go; remembered in evaluation, where calibration rarely changes."""
        key = None
        if not self.training:
            key = (
                LiftPlanCache.key(valid_bv, intrinsics_m33, camera_from_ego_m44)
                + repr(tuple(feature_size)).encode()
            )
            plan = self._plans.get(key)
            if plan is not None:
                return plan
        config = self.config
        depths_d = torch.linspace(config.depth_min, config.depth_max, config.depth_bins)
        rows, columns = feature_size
        points = frustum_points(
            intrinsics_m33, camera_from_ego_m44, (rows, columns), FEATURE_STRIDE, depths_d
        )
        batch_index_m = valid_bv.nonzero()[:, 0]
        plan = plan_lift(points, batch_index_m, valid_bv.shape[0], self.pool_grid, self.z_range)
        if key is not None:
            self._plans.put(key, plan)
        return plan


class CameraComponent(Component):
    """`camera_net` for one frame."""

    dense_name = "image_encoder"
    dense_dynamic = ((0,),)

    def forward(
        self,
        images_vhwc: torch.Tensor,
        camera_valid_v: torch.Tensor,
        intrinsics_v33: torch.Tensor,
        camera_from_ego_v44: torch.Tensor,
    ) -> torch.Tensor:
        """Returns camera_bev_bchw with B = 1."""
        feature_bchw: torch.Tensor = self.network(
            images_vhwc.unsqueeze(0),
            camera_valid_v.unsqueeze(0),
            intrinsics_v33.unsqueeze(0),
            camera_from_ego_v44.unsqueeze(0),
        )
        return feature_bchw
