"""Reads and writes mmdet3d's info files (format 1.1, MMDetection3D 1.x) without trusting them.

Such a file is a pickle, and unpickling runs whatever code its author put in. Here only plain containers,
numbers, strings and numpy arrays of numbers come out of it; anything else is refused before it is built.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception_core.atomic_write import write_atomically
from training.datasets.files import DataError, read_bytes, read_json

#: Values an array of an info file may have: truth values, integers, floating-point numbers, strings.
_PLAIN_KINDS = frozenset("biufUS")

_INFO_KEYS = ("metainfo", "data_list")


class _Refused(pickle.UnpicklingError):
    """The pickle holds something that is not plain data."""


class _PlainType:
    """Stands for numpy.dtype in the pickle; keeps numpy from interpreting a state that may be forged."""

    __slots__ = ("byte_order", "code")

    def __init__(self, code: str) -> None:
        self.code, self.byte_order = code, "="

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) >= 2 and state[1] in ("<", ">", "|", "=")):
            raise _Refused("an array has a type that is not plain")
        self.byte_order = state[1]

    def dtype(self) -> np.dtype[Any]:
        kind = np.dtype(self.code)
        return kind if self.byte_order in ("|", "=") else kind.newbyteorder(self.byte_order)  # type: ignore[arg-type]


class _PlainArray:
    """Stands for a numpy array in the pickle until its state is read."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: np.ndarray[Any, np.dtype[Any]] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, data = state
        self.values = _array(data, kind, shape, "F" if is_fortran else "C")


def _array(data: Any, kind: Any, shape: Any, order: str) -> np.ndarray[Any, np.dtype[Any]]:
    if isinstance(data, str):  # as old pickles store bytes
        data = data.encode("latin1")
    if not isinstance(kind, _PlainType) or not isinstance(data, (bytes, bytearray)):
        raise _Refused("an array is not made of plain bytes")
    values = np.frombuffer(data, dtype=kind.dtype())
    return values.reshape([int(size) for size in shape], order=order).copy()  # type: ignore[call-overload]


def _type(code: Any, *_: Any) -> _PlainType:
    if not isinstance(code, str) or len(code) > 8 or not code or code[0] not in _PLAIN_KINDS:
        raise _Refused(f"an array has the type {code!r}; only numbers and strings are admitted")
    return _PlainType(code)


def _scalar(kind: Any, data: Any) -> Any:
    return _array(data, kind, (), "C").item()


def _reconstruct(*_: Any) -> _PlainArray:
    return _PlainArray()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> Any:
    return _array(data, kind, shape, "F" if order == "F" else "C")


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("text is encoded in an unusual way")
    return text.encode("latin1")


def _empty_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise _Refused("bytes are made in an unusual way")
    return b""


def _ordered(*items: Any) -> dict[Any, Any]:
    return dict(*items)


class _Builder:
    """A function the pickle may call; refuses to be changed by the pickle."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it tries to change a function")


class _Marker:
    """Stands for a name that is only ever an argument, such as numpy.ndarray."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it tries to change a type")


#: All a pickle of arrays needs; numpy 2 calls its inner package `_core`.
_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "scalar", _scalar),
            ("multiarray", "_reconstruct", _reconstruct),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
    ("numpy", "dtype"): _type,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,  # how old protocols write bytes of no length
    ("collections", "OrderedDict"): _ordered,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ADMITTED:
            return _Builder(_ADMITTED[module, name])
        if (module, name) == ("numpy", "ndarray"):
            return _Marker()
        raise _Refused(f"it wants to call {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it refers to objects outside of the file")


def _plain(value: Any) -> Any:
    """Returns a value made of plain containers, numbers, strings and arrays.

    Raises:
        _Refused: Something else is left over.
    """
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, _PlainArray) and value.values is not None:
        return value.values
    if value is None or isinstance(value, (bool, int, float, str, bytes, np.ndarray)):
        return value
    raise _Refused(f"it holds a {type(value).__name__}")


def load_plain_pickle(content: bytes) -> Any:
    """Unpickles plain data.

    Raises:
        pickle.UnpicklingError: It holds anything but plain containers, numbers, strings and numpy arrays, or
        is
            damaged. Nothing it names was called.
    """
    try:
        return _plain(_PlainUnpickler(io.BytesIO(content)).load())
    except pickle.UnpicklingError:
        raise
    except (
        *(ValueError, TypeError, KeyError, IndexError, AttributeError),
        *(EOFError, MemoryError, RecursionError, ImportError, OverflowError),
    ) as error:
        raise pickle.UnpicklingError(f"damaged: {type(error).__name__}: {error}") from error


def read_info_file(path: str | Path) -> dict[str, Any]:
    """Reads an info file: the pickle mmdet3d writes, or the same content as JSON.

    Returns:
        `metainfo` and `data_list` as in mmdet3d's documentation; `metainfo.categories` is a mapping of class
        name to number.

    Raises:
        DataError: The file cannot be read, holds more than plain data, or is of another format.
    """
    path = Path(path)
    if path.suffix == ".json":
        content = read_json(path)
    else:
        try:
            content = load_plain_pickle(read_bytes(path))
        except pickle.UnpicklingError as error:
            raise DataError(path, f"is no info file that can be trusted: {error}") from error
    if isinstance(content, list) or (isinstance(content, dict) and "infos" in content):
        raise DataError(
            path, "info file of mmdet3d 0.x; convert it with mmdet3d's tools/.../update_infos_to_v2.py"
        )
    if not isinstance(content, dict) or any(key not in content for key in _INFO_KEYS):
        raise DataError(path, f"no info file: it needs the keys {' and '.join(_INFO_KEYS)}")
    if not isinstance(content["metainfo"], dict) or not isinstance(content["data_list"], list):
        raise DataError(path, "no info file: metainfo must be a mapping and data_list a list")
    return content


def write_info_file(path: str | Path, metainfo: dict[str, Any], data_list: Sequence[dict[str, Any]]) -> None:
    """Writes an info file that mmdet3d and `read_info_file` read; an earlier one is replaced at the end.

    Args:
        path: Its suffix is .pkl.
        metainfo: `categories`, `dataset`, `version`, `info_version`.
        data_list: One entry a frame.

    Raises:
        DataError: A value is not plain data, or the file cannot be written.
    """
    path = Path(path)
    try:
        content = _plain({"metainfo": metainfo, "data_list": list(data_list)})
    except pickle.UnpicklingError as error:
        raise DataError(path, f"cannot be written as plain data: {error}") from error
    try:
        write_atomically(path, pickle.dumps(content, protocol=4))
    except OSError as error:
        raise DataError(path, f"cannot be written: {error.strerror or error}") from error
