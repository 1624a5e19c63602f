"""Sparse convolution gives what dense convolution gives."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from perception_core.models.fuller.configuration import VoxelLidarNetConfig
from perception_core.models.fuller.voxel_net import SparseBackbone, VoxelLidarNet
from perception_core.ops import spconv_adapter
from perception_core.ops.bev_grid import BevGrid
from perception_core.ops.sparse_conv import SparseConvNormAct, SparseConvolution, SparseResidualBlock
from perception_core.ops.sparse_tensor import SparseTensor, convolved_shape
from perception_core.ops.voxels import voxelize_mean

GRID = BevGrid(x_min=-6.4, x_max=6.4, y_min=-3.2, y_max=3.2, cell_size=0.8)
Z_RANGE = (-1.0, 7.0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_tensor(
    seed: int,
    channels: int = 3,
    shape: tuple[int, int, int] = (5, 6, 7),
    batch_size: int = 2,
    share: float = 0.2,
) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    cells = batch_size * shape[0] * shape[1] * shape[2]
    cell_n = (torch.rand(cells, generator=generator) < share).nonzero().squeeze(1)
    features = torch.randn(len(cell_n), channels, generator=generator, dtype=torch.float64)
    return SparseTensor(features.requires_grad_(), cell_n, shape, batch_size)


def random_layer(seed: int, **options) -> SparseConvolution:
    torch.manual_seed(seed)
    return SparseConvolution(3, 4, **options).double()


def dense_weight(layer: SparseConvolution) -> torch.Tensor:
    return layer.weight.permute(0, 4, 1, 2, 3)


def test_coordinates_are_those_of_the_dense_volume() -> None:
    tensor = random_tensor(0)
    volume = tensor.dense()
    sample, z, y, x = tensor.coordinates_n4.unbind(dim=1)
    assert torch.equal(volume[sample, :, z, y, x], tensor.features_nc)
    assert (volume != 0).any(dim=1).sum() == len(tensor.cell_n)


class TestSubmanifold:
    @settings(max_examples=10, deadline=None)
    @given(
        seed=st.integers(0, 10_000),
        kernel=st.tuples(*[st.sampled_from([1, 3])] * 3),
        share=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    )
    def test_agrees_with_dense_convolution_on_its_cells(self, seed, kernel, share) -> None:
        tensor, layer = random_tensor(seed, share=share), random_layer(seed, kernel=kernel, submanifold=True)
        result = layer(tensor)
        padding = tuple(side // 2 for side in kernel)
        expected = functional.conv3d(tensor.dense(), dense_weight(layer), padding=padding)
        sample, z, y, x = tensor.coordinates_n4.unbind(dim=1)
        assert torch.allclose(result.features_nc, expected[sample, :, z, y, x], atol=1e-10)
        assert torch.equal(result.cell_n, tensor.cell_n)

    def test_gradients_agree_with_dense_convolution(self) -> None:
        tensor, layer = random_tensor(3), random_layer(3, submanifold=True)
        factor = torch.randn(len(tensor.cell_n), 4, dtype=torch.float64)
        inputs = (tensor.features_nc, layer.weight)
        found = torch.autograd.grad((layer(tensor).features_nc * factor).sum(), inputs)
        sample, z, y, x = tensor.coordinates_n4.unbind(dim=1)
        dense = functional.conv3d(tensor.dense(), dense_weight(layer), padding=1)[sample, :, z, y, x]
        expected = torch.autograd.grad((dense * factor).sum(), inputs)
        for gradient, other in zip(found, expected, strict=True):
            assert torch.allclose(gradient, other, atol=1e-10)

    def test_rule_books_are_made_once_for_the_same_cells(self) -> None:
        tensor = random_tensor(4)
        first = random_layer(4, submanifold=True)(tensor)
        assert first.pairs is tensor.pairs
        assert len(tensor.pairs) == 1
        torch.manual_seed(0)
        SparseConvolution(4, 2, submanifold=True).double()(first)
        assert len(tensor.pairs) == 1

    def test_an_even_kernel_is_refused(self) -> None:
        with pytest.raises(ValueError, match="odd"):
            random_layer(0, kernel=(2, 3, 3), submanifold=True)(random_tensor(0))


class TestStrided:
    @settings(max_examples=10, deadline=None)
    @given(
        seed=st.integers(0, 10_000),
        kernel=st.tuples(*[st.integers(1, 3)] * 3),
        stride=st.tuples(*[st.integers(1, 2)] * 3),
        padding=st.tuples(*[st.integers(0, 1)] * 3),
        share=st.sampled_from([0.0, 0.05, 0.4]),
    )
    def test_agrees_with_dense_convolution_everywhere(self, seed, kernel, stride, padding, share) -> None:
        tensor = random_tensor(seed, share=share)
        layer = random_layer(seed, kernel=kernel, stride=stride, padding=padding)
        result = layer(tensor)
        expected = functional.conv3d(tensor.dense(), dense_weight(layer), stride=stride, padding=padding)
        assert (
            result.shape
            == tuple(expected.shape[2:])
            == convolved_shape(tensor.shape, kernel, stride, padding)
        )
        assert torch.allclose(result.dense(), expected, atol=1e-10)
        assert torch.equal(result.cell_n, result.cell_n.unique())  # ascending, each once

    def test_gradients_agree_with_dense_convolution(self) -> None:
        tensor = random_tensor(3)
        layer = random_layer(3, stride=(2, 2, 2), padding=(1, 1, 1))
        inputs = (tensor.features_nc, layer.weight)
        result = layer(tensor).dense()
        factor = torch.randn_like(result)
        found = torch.autograd.grad((result * factor).sum(), inputs)
        dense = functional.conv3d(tensor.dense(), dense_weight(layer), stride=2, padding=1)
        expected = torch.autograd.grad((dense * factor).sum(), inputs)
        for gradient, other in zip(found, expected, strict=True):
            assert torch.allclose(gradient, other, atol=1e-10)

    def test_a_kernel_larger_than_the_volume_is_refused(self) -> None:
        with pytest.raises(ValueError, match="does not fit"):
            random_layer(0, kernel=(3, 1, 1))(random_tensor(0, shape=(2, 4, 4)))


def test_a_stack_of_layers_agrees_with_dense_layers() -> None:
    """Submanifold, strided, submanifold: cells that a layer made are found by the next one."""
    torch.manual_seed(0)
    layers = [
        SparseConvolution(3, 4, submanifold=True).double(),
        SparseConvolution(4, 5, stride=(2, 2, 2), padding=(0, 1, 1)).double(),
        SparseConvolution(5, 2, submanifold=True).double(),
    ]
    tensor = random_tensor(5, shape=(9, 8, 8), share=0.1)
    dense, occupied = tensor.dense(), (tensor.dense() != 0).any(dim=1, keepdim=True)
    for layer in layers:
        tensor = layer(tensor)
        padding = (1, 1, 1) if layer.submanifold else layer.padding
        dense = functional.conv3d(dense, dense_weight(layer), stride=layer.stride, padding=padding)
        if layer.submanifold:
            dense = dense * occupied
        else:
            ones = torch.ones(1, 1, *layer.kernel, dtype=torch.float64)
            occupied = functional.conv3d(occupied.double(), ones, stride=layer.stride, padding=padding) > 0.5
    assert torch.allclose(tensor.dense(), dense, atol=1e-10)


def test_spconv_gives_the_same_numbers() -> None:
    """The adapter for CUDA, tried on spconv's CPU code, which is right with one thread and without
    gradient."""
    pytest.importorskip("spconv.pytorch")
    source = random_tensor(6, share=0.3)
    tensor = SparseTensor(source.features_nc.detach().float(), source.cell_n, source.shape, source.batch_size)
    for options in ({"submanifold": True}, {"stride": (2, 2, 2), "padding": (1, 1, 1)}):
        layer = random_layer(6, **options).float()
        expected = layer.reference(tensor)
        with torch.no_grad():
            found = spconv_adapter.convolve(
                tensor, layer.weight, layer.kernel, layer.stride, layer.padding, layer.submanifold
            )
        assert torch.equal(found.cell_n, expected.cell_n)
        assert torch.allclose(found.features_nc, expected.features_nc, atol=1e-4)


def test_spconv_is_left_alone_on_the_cpu() -> None:
    assert not spconv_adapter.usable(torch.zeros(3, 2))


class TestVoxels:
    @settings(max_examples=10, deadline=None)
    @given(seed=st.integers(0, 10_000), count=st.integers(0, 150))
    def test_means_agree_with_loops(self, seed: int, count: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        points = torch.rand(count, 5, generator=generator) * torch.tensor([16.0, 8, 9, 1, 1]) - torch.tensor(
            [8.0, 4, 1.5, 0, 0]
        )
        if count > 2:
            points[0, 0], points[1, 1], points[2, 2] = float("nan"), float("inf"), -float("inf")
        samples = torch.randint(0, 2, (count,), generator=generator)
        voxels = voxelize_mean(points, samples, 2, GRID, Z_RANGE, voxel_height=0.5, layers=17)
        members: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for point, sample in zip(points, samples.tolist(), strict=True):
            x, y, z = point[:3].tolist()
            if -6.4 <= x < 6.4 and -3.2 <= y < 3.2 and -1.0 <= z < 7.0:
                place = (int((z + 1.0) // 0.5), int((y + 3.2) // 0.8), int((x + 6.4) // 0.8))
                members.setdefault((sample, *place), []).append(point)
        found = {
            tuple(place): row
            for place, row in zip(voxels.coordinates_n4.tolist(), voxels.features_nc, strict=True)
        }
        assert len(voxels.cell_n) == len(members)
        if set(found) == set(members):  # else a point lies on a border, where rounding decides
            for place, points_in in members.items():
                assert torch.allclose(found[place], torch.stack(points_in).mean(dim=0), atol=1e-4)


@pytest.fixture(scope="module")
def network() -> VoxelLidarNet:
    torch.manual_seed(0)
    config = VoxelLidarNetConfig(stage_channels=(4, 6, 8, 10), stage_blocks=1, bev_channels=12)
    return VoxelLidarNet(config, GRID, Z_RANGE).eval()


class TestVoxelLidarNet:
    def test_forty_voxels_of_height_leave_two_layers(self) -> None:
        assert SparseBackbone.output_layers(41) == 2
        with pytest.raises(ValueError, match="multiple of 2"):
            VoxelLidarNet(VoxelLidarNetConfig(bev_channels=127), GRID, Z_RANGE)

    def test_a_point_lights_up_the_cell_it_lies_in(self, network: VoxelLidarNet) -> None:
        for x, y in itertools.product((-5.9, 0.3, 4.1), (-2.7, 1.9)):
            points = torch.tensor([[x, y, 1.0, 0.5, 0.0]])
            with torch.inference_mode():
                feature = network(points, torch.zeros(1, dtype=torch.int64), 1)
            assert feature.shape == (1, 12, GRID.rows, GRID.columns)
            lit = feature.abs().sum(dim=1).flatten().nonzero().squeeze(1)
            cell = int(GRID.cell_index(torch.tensor([x, y])))
            # Three strided convolutions carry a point at most to the neighbouring cells.
            distance = (GRID.cell_centre(lit) - GRID.cell_centre(torch.tensor(cell))).abs().amax(dim=1)
            assert len(lit) > 0
            assert distance.max() <= GRID.cell_size * 1.01

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("points", [0, 1])
    def test_lives_on_next_to_nothing(self, network: VoxelLidarNet, training: bool, points: int) -> None:
        network.train(training)
        try:
            feature = network(torch.ones(points, 5), torch.zeros(points, dtype=torch.int64), 2)
        finally:
            network.eval()
        assert torch.isfinite(feature).all()
        assert not feature[1].any()

    def test_points_outside_are_nothing(self, network: VoxelLidarNet) -> None:
        with torch.inference_mode():
            feature = network(torch.full((3, 5), 500.0), torch.zeros(3, dtype=torch.int64), 1)
        assert not feature.any()


def test_residual_block_keeps_cells_and_adds_its_input() -> None:
    torch.manual_seed(0)
    tensor = random_tensor(7, channels=4)
    block = SparseResidualBlock(4).double().eval()
    torch.nn.init.zeros_(block.second.convolution.weight)
    result = block(tensor)
    assert torch.equal(result.cell_n, tensor.cell_n)
    assert torch.allclose(result.features_nc, tensor.features_nc.relu())


def test_normalization_of_a_single_cell_uses_the_running_statistics() -> None:
    layer = SparseConvNormAct(SparseConvolution(3, 4, submanifold=True)).double().train()
    before = layer.normalization.running_mean.clone()
    tensor = SparseTensor(torch.ones(1, 3, dtype=torch.float64), torch.tensor([5]), (2, 2, 2), 1)
    assert torch.isfinite(layer(tensor).features_nc).all()
    assert torch.equal(layer.normalization.running_mean, before)
