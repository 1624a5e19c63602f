"""Opens a data set by looking at its folder: the first part or split, all labels that are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perception_core.configuration import nearest
from training.datasets.dataset import SampleDataset
from training.datasets.files import DataError
from training.datasets.frame_input import DEFAULT_INPUT, FrameInput
from training.datasets.single_view import first_part

Opener = Callable[[Path, FrameInput], SampleDataset]


@dataclass(frozen=True)
class Layout:
    """One layout of files that is known.

    Attributes:
        fits: Tells whether a path has it.
        open: Opens it.
        sign: What it is recognized by, for the message.
    """

    fits: Callable[[Path], bool]
    open: Opener
    sign: str


def _open_info(path: Path, frame_input: FrameInput) -> SampleDataset:
    from training.datasets.info_dataset import InfoDataset

    return InfoDataset(path, frame_input=frame_input)


def _open_kitti(path: Path, frame_input: FrameInput) -> SampleDataset:
    from training.datasets.kitti import KittiDrive

    return KittiDrive(path, frame_input)


def _open_nuscenes(path: Path, frame_input: FrameInput) -> SampleDataset:
    from training.datasets.nuscenes import NuScenesConfig, NuScenesDataset

    has_maps = (path / "maps" / "expansion").is_dir()
    tasks = ("detection3d", "map_segmentation", "foreground_segmentation", "control")
    config = NuScenesConfig(tasks=tasks if has_maps else tuple(t for t in tasks if t != "map_segmentation"))
    return NuScenesDataset(path, config=config, frame_input=frame_input)


def _open_cityscapes(path: Path, frame_input: FrameInput) -> SampleDataset:
    from training.datasets.cityscapes import CITYSCAPES_TASKS, LABEL_PLACES, Cityscapes

    split = next(name for name in ("train", "val", "test") if (path / "leftImg8bit" / name).is_dir())
    tasks = tuple(task for task in CITYSCAPES_TASKS if (path / LABEL_PLACES[task][0] / split).is_dir())
    return Cityscapes(path, split, tasks, frame_input)


def _open_cityscapes_adashare(path: Path, frame_input: FrameInput) -> SampleDataset:
    from training.datasets.cityscapes_adashare import GROUP_FILE, CityscapesAdaShare

    return CityscapesAdaShare(path, first_part(path / GROUP_FILE), frame_input=frame_input)


def _open_taskonomy(path: Path, frame_input: FrameInput) -> SampleDataset:
    from training.datasets.taskonomy import GROUP_FILE, Taskonomy

    return Taskonomy(path, first_part(path / GROUP_FILE), frame_input)


def _open_nyuv2(path: Path, frame_input: FrameInput) -> SampleDataset:
    from training.datasets.nyuv2 import GROUP_FILE, NyuV2

    group_file = path / GROUP_FILE
    return NyuV2(path, first_part(group_file) if group_file.is_file() else "", frame_input=frame_input)


def _open_camvid(path: Path, frame_input: FrameInput) -> SampleDataset:
    from training.datasets.camvid import CamVid

    part = next(name for name in ("train", "val", "test") if (path / f"{name}annot").is_dir())
    return CamVid(path, part, frame_input)


#: By the name users give; looked through in this order.
LAYOUTS: dict[str, Layout] = {
    "nuscenes": Layout(
        lambda path: any((folder / "scene.json").is_file() for folder in path.glob("v1.0-*")),
        _open_nuscenes,
        "v1.0-*/scene.json",
    ),
    "info": Layout(
        lambda path: (path / "frame.json").is_file() or path.suffix in (".pkl", ".json"),
        _open_info,
        "frame.json, or an mmdet3d info file itself",
    ),
    "kitti": Layout(
        lambda path: (path / "calib.yaml").is_file() and (path / "velodyne").is_dir(),
        _open_kitti,
        "calib.yaml and velodyne/",
    ),
    "cityscapes": Layout(lambda path: (path / "leftImg8bit").is_dir(), _open_cityscapes, "leftImg8bit/"),
    "cityscapes_adashare": Layout(
        lambda path: (path / "cityscape.json").is_file(), _open_cityscapes_adashare, "cityscape.json"
    ),
    "taskonomy": Layout(lambda path: (path / "taskonomy.json").is_file(), _open_taskonomy, "taskonomy.json"),
    "nyuv2": Layout(
        lambda path: (path / "img").is_dir() and (path / "normal_mask").is_dir(),
        _open_nyuv2,
        "img/ and normal_mask/",
    ),
    "camvid": Layout(
        lambda path: any((path / f"{part}annot").is_dir() for part in ("train", "val", "test")),
        _open_camvid,
        "trainannot/",
    ),
}


def open_dataset(
    path: str | Path, frame_input: FrameInput = DEFAULT_INPUT, kind: str | None = None
) -> SampleDataset:
    """Opens a data set.

    Args:
        path: Its folder (or info file).
        frame_input: What the network takes.
        kind: Key of LAYOUTS; None: found by the folder's content.

    Raises:
        DataError: The path does not exist, has no known layout, or its data set cannot be opened.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(path, "does not exist")
    if kind is None:
        kind = next((name for name, layout in LAYOUTS.items() if layout.fits(path)), None)
        if kind is None:
            signs = "; ".join(f"{name}: {layout.sign}" for name, layout in LAYOUTS.items())
            raise DataError(path, f"no known layout of a data set. Known are {signs}")
    if kind not in LAYOUTS:
        raise DataError(path, f"unknown kind of data set '{kind}'" + nearest(kind, LAYOUTS))
    return LAYOUTS[kind].open(path, frame_input)
