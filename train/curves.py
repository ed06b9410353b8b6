"""Curves of a training run as a picture: values over steps, from its log."""

from collections.abc import Mapping, Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modeling_m2s.figures_m2s import BACKGROUND, FAINT, SCENE_COLORS, TEXT

WIDTH, PANEL_HEIGHT = 7.2, 2.6  # inches
DOTS_PER_INCH = 200  # twice the width of a page's column, for sharp screens
GRID = "#e5e5ea"

Curve = Sequence[tuple[int, float]]


def draw_curves(panels: Mapping[str, Mapping[str, Curve]], marked: int | None = None) -> bytes:
    """Draw panels below one another, each with its named curves, as a PNG 1440 pixels wide.

    Args:
        panels: title → name → (step, value); curves of one panel share its axis.
        marked: a step to draw a vertical line at.
    """
    figure = Figure((WIDTH, PANEL_HEIGHT * len(panels)), DOTS_PER_INCH, facecolor=BACKGROUND, layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        _draw_panel(panel, title, curves, marked)
    axes[-1].set_xlabel("step", color=FAINT)
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _draw_panel(panel: Axes, title: str, curves: Mapping[str, Curve], marked: int | None) -> None:
    panel.set_title(title, loc="left", color=TEXT, fontsize=11)
    panel.set_facecolor(BACKGROUND)
    panel.grid(axis="y", color=GRID)
    panel.tick_params(colors=FAINT, length=0, labelsize=9, labelbottom=True)
    panel.spines[:].set_visible(False)
    for number, (name, curve) in enumerate(curves.items()):
        color = SCENE_COLORS[number % len(SCENE_COLORS)]
        mark = "o" if len(curve) == 1 else None  # a line through one point shows nothing
        panel.plot(
            *zip(*curve, strict=True) if curve else ([], []), color=color, label=name, linewidth=1.8, marker=mark
        )
    if marked is not None:
        panel.axvline(marked, color=FAINT, linewidth=1)
    if curves:
        panel.legend(
            ncols=len(curves), loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=9,
            labelcolor="linecolor", handlelength=0,
            markerscale=0, handletextpad=0, borderpad=0.2,
        )  # fmt: skip
