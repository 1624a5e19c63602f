"""mmdet3d's info files: read without trust, written so that both sides read them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nuscenes_tree_fixtures import NuScenesTree

from training.datasets.files import DataError
from training.datasets.frame_input import FrameInput
from training.datasets.info_dataset import InfoDataset
from training.datasets.info_file import load_plain_pickle, read_info_file, write_info_file
from training.datasets.nuscenes import NuScenesConfig, NuScenesDataset
from training.datasets.nuscenes_infos import write_nuscenes_infos

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sampled_from([np.float32(1.5), np.int64(-3), np.bool_(True), np.float64(2.25), np.uint8(7)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40)
@given(plain, st.sampled_from([0, 2, 3, 4, 5]))
def test_plain_data_comes_back(value: Any, protocol: int) -> None:
    assert load_plain_pickle(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("kind", ["f4", "f8", "i8", "u1", "?", "U5", "S3", ">f4", "<i2"])
def test_arrays_come_back(protocol: int, kind: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(kind)
    for made in (array, np.asfortranarray(array), array[:0], array[0, 0]):
        found = load_plain_pickle(pickle.dumps(made, protocol=protocol))
        np.testing.assert_array_equal(found, made)


class Command:
    """What an attacker would send."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize(
    "attack",
    [
        Command(os.system, "touch HACKED"),
        Command(eval, "1 + 1"),
        Command(np.load, "HACKED"),
        Command(Path, "a"),
        {"deep": [Command(os.getcwd)]},
        np.array([Command(os.getcwd)], dtype=object),
        np.array(["x", None], dtype=object),
        np.zeros(2, dtype=[("a", "f4")]),
        np.datetime64("2020-01-01"),
        complex(1, 2),
        print,
        Command,
    ],
)
def test_anything_else_is_refused(attack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in (2, 4):
        with pytest.raises(pickle.UnpicklingError):
            load_plain_pickle(pickle.dumps(attack, protocol=protocol))
    assert not (tmp_path / "HACKED").exists()


def test_helpers_cannot_be_changed_by_a_pickle() -> None:
    """Opcodes BUILD and NEWOBJ on an admitted name."""
    admitted = b"cnumpy.core.multiarray\nscalar\n"
    for content in (
        admitted + b"(N}S'__defaults__'\nNsb.",
        admitted + b"}S'_function'\nNsb.",
        admitted + b")\x81.",
        admitted + b".",
        b"cnumpy\nndarray\n.",
        b"(cos\nsystem\n.",
        b"Pnobody\n.",
    ):
        with pytest.raises(pickle.UnpicklingError):
            load_plain_pickle(content)
    assert load_plain_pickle(pickle.dumps(np.float64(3))) == 3


@settings(max_examples=40)
@given(st.binary(max_size=60))
def test_noise_is_refused_or_plain(content: bytes) -> None:
    try:
        value = load_plain_pickle(content)
    except pickle.UnpicklingError:
        return
    assert value is None or isinstance(value, (int, float, str, bytes, list, tuple, dict, set, frozenset))


@settings(max_examples=40)
@given(st.integers(0, 400), st.integers(0, 255))
def test_a_flipped_byte_never_runs_anything(place: int, value: int) -> None:
    content = bytearray(pickle.dumps({"a": np.arange(5), "b": [np.float32(1)], "c": "text"}, protocol=2))
    content[place % len(content)] = value
    try:
        load_plain_pickle(bytes(content))
    except pickle.UnpicklingError:
        return


def test_files_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps({"metainfo": {}, "data_list": [Command(os.getcwd)]}))
    with pytest.raises(DataError, match=r"infos\.pkl: is no info file that can be trusted: .*getcwd"):
        read_info_file(path)
    path.write_bytes(pickle.dumps({"infos": [], "metadata": {}}))
    with pytest.raises(DataError, match="update_infos_to_v2"):
        read_info_file(path)
    path.write_bytes(pickle.dumps({"metainfo": {}}))
    with pytest.raises(DataError, match="needs the keys metainfo and data_list"):
        read_info_file(path)
    with pytest.raises(DataError, match="file is missing"):
        read_info_file(tmp_path / "none.pkl")
    with pytest.raises(DataError, match="plain data"):
        write_info_file(path, {}, [{"object": object()}])
    assert sorted(tmp_path.iterdir()) == [path]  # nothing half-written


def test_written_files_are_plain_pickles_for_others(tmp_path: Path) -> None:
    path = tmp_path / "infos.pkl"
    write_info_file(path, {"categories": {"car": 0}}, [{"token": "a", "matrix": [[1.0]]}])
    with path.open("rb") as stream:
        assert pickle.load(stream) == read_info_file(path)


def test_both_ways_to_a_sample_agree(tmp_path: Path) -> None:
    """nuScenes read directly, and through an info file written from it."""
    root = NuScenesTree(tmp_path / "data").write()
    frame_input = FrameInput(sweeps=3)
    config = NuScenesConfig(cache=tmp_path, tasks=("detection3d",))
    direct = NuScenesDataset(root, config=config, frame_input=frame_input)
    write_nuscenes_infos(direct, tmp_path / "infos.pkl", sweeps=4)
    through = InfoDataset(tmp_path / "infos.pkl", root, frame_input, image_size=(160, 90))
    assert len(through) == len(direct)
    one, other = direct[3], through[3]
    np.testing.assert_allclose(other.points_nc, one.points_nc, atol=2e-5)
    assert one.boxes is not None
    assert other.boxes is not None
    np.testing.assert_allclose(other.boxes.boxes_b9, one.boxes.boxes_b9, atol=1e-6)
    np.testing.assert_array_equal(other.boxes.labels_b, one.boxes.labels_b)
    np.testing.assert_array_equal(other.boxes.points_b, one.boxes.points_b)
    assert one.cameras is not None
    assert other.cameras is not None
    np.testing.assert_array_equal(other.cameras.images_vhwc, one.cameras.images_vhwc)
    np.testing.assert_allclose(other.cameras.camera_from_ego_v44, one.cameras.camera_from_ego_v44, atol=1e-9)
    np.testing.assert_allclose(other.ego_motion_c, one.ego_motion_c, atol=0.05)
    assert other.labels_present == one.labels_present
    assert other.provenance.token == one.provenance.token
    assert other.provenance.time_ns == one.provenance.time_ns


def test_the_real_info_pickle_and_its_json_agree(recordings: Path) -> None:
    folder = recordings / "nuscenes_frame"
    (path,) = folder.glob("*.pkl")
    by_pickle, by_json = InfoDataset(path)[0], InfoDataset(folder)[0]
    np.testing.assert_array_equal(by_pickle.points_nc, by_json.points_nc)
    assert by_pickle.boxes is not None
    assert by_json.boxes is not None
    np.testing.assert_allclose(by_pickle.boxes.boxes_b9, by_json.boxes.boxes_b9)
