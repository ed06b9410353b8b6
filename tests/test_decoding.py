"""Frames of awkward files: their number, film time, stream and shape; what is told of those that cannot be read."""

import itertools
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from make_videos import damage, join, make_sparse, make_video, orient, picture, remux, truncate
from test_shots import bounds, keyframe

from modeling_m2s.damage_m2s import Damage
from modeling_m2s.decoding_m2s import FilmClock, VideoFrames, frame_times, read_frames
from modeling_m2s.pictures_m2s import Shape, fit_box
from modeling_m2s.shots_m2s import ShotSettings, detect_shots
from modeling_m2s.video_m2s import VideoError

RATE = 24


def times(path) -> list[float]:
    """Film time of each frame."""
    with VideoFrames(path) as frames:
        return [frames.seconds(film_frame.ticks) for film_frame in frames]


def assert_shows(film, shot: int, image: np.ndarray, limit: float = 12) -> None:
    assert abs(keyframe(film, shot).astype(int) - image).mean() < limit


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return abs(first.astype(int) - second).mean()


# --- film time ---


@pytest.mark.parametrize(
    ("stamps", "may_jump", "expected"),
    [
        ([7, 47, 87], False, [0, 40, 80]),
        ([None, None, None], False, [0, 40, 80]),
        ([0, 40, None, 120], False, [0, 40, 80, 120]),
        ([0, 40, 40, 80, 120], False, [0, 40, 60, 80, 120]),  # one is repeated, the others keep their time
        ([5000, 5040, 0, 40], False, [0, 40, 80, 120]),  # a reset
        ([0, 40, 95_000_000, 95_000_040], True, [0, 40, 80, 120]),  # a joined recording
        ([0, 40, 600_000, 600_040], False, [0, 40, 600_000, 600_040]),  # a still picture of ten minutes
        ([0, 40, 600_000, 600_040], True, [0, 40, 80, 120]),
        ([0, 40, 10**15, 10**15 + 40], False, [0, 40, 80, 120]),  # an error
    ],
)
def test_the_clock_only_goes_ahead_and_bridges_jumps(stamps, may_jump, expected):
    clock = FilmClock(Fraction(1, 1000), 40, may_jump)
    assert [clock.tick(stamp, 40) for stamp in stamps] == expected


def test_any_time_stamps_give_a_time_that_only_goes_ahead():
    generator = np.random.default_rng(0)
    for seed in range(200):
        clock = FilmClock(Fraction(1, 90000), 3600, bool(seed % 2))
        stamps = (
            generator.integers(-(2**33), 2**33, 50).tolist() if seed % 3 else generator.integers(0, 9000, 50).tolist()
        )
        ticks = [clock.tick(None if stamp % 7 == 0 else stamp, int(stamp) % 5000) for stamp in stamps]
        assert ticks[0] == 0 and all(now > before for before, now in itertools.pairwise(ticks))


@pytest.mark.parametrize(("suffix", "codec"), [("ts", "libx264"), ("mpg", "mpeg2video"), ("vob", "mpeg2video")])
def test_joined_recordings_follow_one_another(tmp_path, suffix, codec):
    parts = [make_video(tmp_path / f"{n}.{suffix}", [30, 34], codec=codec, seed=n) for n in range(3)]
    film = detect_shots(join([parts[2], parts[0], parts[1]], tmp_path / f"film.{suffix}"))
    assert bounds(film) == [(0, 30), (30, 64), (64, 94), (94, 128), (128, 158), (158, 192)]
    assert film.duration_seconds == pytest.approx(192 / RATE, abs=0.1) and film.damage is None
    for shot in film.shots:
        assert shot.start_seconds == pytest.approx(shot.start_frame / RATE, abs=0.1)


@pytest.mark.parametrize(("start", "second_start"), [("0", "95000"), ("95000", "0"), ("50", "40")])
def test_recordings_with_other_time_stamps_join(tmp_path, start, second_start):
    parts = [
        make_video(tmp_path / f"{n}.ts", [40], seed=n, output_ts_offset=offset)
        for n, offset in enumerate((start, second_start))
    ]
    assert times(join(parts, tmp_path / "film.ts")) == pytest.approx([n / RATE for n in range(80)], abs=0.05)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("avi", "libx264"), ("avi", "mpeg4"), ("mpg", "mpeg2video"), ("m2v", "mpeg2video"), ("h264", "libx264")],
)
def test_films_start_at_zero_and_last_their_frames(tmp_path, suffix, codec):
    """B frames: the order in which frames are shown is not that of the file."""
    options = {"bf": "2", "preset": "fast"} if codec == "libx264" else {"bf": "2"}
    path = make_video(tmp_path / f"film.{suffix}", [30, 45], codec=codec, rate=25, codec_options=options)
    assert times(path) == pytest.approx([n / 25 for n in range(75)], abs=0.001)
    film = detect_shots(path)
    assert bounds(film) == [(0, 30), (30, 75)] and film.duration_seconds == pytest.approx(3) and film.frame_rate == 25


def test_seconds_are_a_players_if_sound_begins_first(tmp_path):
    path = make_video(tmp_path / "film.mkv", [30], times=[500 + 40 * n for n in range(30)], audio=True)
    assert times(path)[:2] == pytest.approx([0.5, 0.54])
    film = detect_shots(path)
    assert (film.shots[0].start_seconds, film.duration_seconds) == pytest.approx((0.5, 1.7), abs=0.05)


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_pictures_minutes_apart_are_read(tmp_path, suffix):
    film = detect_shots(make_sparse(tmp_path / f"film.{suffix}"), ShotSettings(min_shot_frames=1))
    assert film.num_frames == 4 and film.damage is None
    assert film.duration_seconds == pytest.approx(480, abs=1)


# --- streams ---


def two_streams(path, lengths, default: int):
    """A file with two video streams, one of which is marked as the default."""
    sources = [make_video(path.with_name(f"{n}.mkv"), length, seed=n) for n, length in enumerate(lengths)]
    with av.open(str(path), "w") as target:
        packets = []
        for number, source in enumerate(map(str, sources)):
            container = av.open(source)
            stream = target.add_stream_from_template(container.streams.video[0])
            stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
            packets += [(packet, stream) for packet in container.demux() if packet.size]
        for packet, stream in packets:
            packet.stream = stream
            target.mux(packet)
    return path


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_stream_is_read_or_the_one_asked_for(tmp_path, default):
    path = two_streams(tmp_path / "film.mkv", [[30, 25], [40]], default)
    expected = [[(0, 30), (30, 55)], [(0, 40)]]
    assert bounds(detect_shots(path)) == expected[default]
    for number in (0, 1):
        film = detect_shots(path, ShotSettings(video_stream=number))
        assert bounds(film) == expected[number]
        frame = film.shots[0].keyframe_frames[0]
        (image,) = read_frames(path, [frame], video_stream=number)
        assert_shows(film, 0, image)
        assert_shows(film, 0, picture(0, frame, 128, 96, seed=number))
    with pytest.raises(VideoError, match=r"video stream 2 is asked for; it has 2, counted from 0"):
        detect_shots(path, ShotSettings(video_stream=2))
    with pytest.raises(ValueError, match="video_stream=-1 is negative"):
        ShotSettings(video_stream=-1)


def test_a_thumbnail_is_not_the_film(tmp_path):
    path = two_streams(tmp_path / "film.mp4", [[1], [30, 25]], default=0)
    assert bounds(detect_shots(path)) == [(0, 30), (30, 55)]


# --- shape ---

TURNS = [
    (1, 0, 0, 1),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (-1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, 1, -1, 0),
    (0, -1, 1, 0),
    (0, -1, -1, 0),
]


def turned(image: np.ndarray, turn: tuple[int, int, int, int]) -> np.ndarray:
    """Each pixel at (x, y) goes to (a·x + c·y, b·x + d·y), moved so that all are inside."""
    a, b, c, d = turn
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    columns, rows = a * x + c * y, b * x + d * y
    columns, rows = columns - columns.min(), rows - rows.min()
    result = np.empty((rows.max() + 1, columns.max() + 1, 3), np.uint8)
    result[rows, columns] = image
    return result


@pytest.mark.parametrize("turn", TURNS)
def test_films_are_turned_and_mirrored_by_the_whole_matrix(tmp_path, turn):
    path = orient(make_video(tmp_path / "film.mp4", [30], size=(160, 96)), turn)
    upright = turned(picture(0, 14, 160, 96), turn)
    film = detect_shots(path)
    assert (film.width, film.height) == upright.shape[1::-1]
    assert_shows(film, 0, upright)
    for backend in ("auto", "pyav"):
        assert distance(read_frames(path, [14], backend=backend)[0], upright) < 12


@pytest.mark.parametrize(
    ("size", "aspect", "box"),
    [
        ((256, 192), None, (128, 96)),  # another resolution: the whole picture
        ((96, 96), None, (96, 96)),  # narrower: black at the sides
        ((128, 48), None, (128, 48)),  # wider: black above and below
        ((128, 96), Fraction(4, 3), (128, 72)),  # other pixels
    ],
)
def test_shapes_that_change_are_letterboxed_and_never_squeezed(tmp_path, size, aspect, box):
    parts = [
        make_video(tmp_path / "0.ts", [36], pixel_aspect=Fraction(1)),
        make_video(tmp_path / "1.ts", [40], size=size, pixel_aspect=aspect or Fraction(1), seed=1),
    ]
    path = join(parts, tmp_path / "film.ts")
    film = detect_shots(path)
    assert bounds(film) == [(0, 36), (36, 76)] and (film.width, film.height) == (128, 96) and film.damage is None
    (width, height), shown = box, keyframe(film, 1)
    left, top = (128 - width) // 2, (96 - height) // 2
    rows, columns = np.arange(height) * size[1] // height, np.arange(width) * size[0] // width
    expected = picture(0, 19, *size, seed=1)[rows][:, columns]
    assert distance(shown[top : top + height, left : left + width], expected) < 16
    border = np.ones((96, 128), bool)
    border[max(0, top - 2) : top + height + 2, max(0, left - 2) : left + width + 2] = False
    assert not border.any() or shown[border].mean() < 4
    assert distance(read_frames(path, [film.shots[1].keyframe_frames[0]])[0], shown) < 6


def test_boxes_keep_their_shape():
    generator = np.random.default_rng(0)
    for first, display in generator.integers(1, 3000, (500, 2, 2)).tolist():
        size = Shape(*first).display_size
        width, height = fit_box(display, first, size)
        assert 1 <= width <= size[0] + 1 and 1 <= height <= size[1] + 1
        assert abs(width / height - display[0] / display[1]) <= 1.6 * (width + height) / height**2
        assert width >= size[0] - 1 or height >= size[1] - 1
    assert fit_box((64, 48), (640, 480), (299, 224)) == (299, 224)


def test_impossible_pixels_count_as_square(tmp_path):
    film = detect_shots(make_video(tmp_path / "film.mp4", [20], pixel_aspect=Fraction(200, 1)))
    assert (film.width, film.height) == (128, 96)


# --- interlaced films ---


@pytest.mark.parametrize("fields", ["top", "bottom"])
@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("film.vob", "mpeg2video", "yuv420p"),
        ("film.mp4", "libx264", "yuv420p"),
        ("film.mkv", "ffv1", "yuv422p"),
        ("film.mov", "prores_ks", "yuv422p10le"),
        ("film.avi", "mpeg4", "yuv420p"),
    ],
)
def test_interlaced_films_are_deinterlaced(tmp_path, name, codec, pixel_format, fields):
    options = {"x264-params": f"{fields[0]}ff=1"} if codec == "libx264" else {"b": "4000000"} if codec != "ffv1" else {}
    path = make_video(
        tmp_path / name,
        [30, 25],
        size=(192, 144),
        codec=codec,
        pixel_format=pixel_format,
        fields=fields,
        codec_options=options,
    )
    film = detect_shots(path)
    assert bounds(film) == [(0, 30), (30, 55)] and film.damage is None
    assert film.duration_seconds == pytest.approx(55 / RATE, abs=0.002)
    for shot, frame in enumerate(film.shots[shot].keyframe_frames[0] for shot in range(2)):
        first, second = (picture(shot, 2 * frame + field, 192, 144) for field in (0, 1))
        comb = np.where(np.arange(144)[:, None, None] % 2 == (fields == "bottom"), first, second)
        assert distance(keyframe(film, shot), first) < distance(comb, first) + 6
        assert lines_differ(keyframe(film, shot)) < 0.6 * lines_differ(comb)
        assert distance(read_frames(path, [frame])[0], keyframe(film, shot)) < 6


def lines_differ(image: np.ndarray) -> float:
    """How much each line differs from both its neighbors, where these agree."""
    lines = image.astype(int)
    above, line, below = lines[:-2], lines[1:-1], lines[2:]
    return np.where(abs(above - below) < 24, abs(line - (above + below) // 2), 0).mean()


def test_single_interlaced_frames_and_tiny_ones(tmp_path):
    assert detect_shots(make_video(tmp_path / "one.mkv", [1], codec="ffv1", fields="top")).num_frames == 1
    assert detect_shots(make_video(tmp_path / "two.mkv", [2], codec="ffv1", fields="top")).num_frames == 2
    tiny = make_video(tmp_path / "tiny.mkv", [20], size=(2, 2), codec="ffv1", fields="top", pixel_format="yuv444p")
    assert detect_shots(tiny).num_frames == 20


# --- damage ---


@pytest.mark.parametrize(
    ("suffix", "audio_codec"), [("mkv", "aac"), ("flv", "aac"), ("mp4", "aac"), ("avi", "pcm_s16le")]
)
def test_sound_that_goes_on_is_no_damage(tmp_path, suffix, audio_codec):
    path = make_video(tmp_path / f"film.{suffix}", [40, 32], audio=True, audio_seconds=20, audio_codec=audio_codec)
    film = detect_shots(path)
    assert film.num_frames == 72 and film.damage is None and film.duration_seconds == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mpg"])
def test_a_recording_that_begins_between_key_frames_is_kept_and_told(tmp_path, suffix):
    codec = "mpeg2video" if suffix == "mpg" else "libx264"
    whole = make_video(tmp_path / f"whole.{suffix}", [48, 48, 48], codec=codec, keyframe_interval=48)
    if suffix == "mkv":
        path = remux(whole, tmp_path / "film.mkv", range(20, 144))
    else:
        data, unit = whole.read_bytes(), 188 if suffix == "ts" else 2048
        path = tmp_path / f"film.{suffix}"
        path.write_bytes(data[len(data) * 2 // 10 // unit * unit :])
    film = detect_shots(path)
    assert bounds(film) == [(0, 48), (48, 96)]
    assert film.damage and film.damage.startswith("damaged: the first ") and "before the first key frame" in film.damage
    assert film.shots[0].start_seconds == pytest.approx(film.duration_seconds - 4, abs=0.05)
    assert_shows(film, 0, picture(1, 48 + 23, 128, 96), 18)


def test_films_that_never_have_a_key_frame_are_read(tmp_path):
    whole = make_video(
        tmp_path / "whole.avi",
        [30, 30],
        codec="mpeg4",
        keyframe_interval=300,
        codec_options={"sc_threshold": "1000000000"},
    )
    path = remux(whole, tmp_path / "film.mkv", range(1, 60))
    with pytest.raises(VideoError, match="the video stream has no frames that can be read"):
        detect_shots(path)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("film.mp4", "libx264"), ("film.mkv", "libx264"), ("film.ts", "libx264"), ("film.flv", "libx264"),
        ("film.mp4", "libx265"), ("film.webm", "libvpx"), ("film.mpg", "mpeg2video"), ("film.avi", "mpeg4"),
    ],
)  # fmt: skip
def test_holes_are_told_and_the_rest_is_kept(tmp_path, name, codec):
    path = damage(make_video(tmp_path / name, [300, 300], codec=codec), 0.5, 3000)
    film = detect_shots(path)
    assert 540 < film.num_frames < 600
    assert film.damage and "cannot be read: " in film.damage
    assert all(shot.end_seconds > shot.start_seconds for shot in film.shots)
    with pytest.raises(VideoError, match=r"of 2[45]\.\d\d s cannot be read: .*; a min_readable of 0\.9\d keeps"):
        detect_shots(path, min_readable=1)


@pytest.mark.parametrize(
    ("name", "codec", "is_told"),
    [
        ("film.mkv", "libx264", True), ("film.mp4", "libx264", True), ("film.flv", "libx264", True),
        ("film.avi", "mpeg4", True), ("film.webm", "libvpx", True),
        ("film.ts", "libx264", False), ("film.mpg", "mpeg2video", False),  # a recording may end at any time
    ],
)  # fmt: skip
@pytest.mark.parametrize("audio", [False, True])
def test_files_that_end_early(tmp_path, name, codec, is_told, audio):
    audio = audio and name in ("film.mkv", "film.mp4", "film.ts")
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = truncate(make_video(tmp_path / name, [300, 300], codec=codec, audio=audio, **options), 0.6)
    film = detect_shots(path, min_readable=0.3)
    assert 300 < film.num_frames < 480 and ("–25.0" in str(film.damage)) == is_told
    if is_told:
        with pytest.raises(VideoError, match="a min_readable of 0"):
            detect_shots(path)


def test_missing_stretches_are_told_in_regular_films_only(tmp_path):
    regular = [n * 40 + (5000 if n > 50 else 0) for n in range(150)]
    uneven = np.cumsum(np.random.default_rng(0).choice([20, 40, 80, 3000], 150, p=[0.4, 0.3, 0.25, 0.05])).tolist()
    for stamps, is_told in ((regular, True), (uneven, False)):
        path = make_video(tmp_path / f"{is_told}.mkv", [150], times=stamps, rate=25)
        with av.open(str(path)) as container:
            has_duration = all(packet.duration for packet in container.demux(video=0) if packet.size)
        assert has_duration
        film = detect_shots(path, min_readable=0)
        assert film.num_frames == 150 and bool(film.damage) == is_told, film.damage


def test_holes_and_the_readable_share():
    damage = Damage(Fraction(1, 10), period=1)
    for ticks in (*range(50), *range(60, 100)):
        if ticks == 60:
            damage.lose()
        damage.keep(ticks, 1)
    damage.finish(last_packet=100, announced=0)
    assert damage.readable == 0.9
    assert damage.describe(Fraction(2)) == "damaged: 1.00 of 10.00 s cannot be read: 7.00–8.00 s"
    damage.early_start = 20
    assert damage.readable == 0.9
    assert damage.describe(Fraction(2)).startswith("damaged: the first 2.00 s come before the first key frame; 1.00 of")
    assert Damage(Fraction(1, 10), 1).describe(Fraction(0)) is None


# --- other places ---


def test_hidden_pictures_and_frames_have_the_same_times(tmp_path):
    plain = make_video(tmp_path / "plain.mp4", [30, 25])
    stamps, backend = frame_times(plain)
    assert backend == "auto" and stamps == pytest.approx(times(plain))
    woven = make_video(tmp_path / "woven.mp4", [30], fields="top", codec_options={"x264-params": "tff=1"})
    stamps, backend = frame_times(woven)
    assert backend == "pyav" and stamps.tolist() == times(woven) and len(stamps) == 30


def test_colors_that_ffmpeg_does_not_know_are_read(tmp_path):
    path = make_video(tmp_path / "film.mkv", [20], codec="ffv1", colors={"colorspace": 3, "color_trc": 3})
    shutil.copy(path, tmp_path / "again.mkv")
    assert_shows(detect_shots(path), 0, picture(0, 9, 128, 96))


@pytest.mark.parametrize(
    ("name", "num_frames", "cuts"),
    [("lossless_cut.mp4", 195, [45, 120]), ("h264_in_avi.avi", 300, [75, 150, 225])],
)
def test_files_of_other_programs(name, num_frames, cuts):
    """A cut without recoding, whose first frames lean on hidden ones; H.264 in AVI, which has empty packets."""
    film = detect_shots(Path(__file__).parent / "fixtures" / name)
    assert (film.num_frames, film.frame_rate, film.duration_seconds) == (num_frames, 25, num_frames / 25)
    assert [shot.start_frame for shot in film.shots[1:]] == cuts and film.damage is None
    assert [shot.start_seconds for shot in film.shots] == [shot.start_frame / 25 for shot in film.shots]
