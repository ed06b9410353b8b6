"""Times as text and back; pictures with every keyframe in its place, shown by keyframes of one color each."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from modeling_m2s.figures_m2s import (
    BACKGROUND,
    CAPTION_HEIGHT,
    FAINT,
    GAP,
    MAX_SIDE,
    SCENE_COLORS,
    THUMBNAIL_WIDTH,
    contact_sheet,
    encode,
    parse_timecode,
    strips,
    timecode,
)

TITLE_HEIGHT = 40


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00:00"),
        (59.999, "00:00:59"),
        (60, "00:01:00"),
        (3599.5, "00:59:59"),
        (3661, "01:01:01"),
        (86399, "23:59:59"),
        (360000, "100:00:00"),
    ],
)
def test_timecodes(seconds, text):
    assert timecode(seconds) == text


def test_timecodes_can_be_parsed():
    for seconds in range(0, 400000, 977):
        assert parse_timecode(timecode(seconds)) == seconds


TIMES = {"0": 0, "12.5": 12.5, ".5": 0.5, "3.": 3, "90": 90, "0:90": 90, "2:05": 125, "2:05.25": 125.25}
TIMES |= {"1:00:00": 3600, "01:02:03.5": 3723.5, "100:00:00": 360000}
NO_TIMES = ["", ":", "5:", ":5", "1::2", "1:2:3:4", "-1", "1:-2", "1.5:00", "1:ab", "1,5", "²:05", "00:00:01\n"]
NO_TIMES += ["nan", "inf", "1e3", "1_0", "9" * 400]


@pytest.mark.parametrize("text", TIMES)
def test_times_are_parsed(text):
    assert parse_timecode(text) == TIMES[text]


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is not a time; write seconds, MM:SS or HH:MM:SS") as raised:
        parse_timecode(text)
    assert repr(text) in str(raised.value)


def color_of(shot: int) -> tuple[int, int, int]:
    """A dark color for every shot, unlike those that are drawn."""
    return (shot * 37 % 101, shot * 53 % 97, 10 + shot // 64)


def solid(shots: range, size: tuple[int, int]) -> list[Image.Image]:
    return [Image.new("RGB", size, color_of(shot)) for shot in shots]


def pixels(picture: Image.Image, left: int, top: int, width: int, height: int) -> np.ndarray:
    assert left + width <= picture.width and top + height <= picture.height
    return np.asarray(picture.crop((left, top, left + width, top + height)))


def is_filled(area: np.ndarray, color: str | tuple[int, int, int]) -> bool:
    """Whether every pixel has the color."""
    return bool((area == (ImageColor.getrgb(color) if isinstance(color, str) else color)).all())


def place_of(shot: int, columns: int, height: int) -> tuple[int, int]:
    """Left and top of a shot's cell in a contact sheet."""
    row, column = divmod(shot, columns)
    return GAP + column * (THUMBNAIL_WIDTH + GAP), TITLE_HEIGHT + row * (height + 2 * CAPTION_HEIGHT + GAP)


def bar_color(sheet: Image.Image, shot: int, columns: int, height: int) -> str:
    """The color of the bar over a shot, from its middle."""
    left, top = place_of(shot, columns, height)
    (bar,) = {tuple(pixel) for pixel in pixels(sheet, left + 80, top, 80, 4).reshape(-1, 3).tolist()}
    return "#{:02x}{:02x}{:02x}".format(*bar)


SIZES = {"landscape": ((398, 224), 90), "portrait": ((224, 398), 284), "square": ((224, 224), 160)}


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(("num_shots", "columns"), [(1, 9), (8, 9), (9, 9), (10, 9), (23, 4), (5, 1)])
def test_every_keyframe_is_in_its_place(shape, num_shots, columns):
    size, height = SIZES[shape]
    starts = [4.0 * shot for shot in range(num_shots)]
    sheet = contact_sheet("A film", solid(range(num_shots), size), starts, [(0, num_shots)], columns)
    rows = -(-num_shots // columns)
    cell_height = height + 2 * CAPTION_HEIGHT + GAP
    assert sheet.size == (columns * (THUMBNAIL_WIDTH + GAP) + GAP, rows * cell_height + TITLE_HEIGHT)
    for shot in range(num_shots):
        left, top = place_of(shot, columns, height)
        thumbnail = (left, top + CAPTION_HEIGHT, THUMBNAIL_WIDTH, height)
        assert is_filled(pixels(sheet, *thumbnail), color_of(shot))
        around = pixels(sheet, left - 1, top + CAPTION_HEIGHT - 1, THUMBNAIL_WIDTH + 2, height + 2)
        assert not (around[[0, -1], 61:] == color_of(shot)).all(-1).any()
        caption = pixels(sheet, left, top + CAPTION_HEIGHT + height, THUMBNAIL_WIDTH, CAPTION_HEIGHT)
        assert not is_filled(caption, BACKGROUND)
    for cell in range(num_shots, rows * columns):
        left, top = place_of(cell, columns, height)
        assert is_filled(pixels(sheet, left, top, THUMBNAIL_WIDTH, cell_height), BACKGROUND)
    assert not is_filled(pixels(sheet, 0, 0, columns * THUMBNAIL_WIDTH, TITLE_HEIGHT), BACKGROUND)


@pytest.mark.parametrize("columns", [4, 9])
def test_bars_change_color_where_scenes_begin(columns):
    """Scenes 0 to 4 of three shots, their colors coming around; shots 6, 16 and 17 are in none."""
    scenes = [(0, 3), (3, 3), (7, 3), (10, 3), (13, 3)]
    sheet = contact_sheet("", solid(range(18), (160, 90)), [0.0] * 18, scenes, columns)
    expected = [color for color in (*SCENE_COLORS, SCENE_COLORS[0]) for _ in range(3)]
    expected.insert(6, BACKGROUND)
    expected += [BACKGROUND] * 2
    assert [bar_color(sheet, shot, columns, 90) for shot in range(18)] == expected
    labeled = [pixels(sheet, *place_of(shot, columns, 90), 58, 15)[8:].tolist() for shot in range(18)]
    assert [shot for shot in range(18) if labeled[shot] != labeled[17]] == [first for first, _ in scenes]


def test_overlapping_scenes_show_the_last_to_begin():
    scenes = [(0, 4), (2, 4), (4, 3)]
    sheet = contact_sheet("", [None] * 7, [0.0] * 7, scenes)
    assert [bar_color(sheet, shot, 9, 80) for shot in range(7)] == [SCENE_COLORS[i] for i in (0, 0, 1, 1, 2, 2, 2)]


def assert_outlined(picture: Image.Image, left: int, top: int, height: int) -> None:
    area = pixels(picture, left, top, THUMBNAIL_WIDTH, height)
    assert is_filled(area[1:-1, 1:-1], BACKGROUND)
    for edge in (area[0], area[-1], area[:, 0], area[:, -1]):
        assert is_filled(edge, FAINT)


@pytest.mark.parametrize("missing", [{0}, {1, 3}, {0, 1, 2, 3}])
def test_missing_keyframes_are_outlines(missing):
    """With no keyframe at all they are twice as wide as high."""
    images = [None if shot in missing else image for shot, image in enumerate(solid(range(4), (100, 75)))]
    height = 80 if len(missing) == 4 else 120
    sheet = contact_sheet("", images, [0.0] * 4, [(0, 4)], columns=3)
    strip = strips([("caption", images)])
    for shot, image in enumerate(images):
        left, top = place_of(shot, 3, height)
        in_strip = (GAP + shot * (THUMBNAIL_WIDTH + GAP), CAPTION_HEIGHT + 2 * GAP)
        if image is None:
            assert_outlined(sheet, left, top + CAPTION_HEIGHT, height)
            assert_outlined(strip, *in_strip, height)
        else:
            # Small keyframes are not enlarged.
            for picture, place in ((sheet, (left, top + CAPTION_HEIGHT)), (strip, in_strip)):
                assert is_filled(pixels(picture, *place, 100, 75), color_of(shot))
                assert is_filled(pixels(picture, place[0] + 100, place[1], 60, 120), BACKGROUND)


def test_strips_stack_rows_of_their_own_height():
    """A wide row, a tall row of one, an empty one, one wider than the others."""
    sizes = [((640, 360), 90, 3), ((224, 398), 284, 1), ((10, 10), 80, 0), ((320, 240), 120, 5)]
    rows, first = [], 0
    for number, (size, _, length) in enumerate(sizes):
        rows.append((f"row {number}", solid(range(first, first + length), size)))
        first += length
    picture = strips(rows)
    top, shot = 0, 0
    for _, height, length in sizes:
        assert not is_filled(pixels(picture, GAP, top, 100, CAPTION_HEIGHT + 2 * GAP), BACKGROUND)
        top += CAPTION_HEIGHT + 2 * GAP
        for column in range(length):
            area = pixels(picture, GAP + column * (THUMBNAIL_WIDTH + GAP), top, THUMBNAIL_WIDTH, height)
            assert is_filled(area, color_of(shot))
            shot += 1
        right = GAP + length * (THUMBNAIL_WIDTH + GAP)
        assert is_filled(pixels(picture, right, top, picture.width - right, height), BACKGROUND)
        top += height + GAP
    assert picture.size == (5 * (THUMBNAIL_WIDTH + GAP) + GAP, top)


def test_strips_leave_room_for_captions():
    assert strips([("a caption", solid(range(1), (160, 90)))]).width == 640


@pytest.mark.parametrize(("num_shots", "columns"), [(499, 1), (1001, 2), (400, 400)])
def test_sheets_fit_into_a_jpeg(num_shots, columns):
    """However many shots a film has and whatever a scene is."""
    images = solid(range(num_shots), (160, 90))
    sheet = contact_sheet("", images, [0.0] * num_shots, [(0, num_shots)], columns)
    assert max(sheet.size) <= MAX_SIDE
    assert Image.open(io.BytesIO(encode(sheet, "JPEG"))).size == sheet.size
    columns = (sheet.width - GAP) // (THUMBNAIL_WIDTH + GAP)
    for shot in (0, 1, num_shots // 2, num_shots - 1):
        left, top = place_of(shot, columns, 90)
        assert is_filled(pixels(sheet, left, top + CAPTION_HEIGHT, THUMBNAIL_WIDTH, 90), color_of(shot))


def test_a_page_of_a_sheet_is_the_lower_part_of_the_whole():
    starts, scenes = [float(shot) for shot in range(20)], [(0, 7), (7, 6), (13, 7)]
    whole = contact_sheet("", solid(range(20), (160, 90)), starts, scenes, 4)
    page = contact_sheet("", solid(range(12, 20), (160, 90)), starts[12:], scenes, 4, first_shot=12)
    below = page.height - TITLE_HEIGHT
    assert np.array_equal(
        pixels(page, 0, TITLE_HEIGHT, page.width, below), pixels(whole, 0, whole.height - below, whole.width, below)
    )


@pytest.mark.parametrize(("size", "height"), [((640, 1), 1), ((1, 640), 480), ((16, 4000), 480)])
def test_extreme_shapes_are_drawn(size, height):
    sheet = contact_sheet("", [Image.new("RGB", size, color_of(3))] * 2, [0.0, 1.0], [(0, 2)])
    assert sheet.height == TITLE_HEIGHT + height + 2 * CAPTION_HEIGHT + GAP
    for shot in range(2):
        left, top = place_of(shot, 9, height)
        assert is_filled(pixels(sheet, left, top + CAPTION_HEIGHT, 1, 1), color_of(3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_are_encoded(kind):
    picture = contact_sheet("A film", solid(range(2), (160, 90)), [0.0, 1.0], [(0, 2)])
    decoded = Image.open(io.BytesIO(encode(picture, kind)))
    assert (decoded.format, decoded.size) == (kind, picture.size)
    difference = np.abs(np.asarray(decoded, float) - np.asarray(picture))
    assert difference.max() == 0 if kind == "PNG" else 0 < difference.mean() < 3


def test_titles_of_any_script_are_drawn():
    sheet = contact_sheet("Amélie 千と千尋 🎬", [None], [0.0], [(0, 1)])
    assert not is_filled(pixels(sheet, GAP, 0, 100, TITLE_HEIGHT), BACKGROUND)
