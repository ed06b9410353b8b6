"""A film's tags as a picture: keyframes along the time, below them a lane for each label with its probabilities."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .figures_m2s import BACKGROUND, FAINT, GAP, SCENE_COLORS, TEXT, font, timecode
from .intervals_m2s import FilmIntervals
from .pipeline_m2s import open_image
from .shots_m2s import Shot
from .tags_m2s import TaggedInterval

WIDTH, NAMES_WIDTH, MARGIN = 1400, 180, 24
KEYFRAMES, LANE_HEIGHT, MOST_LANES = 10, 30, 16
PALE = "#dcdce0"
# Seconds between two marks of the axis.
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


def timeline(film: FilmIntervals, shots: Sequence[Shot], labels: Sequence[str]) -> Image.Image:
    """One picture of a film's tags.

    A bar is as wide as its interval and as high as the label is probable; it is colored if the interval has the label.
    The labels that the film has for the longest time are on top; the rarest of many labels are left out.

    Args:
        film: with tagged intervals.
        labels: names of all labels.
    """
    tagged = [each for each in film.intervals if isinstance(each, TaggedInterval)]
    start, end = shots[0].start_seconds, max(shots[-1].end_seconds, shots[0].start_seconds + 1e-3)
    scale = (WIDTH - NAMES_WIDTH - MARGIN) / (end - start)

    def x(seconds: float) -> int:
        return round(NAMES_WIDTH + (seconds - start) * scale)

    lanes = sorted(labels, key=lambda label: (-_seconds_of(label, tagged), -_highest(label, tagged)))[:MOST_LANES]
    strip = _strip(shots, start, end)
    top = 44 + strip.height + GAP
    picture = Image.new("RGB", (WIDTH, top + len(lanes) * (LANE_HEIGHT + GAP) + 44), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    left_out = f", the {len(lanes)} most frequent of {len(labels)} labels" if len(lanes) < len(labels) else ""
    title = f"{film.movie_id}   {timecode(film.duration_seconds)}   {len(tagged)} {film.of}{left_out}"
    draw.text((MARGIN, 12), title, TEXT, font(18))
    picture.paste(strip, (NAMES_WIDTH, 44))
    for number, label in enumerate(lanes):
        bottom = top + (number + 1) * (LANE_HEIGHT + GAP) - GAP
        draw.text((MARGIN, bottom - LANE_HEIGHT // 2 - 8), _shortened(label, draw), TEXT, font(14))
        draw.line((NAMES_WIDTH, bottom, WIDTH - MARGIN, bottom), PALE)
        for each in tagged:
            height = round(each.probabilities[label] * LANE_HEIGHT)
            if height:
                color = SCENE_COLORS[number % len(SCENE_COLORS)] if label in each.labels else PALE
                right = max(x(each.start_seconds), x(each.end_seconds) - 1)
                draw.rectangle((x(each.start_seconds), bottom - height, right, bottom - 1), color)
    step = next((step for step in STEPS if step * scale >= 110), STEPS[-1])
    for seconds in range(-int(-start // step) * step, int(end) + 1, step):
        draw.line((x(seconds), top, x(seconds), picture.height - 36), PALE)
        draw.text((min(x(seconds) + 3, WIDTH - 54), picture.height - 34), timecode(seconds), FAINT, font(12))
    return picture


def _seconds_of(label: str, tagged: Sequence[TaggedInterval]) -> float:
    return sum(each.end_seconds - each.start_seconds for each in tagged if label in each.labels)


def _highest(label: str, tagged: Sequence[TaggedInterval]) -> float:
    return max((each.probabilities[label] for each in tagged), default=0.0)


def _strip(shots: Sequence[Shot], start: float, end: float) -> Image.Image:
    """Keyframes of the shots that are on screen at equal distances in time."""
    width = (WIDTH - NAMES_WIDTH - MARGIN) // KEYFRAMES
    times = [start + (number + 0.5) * (end - start) / KEYFRAMES for number in range(KEYFRAMES)]
    images = []
    for seconds in times:
        shot = next((shot for shot in reversed(shots) if shot.start_seconds <= seconds), shots[0])
        images.append(open_image(shot.keyframes[len(shot.keyframes) // 2]) if shot.keyframes else None)
    first = next((image for image in images if image), None)
    height = min(round((width - GAP) * first.height / first.width), 2 * width) if first else width // 2
    strip = Image.new("RGB", (width * KEYFRAMES, max(1, height)), BACKGROUND)
    for number, image in enumerate(images):
        if image:
            image.thumbnail((width - GAP, height))
            strip.paste(image, (number * width + (width - image.width) // 2, 0))
    return strip


def _shortened(label: str, draw: ImageDraw.ImageDraw) -> str:
    """The label, cut so that it fits beside its lane."""
    shown = label
    while draw.textlength(shown, font(14)) > NAMES_WIDTH - MARGIN - GAP:
        shown = shown.removesuffix("…")[:-1] + "…"
    return shown
