"""Opens a data set by looking at its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perception_core.configuration import nearest
from training.datasets.dataset import SampleDataset
from training.datasets.files import DataError
from training.datasets.frame_input import DEFAULT_INPUT, FrameInput

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


#: By the name users give; looked through in this order.
LAYOUTS: dict[str, Layout] = {
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
