"""Where things lie across and along the generated street. Right-hand traffic; x along the street, y to the
left, z up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LANE_WIDTH = 3.4
#: Lateral bounds on each side of the centre line, metres.
LANE_EDGE = 3.4
BIKE_LANE_EDGE = 4.9
CURB = 7.1  # the strip from the bike lane to the curb is for parking
WALKWAY_EDGE = 10.6
BUILDING_LINE = 11.2
CURB_HEIGHT = 0.13

EGO_LANE_Y = -LANE_WIDTH / 2
ONCOMING_LANE_Y = LANE_WIDTH / 2
BIKE_LANE_Y = (LANE_EDGE + BIKE_LANE_EDGE) / 2
PARKING_Y = (BIKE_LANE_EDGE + CURB) / 2

#: Side streets cross every so many metres; crossings for pedestrians lie on both of their sides.
BLOCK_LENGTH = 84.0
FIRST_SIDE_STREET_X = 48.0
SIDE_STREET_HALF_WIDTH = 4.2
ZEBRA_START = 6.0  # from the side street's centre
ZEBRA_END = 9.4
#: No parking this close to a side street's centre.
CLEAR_OF_CORNER = 13.0

Mask = NDArray[np.bool_]


def side_street_offset(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Returns the signed distance in metres along the street to the nearest side street's centre."""
    return (x - FIRST_SIDE_STREET_X + BLOCK_LENGTH / 2) % BLOCK_LENGTH - BLOCK_LENGTH / 2


def side_streets_between(start_x: float, end_x: float) -> list[float]:
    """Lists the centres of side streets within a stretch."""
    first = int(np.ceil((start_x - FIRST_SIDE_STREET_X) / BLOCK_LENGTH))
    last = int(np.floor((end_x - FIRST_SIDE_STREET_X) / BLOCK_LENGTH))
    return [FIRST_SIDE_STREET_X + BLOCK_LENGTH * number for number in range(first, last + 1)]


def on_zebra(x: NDArray[np.floating], y: NDArray[np.floating]) -> Mask:
    """Tells where a pedestrian crossing is painted on the main street (both its stripes and the gaps)."""
    offset = np.abs(side_street_offset(x))
    return (offset > ZEBRA_START) & (offset < ZEBRA_END) & (np.abs(y) < CURB)


def painted(x: NDArray[np.floating], y: NDArray[np.floating]) -> Mask:
    """Tells where the ground carries white paint: lane markings, stop lines, crossings, parking bays."""
    offset = side_street_offset(x)
    distance, lateral = np.abs(offset), np.abs(y)
    clear = distance > ZEBRA_END + 1.6
    centre_line = (lateral < 0.075) & (x % 9.0 < 4.5) & clear
    lane_edge = (np.abs(lateral - LANE_EDGE) < 0.07) & clear
    bike_edge = (np.abs(lateral - BIKE_LANE_EDGE) < 0.06) & clear
    bay = (
        (x % 6.2 < 0.1)
        & (lateral > BIKE_LANE_EDGE)
        & (lateral < CURB - 0.1)
        & (distance > CLEAR_OF_CORNER - 1)
    )
    zebra = on_zebra(x, y) & (y % 1.0 < 0.5) & (distance > ZEBRA_START + 0.2) & (distance < ZEBRA_END - 0.2)
    # traffic on the right stops before the crossing, the oncoming one on the other side
    stop = (
        (np.abs(distance - ZEBRA_END - 0.9) < 0.2) & (lateral < LANE_EDGE) & (np.sign(offset) == np.sign(y))
    )
    side_line = (distance < 0.06) & (lateral > CURB + 3.0) & (y % 6.0 < 3.0)
    side_stop = (
        (np.abs(lateral - CURB - 1.6) < 0.18)
        & (distance < SIDE_STREET_HALF_WIDTH)
        & (np.sign(offset) == -np.sign(y))
    )
    painted_mask: Mask = centre_line | lane_edge | bike_edge | bay | zebra | stop | side_line | side_stop
    return painted_mask


def on_bike_lane(x: NDArray[np.floating], y: NDArray[np.floating]) -> Mask:
    """Tells where the ground is the coloured surface of the bike lanes."""
    lateral = np.abs(y)
    return (
        (lateral > LANE_EDGE) & (lateral < BIKE_LANE_EDGE) & (np.abs(side_street_offset(x)) > ZEBRA_END + 1.6)
    )


def on_roadway(x: NDArray[np.floating], y: NDArray[np.floating]) -> Mask:
    """Tells where vehicles can drive: the main street up to the curbs, and the side streets."""
    return (np.abs(y) < CURB) | (np.abs(side_street_offset(x)) < SIDE_STREET_HALF_WIDTH)


def ground_height(x: float, y: float) -> float:
    """Returns the height of the ground: walkways are raised, streets are not."""
    raised = (
        abs(y) > CURB
        and abs(float(side_street_offset(np.asarray(x, dtype=np.float64)))) > SIDE_STREET_HALF_WIDTH
    )
    return CURB_HEIGHT if raised else 0.0
