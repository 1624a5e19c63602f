"""The one camera a monocular model takes: from messages on the vehicle, from samples in evaluation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from perception_core.bundle import FRAME_TENSORS, MONO_TENSORS, BundleInput, ImageInput, MonoInput
from perception_core.rig import Rig
from perception_nodes.fusion.calibration_book import CalibrationBook
from perception_nodes.fusion.frame_assembly import EgoMotion, FrameAssembler, image_sizes
from perception_nodes.fusion.frame_synchronizer import SensorMessage
from training.datasets.sample import CameraImages, Provenance, Sample
from training.evaluation.mono_frame import mono_tensors
from training.evaluation.result import EvaluationError

RIG = Rig.model_validate(
    {
        "name": "two",
        "lidar": {"topic": "/lidar"},
        "cameras": {
            "camera_back": {"topic": "/b/image", "frame": "back"},
            "camera_front": {"topic": "/f/image", "frame": "front"},
        },
    }
)
MONO = MonoInput(camera="camera_front", height=64, width=128)
BOTH = BundleInput(image=ImageInput(height=32, width=64), mono=MONO)
ALONE = BundleInput(mono=MONO)


def make_book(needs: BundleInput) -> CalibrationBook:
    book = CalibrationBook(RIG, Path("rig.yaml"), needs.image)
    for index, frame in enumerate(("back", "front")):
        book.add_transform("base_link", frame, (float(index), 0.0, 1.5), (0.5, -0.5, 0.5, -0.5))
        info = SimpleNamespace(
            width=256, height=128, distortion_model="", d=[], binning_x=0, binning_y=0, p=np.zeros(12),
            k=np.array([200.0 + index, 0, 127.5, 0, 200.0 + index, 63.5, 0, 0, 1]),
            roi=SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
        )  # fmt: skip
        book.add_camera_info(("camera_back", "camera_front")[index], info)
    return book


def image_message(modality: str, colour: tuple[int, int, int]) -> SensorMessage:
    pixels = np.full((128, 256, 3), colour[::-1], dtype=np.uint8)
    _, data = cv2.imencode(".png", pixels)
    header = SimpleNamespace(frame_id="")
    content = SimpleNamespace(header=header, format="png", data=data.tobytes())
    return SensorMessage(modality, 0, 0, 0, content)


def assemble(needs: BundleInput, selection):
    assembler = FrameAssembler(RIG, needs, make_book(needs), decode_threads=1)
    return assembler.assemble(0, selection, None)


def selection() -> dict[str, SensorMessage]:
    return {
        "camera_back": image_message("camera_back", (10, 20, 30)),
        "camera_front": image_message("camera_front", (200, 100, 50)),
    }


def test_the_front_camera_comes_in_both_sizes_whatever_its_place_in_the_rig() -> None:
    frame = assemble(BOTH, selection())
    assert set(frame.tensors) == {*FRAME_TENSORS, *MONO_TENSORS}
    assert frame.tensors["images_vhwc"].shape == (2, 32, 64, 3)
    assert frame.tensors["images_vhwc"][1, 5, 5].tolist() == [200, 100, 50]
    assert frame.tensors["mono_image_hwc"].shape == (64, 128, 3)
    assert (frame.tensors["mono_image_hwc"] == (200, 100, 50)).all()
    assert frame.tensors["mono_valid"].tolist() == [True]
    # Half of the recorded size, of the front camera's calibration.
    assert frame.tensors["mono_intrinsics_33"][0, 0] == pytest.approx(201 / 2)
    assert frame.tensors["intrinsics_v33"][1, 0, 0] == pytest.approx(201 / 4)
    np.testing.assert_array_equal(
        frame.tensors["mono_camera_from_ego_44"], frame.tensors["camera_from_ego_v44"][1]
    )
    for name, (kind, shape) in MONO_TENSORS.items():
        assert frame.tensors[name].dtype == np.dtype(kind), name
        assert frame.tensors[name].ndim == len(shape), name


@pytest.mark.parametrize(("stretch", "driven_m"), [(1.0, 1.0), (10.0, 0.1)])
def test_a_camera_is_moved_by_what_was_driven_since_its_image(stretch: float, driven_m: float) -> None:
    at_rest = assemble(ALONE, selection()).tensors["mono_camera_from_ego_44"]
    assembler = FrameAssembler(RIG, ALONE, make_book(ALONE), decode_threads=1, time_stretch=stretch)
    moving = assembler.assemble(100_000_000, selection(), EgoMotion(0, speed=10.0, yaw_rate=0.0))
    point = np.array([20.0, 0.0, 0.0, 1.0])  # 20 m ahead of where the vehicle is 0.1 s after the image
    seen = moving.tensors["mono_camera_from_ego_44"] @ point
    np.testing.assert_allclose(seen, at_rest @ (point + np.array([driven_m, 0.0, 0.0, 0.0])), atol=1e-5)


def test_a_monocular_bundle_takes_its_camera_only() -> None:
    assert FrameAssembler.used_modalities(RIG, ALONE) == ("camera_front",)
    assert image_sizes(ALONE, "camera_back") == ()
    frame = assemble(ALONE, {"camera_front": selection()["camera_front"]})
    assert "images_vhwc" not in frame.tensors
    assert frame.valid == {"camera_front"}
    assert frame.tensors["mono_valid"].tolist() == [True]


def test_a_missing_front_camera_is_masked() -> None:
    frame = assemble(BOTH, {"camera_back": selection()["camera_back"]})
    assert frame.valid == {"camera_back"}
    assert frame.tensors["mono_valid"].tolist() == [False]
    assert not frame.tensors["mono_image_hwc"].any()
    assert np.isfinite(frame.tensors["mono_intrinsics_33"]).all()
    assert np.linalg.det(frame.tensors["mono_camera_from_ego_44"][:3, :3]) == pytest.approx(1.0)


def test_a_corrupt_front_image_is_refused_once_for_both_sizes() -> None:
    messages = selection()
    messages["camera_front"].content.data = b"no image"
    frame = assemble(BOTH, messages)
    assert frame.valid == {"camera_back"}
    assert frame.rejected == ["camera_front"]
    assert [fault.kind for fault in frame.faults] == ["bad_image"]
    assert frame.tensors["mono_valid"].tolist() == [False]


def test_a_message_that_serves_several_frames_is_decoded_once() -> None:
    messages = selection()
    book = make_book(BOTH)
    assembler = FrameAssembler(RIG, BOTH, book, decode_threads=1)
    assembler.assemble(0, messages, None)
    prepared = messages["camera_front"].prepared
    assembler.assemble(1, messages, None)
    assert messages["camera_front"].prepared is prepared


def sample(names: tuple[str, ...], size: tuple[int, int] = (64, 128)) -> Sample:
    views = len(names)
    images = np.zeros((views, *size, 3), dtype=np.uint8)
    for view in range(views):
        images[view] = view + 1
    return Sample(
        provenance=Provenance("x", "one"),
        cameras=CameraImages(
            names=names,
            images_vhwc=images,
            valid_v=np.ones(views, dtype=bool),
            intrinsics_v33=np.stack([np.diag([100.0 + view, 100.0, 1.0]) for view in range(views)]),
            camera_from_ego_v44=np.stack([np.eye(4)] * views),
            image_from_original_v33=np.stack([np.eye(3)] * views),
            original_size_v2=np.full((views, 2), 128, dtype=np.int64),
        ),
    )


def test_evaluation_takes_the_camera_by_its_name() -> None:
    tensors = mono_tensors(sample(("camera_back", "camera_front")), MONO)
    assert set(tensors) == set(MONO_TENSORS)
    assert (tensors["mono_image_hwc"] == 2).all()
    assert float(tensors["mono_intrinsics_33"][0, 0]) == 101.0
    # A data set with one camera calls it what it likes; one of several must be named.
    assert bool(mono_tensors(sample(("camera_left",)), MONO)["mono_valid"])
    assert not bool(mono_tensors(sample(("camera_left", "camera_right")), MONO)["mono_valid"])
    with pytest.raises(EvaluationError, match="images of 32 x 64, the monocular model takes 64 x 128"):
        mono_tensors(sample(("camera_front",), (32, 64)), MONO)
