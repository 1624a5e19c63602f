"""How much is recorded of each scene where only pictures are."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from perception_core.configuration import ConfigurationError, StrictModel, nearest


class ImageScale(StrictModel):
    """How many pictures of which size.

    Attributes:
        name: Of the scale.
        keyframes: Moments of a scene that are recorded.
        image_width: Pixels.
        image_height: Pixels.
    """

    name: str
    keyframes: int = Field(ge=1)
    image_width: int = Field(ge=32)
    image_height: int = Field(ge=16)


def find_image_scale(name: str, scales: Mapping[str, ImageScale]) -> ImageScale:
    """Returns a scale by name.

    Raises:
        ConfigurationError: There is none of that name; the message names the nearest.
    """
    if name not in scales:
        raise ConfigurationError(f"no scale '{name}'{nearest(name, scales)}")
    return scales[name]
