"""The outlines of boxes as paths of straight lines and quadratic curves, for every format that has geometry."""

import math
from collections.abc import Callable

from genrl_graph.drawing.kinds import Shape

Command = tuple[str, float, float] | tuple[str, float, float, float, float] | tuple[str]
Path = list[Command]
Point = tuple[float, float]


def outline(shape: Shape, x: float, y: float, w: float, h: float) -> list[Path]:
    """Return the closed border of a shape in a rectangle, and the lines drawn inside."""
    return _OUTLINES[shape](x, y, w, h)


def polygon(*points: Point) -> Path:
    """Return a closed path with straight sides."""
    first, *rest = points
    return [("M", *first), *(("L", *point) for point in rest), ("Z",)]


def rounded(points: list[Point], radius: float) -> Path:
    """Return an open path through the points, with rounded corners."""
    path: Path = [("M", *points[0])]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        cut = min(radius, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        path.append(("L", *_towards(corner, before, cut)))
        path.append(("Q", *corner, *_towards(corner, after, cut)))
    path.append(("L", *points[-1]))
    return path


def flat(path: Path, steps: int = 6) -> list[Point]:
    """Return the points of a path, with each curve in `steps` straight pieces."""
    points: list[Point] = []
    for command in path:
        if len(command) == 3:
            points.append((command[1], command[2]))
        elif len(command) == 5:
            (x0, y0), (_, cx, cy, x1, y1) = points[-1], command
            for at in range(1, steps + 1):
                t = at / steps
                a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
                points.append((a * x0 + b * cx + c * x1, a * y0 + b * cy + c * y1))
        else:
            points.append(points[0])
    return points


def _towards(start: Point, end: Point, distance: float) -> Point:
    share = distance / (math.dist(start, end) or 1.0)
    return (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share)


def _arc(cx: float, cy: float, rx: float, ry: float, start: int, stop: int) -> Path:
    """Return an elliptic arc between two angles, in eighths of a turn, as curves that continue a path."""
    path: Path = []
    half = math.pi / 8
    direction = 1 if stop > start else -1
    for eighth in range(start, stop, direction):
        middle, end = (eighth + direction / 2) * 2 * half, (eighth + direction) * 2 * half
        reach = 1 / math.cos(half)
        control = (cx + rx * reach * math.cos(middle), cy + ry * reach * math.sin(middle))
        path.append(("Q", *control, cx + rx * math.cos(end), cy + ry * math.sin(end)))
    return path


def _box(x: float, y: float, w: float, h: float) -> list[Path]:
    return [polygon((x, y), (x + w, y), (x + w, y + h), (x, y + h))]


def _double(x: float, y: float, w: float, h: float) -> list[Path]:
    return [*_box(x, y, w, h), *_box(x + 3.5, y + 3.5, w - 7, h - 7)]


def _smooth(radius: float) -> Callable[[float, float, float, float], list[Path]]:
    def draw(x: float, y: float, w: float, h: float) -> list[Path]:
        r = min(radius, h / 2, w / 2)
        path: Path = [("M", x + r, y), ("L", x + w - r, y), *_arc(x + w - r, y + r, r, r, -2, 0)]
        path += [("L", x + w, y + h - r), *_arc(x + w - r, y + h - r, r, r, 0, 2)]
        path += [("L", x + r, y + h), *_arc(x + r, y + h - r, r, r, 2, 4)]
        return [[*path, ("L", x, y + r), *_arc(x + r, y + r, r, r, 4, 6), ("Z",)]]

    return draw


def _ellipse(x: float, y: float, w: float, h: float) -> list[Path]:
    return [[("M", x + w, y + h / 2), *_arc(x + w / 2, y + h / 2, w / 2, h / 2, 0, 8), ("Z",)]]


def _cylinder(x: float, y: float, w: float, h: float) -> list[Path]:
    r = min(5.0, h / 4)
    body: Path = [("M", x, y + r), *_arc(x + w / 2, y + r, w / 2, r, 4, 8), ("L", x + w, y + h - r)]
    lid: Path = [("M", x, y + r), *_arc(x + w / 2, y + r, w / 2, r, 4, 0)]
    return [[*body, *_arc(x + w / 2, y + h - r, w / 2, r, 0, 4), ("Z",)], lid]


def _hexagon(x: float, y: float, w: float, h: float) -> list[Path]:
    c = min(13.0, h / 2)
    middle = y + h / 2
    return [polygon((x, middle), (x + c, y), (x + w - c, y), (x + w, middle), (x + w - c, y + h), (x + c, y + h))]


def _bevel(x: float, y: float, w: float, h: float) -> list[Path]:
    c = min(9.0, h / 3)
    top = ((x + c, y), (x + w - c, y), (x + w, y + c), (x + w, y + h - c))
    return [polygon(*top, (x + w - c, y + h), (x + c, y + h), (x, y + h - c), (x, y + c))]


def _slant(x: float, y: float, w: float, h: float) -> list[Path]:
    c = min(11.0, h / 2)
    return [polygon((x + c, y), (x + w, y), (x + w - c, y + h), (x, y + h))]


def _funnel(x: float, y: float, w: float, h: float) -> list[Path]:
    c = min(12.0, h / 2)
    return [polygon((x, y), (x + w, y), (x + w - c, y + h), (x + c, y + h))]


def _trapezium(x: float, y: float, w: float, h: float) -> list[Path]:
    c = min(12.0, h / 2)
    return [polygon((x + c, y), (x + w - c, y), (x + w, y + h), (x, y + h))]


def _pentagon(x: float, y: float, w: float, h: float) -> list[Path]:
    c = min(13.0, h / 2)
    return [polygon((x, y), (x + w - c, y), (x + w, y + h / 2), (x + w - c, y + h), (x, y + h))]


_OUTLINES: dict[Shape, Callable[[float, float, float, float], list[Path]]] = {
    "cylinder": _cylinder,
    "stadium": _smooth(20.0),
    "hexagon": _hexagon,
    "funnel": _funnel,
    "bevel": _bevel,
    "slant": _slant,
    "double": _double,
    "ellipse": _ellipse,
    "pentagon": _pentagon,
    "trapezium": _trapezium,
    "box": _box,
    "rounded": _smooth(6.0),
}
