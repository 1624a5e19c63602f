"""The operators behind the networks against references that do the same in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.ops.bev_grid import BevGrid
from perception_core.ops.bev_pool import LiftPlanCache, bev_pool, frustum_points, plan_lift
from perception_core.ops.box_codec import CODE_SIZE, BoxCodec
from perception_core.ops.peaks import suppress_non_peaks, top_peaks
from perception_core.ops.pillars import assign_pillars, pillar_max, pillar_mean, scatter_to_grid

GRID = BevGrid(x_min=-4.0, x_max=8.0, y_min=-6.0, y_max=6.0, cell_size=1.5)  # 8 rows x 8 columns
Z_RANGE = (-1.0, 3.0)


def cell_of(x: float, y: float) -> tuple[int, int] | None:
    """Row and column of a position by the definition of the grid."""
    if not (GRID.x_min <= x < GRID.x_max and GRID.y_min <= y < GRID.y_max):
        return None
    return math.floor((y - GRID.y_min) / GRID.cell_size), math.floor((x - GRID.x_min) / GRID.cell_size)


def random_points(seed: int, count: int) -> torch.Tensor:
    """Points in and around the grid; some are not finite."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 5, generator=generator) * 20 - 8
    points[:, 2] = torch.rand(count, generator=generator) * 6 - 2
    if count > 4:
        points[0, 0], points[1, 1], points[2, 2] = float("nan"), float("inf"), -float("inf")
    return points


class TestBevGrid:
    def test_cells_and_centres_are_inverse(self) -> None:
        cells = torch.arange(GRID.cells)
        assert torch.equal(GRID.cell_index(GRID.cell_centre(cells)), cells)

    def test_rows_run_along_y_and_columns_along_x(self) -> None:
        first, next_column, next_row = GRID.cell_centre(torch.tensor([0, 1, GRID.columns]))
        assert torch.allclose(next_column - first, torch.tensor([1.5, 0.0]))
        assert torch.allclose(next_row - first, torch.tensor([0.0, 1.5]))

    def test_a_grid_of_broken_cells_is_refused(self) -> None:
        with pytest.raises(ValueError, match="whole number"):
            BevGrid(x_min=0, x_max=1, y_min=0, y_max=1, cell_size=0.3)


class TestPillars:
    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 10_000), count=st.integers(0, 120), batch_size=st.integers(1, 3))
    def test_agree_with_loops(self, seed: int, count: int, batch_size: int) -> None:
        points = random_points(seed, count)
        batch_index = torch.randint(
            0, batch_size, (count,), generator=torch.Generator().manual_seed(seed + 1)
        )
        pillars: dict[tuple[int, int, int], list[torch.Tensor]] = {}
        for point, sample in zip(points, batch_index.tolist(), strict=True):
            x, y, z = point[:3].tolist()
            cell = cell_of(x, y)
            if cell is not None and Z_RANGE[0] <= z < Z_RANGE[1]:
                pillars.setdefault((sample, *cell), []).append(point)
        mean = torch.zeros(batch_size, 5, GRID.rows, GRID.columns)
        maximum = torch.zeros_like(mean)
        for (sample, row, column), members in pillars.items():
            mean[sample, :, row, column] = torch.stack(members).mean(dim=0)
            maximum[sample, :, row, column] = torch.stack(members).amax(dim=0)

        assignment = assign_pillars(points, batch_index, batch_size, GRID, Z_RANGE)
        kept = points[assignment.point_index_p]
        assert assignment.pillars == len(pillars)
        assert sorted(assignment.count_l.tolist()) == sorted(len(members) for members in pillars.values())
        for values, expected in (
            (pillar_mean(kept, assignment), mean),
            (pillar_max(kept, assignment), maximum),
        ):
            assert torch.allclose(scatter_to_grid(values, assignment, batch_size, GRID), expected, atol=1e-5)

    def test_gradients_reach_the_points(self) -> None:
        points = random_points(3, 60)
        assignment = assign_pillars(points, torch.zeros(60, dtype=torch.int64), 1, GRID, Z_RANGE)
        values = points[assignment.point_index_p].clone().requires_grad_()
        grid = scatter_to_grid(pillar_max(values, assignment), assignment, 1, GRID)
        grid.sum().backward()
        # Each pillar and channel passes a gradient of 1 to its largest point.
        assert values.grad is not None
        assert values.grad.sum().item() == pytest.approx(assignment.pillars * 5)


def forward_camera(yaw: float = 0.0, height: float = 1.0) -> torch.Tensor:
    """camera_from_ego of a camera at (0, 0, height) that looks along `yaw`."""
    cosine, sine = math.cos(yaw), math.sin(yaw)
    transform = torch.eye(4)
    transform[:3, :3] = torch.tensor([[sine, -cosine, 0.0], [0.0, 0.0, -1.0], [cosine, sine, 0.0]])
    transform[:3, 3] = -transform[:3, :3] @ torch.tensor([0.0, 0.0, height])
    return transform


INTRINSICS = torch.tensor([[30.0, 0.0, 31.5], [0.0, 30.0, 15.5], [0.0, 0.0, 1.0]])


def pool_in_loops(
    depth: torch.Tensor, context: torch.Tensor, points: torch.Tensor, samples: list[int], batch_size: int
) -> torch.Tensor:
    """Lift-splat as its paper defines it: one addition per pixel and depth bin."""
    pooled = torch.zeros(batch_size, context.shape[-1], GRID.rows, GRID.columns)
    for camera, sample in enumerate(samples):
        for row in range(points.shape[1]):
            for column in range(points.shape[2]):
                for plane in range(points.shape[3]):
                    x, y, z = points[camera, row, column, plane].tolist()
                    cell = cell_of(x, y)
                    if cell is not None and Z_RANGE[0] <= z < Z_RANGE[1]:
                        weighted = depth[camera, row, column, plane] * context[camera, row, column]
                        pooled[sample, :, cell[0], cell[1]] += weighted
    return pooled


class TestBevPool:
    def test_rays_project_back_to_their_pixels(self) -> None:
        points = frustum_points(
            INTRINSICS[None], forward_camera(0.7)[None], (4, 8), 8, torch.tensor([1.0, 5.0])
        )
        homogeneous = torch.cat((points, torch.ones_like(points[..., :1])), dim=-1)
        camera_points = homogeneous @ forward_camera(0.7).T
        assert torch.allclose(
            camera_points[..., 2], torch.tensor([1.0, 5.0]).expand_as(camera_points[..., 2]), atol=1e-4
        )
        pixels = camera_points[..., :3] @ INTRINSICS.T
        pixels = pixels[..., :2] / pixels[..., 2:]
        # The centre of feature pixel j covers image pixels 8 j .. 8 j + 7.
        expected_u = torch.arange(8) * 8 + 3.5
        expected_v = torch.arange(4) * 8 + 3.5
        assert torch.allclose(pixels[0, ..., 0], expected_u.view(1, 8, 1).expand(4, 8, 2), atol=1e-3)
        assert torch.allclose(pixels[0, ..., 1], expected_v.view(4, 1, 1).expand(4, 8, 2), atol=1e-3)

    def test_a_pixel_lands_where_its_camera_looks(self) -> None:
        for yaw, expected_xy in ((0.0, (5.0, 0.0)), (math.pi / 2, (0.0, 5.0)), (-math.pi / 2, (0.0, -5.0))):
            points = frustum_points(
                INTRINSICS[None], forward_camera(yaw)[None], (4, 8), 8, torch.tensor([5.0])
            )
            centre = points[0, :, 3:5, 0, :2].mean(dim=(0, 1))  # the two columns beside the optical axis
            assert torch.allclose(centre, torch.tensor(expected_xy), atol=1e-4)

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 10_000), cameras=st.integers(1, 3), batch_size=st.integers(1, 2))
    def test_agrees_with_loops_in_values_and_gradients(
        self, seed: int, cameras: int, batch_size: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        yaws = (torch.rand(cameras, generator=generator) * 6.28).tolist()
        samples = torch.randint(0, batch_size, (cameras,), generator=generator).sort()[0]
        depths = torch.linspace(1.0, 9.0, 5)
        extrinsics = torch.stack([forward_camera(yaw) for yaw in yaws])
        points = frustum_points(INTRINSICS.expand(cameras, 3, 3), extrinsics, (2, 3), 8, depths)
        depth = torch.rand(cameras, 2, 3, 5, generator=generator).softmax(dim=-1).requires_grad_()
        context = torch.randn(cameras, 2, 3, 4, generator=generator).requires_grad_()
        weight = torch.randn(batch_size, 4, GRID.rows, GRID.columns, generator=generator)

        expected = pool_in_loops(depth, context, points, samples.tolist(), batch_size)
        expected_gradients = torch.autograd.grad(
            (expected * weight).sum(), (depth, context), allow_unused=True, materialize_grads=True
        )
        pooled = bev_pool(depth, context, plan_lift(points, samples, batch_size, GRID, Z_RANGE))
        gradients = torch.autograd.grad((pooled * weight).sum(), (depth, context))

        assert torch.allclose(pooled, expected, atol=1e-5)
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            assert torch.allclose(gradient, expected_gradient, atol=1e-5)

    def test_a_camera_without_a_usable_calibration_adds_nothing(self) -> None:
        intrinsics = torch.stack((INTRINSICS, torch.zeros(3, 3), torch.full((3, 3), float("nan"))))
        extrinsics = forward_camera().expand(3, 4, 4)
        points = frustum_points(intrinsics, extrinsics, (2, 3), 8, torch.tensor([2.0, 4.0]))
        plan = plan_lift(points, torch.zeros(3, dtype=torch.int64), 1, GRID, Z_RANGE)
        assert plan.pixel_s.numel() > 0
        assert plan.pixel_s.max() < 2 * 3  # all samples are of the first camera


class TestLiftPlanCache:
    def test_forgets_the_plan_used_longest_ago(self) -> None:
        points = frustum_points(INTRINSICS[None], forward_camera()[None], (2, 3), 8, torch.tensor([2.0]))
        plan = plan_lift(points, torch.zeros(1, dtype=torch.int64), 1, GRID, Z_RANGE)
        cache = LiftPlanCache(capacity=2)
        keys = [LiftPlanCache.key(torch.tensor([float(number)])) for number in range(3)]
        cache.put(keys[0], plan)
        cache.put(keys[1], plan)
        assert cache.get(keys[0]) is plan
        cache.put(keys[2], plan)
        assert cache.get(keys[1]) is None
        assert cache.get(keys[0]) is plan

    def test_keys_tell_shapes_apart(self) -> None:
        assert LiftPlanCache.key(torch.zeros(4)) != LiftPlanCache.key(torch.zeros(2, 2))
        assert LiftPlanCache.key(torch.zeros(4), torch.zeros(0)) != LiftPlanCache.key(torch.zeros(4))


class TestBoxCodec:
    @settings(max_examples=200, deadline=None)
    @given(
        centre=st.tuples(*[st.floats(-100, 100)] * 3),
        size=st.tuples(*[st.floats(0.05, 40)] * 3),
        yaw=st.floats(-math.pi + 1e-3, math.pi - 1e-3),
        velocity=st.tuples(*[st.floats(-40, 40)] * 2),
        position=st.tuples(*[st.floats(-100, 100)] * 2),
    )
    def test_decoding_undoes_encoding(self, centre, size, yaw, velocity, position) -> None:
        codec = BoxCodec(cell_size=0.8)
        box = torch.tensor([[*centre, *size, yaw, *velocity]], dtype=torch.float64)
        code = codec.encode(box, torch.tensor([position], dtype=torch.float64))
        assert code.shape == (1, CODE_SIZE)
        decoded = codec.decode(code, torch.tensor([position], dtype=torch.float64))
        assert torch.allclose(decoded, box, atol=1e-8)

    def test_decoding_is_finite_whatever_the_network_says(self) -> None:
        codes = torch.tensor([[1e4] * CODE_SIZE, [-1e4] * CODE_SIZE, [0.0] * CODE_SIZE])
        boxes = BoxCodec(cell_size=0.8).decode(codes, torch.zeros(3, 2))
        assert torch.isfinite(boxes).all()
        assert (boxes[:, 3:6] > 0).all()


class TestPeaks:
    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 10_000), kernel_size=st.sampled_from([1, 3, 5]))
    def test_agree_with_loops(self, seed: int, kernel_size: int) -> None:
        heatmap = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(seed))
        reach = kernel_size // 2
        expected = {}
        for channel in range(3):
            for row in range(6):
                for column in range(7):
                    window = heatmap[
                        0,
                        channel,
                        max(row - reach, 0) : row + reach + 1,
                        max(column - reach, 0) : column + reach + 1,
                    ]
                    score = heatmap[0, channel, row, column].item()
                    if channel == 2 or score == window.max().item():  # channel 2 is exempt
                        expected[channel, row * 7 + column] = score
        suppressed = suppress_non_peaks(heatmap, kernel_size, exempt=(2,))
        count = len(expected)
        score, label, cell = top_peaks(suppressed, count)
        found = dict(
            zip(zip(label[0].tolist(), cell[0].tolist(), strict=True), score[0].tolist(), strict=True)
        )
        assert found == expected
        assert np.all(np.diff(score[0].numpy()) <= 0)

    def test_an_even_window_is_refused(self) -> None:
        with pytest.raises(ValueError, match="odd"):
            suppress_non_peaks(torch.zeros(1, 1, 4, 4), 2)
