"""One video file: single frames by index, awkward names."""

import mimetypes
import os
import shutil
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from make_videos import make_video
from PIL import Image

from modeling_m2s import decoding_m2s
from modeling_m2s.decoding_m2s import read_frames
from modeling_m2s.find_films_m2s import find_films
from modeling_m2s.shots_m2s import detect_shots
from modeling_m2s.video_m2s import VIDEO_SUFFIXES, VideoError, fingerprint, title_files


def test_suffixes_of_videos_are_known():
    kinds = mimetypes.MimeTypes(filenames=()).types_map[1]
    videos = {suffix for suffix, kind in kinds.items() if kind.startswith("video/")}
    assert videos - {".mpa", ".movie"} <= set(VIDEO_SUFFIXES)  # sound, and a format that FFmpeg lacks
    others = {suffix for suffix, kind in kinds.items() if not kind.startswith("video/")}
    assert others & set(VIDEO_SUFFIXES) <= {".3gp", ".3g2"}  # phones record videos in them, too
    assert len(set(VIDEO_SUFFIXES)) == len(VIDEO_SUFFIXES)


def test_the_files_of_a_dvds_title_are_one_film(tmp_path):
    whole = make_video(tmp_path / "whole.mpg", [30, 25, 40], codec="mpeg2video")
    content, disc = whole.read_bytes(), tmp_path / "VIDEO_TS"
    disc.mkdir()
    borders = [0, len(content) // 3 + 1, len(content) // 2, len(content)]  # a disc's files end anywhere
    for number, (first, end) in enumerate(pairwise(borders), 1):
        (disc / f"VTS_02_{number}.VOB").write_bytes(content[first:end])
    (disc / "VTS_02_5.VOB").write_bytes(content)  # there is no fourth, so this is not a part
    (disc / "VTS_03_1.VOB").write_bytes(content)
    first = disc / "VTS_02_1.VOB"
    assert [path.name for path in title_files(first)] == ["VTS_02_1.VOB", "VTS_02_2.VOB", "VTS_02_3.VOB"]
    assert title_files(disc / "VTS_02_2.VOB") == [disc / "VTS_02_2.VOB"]
    assert list(find_films([disc])) == ["VTS_02_1", "VTS_02_5", "VTS_03_1"]
    one_by_one = sorted(disc.iterdir(), reverse=True)  # as a shell lists them, but later parts first
    assert find_films(one_by_one) == find_films([disc]) == find_films([one_by_one[3], disc])
    assert list(find_films([disc / "VTS_02_2.VOB"])) == ["VTS_02_2"]  # its first part was not asked for
    expected, found = detect_shots(whole), detect_shots(first)
    assert found == expected and len(found.shots) == 3
    frames = [94, 3, 60]
    assert np.array_equal(np.stack(list(read_frames(first, frames))), np.stack(list(read_frames(whole, frames))))
    before = fingerprint(first)
    (disc / "VTS_02_4.VOB").write_bytes(content)
    assert fingerprint(first) != before
    odd = tmp_path / "a|b"
    odd.mkdir()
    for number in (1, 2):
        shutil.copy(disc / f"VTS_02_{number}.VOB", odd)
    assert detect_shots(odd / "VTS_02_1.VOB").num_frames < expected.num_frames  # FFmpeg cannot join such names


@pytest.mark.parametrize("backend", ["decord", "pyav", "auto"])
def test_random_access_gives_the_keyframes_of_the_pass(videos, backend):
    for path in videos:
        if "full" in path.name or (backend == "decord" and path.suffix == ".mpg"):
            continue  # decord miscounts containers without an index; "auto" knows
        film = detect_shots(path)
        frames = [shot.keyframe_frames[0] for shot in film.shots]
        order = [*reversed(frames), frames[0]]
        for shot, image in zip(
            [*reversed(film.shots), film.shots[0]], read_frames(path, order, 224, backend), strict=True
        ):
            kept = np.asarray(Image.open(BytesIO(shot.keyframes[0])))
            assert kept.shape == image.shape
            assert abs(kept.astype(int) - image).mean() < 5


def test_random_access_falls_back_to_pyav(tmp_path, monkeypatch, caplog):
    path = make_video(tmp_path / "film.mp4", [20])
    expected = read_frames(path, [3, 19], backend="pyav")

    def fail(*_):
        raise RuntimeError("cannot load")

    monkeypatch.setattr(decoding_m2s, "_read_decord", fail)
    assert all(np.array_equal(a, b) for a, b in zip(read_frames(path, [3, 19]), expected, strict=True))
    assert "using PyAV" in caplog.text


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_random_access_refuses_frames_beyond_the_end(tmp_path, backend):
    path = make_video(tmp_path / "film.mp4", [20])
    with pytest.raises(IndexError, match="20"):
        read_frames(path, [3, 20], backend=backend)


def test_file_names_that_are_not_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/f\xe9lm.mp4")
    shutil.move(make_video(tmp_path / "film.mp4", [30, 25]), path)
    assert [shot.end_frame for shot in detect_shots(path).shots] == [30, 55]
    assert read_frames(path, [3])[0].shape == (96, 128, 3)
    with pytest.raises(VideoError, match=r"f�lm\.mp4x: No such file"):
        detect_shots(path + "x")


def test_fingerprints_tell_files_apart(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    data = bytearray(os.urandom(3 * 2**20))
    first.write_bytes(data)
    second.write_bytes(data)
    assert fingerprint(first) == fingerprint(second)
    for changed in (bytes([data[0] ^ 1]) + data[1:], data[:-1] + bytes([data[-1] ^ 1]), data + b"x", data[:-1]):
        second.write_bytes(changed)
        assert fingerprint(first) != fingerprint(second)
