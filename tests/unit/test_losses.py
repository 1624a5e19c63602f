"""Losses against their formulas, on samples with, without and with partial labels."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.bundle_writer import create_seeded_model
from perception_core.ops.bev_grid import BevGrid
from perception_core.ops.box_codec import BoxCodec
from training.losses import (
    BevMaskLoss,
    ControlLoss,
    ControlLossConfig,
    DepthLoss,
    DepthLossConfig,
    DetectionLoss,
    DetectionLossConfig,
    MaskLossConfig,
    NonFiniteLossError,
    TaskLoss,
)
from training.losses.depth import dense_depth, lidar_depth
from training.losses.focal import dice_loss, gaussian_focal_loss, sigmoid_focal_loss
from training.losses.heatmap_target import draw_heatmap, peak_radius
from training.losses.matching import aligned_iou, match_queries

GRID = BevGrid(x_min=-12.8, x_max=12.8, y_min=-12.8, y_max=12.8, cell_size=0.8)
SMALL = {
    "grid": GRID.model_dump(),
    "camera": {"image_height": 32, "image_width": 64, "depth_bins": 12, "depth_max": 16.0},
    "detection": {"queries": 16},
}


@dataclass
class Boxes:
    boxes_b9: torch.Tensor
    labels_b: torch.Tensor


def random_boxes(seed: int, count: int, classes: int = 10) -> Boxes:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 9, generator=generator)
    boxes[:, :2] = boxes[:, :2] * 22 - 11
    boxes[:, 3:6] = boxes[:, 3:6] * 4 + 0.5
    boxes[:, 6] = boxes[:, 6] * 6 - 3
    return Boxes(boxes, torch.randint(0, classes, (count,), generator=generator))


@pytest.fixture(scope="module")
def head():
    torch.set_num_threads(1)
    return create_seeded_model("fuller_tiny", 0, **SMALL).detection3d_head.train()


@pytest.fixture(scope="module")
def dense_head():
    arguments = {**SMALL, "detection": {"kind": "dense", "queries": 16, "channels": 8}}
    return create_seeded_model("fuller_tiny", 0, **arguments).detection3d_head.train()


def feature(batch_size: int = 2) -> torch.Tensor:
    return torch.randn(batch_size, 64, 32, 32, generator=torch.Generator().manual_seed(1))


class TestFocal:
    def test_is_its_formula(self) -> None:
        logits = torch.tensor([2.0, -1.0, 0.5, -3.0])
        targets = torch.tensor([1.0, 1.0, 0.0, 0.0])
        p = logits.sigmoid()
        right = torch.where(targets > 0, p, 1 - p)
        weight = torch.where(targets > 0, 0.25, 0.75)
        expected = -weight * (1 - right) ** 2 * right.log()
        assert torch.allclose(sigmoid_focal_loss(logits, targets, 0.25, 2.0), expected, atol=1e-6)

    def test_stays_finite_for_large_logits(self) -> None:
        logits = torch.tensor([200.0, -200.0]).requires_grad_()
        for targets in (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])):
            loss = sigmoid_focal_loss(logits, targets, None, 2.0).sum()
            assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()
            loss = gaussian_focal_loss(logits, targets).sum()
            assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()

    def test_cells_near_a_peak_count_less(self) -> None:
        losses = gaussian_focal_loss(torch.zeros(3), torch.tensor([0.0, 0.8, 1.0]))
        assert losses.tolist() == pytest.approx(
            [0.25 * math.log(2), 0.2**4 * 0.25 * math.log(2), 0.25 * math.log(2)]
        )

    def test_dice_is_zero_for_the_right_mask_and_one_for_the_opposite(self) -> None:
        mask = torch.tensor([[1.0, 0.0, 1.0, 0.0] * 50])
        logits = (mask * 2 - 1) * 20
        assert dice_loss(logits, mask).item() == pytest.approx(0, abs=1e-5)
        assert dice_loss(-logits, mask).item() == pytest.approx(1, abs=1e-2)
        ignored = dice_loss(-logits, mask, torch.zeros_like(mask))
        assert ignored.item() == 0


class TestHeatmap:
    @settings(max_examples=30, deadline=None)
    @given(
        length=st.floats(0.3, 30),
        width=st.floats(0.3, 30),
        overlap=st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]),
    )
    def test_a_box_moved_by_its_radius_still_overlaps(
        self, length: float, width: float, overlap: float
    ) -> None:
        radius = float(peak_radius(torch.tensor([[length, width]], dtype=torch.float64), overlap))
        assert radius >= 0

        def iou(low: float, high: float) -> float:
            """Of the box and itself with its lower corner moved by `low` and its upper one by `high`."""
            inner = outer = moved = 1.0
            for side in (length, width):
                inner *= max(0.0, min(side, side + high) - max(0.0, low))
                outer *= side
                moved *= side + high - low
            return inner / (outer + moved - inner)

        smallest = min(iou(radius, radius), iou(radius, -radius), iou(-radius, radius))
        assert smallest == pytest.approx(overlap, abs=1e-6)

    def test_peaks_lie_where_objects_lie(self) -> None:
        targets = random_boxes(2, 6, classes=3)
        heatmap = draw_heatmap(targets.boxes_b9, targets.labels_b, 3, GRID, 0.1, 2.0)
        expected = {
            (int(label), int(cell))
            for label, cell in zip(targets.labels_b, GRID.cell_index(targets.boxes_b9[:, :2]), strict=True)
        }
        found = {(int(k), int(c)) for k, c in (heatmap.flatten(1) == 1).nonzero()}
        assert found == expected
        assert heatmap.min() == 0
        assert heatmap.max() == 1

    def test_nothing_gives_nothing(self) -> None:
        empty = random_boxes(0, 0)
        assert not draw_heatmap(empty.boxes_b9, empty.labels_b, 3, GRID, 0.1, 2.0).any()


class TestMatching:
    def test_aligned_iou_of_a_turned_box(self) -> None:
        box = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0, 0, 0]])
        turned = torch.tensor([[0.0, 0, 0, 2, 4, 1, math.pi / 2, 0, 0], [2.0, 0, 0, 4, 2, 1, 0.1, 0, 0]])
        assert aligned_iou(box, turned)[0].tolist() == pytest.approx([1.0, 4 / 12])

    @settings(max_examples=6, deadline=None)
    @given(seed=st.integers(0, 10_000))
    def test_is_the_cheapest_of_all_assignments(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        predicted, targets = random_boxes(seed, 5), random_boxes(seed + 1, 3)
        logits = torch.randn(5, 10, generator=generator)
        config = DetectionLossConfig(class_cost=1.0, position_cost=3.0, overlap_cost=1.0)
        query, target = match_queries(
            logits, predicted.boxes_b9, targets.boxes_b9, targets.labels_b, GRID, config
        )

        def cost(q: int, t: int) -> float:
            p = logits[q, targets.labels_b[t]].sigmoid()
            classes = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()
            distance = (predicted.boxes_b9[q, :2] - targets.boxes_b9[t, :2]).abs().sum() / 25.6
            overlap = aligned_iou(predicted.boxes_b9[q : q + 1], targets.boxes_b9[t : t + 1])
            return float(classes + 3 * distance - overlap)

        found = sum(cost(q, t) for q, t in zip(query.tolist(), target.tolist(), strict=True))
        best = min(
            sum(cost(q, t) for t, q in enumerate(chosen)) for chosen in itertools.permutations(range(5), 3)
        )
        assert found == pytest.approx(best, abs=1e-4)

    def test_a_network_gone_astray_does_not_stop_it(self) -> None:
        targets = random_boxes(1, 3)
        query, target = match_queries(
            torch.full((5, 10), float("nan")),
            torch.full((5, 9), float("inf")),
            targets.boxes_b9,
            targets.labels_b,
            GRID,
            DetectionLossConfig(),
        )
        assert len(query) == len(target) == 3


class TestDetection:
    def loss(self, **config) -> DetectionLoss:
        return DetectionLoss(DetectionLossConfig(**config), classes=10, grid=GRID)

    def test_every_weight_of_the_head_gets_a_gradient(self, head) -> None:
        head.zero_grad()
        result = self.loss()(head(feature()), [random_boxes(1, 6), random_boxes(2, 3)], torch.ones(2).bool())
        result.total.backward()
        assert result.samples == 2
        assert set(result.terms) == {"heatmap", "class", "box"}
        assert result.total.item() == pytest.approx(
            sum(float(term) for term in result.terms.values()), rel=1e-5
        )
        missing = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
        assert all(name.endswith("key.bias") for name in missing), missing

    def test_training_on_one_scene_finds_its_boxes(self, head) -> None:
        """The loss means what it shall: minimizing it makes the decoder put out the annotated boxes."""
        import copy

        head = copy.deepcopy(head)
        targets = random_boxes(5, 3)
        targets.boxes_b9[:, :2] = torch.tensor([[-8.0, -8.0], [0.4, 7.0], [8.0, -1.0]])
        source = feature(1).requires_grad_(False)
        optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
        loss = self.loss()
        for _ in range(80):
            optimizer.zero_grad()
            loss(head(source), [targets], torch.ones(1).bool()).total.backward()
            optimizer.step()
        with torch.no_grad():
            boxes, scores, labels = head.decode(head(source))
        found = {(int(label)): box for box, label in zip(boxes[0, :3], labels[0, :3], strict=True)}
        for box, label in zip(targets.boxes_b9, targets.labels_b.tolist(), strict=True):
            assert label in found
            assert (found[label][:2] - box[:2]).norm() < 0.8
            assert (found[label][3:6] - box[3:6]).abs().max() < 0.8
        assert scores[0, 2] > 2 * scores[0, 3]

    def test_only_present_samples_count(self, head) -> None:
        output = head(feature())
        one = self.loss()(output, [random_boxes(1, 6), None], torch.tensor([True, False]))
        gradient = torch.autograd.grad(one.total, output.heatmap_logits_bkhw, retain_graph=True)[0]
        assert gradient[0].any()
        assert not gradient[1].any()
        other = self.loss()(output, [random_boxes(1, 6), random_boxes(9, 4)], torch.tensor([True, False]))
        assert torch.equal(one.total, other.total)

    def test_without_labels_it_is_zero_with_a_graph(self, head) -> None:
        output = head(feature())
        nothing = self.loss()(output, [None, None], torch.zeros(2).bool())
        assert nothing.total.item() == 0
        head.zero_grad()
        nothing.total.backward()
        assert all(not p.grad.any() for p in head.parameters() if p.grad is not None)

    def test_an_empty_scene_is_a_label(self, head) -> None:
        empty = random_boxes(0, 0)
        result = self.loss()(head(feature(1)), [empty], torch.ones(1).bool())
        assert result.terms["box"] == 0
        assert result.terms["class"] > 0

    def test_what_is_not_annotated_does_not_count(self, head) -> None:
        output = head(feature(1))
        targets = random_boxes(1, 4)
        targets.boxes_b9[:, 7:] = float("nan")
        first = self.loss()(output, [targets], torch.ones(1).bool())
        assert torch.isfinite(first.total)
        targets.boxes_b9[:, 7:] = 0
        second = self.loss()(output, [targets], torch.ones(1).bool())
        assert first.terms["box"] < second.terms["box"]

    def test_boxes_outside_the_grid_are_left_out(self, head) -> None:
        output, targets = head(feature(1)), random_boxes(1, 4)
        far = Boxes(
            torch.cat((targets.boxes_b9, targets.boxes_b9 + 100)),
            torch.cat((targets.labels_b, targets.labels_b)),
        )
        for first, second in zip(
            self.loss()(output, [targets], torch.ones(1).bool()).terms.values(),
            self.loss()(output, [far], torch.ones(1).bool()).terms.values(),
            strict=True,
        ):
            assert torch.equal(first, second)

    def test_the_box_term_is_the_weighted_distance_of_the_codes(self, head) -> None:
        loss = self.loss()
        codec = BoxCodec(GRID.cell_size)
        targets = random_boxes(3, 1)
        position = GRID.cell_centre(GRID.cell_index(targets.boxes_b9[:, :2]))
        code = codec.encode(targets.boxes_b9, position)
        wrong = code + torch.tensor([1.0, 2, 3, 0, 0, 0, 0, 0, 5, 5])
        assert loss._code_loss(wrong, code).item() == pytest.approx(1 + 2 + 3 + 0.2 * 10)

    def test_the_dense_head_has_its_loss(self, dense_head) -> None:
        dense_head.zero_grad()
        loss, boxes = self.loss(), [random_boxes(1, 6), None]
        result = loss.dense(dense_head(feature()), boxes, torch.tensor([True, False]))
        result.total.backward()
        assert set(result.terms) == {"heatmap", "box"}
        assert all(p.grad is not None for p in dense_head.parameters())
        nothing = loss.dense(dense_head(feature()), [None, None], torch.zeros(2).bool())
        assert nothing.total.item() == 0
        nothing.total.backward()

    def test_the_dense_box_term_reads_the_cell_and_group_of_each_object(self, dense_head) -> None:
        output = dense_head(feature(1))
        targets = random_boxes(4, 5)
        cells = GRID.cell_index(targets.boxes_b9[:, :2])
        codes = BoxCodec(GRID.cell_size).encode(targets.boxes_b9, GRID.cell_centre(cells))
        exact = output.code_bgehw.detach().clone()
        for code, cell, label in zip(codes, cells.tolist(), targets.labels_b.tolist(), strict=True):
            exact[0, dense_head.group_of_class[label], :, cell // 32, cell % 32] = code
        perfect = type(output)(output.heatmap_logits_bkhw, exact, output.group_of_class)
        loss = self.loss()
        assert loss.dense(perfect, [targets], torch.ones(1).bool()).terms["box"] == 0
        assert loss.dense(output, [targets], torch.ones(1).bool()).terms["box"] > 0

    def test_a_term_that_is_no_number_is_named(self, head) -> None:
        output = head(feature(1))
        broken = type(output)(**{**vars(output), "code_bqe": output.code_bqe * float("nan")})
        with pytest.raises(NonFiniteLossError, match="'detection3d': term 'box' is nan"):
            self.loss()(broken, [random_boxes(1, 4)], torch.ones(1).bool())

    def test_a_wrong_number_of_code_weights_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected 10 numbers, got 3"):
            DetectionLossConfig(code_weights=(1, 1, 1))


class TestMasks:
    def loss(self, **config) -> BevMaskLoss:
        return BevMaskLoss("map_segmentation", MaskLossConfig(**config))

    def test_is_the_sum_of_its_terms(self) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(2, 3, 4, 5, generator=generator)
        masks = torch.rand(2, 3, 4, 5, generator=generator) > 0.5
        result = self.loss(focal_weight=2.0)(logits, masks, torch.ones(2).bool())
        focal = sigmoid_focal_loss(logits, masks.float(), None, 2.0).mean()
        dice = dice_loss(logits.flatten(2), masks.float().flatten(2)).mean()
        assert result.total.item() == pytest.approx(float(2 * focal + dice))

    def test_samples_and_cells_without_labels_do_not_count(self) -> None:
        logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        masks = torch.zeros(2, 3, 4, 5, dtype=torch.bool)
        valid = torch.ones(2, 4, 5, dtype=torch.bool)
        valid[:, 0] = False
        result = self.loss()(logits, masks, torch.tensor([False, True]), valid)
        gradient = torch.autograd.grad(result.total, logits)[0]
        assert not gradient[0].any()
        assert not gradient[1, :, 0].any()
        assert gradient[1, :, 1:].all()

    def test_without_labels_it_is_zero_with_a_graph(self) -> None:
        logits = torch.full((2, 3, 4, 5), float("nan")).requires_grad_()
        nothing = self.loss()(logits, torch.zeros(2, 3, 4, 5).bool(), torch.zeros(2).bool())
        nothing.total.backward()
        assert nothing.total.item() == 0
        assert not logits.grad.any()

    def test_contradictions_are_named(self) -> None:
        logits = torch.zeros(2, 3, 4, 5)
        with pytest.raises(ValueError, match=r"\(2, 3, 4, 5\), masks \(2, 3, 8, 10\)"):
            self.loss()(logits, torch.zeros(2, 3, 8, 10).bool(), torch.ones(2).bool())
        with pytest.raises(ValueError, match="present_b must be bool"):
            self.loss()(logits, logits.bool(), torch.ones(2))
        with pytest.raises(NonFiniteLossError, match="'map_segmentation': term 'focal'"):
            self.loss()(logits * float("nan"), logits.bool(), torch.ones(2).bool())


class TestControl:
    def arguments(self, present) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {
            "steering_b1": torch.zeros(2, 1).requires_grad_(),
            "speed_b1": torch.ones(2, 1).requires_grad_(),
            "waypoints_bk2": torch.randn(2, 4, 2, generator=generator).requires_grad_(),
            "target_steering_b1": torch.tensor([[0.05], [0.0]]),
            "target_speed_b1": torch.tensor([[7.0], [1.0]]),
            "target_waypoints_bk2": torch.zeros(2, 4, 2),
            "waypoint_valid_bk": torch.tensor([[True, True, False, False]] * 2),
            "present_b": torch.tensor(present),
        }

    def test_errors_count_in_their_units(self) -> None:
        arguments = self.arguments([True, True])
        result = ControlLoss(ControlLossConfig())(**arguments)
        assert result.terms["steering"].item() == pytest.approx(0.5 * 0.5**2 / 2)
        assert result.terms["speed"].item() == pytest.approx((3.0 - 0.5) / 2)
        result.total.backward()
        gradient = arguments["waypoints_bk2"].grad
        assert gradient[:, :2].all()
        assert not gradient[:, 2:].any()

    def test_samples_without_labels_do_not_count(self) -> None:
        arguments = self.arguments([False, True])
        ControlLoss(ControlLossConfig())(**arguments).total.backward()
        assert not arguments["waypoints_bk2"].grad[0].any()
        nothing = ControlLoss(ControlLossConfig())(**self.arguments([False, False]))
        assert nothing.total.item() == 0
        nothing.total.backward()

    def test_no_valid_waypoint_is_no_error(self) -> None:
        arguments = self.arguments([True, True])
        arguments["waypoint_valid_bk"][:] = False
        assert ControlLoss(ControlLossConfig())(**arguments).terms["waypoints"] == 0


class TestDepth:
    LOSS = DepthLoss(DepthLossConfig(), depth_min=1.0, depth_max=5.0, depth_bins=5)

    def test_is_the_cross_entropy_at_the_nearest_plane(self) -> None:
        depth = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.1]).expand(1, 2, 3, 5)
        target = torch.tensor([[[1.2, 2.6, 0.0], [9.0, 0.2, 4.4]]])
        result = self.LOSS(depth, target)
        expected = -(math.log(0.1) + math.log(0.3) + math.log(0.3)) / 3
        assert result.total.item() == pytest.approx(expected, rel=1e-5)
        assert result.samples == 1

    def test_without_depth_it_is_zero_with_a_graph(self) -> None:
        depth = torch.rand(1, 2, 3, 5).requires_grad_()
        nothing = self.LOSS(depth, torch.zeros(1, 2, 3))
        nothing.total.backward()
        assert nothing.total.item() == 0

    def test_points_fall_into_the_pixels_they_are_seen_in(self) -> None:
        intrinsics = torch.tensor([[10.0, 0.0, 15.5], [0.0, 10.0, 7.5], [0.0, 0.0, 1.0]]).view(1, 1, 3, 3)
        camera_from_ego = torch.eye(4).view(1, 1, 4, 4)  # looks along z
        points = torch.tensor(
            [
                [0.0, 0.0, 4.0, 0, 0],  # pixel (15.5, 7.5)
                [0.0, 0.0, 3.0, 0, 0],  # nearer, same pixel
                [1.5, 0.0, 1.0, 0, 0],  # pixel (30.5, 7.5)
                [0.0, 0.0, -3.0, 0, 0],  # behind
                [9.0, 0.0, 1.0, 0, 0],  # outside
            ]
        )
        depth = lidar_depth(
            points,
            torch.zeros(5, dtype=torch.int64),
            torch.ones(1, 1).bool(),
            intrinsics,
            camera_from_ego,
            (2, 4),
            8,
        )
        assert depth.tolist() == [[[0, 0, 3, 0], [0, 0, 0, 0]]] or depth[0].nonzero().tolist() == [
            [1, 2],
            [1, 3],
        ]
        assert sorted(depth[depth > 0].tolist()) == [1.0, 3.0]

    def test_images_are_reduced_to_the_nearest_valid_depth(self) -> None:
        depth = torch.tensor([[[5.0, 2.0, 7.0, 7.0], [1.0, 3.0, 7.0, 7.0]]])
        valid = torch.tensor([[[True, True, False, False], [False, True, False, False]]])
        assert dense_depth(depth, valid, 2).tolist() == [[[2.0, 0.0]]]


def test_the_loss_of_nothing_reaches_every_output() -> None:
    outputs = [torch.randn(2, 3).requires_grad_(), torch.full((1,), float("inf")).requires_grad_()]
    nothing = TaskLoss.without_labels(*outputs)
    nothing.total.backward()
    assert nothing.total.item() == 0
    assert all(not output.grad.any() for output in outputs)
