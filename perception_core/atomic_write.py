"""Writes files that are whole or not there, whoever reads or kills meanwhile."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Writes a file so that others see all of it or none, also when several processes write it at once.

    The content is synced before it takes the file's name: after a power cut, too, the file is the old one or
    the new one. It gets the rights of any new file of this user.

    Args:
        path: The file; its folder is made where it is missing.
        content: Bytes, or text that is written as UTF-8.

    Raises:
        OSError: It cannot be written; the former file, if any, is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    # Beside its place, because a file can be renamed within a file system only.
    staged = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with staged.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
