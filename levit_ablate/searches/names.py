"""Names beside points of a plot, where there is room for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from matplotlib.axes import Axes
from numpy.typing import NDArray

ANGLES = numpy.deg2rad(numpy.arange(22.5, 382.5, 22.5))
DISTANCES = numpy.arange(9, 140, 9)
"""From a point to its name, in points of print (1/72 inch); the nearest of equally free places."""
REACH = 4
"""Of a point's marker to each side, likewise."""
Floats = NDArray[numpy.float64]


def name_points(
    axes: Axes,
    points: Sequence[tuple[float, float, str]],
    others: Sequence[tuple[float, float]] = (),
) -> None:
    """Write each point's name near it, over as few names and points as can be, with a line to it.

    Call it when all else is drawn: it takes the layout as it is.

    Args:
        axes: where the points are.
        points: x, y and the name.
        others: x and y of what else had better stay visible.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not points:
        return
    figure.draw_without_rendering()  # from here on it is known where things are
    scale = figure.dpi / 72
    xys = [*((x, y) for x, y, _ in points), *others]
    dots = _boxes(axes.transData.transform(xys), REACH * scale)
    frame = axes.bbox
    taken = numpy.zeros((0, 4))
    directions = numpy.stack([numpy.cos(ANGLES), numpy.sin(ANGLES)], axis=1)
    offsets = (DISTANCES[:, None, None] * directions).reshape(-1, 2)
    for x, y, name in points:
        text = axes.annotate(
            name,
            (x, y),
            (0, 0),
            textcoords="offset points",
            va="center",
            ha="center",
            fontsize=8,
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.5},
            arrowprops={
                "arrowstyle": "-",
                "color": "0.5",
                "linewidth": 0.7,
                "shrinkA": 0,
                "shrinkB": 3,
            },
        )
        text.set_in_layout(False)
        size = text.get_window_extent()
        half = numpy.array([size.width, size.height]) / 2
        # the edge that looks at the point is what stands at the offset
        shifts = offsets + numpy.sign(offsets.round(6)) * [1, 0] * half / scale
        centres = axes.transData.transform((x, y)) + shifts * scale
        boxes = numpy.concatenate([centres - half, centres + half], axis=1)
        outside = (boxes[:, :2] < frame.min).any(1) | (boxes[:, 2:] > frame.max).any(1)
        covered = 20 * _overlaps(boxes, taken) + _overlaps(boxes, dots) + 1000 * outside
        best = int((covered + numpy.hypot(*offsets.T) / 25).argmin())
        text.set_position(tuple(shifts[best]))
        taken = numpy.vstack([taken, boxes[best]])


def _boxes(centres: Floats, reach: float) -> Floats:
    return numpy.concatenate([centres - reach, centres + reach], axis=1)


def _overlaps(boxes: Floats, others: Floats) -> Floats:
    """How many of the others each box touches. (B, 4), (O, 4) → (B,)"""
    apart = (boxes[:, None, :2] > others[:, 2:]) | (boxes[:, None, 2:] < others[:, :2])
    return (~apart.any(axis=2)).sum(axis=1).astype(numpy.float64)
