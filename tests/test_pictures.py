"""Keyframes against FFmpeg's own frames: codecs, bit depths, ranges, matrices, interlacing, on generated films."""

from pathlib import Path

import av
import make_videos
import numpy as np
import pytest
from make_videos import make_video
from test_shots import keyframe

from modeling_m2s.decoding_m2s import read_frames
from modeling_m2s.shots_m2s import ShotSettings, detect_shots

LIMITED, FULL = {"color_range": 1}, {"color_range": 2}
BT709 = {"colorspace": 1, "color_trc": 1, "color_primaries": 1}
PQ = {"colorspace": 9, "color_trc": 16, "color_primaries": 9, **LIMITED}
HLG = {**PQ, "color_trc": 18}
X264_TOP = {"x264-params": "tff=1"}
FIXTURES = Path(__file__).parent / "fixtures"
# Name, codec, pixel format, further options; the size is DV's where it must be.
KINDS = {
    "h264": ("film.mp4", "libx264", "yuv420p", {}),
    "h264, B frames": ("film.mkv", "libx264", "yuv420p", {"codec_options": {"preset": "fast", "bf": "3"}}),
    "h264, BT.709": ("film.mp4", "libx264", "yuv420p", {"colors": {**BT709, **LIMITED}}),
    "h264, full range": ("film.mp4", "libx264", "yuvj420p", {"colors": FULL}),
    "h264, 10 bit": ("film.mkv", "libx264", "yuv420p10le", {}),
    "hevc": ("film.mp4", "libx265", "yuv420p", {}),
    "hevc, PQ": ("film.mp4", "libx265", "yuv420p10le", {"colors": PQ}),
    "hevc, HLG": ("film.mkv", "libx265", "yuv420p10le", {"colors": HLG}),
    "hevc, 12 bit": ("film.mp4", "libx265", "yuv420p12le", {}),
    "av1": ("film.mp4", "libsvtav1", "yuv420p", {"codec_options": {"preset": "12"}}),
    "av1, 10 bit": ("film.mkv", "libsvtav1", "yuv420p10le", {"codec_options": {"preset": "12"}, "colors": PQ}),
    "vp8": ("film.webm", "libvpx", "yuv420p", {"codec_options": {"b": "2000000"}}),
    "vp9": ("film.webm", "libvpx-vp9", "yuv420p", {"codec_options": {"deadline": "realtime", "b": "2000000"}}),
    "mpeg-1": ("film.mpg", "mpeg1video", "yuv420p", {"codec_options": {"b": "4000000"}}),
    "mpeg-2": ("film.ts", "mpeg2video", "yuv420p", {"codec_options": {"b": "4000000"}}),
    "mpeg-4": ("film.avi", "mpeg4", "yuv420p", {"codec_options": {"b": "4000000"}}),
    "prores": ("film.mov", "prores_ks", "yuv422p10le", {}),
    "dnxhr": ("film.mov", "dnxhd", "yuv422p", {"codec_options": {"profile": "dnxhr_sq"}, "size": (256, 144)}),
    "dv": ("film.avi", "dvvideo", "yuv420p", {"size": (720, 576), "rate": 25}),
    "theora": ("theora.ogv", "theora", "yuv420p", {}),  # a fixture: PyAV has no encoder for it
    "mjpeg": ("film.avi", "mjpeg", "yuvj420p", {"codec_options": {"q": "2"}}),
    "gif": ("film.gif", "gif", "gray", {"rate": 25}),
    "ffv1, 4:4:4": ("film.mkv", "ffv1", "yuv444p", {}),
    "ffv1, full range 4:2:2": ("film.mkv", "ffv1", "yuv422p", {"colors": FULL}),
    "png, RGB": ("film.mov", "png", "rgb24", {}),
    "animation, palette": ("film.mov", "qtrle", "rgb24", {}),
    "gray": ("film.mkv", "ffv1", "gray", {}),
    "wmv": ("film.wmv", "wmv2", "yuv420p", {"codec_options": {"b": "4000000"}}),
    "mpeg-2, top field first": ("film.vob", "mpeg2video", "yuv420p", {"fields": "top"}),
    "mpeg-2, bottom field first": ("film.ts", "mpeg2video", "yuv420p", {"fields": "bottom"}),
    "h264, top field first": ("film.mp4", "libx264", "yuv420p", {"fields": "top", "codec_options": X264_TOP}),
    "prores, bottom field first": ("film.mov", "prores_ks", "yuv422p10le", {"fields": "bottom"}),
}


@pytest.fixture(autouse=True)
def smooth_pictures(monkeypatch):
    """JPEG has half as many colors as pixels in each direction, so that sharp edges would differ by that alone."""
    monkeypatch.setattr(make_videos, "picture", smooth_picture)


def smooth_picture(shot: int, frame: int, width: int, height: int, seed: int = 0) -> np.ndarray:
    """Colors that change slowly from place to place and from frame to frame."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 31 + frame / 5), np.sin(y / 23 + frame / 7 + 1), np.sin((x + y) / 41 + 2)]
    return (127 + 100 * np.stack(waves, -1)).astype(np.uint8)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = np.square(first.astype(float) - second).mean()
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def ffmpegs_frame(path, index: int) -> np.ndarray:
    """A frame as FFmpeg's filters `bwdif` and `scale` make it, RGB, through a graph written as on its command line."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source = graph.add_buffer(template=stream)
        bwdif = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
        graph.link_nodes(source, bwdif, graph.add("format", "rgb24"), graph.add("buffersink")).configure()
        for frame in container.decode(stream):
            graph.vpush(frame)
        graph.vpush(None)
        return [graph.vpull() for _ in range(index + 1)][index].to_ndarray()


@pytest.mark.parametrize("kind", KINDS)
def test_keyframes_are_ffmpegs_frames(tmp_path, kind):
    name, codec, pixel_format, options = KINDS[kind]
    if codec == "theora":
        path = FIXTURES / name
    else:
        options = {"size": (192, 144), **options}
        path = make_video(tmp_path / name, [7], codec=codec, pixel_format=pixel_format, **options)
    film = detect_shots(path, ShotSettings(short_side=10_000, jpeg_quality=100))
    assert film.num_frames == 7 and film.damage is None
    (frame,) = film.shots[0].keyframe_frames
    expected, kept = ffmpegs_frame(path, frame), keyframe(film, 0)
    if codec != "dvvideo":  # its pixels are not square
        assert kept.shape == expected.shape
        assert psnr(kept, expected) >= 40
    for backend in ("auto", "pyav"):
        assert psnr(read_frames(path, [frame], backend=backend)[0], kept) >= (35 if codec == "dvvideo" else 40)


def test_limited_and_full_range_look_the_same(tmp_path):
    pictures = []
    for name, pixel_format, colors in (("limited", "yuv444p", LIMITED), ("full", "yuv444p", FULL)):
        path = make_video(tmp_path / f"{name}.mkv", [5], codec="ffv1", pixel_format=pixel_format, colors=colors)
        pictures.append(keyframe(detect_shots(path, ShotSettings(jpeg_quality=100)), 0))
    assert psnr(*pictures) > 40
