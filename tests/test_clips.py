"""Clips of films: the film's packets from a key frame on, in every container; names, films that are gone, targets."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from make_videos import make_video

from modeling_m2s.clips_m2s import cut_clip
from modeling_m2s.decoding_m2s import VideoFrames
from modeling_m2s.storage_m2s import StorageError
from modeling_m2s.video_m2s import VideoError, fingerprint

START, END = 3.2, 6.1
B_FRAMES = {"bf": "3", "preset": "fast"}
KINDS = {
    "sound.mkv": {"audio": True},
    "ordered.mp4": {"audio": True, "codec_options": B_FRAMES},
    "hevc.mov": {"codec": "libx265", "codec_options": {"preset": "fast", "x265-params": "log-level=none"}},
    "old.avi": {"codec": "mpeg4"},
    "stream.ts": {"audio": True},
    "disc.vob": {"codec": "mpeg2video"},
    "web.webm": {"codec": "libvpx"},
    "windows.wmv": {"codec": "wmv2"},
    "flash.flv": {"codec": "flv1"},
    "phone.3gp": {"codec": "mpeg4"},
    "camera.mxf": {"codec": "mpeg2video"},
}


def shown(path: Path) -> tuple[list[float], list[np.ndarray]]:
    """Film times and gray pictures of all frames."""
    with VideoFrames(path) as frames:
        found = [(frames.seconds(each.ticks), each.frame.to_ndarray(format="gray")) for each in frames]
        assert frames.damage.readable == 1
    return [time for time, _ in found], [image for _, image in found]


@pytest.mark.parametrize("name", KINDS)
def test_a_clip_has_the_pictures_of_the_film_from_a_key_frame_to_its_end(name, tmp_path):
    film = make_video(tmp_path / name, [60, 50, 70, 40], size=(64, 48), **KINDS[name])
    times, images = shown(film)
    clip = cut_clip(film, tmp_path / "clips", "id", START, END)
    assert clip.path.suffix == (".mkv" if film.suffix in (".vob", ".mxf") else film.suffix)
    with av.open(str(clip.path)) as container, av.open(str(film)) as source:
        assert [stream.type for stream in container.streams] == [stream.type for stream in source.streams]
    clip_times, clip_images = shown(clip.path)
    # Key frames are half a second apart, and at most three frames after the end are decoded before those at the end.
    assert START - 0.55 < clip.start_seconds <= START
    (first,) = [number for number, image in enumerate(images) if np.array_equal(image, clip_images[0])]
    assert times[first] == pytest.approx(clip.start_seconds, abs=0.03)
    count = sum(time < END for time in times[first:])
    assert count <= len(clip_images) <= count + 3
    np.testing.assert_array_equal(clip_images[:count], images[first : first + count])
    np.testing.assert_allclose(
        np.diff(clip_times[:count]), np.diff(times[first : first + count]), atol=0.022
    )  # half a frame


def test_a_film_of_one_key_frame_is_cut_from_its_beginning(tmp_path):
    film = make_video(tmp_path / "film.mp4", [100], size=(64, 48), keyframe_interval=1000)
    clip = cut_clip(film, tmp_path, "id", 3.0, 3.5)
    assert clip.start_seconds == 0 and len(shown(clip.path)[0]) == 84


def test_sound_stays_beside_its_pictures(tmp_path):
    film = make_video(tmp_path / "film.mkv", [240], size=(64, 48), audio=True)
    clip = cut_clip(film, tmp_path, "id", START, END)
    with av.open(str(clip.path)) as container:
        times = [packet.pts * packet.time_base for packet in container.demux(audio=0) if packet.size]
    assert 0 <= times[0] < Fraction(1, 10) and abs(times[-1] - Fraction(END - clip.start_seconds)) < Fraction(1, 5)


def test_names_of_other_stretches_films_and_files_differ(tmp_path):
    first, second = tmp_path / "a/film.mp4", tmp_path / "b/film.mp4"
    for seed, path in enumerate((first, second)):
        path.parent.mkdir()
        make_video(path, [60], size=(64, 48), seed=seed)
    cut = [(first, 0.0, 1.0), (first, 0.5, 1.0), (first, 0.5, 2.0), (second, 0.0, 1.0)]
    names = {cut_clip(path, tmp_path / "clips", "it's\n/film", *span).path.name for path, *span in cut}
    assert len(names) == 4 == len(list((tmp_path / "clips").iterdir()))
    assert all(name.isprintable() and "'" not in name and "/" not in name for name in names)


def test_films_gone_replaced_and_broken_and_stretches_beyond_the_end_are_told(tmp_path):
    film = make_video(tmp_path / "film.mp4", [30], size=(64, 48))
    known = fingerprint(film)
    (tmp_path / "text.mp4").write_text("no film " * 999)
    for path, span, identity, reason in (
        (tmp_path / "gone.mp4", (0, 1), None, "not there any more"),
        (film, (0, 1), "0123", "another film than when the index was made"),
        (film, (5, 6), known, None),
        (tmp_path / "text.mp4", (0, 1), None, "no clip can be cut"),
    ):
        if reason:
            with pytest.raises(VideoError, match=reason) as error:
                cut_clip(path, tmp_path / "clips", "id", *span, identity)
            assert str(path) in str(error.value)
        else:  # the last key frame is before the start, so the clip is the rest of the film
            assert cut_clip(path, tmp_path / "rest", "id", *span, identity).start_seconds == 1.0
    assert not list((tmp_path / "clips").glob("*")) if (tmp_path / "clips").exists() else True


def test_a_target_that_cannot_be_written_is_told(tmp_path):
    film = make_video(tmp_path / "film.mp4", [30], size=(64, 48))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        cut_clip(film, tmp_path / "file", "id", 0, 1)
    clip = cut_clip(film, tmp_path / "clips", "id", 0, 1).path
    clip.unlink()
    os.link(film, clip)
    with pytest.raises(StorageError, match="the film itself"):
        cut_clip(film, tmp_path / "clips", "id", 0, 1)
