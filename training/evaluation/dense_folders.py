"""Dense predictions as folders of files, whoever made them: read, paired with the truth's by name, judged.

| task | files |
|---|---|
| semantic_segmentation | .png of class numbers (8 bit), or .npy of integers |
| depth | .npy, or 16-bit .png whose values are divided by `scale` (256 as in KITTI; 0 is no value) |
| normals | .npy [H, W, 3], or 8-bit RGB .png with n = 2 v / 255 - 1 (black is no value) |
| edges, keypoints | .npy, or .png whose full scale is 1 |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_core.configuration import nearest
from training.datasets.files import DataError, read_bytes, read_label_image
from training.datasets.sample import DENSE_TASKS, IGNORED_CLASS
from training.evaluation.judges import dense_evaluator
from training.evaluation.result import EvaluationError, Result

#: Of 16-bit depth images, as in KITTI: 256 steps a metre.
DEPTH_SCALE = 256.0
_SUFFIXES = (".npy", ".png")

#: Called with (images done, images in all).
Progress = Callable[[int, int], None]


def evaluate_folders(
    task: str,
    predictions: Path,
    truth: Path,
    *,
    class_names: Sequence[str] = (),
    ignored: int = IGNORED_CLASS,
    scale: float = DEPTH_SCALE,
    progress: Progress | None = None,
) -> Result:
    """Judges a folder of predictions.

    Args:
        task: One of DENSE_TASKS.
        predictions: Folder of files, any depth.
        truth: Folder of files with the same relative names but for the suffix; each needs a prediction.
        class_names: Of semantic segmentation.
        ignored: Class number in the truth that does not count.
        scale: Steps of 16-bit depth images a unit.
        progress: Told after each image.

    Raises:
        EvaluationError: Files are missing, damaged, of another size, or there is no such task.
    """
    if task not in DENSE_TASKS:
        raise EvaluationError(f"'{task}' is no dense task" + nearest(task, DENSE_TASKS))
    if task == "semantic_segmentation" and not class_names:
        raise EvaluationError("semantic segmentation needs its class names, in the order of their numbers")
    true_files, predicted_files = _files(truth), _files(predictions)
    missing = sorted(set(true_files) - set(predicted_files))
    if missing:
        raise EvaluationError(
            f"{predictions}: no prediction for {len(missing)} of {len(true_files)} files of {truth}, e.g. "
            f"{missing[0]}.png or .npy"
        )
    evaluator = dense_evaluator(task, class_names)
    for number, (name, file) in enumerate(sorted(true_files.items()), start=1):
        try:
            true, valid = read_dense_file(task, file, scale)
            predicted, _ = read_dense_file(task, predicted_files[name], scale)
        except DataError as error:
            raise EvaluationError(str(error)) from error
        if task == "semantic_segmentation":
            valid = true != ignored
        try:
            evaluator.update(predicted, true, valid)
        except EvaluationError as error:
            raise EvaluationError(f"{predicted_files[name]} against {file}: {error}") from error
        if progress is not None:
            progress(number, len(true_files))
    result: Result = evaluator.compute()
    return result


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in _SUFFIXES:
            name = str(file.relative_to(folder).with_suffix(""))
            if name in files:
                raise EvaluationError(f"{file} and {files[name].name} are two files of one image")
            files[name] = file
    if not files:
        raise EvaluationError(f"{folder}: no .png or .npy files")
    return files


def read_dense_file(
    task: str, file: Path, scale: float = DEPTH_SCALE
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Reads one file of a dense task.

    Returns:
        The values, [H, W] or [H, W, 3], and where there are any.

    Raises:
        DataError: The file is missing, damaged or of another form.
    """
    values = _read(file)
    if task == "semantic_segmentation":
        if values.ndim != 2 or values.dtype.kind not in "ui":
            raise DataError(file, f"class numbers must be integers [H, W], not {_form(values)}")
        return values.astype(np.int64), np.ones(values.shape, dtype=bool)
    is_image = file.suffix.lower() == ".png"
    if task == "normals":
        if values.ndim != 3 or values.shape[2] != 3:
            raise DataError(file, f"normals must be [H, W, 3], not {_form(values)}")
        valid = (values != 0).any(axis=2)
        if is_image:
            values = 2.0 * values / np.iinfo(values.dtype).max - 1.0
        return values.astype(np.float64), valid
    if values.ndim != 2:
        raise DataError(file, f"{task} must be [H, W], not {_form(values)}")
    if task == "depth":
        if is_image and values.dtype != np.uint16:
            raise DataError(
                file, f"depth images have 16 bits, not {values.dtype}; write .npy for other values"
            )
        depth = values / scale if is_image else values.astype(np.float64)
        return depth, np.isfinite(depth) & (depth > 0)
    strength = values / np.iinfo(values.dtype).max if is_image else values.astype(np.float64)
    return strength, np.isfinite(strength)


def _form(values: NDArray[Any]) -> str:
    return f"{values.dtype} {list(values.shape)}"


def _read(file: Path) -> NDArray[Any]:
    if file.suffix.lower() == ".png":
        return read_label_image(file)
    read_bytes(file)  # for its messages on missing and empty files
    try:
        values = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(file, f"is no .npy file of plain numbers: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "uif":
        raise DataError(file, "is no .npy file of plain numbers")
    # a single channel may have an axis of its own
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
