"""What a recording's speed means to the nodes that take its messages for live ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perception_core.bundle import SENSOR_FUSION
from perception_core.overrides import SEPARATOR


def overrides_for_pace(parameters: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Tells sensor_fusion how far apart a replay puts what was measured together.

    Played at a tenth of its speed, a camera that was exposed 30 ms before the sweep arrives 300 ms before it,
    with stamps to match: without this it would be masked as too old, and the next camera would be taken for
    the sign of a silent LiDAR.

    Args:
        parameters: The deployment's parameters by node.

    Returns:
        Overrides for what the deployment does not say itself; none at the recording's own speed, and none for
        a speed that replay will refuse.
    """
    replay = parameters.get("replay", {})
    rate = replay.get("rate", 1.0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 1e-3 <= rate <= 1e3 or rate == 1.0:
        return ()
    if replay.get("stamps", "rebased") != "rebased" or "time_stretch" in parameters.get(SENSOR_FUSION, {}):
        return ()
    return (f"parameters.{SENSOR_FUSION}.time_stretch{SEPARATOR}{1.0 / rate!r}",)
