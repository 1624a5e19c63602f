"""A bundle of the smallest network, so that a whole stack runs in real time on a slow and busy machine."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from perception_core.bundle import TrainingRecord
from perception_core.bundle_writer import create_seeded_model, write_bundle

MODEL = "fuller_micro"


@functools.cache
def light_bundle() -> Path:
    """Writes the bundle once for each test run and returns its folder; its weights are untrained."""
    folder = Path(tempfile.mkdtemp(prefix="mmmt_light_bundle_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    record = TrainingRecord(trained=False, seed=0)
    write_bundle(create_seeded_model(MODEL, seed=0), MODEL, folder / "fuller-micro", record)
    return folder / "fuller-micro"
