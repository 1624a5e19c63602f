"""Disjoint annotation, mixtures of data sets, and going on over unreadable files."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_core.ops.bev_grid import BevGrid
from training.datasets.annotation_schemes import FULLER_SCHEMES, PartlyAnnotated, fuller_scheme
from training.datasets.batch import collate
from training.datasets.dataset import SampleDataset, checked_index
from training.datasets.files import DataError
from training.datasets.mixing import MixedDataset, MixingConfig, MixingSampler
from training.datasets.sample import BevMasks, BoxLabels, ControlTargets, Provenance, Sample
from training.datasets.skipping import SkipUnreadable

GRID = BevGrid(x_min=-2, x_max=2, y_min=-2, y_max=2, cell_size=1)


class Drives(SampleDataset):
    """Samples with all labels of driving; some cannot be read."""

    def __init__(self, count: int, name: str = "drives", broken: tuple[int, ...] = ()) -> None:
        self.count, self.name, self.broken = count, name, broken

    def __len__(self) -> int:
        return self.count

    def token(self, index: int) -> str:
        return f"{self.name}{index}"

    def labels_of(self, index: int) -> frozenset[str]:
        return frozenset({"detection3d", "map_segmentation", "control"})

    def __getitem__(self, index: int) -> Sample:
        index = checked_index(index, self.count)
        if index in self.broken:
            raise DataError(f"{self.name}/{index}.jpg", "JPEG is cut off")
        masks = BevMasks(np.ones((1, 4, 4), dtype=bool), ("drivable_area",), GRID)
        return Sample(
            Provenance(self.name, self.token(index)),
            boxes=BoxLabels.empty(("car",)),
            map_masks=masks,
            control=ControlTargets(0.0, 1.0, np.zeros((1, 2)), np.ones(1, dtype=bool)),
            labels_present=self.labels_of(index),
        )


def test_fullers_schemes_have_their_shares() -> None:
    for name, detection in (("disjoint-normal", 750), ("disjoint-balance", 500)):
        data = PartlyAnnotated(Drives(1000), fuller_scheme(name), seed=3)
        labels = [data.labels_of(index) for index in range(1000)]
        assert sum("detection3d" in has for has in labels) == detection
        assert sum("map_segmentation" in has for has in labels) == 1000 - detection
        assert not any({"detection3d", "map_segmentation"} <= has for has in labels)
        assert all("control" in has for has in labels)  # nobody annotates it
    full = PartlyAnnotated(Drives(10), fuller_scheme("full"))
    assert all(full.labels_of(index) == Drives(10).labels_of(index) for index in range(10))
    with pytest.raises(ValueError, match="did you mean 'disjoint-normal'"):
        fuller_scheme("disjoint-norml")


def test_labels_that_were_not_made_are_not_handed_out() -> None:
    data = PartlyAnnotated(Drives(40), FULLER_SCHEMES["disjoint-balance"])
    for index in range(40):
        sample = data[index]
        assert sample.labels_present == data.labels_of(index)
        assert (sample.boxes is None) != (sample.map_masks is None)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.permutations(range(30)))
def test_a_sample_keeps_its_labels_in_any_order(seed: int, order: list[int]) -> None:
    scheme = FULLER_SCHEMES["disjoint-normal"]
    tokens = [f"t{index}" for index in range(30)]
    straight = scheme.assign(tokens, seed)
    shuffled = scheme.assign([tokens[index] for index in order], seed)
    assert [straight[index] for index in order] == shuffled


def test_a_loss_is_taken_only_where_its_label_is() -> None:
    """With a loss weighted by `present`, samples without the label get no gradient."""
    data = PartlyAnnotated(Drives(8), FULLER_SCHEMES["disjoint-balance"])
    batch = collate([data[index] for index in range(8)])
    assert batch.map_masks is not None
    logits = torch.zeros(batch.map_masks.masks_bkhw.shape, requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, batch.map_masks.masks_bkhw.float(), reduction="none"
    ).mean(dim=(1, 2, 3))
    (loss * batch.present["map_segmentation"]).sum().backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(dim=(1, 2, 3)) > 0
    assert touched.tolist() == batch.present["map_segmentation"].tolist()


def test_shares_of_a_mixture_are_kept() -> None:
    mixture = MixedDataset([Drives(1000, "large"), Drives(10, "small")])
    assert mixture.token(1003) == "small:small3"
    sampler = MixingSampler(mixture, MixingConfig(batch_size=10, shares=(1, 1), seed=1))
    drawn = [index for batch in sampler for index in batch]
    assert len(drawn) == 1010
    small = [index for index in drawn if index >= 1000]
    assert 0.42 < len(small) / len(drawn) < 0.58
    assert len(set(small)) == 10  # gone through many times, all of them
    counts = np.bincount(np.array(small) - 1000)
    assert counts.max() - counts.min() <= 1  # a permutation each time
    assert [*sampler] == [*MixingSampler(mixture, sampler.config)]
    sampler.set_epoch(1)
    assert [index for batch in sampler for index in batch] != drawn


def test_every_batch_supplies_every_task() -> None:
    rare = PartlyAnnotated(Drives(200), FULLER_SCHEMES["disjoint-normal"])
    config = MixingConfig(batch_size=3, tasks=("detection3d", "map_segmentation", "control"))
    for batch in MixingSampler(MixedDataset([rare]), config):
        has = set().union(*(rare.labels_of(index) for index in batch))
        assert has >= {"detection3d", "map_segmentation", "control"}


def test_batches_of_one_data_set() -> None:
    mixture = MixedDataset([Drives(20), Drives(20)])
    for batch in MixingSampler(mixture, MixingConfig(batch_size=4, one_dataset_a_batch=True)):
        assert len({index >= 20 for index in batch}) == 1


def test_impossible_mixtures_are_refused() -> None:
    mixture = MixedDataset([Drives(3)])
    with pytest.raises(ValueError, match="no sample has a label of 'depth'"):
        MixingSampler(mixture, MixingConfig(batch_size=2, tasks=("depth",)))
    with pytest.raises(ValueError, match="1 data sets need as many shares"):
        MixingSampler(mixture, MixingConfig(batch_size=2, shares=(1, 2)))
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        MixingConfig(batch_size=2, tasks=("dept",))
    with pytest.raises(ValueError, match="cannot each have a sample"):
        MixingConfig(batch_size=1, tasks=("depth", "normals"))
    with pytest.raises(ValueError, match="all have samples"):
        MixedDataset([])


def test_unreadable_files_are_skipped_only_when_asked(caplog: pytest.LogCaptureFixture) -> None:
    broken = Drives(6, broken=(2, 3))
    with pytest.raises(DataError, match=r"drives/2\.jpg: JPEG is cut off"):
        broken[2]
    skipping = SkipUnreadable(broken)
    with caplog.at_level(logging.WARNING):
        assert skipping[2].provenance.token == "drives4"
        assert skipping[2].provenance.token == "drives4"
    assert [record.getMessage() for record in caplog.records] == [
        "sample drives2 skipped: drives/2.jpg: JPEG is cut off",
        "sample drives3 skipped: drives/3.jpg: JPEG is cut off",
    ]
    assert sorted(skipping.unreadable) == [2, 3]
    with pytest.raises(DataError, match=r"drives/\d\.jpg: JPEG is cut off .and so on"):
        SkipUnreadable(Drives(4, broken=(0, 1, 2, 3)))[0]
    with pytest.raises(IndexError):
        skipping[6]


def test_an_error_survives_a_worker_process() -> None:
    loader = torch.utils.data.DataLoader(
        Drives(4, broken=(1,)), batch_size=2, num_workers=1, collate_fn=collate
    )
    with pytest.raises(DataError, match=r"drives/1\.jpg"):
        list(loader)
