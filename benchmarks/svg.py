"""Three small plots as SVG text, equal bytes for equal data: points with names, paired bars, lines over decades."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 400, 80, 30, 50, 60
INK, OURS, OTHER = "#222222", "#1f6fb2", "#b8b8b8"
LINES = ("#1f6fb2", "#c2571a", "#2f8f4e", "#7a4fa3", "#a63a50", "#6b6b1f", "#13807f", "#444444")
FONT = 'font-family="sans-serif" font-size="12"'


def scatter(title: str, x_name: str, y_name: str, points: Sequence[tuple[str, float, float]]) -> str:
    """(name, x, y); both axes begin at zero."""
    right, top = 1.1 * max(p[1] for p in points), 1.2 * max(p[2] for p in points)

    def x_at(value: float) -> float:
        return LEFT + value / right * (WIDTH - LEFT - RIGHT)

    def y_at(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    parts = [_text(LEFT, 24, title, "start", 14), *_y_axis(0.0, top, y_at, y_name)]
    for i in range(math.floor(right) + 1):
        parts.append(
            f'<line x1="{x_at(i):.1f}" y1="{TOP}" x2="{x_at(i):.1f}" y2="{HEIGHT - BOTTOM}" stroke="#eeeeee"/>'
        )
        parts.append(_text(x_at(i), HEIGHT - BOTTOM + 18, f"{i}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_name, "middle"))
    for i, (name, x, y) in enumerate(sorted(points, key=lambda p: p[1])):
        parts.append(f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="4" fill="{OURS}"/>')
        parts.append(_text(x_at(x), y_at(y) + (-10 if i % 2 else 20), name, "middle"))
    return _page(parts)


def bars(
    title: str,
    y_name: str,
    rows: Sequence[tuple[str, float, float]],
    names: tuple[str, str],
    bottom: float = 85.0,
) -> str:
    """(name, ours, theirs) side by side; the axis begins at `bottom`, which it says."""
    top = 100.0

    def y_at(value: float) -> float:
        return HEIGHT - BOTTOM - (value - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    parts = [
        _text(LEFT, 24, title, "start", 14),
        *_y_axis(bottom, top, y_at, f"{y_name} (axis from {bottom:g})"),
    ]
    step = (WIDTH - LEFT - RIGHT) / len(rows)
    for i, (name, ours, theirs) in enumerate(rows):
        middle = LEFT + step * (i + 0.5)
        for value, colour, shift in ((ours, OURS, -34), (theirs, OTHER, 2)):
            y = y_at(value)
            tall = HEIGHT - BOTTOM - y
            parts.append(
                f'<rect x="{middle + shift:.1f}" y="{y:.1f}" width="32" height="{tall:.1f}" fill="{colour}"/>'
            )
            parts.append(_text(middle + shift + 16, y - 5, f"{value:.2f}", "middle"))
        parts.append(_text(middle, HEIGHT - BOTTOM + 18, name, "middle"))
    for i, (name, colour) in enumerate(zip(names, (OURS, OTHER), strict=True)):
        parts.append(f'<rect x="{LEFT + 180 * i}" y="{HEIGHT - 24}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(LEFT + 180 * i + 18, HEIGHT - 14, name, "start"))
    return _page(parts)


def curves(
    title: str,
    x_name: str,
    y_name: str,
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    others: Sequence[tuple[str, float, float, float, float]],
    floor: float,
) -> str:
    """Lines of (name, [(x, y)]) on two logarithmic axes; y below `floor` is drawn there and the axis says so.

    `others` are ranges published by others as grey boxes: name, x from and to, y from and to.
    """
    xs = [x for _, points in lines for x, _ in points] + [x for o in others for x in o[1:3]]
    ys = [y for _, points in lines for _, y in points] + [y for o in others for y in o[3:5]]
    left, right = math.floor(math.log10(min(xs))), math.log10(max(xs)) + 0.05
    low, high = math.log10(floor), max(math.log10(max(ys)) + 0.1, math.log10(floor) + 1)
    end = WIDTH - RIGHT - 100  # names of lines stand to the right

    def x_at(value: float) -> float:
        return LEFT + (math.log10(value) - left) / (right - left) * (end - LEFT)

    def y_at(value: float) -> float:
        frac = (max(math.log10(max(value, floor)), low) - low) / (high - low)
        return HEIGHT - BOTTOM - frac * (HEIGHT - TOP - BOTTOM)

    parts = [_text(LEFT, 24, title, "start", 14)]
    for step in _decades(low, high):
        is_floor = math.isclose(step, floor)
        y = y_at(step)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{'≤ ' if is_floor else ''}{step:g}", "end"))
    for step in _decades(left, right):
        x = x_at(step)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#eeeeee"/>')
        parts.append(_text(x, HEIGHT - BOTTOM + 18, f"{step:g}", "middle"))
    parts.append(_text((LEFT + end) / 2, HEIGHT - 12, x_name, "middle"))
    parts.append(_upright(y_name))
    for name, x_from, x_to, y_from, y_to in others:
        x, y = x_at(x_from), y_at(y_to)
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{x_at(x_to) - x:.1f}" height="{y_at(y_from) - y:.1f}" '
            f'fill="{OTHER}" fill-opacity="0.5"/>'
        )
        parts.append(_text(x, y - 5, name, "middle"))
    ends = sorted((y_at(points[-1][1]), i) for i, (_, points) in enumerate(lines))
    name_y: dict[int, float] = {}
    for y, i in ends[::-1]:  # from the bottom up, 13 apart
        name_y[i] = min(y + 4, min(name_y.values(), default=math.inf) - 13)
    for i, (name, points) in enumerate(lines):
        colour = LINES[i % len(LINES)]
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(f'<rect x="{end + 6}" y="{name_y[i] - 8:.1f}" width="8" height="8" fill="{colour}"/>')
        parts.append(_text(end + 18, name_y[i], name, "start"))
    return _page(parts)


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between 10^low and 10^high."""
    steps = (m * 10.0**d for d in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5))
    return [s for s in steps if low - 1e-9 <= math.log10(s) <= high + 1e-9]


def _y_axis(bottom: float, top: float, y_at: Callable[[float], float], name: str) -> list[str]:
    span = top - bottom
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= 7)
    parts = []
    for i in range(math.ceil(bottom / step), math.floor(top / step) + 1):
        y = y_at(i * step)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{i * step:g}", "end"))
    parts.append(_upright(name))
    return parts


def _upright(name: str) -> str:
    return (
        f'<text transform="translate(22 {(HEIGHT - BOTTOM + TOP) / 2:.0f}) rotate(-90)" text-anchor="middle" '
        f'fill="{INK}" {FONT}>{escape(name)}</text>'
    )


def _text(x: float, y: float, text: str, anchor: str, size: int = 12) -> str:
    font = FONT if size == 12 else f'font-family="sans-serif" font-size="{size}" font-weight="bold"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}" {font}>{escape(text)}</text>'


def _page(parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    return (
        "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *parts, "</svg>"]) + "\n"
    )
