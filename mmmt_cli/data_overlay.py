"""`mmmt data overlay`: pictures of a data set's samples as the network gets them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_core.configuration import ConfigurationError

if TYPE_CHECKING:
    from training.datasets.dataset import SampleDataset


def overlay(
    dataset: Annotated[Path, typer.Argument(help="Folder of a data set, or an mmdet3d info file.")],
    out: Annotated[
        Path, typer.Argument(help="Picture (.png, .jpg), or a folder that gets one picture a sample.")
    ],
    sample: Annotated[
        list[str] | None, typer.Option(help="Index or token of a sample; repeatable. Default: the first.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Kind of the data set; default: found by its folder.")
    ] = None,
    network_size: Annotated[
        bool, typer.Option(help="Draw into the images as resized for the network, not as recorded.")
    ] = False,
    sweeps: Annotated[int, typer.Option(min=1, help="LiDAR sweeps merged into the frame.")] = 1,
    view_width: Annotated[int, typer.Option(min=64, max=4096, help="Width of one camera's picture.")] = 800,
) -> None:
    """Draw LiDAR points, boxes and labels into a sample's images and from above; prints each picture's
    path.
    """
    import cv2

    from training.datasets.files import DataError
    from training.datasets.frame_input import DEFAULT_INPUT
    from training.datasets.opening import open_dataset
    from training.datasets.overlay import draw_sample
    from training.datasets.sample import SampleError

    changes: dict[str, object] = {"sweeps": sweeps, "max_points": None}
    if not network_size:
        changes["image"] = None
    try:
        opened = open_dataset(dataset, DEFAULT_INPUT.model_copy(update=changes), kind)
        chosen = [_index_of(opened, name) for name in sample or ["0"]]
        is_picture = out.suffix.lower() in (".png", ".jpg", ".jpeg")
        if is_picture and len(chosen) > 1:
            raise ConfigurationError(f"{out}: {len(chosen)} samples need a folder, not one picture")
        for index in chosen:
            path = out if is_picture else out / f"{opened.name}_{opened.token(index)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = draw_sample(opened[index], view_width)
            if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
                raise ConfigurationError(f"{path}: the picture cannot be written")
            typer.echo(path)
    except (DataError, SampleError) as error:
        raise ConfigurationError(str(error)) from error
    except OSError as error:
        raise ConfigurationError(f"{out}: the picture cannot be written: {error}") from error


def _index_of(opened: SampleDataset, name: str) -> int:
    """Returns the index of a sample given by index or token.

    Raises:
        ConfigurationError: There is no such sample.
    """
    if name.lstrip("-").isdigit() and -len(opened) <= int(name) < len(opened):
        return int(name) % len(opened)
    for index in range(len(opened)):
        if opened.token(index) == name:
            return index
    raise ConfigurationError(f"no sample '{name}'; there are {len(opened)}, e.g. 0 or '{opened.token(0)}'")
