"""Pictures of films and scenes: keyframes in order, scenes marked, timecodes under them."""

import math
import re
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import chain

from PIL import Image, ImageDraw, ImageFont

BACKGROUND, TEXT, FAINT = "#ffffff", "#1d1d1f", "#6e6e73"
SCENE_COLORS = ("#0b6e99", "#d9730d", "#448361", "#9065b0")
THUMBNAIL_WIDTH, GAP, CAPTION_HEIGHT = 160, 6, 18
MAX_SIDE = 65_500  # largest side of a JPEG file, in pixels
_TIME = re.compile(r"(?:(?:(\d{1,9}):)?(\d{1,9}):)?(\d{1,9}(?:\.\d*)?|\.\d+)", re.ASCII)


def timecode(seconds: float, tenths: bool = False) -> str:
    """`HH:MM:SS` of a time in seconds, rounded down; with `tenths`, `HH:MM:SS.S`, rounded up.

    Rounding up keeps a scene's start within the scene.
    """
    whole, rest = divmod(math.ceil(seconds * 10 - 1e-6) if tenths else int(seconds) * 10, 10)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}" + (f".{rest}" if tenths else "")


def parse_timecode(text: str) -> float:
    """Seconds of `SS`, `MM:SS` or `HH:MM:SS`, each with decimals allowed in the last part.

    Raises:
        ValueError: the text is none of these.
    """
    match = _TIME.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a time; write seconds, MM:SS or HH:MM:SS")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def contact_sheet(
    title: str,
    keyframes: Iterable[Image.Image | None],
    starts: Sequence[float],
    scenes: Sequence[tuple[int, int]],
    columns: int = 9,
    first_shot: int = 0,
) -> Image.Image:
    """One picture of a film, or of a part: the shots' keyframes in order, starts below, colored bars over scenes.

    Args:
        title: written on top.
        keyframes: one image per shot; None for a shot without one.
        starts: start of each of these shots in seconds.
        scenes: (first shot, number of shots); a shot in several scenes has the color of the one that begins last.
        columns: shots in a row; with as many as a scene has, every row is a scene. The number is doubled until the
            picture is not too tall for a JPEG.
        first_shot: number of the first of these shots in the film.
    """
    scene_of: dict[int, int] = {}
    for number, (first, num_shots) in enumerate(scenes):
        scene_of.update(dict.fromkeys(range(first, first + num_shots), number))
    first_ones: list[Image.Image | None] = []
    others = iter(keyframes)
    while not any(first_ones) and len(first_ones) < len(starts):
        first_ones.append(next(others))
    height = _thumbnail_height(first_ones)
    cell = (THUMBNAIL_WIDTH + GAP, height + 2 * CAPTION_HEIGHT + GAP)
    columns = min(columns, MAX_SIDE // cell[0] - 1)
    while (rows := -(-len(starts) // columns)) * cell[1] + 40 > MAX_SIDE:
        columns *= 2
    sheet = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + 40), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 8), title, TEXT, font(18))
    for place, (keyframe, start) in enumerate(zip(chain(first_ones, others), starts, strict=True)):
        x, y, shot = GAP + place % columns * cell[0], 40 + place // columns * cell[1], first_shot + place
        if (scene := scene_of.get(shot)) is not None:
            color = SCENE_COLORS[scene % len(SCENE_COLORS)]
            width = THUMBNAIL_WIDTH + (GAP if place % columns < columns - 1 else 0)
            draw.rectangle((x, y, x + width - 1, y + 3), color)
            if shot == scenes[scene][0]:
                draw.rectangle((x, y, x + 58, y + 15), color)
                draw.text((x + 4, y + 1), f"scene {scene}", BACKGROUND, font(12))
        _paste(sheet, keyframe, (x, y + CAPTION_HEIGHT), height)
        draw.text((x, y + CAPTION_HEIGHT + height + 2), f"{timecode(start)} · {shot}", FAINT, font(12))
    return sheet


def strips(rows: Sequence[tuple[str, Sequence[Image.Image | None]]]) -> Image.Image:
    """Rows of keyframes, each with its caption above, such as a query and its results."""
    width = max(len(keyframes) for _, keyframes in rows) * (THUMBNAIL_WIDTH + GAP) + GAP
    heights = [_thumbnail_height(keyframes) for _, keyframes in rows]
    picture = Image.new("RGB", (max(width, 640), sum(heights) + len(rows) * (CAPTION_HEIGHT + 3 * GAP)), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    y = 0
    for (caption, keyframes), height in zip(rows, heights, strict=True):
        draw.text((GAP, y + GAP), caption, TEXT, font(14))
        y += CAPTION_HEIGHT + 2 * GAP
        for column, keyframe in enumerate(keyframes):
            _paste(picture, keyframe, (GAP + column * (THUMBNAIL_WIDTH + GAP), y), height)
        y += height + GAP
    return picture


def encode(picture: Image.Image, kind: str) -> bytes:
    """A picture as a file's bytes, `"JPEG"` or `"PNG"`. Pillow does not write the file: it would miss a full disk."""
    buffer = BytesIO()
    picture.save(buffer, kind, quality=85)
    return buffer.getvalue()


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _thumbnail_height(keyframes: Sequence[Image.Image | None]) -> int:
    """Height of all thumbnails, from the first image's shape: a film's images have one shape. Extremes are limited."""
    first = next((keyframe for keyframe in keyframes if keyframe), None)
    height = round(THUMBNAIL_WIDTH * first.height / first.width) if first else THUMBNAIL_WIDTH // 2
    return min(max(height, 1), 3 * THUMBNAIL_WIDTH)


def _paste(picture: Image.Image, keyframe: Image.Image | None, place: tuple[int, int], height: int) -> None:
    if keyframe is None:
        box = (*place, place[0] + THUMBNAIL_WIDTH - 1, place[1] + height - 1)
        ImageDraw.Draw(picture).rectangle(box, outline=FAINT)
        return
    thumbnail = keyframe.copy()
    thumbnail.thumbnail((THUMBNAIL_WIDTH, height))
    picture.paste(thumbnail, place)
