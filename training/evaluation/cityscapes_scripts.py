"""Cityscapes' official scripts, imported without what they do to a program that imports them.

Importing `cityscapesscripts.evaluation` opens a log file `eval.log` in the working directory and puts a
coloured handler on the root logger.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_scripts(level: int = logging.ERROR) -> Iterator[None]:
    """Keeps the scripts from writing log files and from changing the root logger, and from talking.

    Import and call them inside of it.

    Args:
        level: Messages of the scripts below this level are not shown.
    """
    root = logging.getLogger()
    handlers, root_level = list(root.handlers), root.level
    # with any handler there, logging.basicConfig leaves everything as it is
    silence = logging.NullHandler()
    root.addHandler(silence)
    disabled = logging.root.manager.disable
    logging.disable(level - 1)
    try:
        yield
    finally:
        logging.disable(disabled)
        for handler in list(root.handlers):
            if handler not in handlers:
                root.removeHandler(handler)
        root.setLevel(root_level)
