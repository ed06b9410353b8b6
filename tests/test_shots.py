"""Shots and keyframes of one decode pass: against PySceneDetect, against single frames, on awkward and bad files."""

import json
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from make_videos import make_audio, make_video, picture, rotate, trim, truncate, write_film
from PIL import Image
from scenedetect import SceneManager
from scenedetect.backends import VideoStreamAv
from scenedetect.detectors import AdaptiveDetector, ContentDetector, HashDetector, HistogramDetector

from modeling_m2s import shots_m2s
from modeling_m2s.decoding_m2s import read_frames
from modeling_m2s.pictures_m2s import FilmFrame, Shape, contrast, fit_size
from modeling_m2s.shots_m2s import Film, ShotSettings, detect_shots, keyframe_places
from modeling_m2s.video_m2s import VideoError

REFERENCE = {
    "adaptive": lambda threshold, length: AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=length),
    "content": lambda threshold, length: ContentDetector(threshold=threshold, min_scene_len=length),
    "hash": lambda threshold, length: HashDetector(threshold=threshold, min_scene_len=length),
    "histogram": lambda threshold, length: HistogramDetector(threshold=threshold, min_scene_len=length),
}
# First frames of shots, and the end of the film, as found when OpenCV still read the films.
BY_OPENCV = json.loads((Path(__file__).parent / "fixtures/shots_by_opencv.json").read_text())


def assert_shots_equal_pyscenedetect(path, settings: ShotSettings) -> Film:
    film = detect_shots(path, settings)
    detector = REFERENCE[settings.detector](settings.threshold, settings.min_shot_frames)
    manager = SceneManager()
    manager.add_detector(detector)
    manager.detect_scenes(VideoStreamAv(path, suppress_output=True))
    scenes = manager.get_scene_list(start_in_scene=True)
    assert [s.start_seconds for s in film.shots] == [a.seconds for a, _ in scenes]
    assert [s.end_seconds for s in film.shots[:-1]] == [b.seconds for _, b in scenes[:-1]]
    # PySceneDetect's last frame lasts as long as its frame rate says, ours as long as its packet says.
    assert film.duration_seconds == pytest.approx(scenes[-1][1].seconds, abs=0.002)
    assert [(s.start_frame, s.end_frame) for s in film.shots] == [(a.frame_num, b.frame_num) for a, b in scenes]
    assert [s.shot_index for s in film.shots] == list(range(len(scenes)))
    return film


def keyframe(film: Film, shot: int, number: int = 0) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(film.shots[shot].keyframes[number])))


def bounds(film: Film) -> list[tuple[int, int]]:
    return [(shot.start_frame, shot.end_frame) for shot in film.shots]


@pytest.mark.parametrize("detector", REFERENCE)
def test_shots_equal_pyscenedetect_on_short_real_videos(videos, detector):
    for path in videos:
        if "full" not in path.name:
            film = assert_shots_equal_pyscenedetect(path, ShotSettings(detector=detector))
            assert detector != "adaptive" or [0, *(end for _, end in bounds(film))] == BY_OPENCV[path.name]


def test_shots_equal_pyscenedetect_on_the_whole_film(videos):
    film = next(path for path in videos if "full" in path.name)
    shots = assert_shots_equal_pyscenedetect(film, ShotSettings()).shots
    assert [0, *(shot.end_frame for shot in shots)] == BY_OPENCV[film.name]


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["content", "hash", "histogram"])
def test_shots_equal_pyscenedetect_on_the_whole_film_by_other_detectors(videos, detector):
    film = next(path for path in videos if "full" in path.name)
    assert_shots_equal_pyscenedetect(film, ShotSettings(detector=detector))


@pytest.mark.parametrize(
    "settings",
    [
        ShotSettings("adaptive", threshold=1.5, min_shot_frames=4),
        ShotSettings("content", threshold=8.0, min_shot_frames=40),
        ShotSettings("hash", threshold=0.2, min_shot_frames=1),
        ShotSettings("histogram", threshold=0.05, min_shot_frames=7),
    ],
    ids=lambda settings: settings.detector,
)
def test_shots_equal_pyscenedetect_with_other_parameters(tmp_path, settings):
    path = make_video(tmp_path / "film.mp4", [3, 17, 1, 60, 5, 4, 33, 2], size=(322, 182))
    assert_shots_equal_pyscenedetect(path, settings)


@pytest.mark.parametrize(
    "lengths, expected",
    [
        ([30, 40, 25], [(0, 30), (30, 70), (70, 95)]),
        ([200], [(0, 200)]),
        ([1], [(0, 1)]),
        ([16, 100, 3], [(0, 16), (16, 116), (116, 119)]),  # cuts in the first and in the last second
    ],
)
def test_known_cuts_are_found_and_middle_frames_kept(tmp_path, lengths, expected):
    film = detect_shots(make_video(tmp_path / "film.mp4", lengths))
    assert bounds(film) == expected
    for shot, (start, end) in enumerate(expected):
        (frame,) = film.shots[shot].keyframe_frames
        assert frame == (start + end - 1) // 2 or end - start > 65
        assert abs(keyframe(film, shot).astype(int) - picture(shot, frame, 128, 96)).mean() < 12
    assert film.num_frames == sum(lengths) and film.frame_rate == 24
    assert film.duration_seconds == pytest.approx(sum(lengths) / 24)


@pytest.mark.parametrize("num_keyframes", [1, 2, 3, 7, 31])
def test_candidates_stay_few_and_near_the_ideal_place(num_keyframes):
    """For shots of any length: at most 66 frames held, each keyframe within 1/64 of the length from its place."""
    lengths = {*range(1, 300), *np.random.default_rng(0).integers(300, 40_000, 25).tolist(), 65 * 64, 66 * 64 + 1}
    frame = FilmFrame(None, 0, 0, Shape(1, 1))
    for length in lengths:
        candidates = shots_m2s._Candidates(0, 0.0, num_keyframes)
        for _ in range(length):
            candidates.add(lambda frame: frame, frame)
            assert len(candidates.kept) <= 66
        chosen = [near[0][0] for near in candidates.choose()]
        ideal = keyframe_places(length, num_keyframes)
        for near, best in zip(candidates.choose(), ideal, strict=True):
            distances = [abs(place - best) for place, _ in near]
            assert distances == sorted(distances) and max(distances[1:], default=0) < length / len(ideal) / 2
        assert len(chosen) == min(length, num_keyframes)
        assert all(abs(place - best) <= max(0.5, length / 64) for place, best in zip(chosen, ideal, strict=True))
        if length <= 65:
            assert chosen == [int(np.ceil(best - 0.5)) for best in ideal]  # nearest, ties to the earlier


def test_several_keyframes_stand_evenly_and_are_those_frames(tmp_path):
    path = make_video(tmp_path / "film.mp4", [30, 45, 2 * 16])
    settings = ShotSettings(keyframes_per_shot=3, jpeg_quality=95)
    film = detect_shots(path, settings)
    assert [shot.keyframe_frames for shot in film.shots] == [[4, 14, 24], [37, 52, 67], [80, 90, 101]]
    for shot in film.shots:
        images = read_frames(path, shot.keyframe_frames)
        for jpeg, image in zip(shot.keyframes, images, strict=True):
            assert abs(np.asarray(Image.open(BytesIO(jpeg))).astype(int) - image).mean() < 5


def faded(shot: int, shares: list[float], color: int = 0, bars: int = 0) -> list[np.ndarray]:
    """Frames of a shot, mixed with a color; a share of 1 is the picture alone. Black bars lie above and below."""
    frames = []
    for share in shares:
        image = share * picture(shot, 0, 150, 98).astype(float) + (1 - share) * color
        image[:bars] = image[98 - bars :] = 0
        frames.append(image.round().astype(np.uint8))
    return frames


# Films of one shot: share of the picture in each of its frames.
UP, DOWN = np.linspace(0, 1, 12).tolist(), np.linspace(1, 0, 12).tolist()
BLANK_FILMS = {
    "black in the middle": (faded(0, [1.0] * 7 + [0.0] * 19 + [1.0] * 9), 1),
    "white with bars": (faded(1, [0.0] * 31 + [1.0] * 4, 255, 16), 1),
    "a fade from white": (faded(2, [0.0] * 20 + UP, 255), 1),
    "a fade to black, three keyframes": (faded(3, DOWN + [0.0] * 17), 3),
    "black throughout": (faded(4, [0.0] * 23), 2),
    "a faint picture": (faded(5, [0.0] * 9 + [0.04] * 8), 1),
    "long": (faded(6, [1.0] * 3 + [0.0] * 170 + [1.0] * 5), 1),
    "one frame": (faded(7, [0.0]), 1),
}


@pytest.mark.parametrize("name", BLANK_FILMS)
def test_blank_frames_are_passed_over_for_the_nearest_that_show_something(name, tmp_path):
    """Against a loop over all frames of the film, with its own measure of what they show."""
    images, num_keyframes = BLANK_FILMS[name]
    write_film(tmp_path / "film.mp4", images)
    settings = ShotSettings(keyframes_per_shot=num_keyframes, min_shot_frames=500, short_side=98)
    film = detect_shots(tmp_path / "film.mp4", settings)
    plain = detect_shots(tmp_path / "film.mp4", replace(settings, any_keyframe=True))
    assert bounds(film) == bounds(plain) == [(0, len(images))] and plain.moved_keyframes == 0

    def shows(image: np.ndarray) -> float:
        areas = Image.fromarray(image[16:82]).resize((32, 18), Image.Resampling.BOX)
        return np.asarray(areas, float).reshape(-1, 3).std(0).max()

    shown = [shows(image) for image in images]
    held = range(0, len(images), 1 if len(images) < 66 else 2 if len(images) < 131 else 4)
    expected, moved = [], 0
    for frame, place in zip(plain.shots[0].keyframe_frames, keyframe_places(len(images), num_keyframes), strict=True):
        part = [other for other in held if abs(other - place) < len(images) / len(plain.shots[0].keyframes) / 2]
        best = max(shown[other] for other in part)
        if shown[frame] < 4 <= best:
            enough = [other for other in part if shown[other] >= best / 2]
            frame = min(enough, key=lambda other: (abs(other - place), other))
            moved += 1
        expected.append(frame)
    assert film.shots[0].keyframe_frames == expected and film.moved_keyframes == moved
    assert (moved > 0) == (name not in ("black throughout", "a faint picture", "one frame"))
    for number, frame in enumerate(expected):
        assert abs(keyframe(film, 0, number).astype(int) - images[frame]).mean() < 8


def test_what_counts_as_blank():
    noise = np.random.default_rng(0).normal(0, 6, (270, 480, 3))
    night = 12 + 8 * (picture(0, 0, 480, 270) > 128)
    title = np.zeros((270, 480, 3))
    title[120:150, 180:300:6] = 255
    for image, is_blank in [(20 + noise, True), (235 + noise, True), (night + noise, True), (2 * night, False)]:
        assert (contrast(image.clip(0, 255).astype(np.uint8)) < shots_m2s.BLANK_CONTRAST) == is_blank
    assert contrast(title.astype(np.uint8)) > shots_m2s.BLANK_CONTRAST
    for size in [(1, 1), (3, 200), (200, 2)]:
        assert contrast(np.full((*size, 3), 77, np.uint8)) == 0


def test_only_blank_keyframes_of_a_real_film_move(videos):
    """The Sintel trailer begins black, fades between its titles and ends black."""
    path = next(path for path in videos if "sintel" in path.name)
    plain, clear = (detect_shots(path, ShotSettings(any_keyframe=any_keyframe)) for any_keyframe in (True, False))
    assert bounds(plain) == bounds(clear)
    pairs = zip(plain.shots, clear.shots, strict=True)
    changed = [one.shot_index for one, other in pairs if one.keyframe_frames != other.keyframe_frames]
    assert len(changed) == clear.moved_keyframes > 0
    for shot in range(len(plain.shots)):
        before, after = contrast(keyframe(plain, shot)), contrast(keyframe(clear, shot))
        assert before < 4 <= after if shot in changed else before == after


@pytest.mark.parametrize("size", [(640, 480), (641, 481)])
def test_large_frames_are_halved_on_entry_to_nearly_the_same_keyframes(tmp_path, monkeypatch, size):
    path = make_video(tmp_path / "film.mp4", [90, 40], size=size, pixel_format="yuv444p")
    by_reference = detect_shots(path, ShotSettings(short_side=100))
    monkeypatch.setattr(shots_m2s, "_MAX_REFERENCE_BYTES", 0)
    halved = detect_shots(path, ShotSettings(short_side=100))
    for shot in range(2):
        assert halved.shots[shot].keyframe_frames == by_reference.shots[shot].keyframe_frames
        assert keyframe(halved, shot).shape == keyframe(by_reference, shot).shape == (100, 133, 3)
        assert abs(keyframe(halved, shot).astype(int) - keyframe(by_reference, shot)).mean() < 3


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(tmp_path, degrees):
    path = rotate(make_video(tmp_path / "film.mp4", [30], size=(160, 96)), degrees)
    upright = np.rot90(picture(0, 14, 160, 96), -degrees // 90).astype(int)
    film = detect_shots(path)
    assert (film.width, film.height) == upright.shape[1::-1]
    assert abs(keyframe(film, 0) - upright).mean() < 12
    for backend in ("decord", "pyav"):
        assert abs(read_frames(path, [14], backend=backend)[0] - upright).mean() < 12


def test_anamorphic_pixels_become_square(tmp_path):
    path = make_video(tmp_path / "film.mp4", [30], size=(320, 240), pixel_aspect=Fraction(4, 3))
    film = detect_shots(path)
    assert (film.width, film.height) == (427, 240)
    assert keyframe(film, 0).shape == (224, 399, 3)
    assert read_frames(path, [14], 224)[0].shape == (224, 399, 3)


def test_odd_sizes_and_other_containers(tmp_path):
    odd = make_video(tmp_path / "odd.mkv", [30, 25], size=(127, 95), pixel_format="yuv444p")
    assert bounds(detect_shots(odd)) == [(0, 30), (30, 55)]
    for name, codec in (("a.avi", "mpeg4"), ("a.webm", "libvpx"), ("a.ts", "libx264"), ("a.mpg", "mpeg2video")):
        film = detect_shots(make_video(tmp_path / name, [30, 25], codec=codec))
        assert bounds(film) == [(0, 30), (30, 55)], name


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate_keeps_true_times(tmp_path, suffix):
    steps = np.random.default_rng(0).choice([20, 40, 80], 95)
    times = (np.cumsum(steps) - steps[0]).tolist()
    path = make_video(tmp_path / f"film{suffix}", [30, 40, 25], times=times)
    film = detect_shots(path)
    assert bounds(film) == [(0, 30), (30, 70), (70, 95)]
    starts = [shot.start_seconds for shot in film.shots]
    assert starts == pytest.approx([0, times[30] / 1000, times[70] / 1000], abs=0.002)
    assert film.duration_seconds == pytest.approx(times[-1] / 1000, abs=0.1)
    assert [shot.keyframe_frames for shot in film.shots] == [[14], [49], [82]]


def test_sound_does_not_matter(tmp_path):
    silent = detect_shots(make_video(tmp_path / "silent.mp4", [30, 25]))
    assert detect_shots(make_video(tmp_path / "sound.mp4", [30, 25], audio=True)) == silent


def test_the_first_video_stream_counts(tmp_path):
    path = make_video(tmp_path / "two.mkv", [30, 25], second_stream=[55])
    assert bounds(detect_shots(path)) == [(0, 30), (30, 55)]


def test_keyframes_are_scaled_down_never_up(tmp_path):
    path = make_video(tmp_path / "film.mp4", [20], size=(400, 300))
    assert keyframe(detect_shots(path, ShotSettings(short_side=100)), 0).shape == (100, 133, 3)
    assert keyframe(detect_shots(path, ShotSettings(short_side=1000)), 0).shape == (300, 400, 3)
    assert fit_size((224, 100), 224) == (224, 100) and fit_size((1, 4000), None) == (1, 4000)


def test_the_content_score_is_pyscenedetects_to_the_last_bit():
    images = np.random.default_rng(0).integers(0, 256, (5, 37, 53, 3), dtype=np.uint8)
    ours, theirs = ShotSettings("content").build_detector(), ContentDetector()
    for image in images:
        assert ours._calculate_frame_score(None, image) == theirs._calculate_frame_score(None, image)


def test_progress_is_reported(tmp_path):
    shares: list[float] = []
    detect_shots(make_video(tmp_path / "film.mp4", [300]), report=shares.append)
    assert len(shares) == 3 and shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1


def bad_files(folder):
    empty, text = folder / "empty.mp4", folder / "text.mp4"
    empty.write_bytes(b"")
    text.write_text("this is no video\n" * 100)
    time_short = r"damaged: 10\.\d+ of 25.00 s cannot be read: 1\d\.\d\d–25.00 s; a min_readable of 0\.\d+ keeps"
    index_first = make_video(folder / "index_first.mp4", [300, 300], movflags="faststart")
    return {
        "missing.mp4": "No such file",
        empty.name: "is empty",
        text.name: "not a readable video",
        folder.name: "directory",
        make_audio(folder / "sound.mp4").name: "no video stream",
        make_video(folder / "none.mp4", []).name: "no video stream|no frames|not a readable",
        truncate(make_video(folder / "cut.mp4", [60]), 0.6).name: "not a readable video",
        truncate(index_first, 0.6).name: time_short,
        truncate(make_video(folder / "cut.mkv", [300, 300]), 0.6).name: time_short,
    }


def test_bad_files_are_refused_with_name_and_reason(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for name, reason in bad_files(folder).items():
        path = folder if name == folder.name else folder / name
        with pytest.raises(VideoError, match=reason) as error:
            detect_shots(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_films_trimmed_by_an_edit_list_are_whole(tmp_path):
    path = trim(make_video(tmp_path / "film.mp4", [120, 180], keyframe_interval=100), 2.5, tmp_path / "trimmed.mp4")
    film = detect_shots(path)
    assert film.num_frames == 240 and film.damage is None
    assert bounds(film) == [(0, 60), (60, 240)]


def test_damaged_films_are_kept_on_request(tmp_path):
    path = truncate(make_video(tmp_path / "film.mp4", [300, 300], movflags="faststart"), 0.6)
    film = detect_shots(path, min_readable=0)
    assert 100 < film.num_frames < 500 and film.shots[0].start_frame == 0


@pytest.mark.parametrize(
    "values, message",
    [
        ({"detector": "magic"}, "magic.*adaptive"),
        ({"keyframes_per_shot": 0}, "keyframes_per_shot=0"),
        ({"keyframes_per_shot": 32}, "keyframes_per_shot=32"),
        ({"min_shot_frames": 0}, "min_shot_frames=0"),
        ({"short_side": 0}, "short_side=0"),
        ({"jpeg_quality": 101}, "jpeg_quality=101"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        replace(ShotSettings(), **values)
