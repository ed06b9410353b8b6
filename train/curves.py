"""Curves of a training run as a picture: values over steps, from its log."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from modeling_m2s.figures_m2s import BACKGROUND, FAINT, SCENE_COLORS, TEXT

WIDTH, HEIGHT, MARGIN, SCALE = 720, 300, 56, 2


def draw_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], marked: int | None = None
) -> Image.Image:
    """One panel above the other, each with its curves by name.

    Args:
        panels: title → name → (step, value); curves of one panel share its axis.
        marked: a step to draw a line at.
    """
    picture = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT * len(panels)), BACKGROUND)
    for number, (title, curves) in enumerate(panels.items()):
        _draw_panel(ImageDraw.Draw(picture), number * HEIGHT, title, curves, marked)
    return picture


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    top: int,
    title: str,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    marked: int | None,
) -> None:
    font = ImageFont.load_default(SCALE * 12)
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return
    last = max(step for step, _ in points) or 1
    low, high = min(value for _, value in points), max(value for _, value in points)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)

    def place(step: float, value: float) -> tuple[float, float]:
        x = MARGIN + step / last * (WIDTH - 2 * MARGIN)
        y = top + HEIGHT - MARGIN - (value - low) / (high - low) * (HEIGHT - 2 * MARGIN)
        return SCALE * x, SCALE * y

    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        draw.line([place(0, value), place(last, value)], fill="#e5e5ea", width=SCALE)
        draw.text((SCALE * (MARGIN - 8), place(0, value)[1]), f"{value:.3g}", fill=FAINT, font=font, anchor="rm")
    for step in (0, last):
        draw.text(
            (place(step, low)[0], SCALE * (top + HEIGHT - MARGIN + 8)), str(step), fill=FAINT, font=font, anchor="ma"
        )
    if marked is not None:
        draw.line([place(marked, low), place(marked, high)], fill=FAINT, width=SCALE)
    x = SCALE * MARGIN
    draw.text((x, SCALE * (top + 18)), title, fill=TEXT, font=font)
    x += draw.textlength(f"{title}     ", font=font)
    for color, (name, curve) in zip(SCENE_COLORS, curves.items(), strict=False):
        draw.line([place(*point) for point in curve], fill=color, width=2 * SCALE)
        draw.text((x, SCALE * (top + 18)), name, fill=color, font=font)
        x += draw.textlength(f"{name}     ", font=font)
