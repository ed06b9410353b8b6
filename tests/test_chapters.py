"""Copies of films with chapters: packets are the film's, to the bit; everything else of the film is still there."""

import io
import os
import resource
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from make_videos import make_video, picture, rotate, trim
from PIL import Image

from m2s.main import main
from modeling_m2s.chapters_m2s import copy_with_chapters
from modeling_m2s.decoding_m2s import VideoFrames
from modeling_m2s.pictures_m2s import Orientation
from modeling_m2s.storage_m2s import StorageError
from modeling_m2s.video_m2s import VideoError

CHAPTERS = [("Scene 1", 0, 1002), ("é \"2\" <&> 'x' =;#\\", 1002, 1900), ("Scene 3", 1900, 3000)]


def packets(path: Path) -> dict[tuple[str, int], list[tuple]]:
    """Times and bytes of the packets of each picture, sound and subtitle stream, in the order of decoding."""
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type in ("video", "audio", "subtitle")]
        numbers = {stream.index: (stream.type, number) for number, stream in enumerate(streams)}
        found: dict[tuple[str, int], list[tuple]] = {number: [] for number in numbers.values()}
        for packet in container.demux(streams):
            if packet.size:
                times = [time if time is None else time * packet.time_base for time in (packet.pts, packet.dts)]
                found[numbers[packet.stream.index]].append((*times, packet.is_keyframe, bytes(packet)))
    return found


def chapters(path: Path) -> list[tuple[str, Fraction, Fraction]]:
    with av.open(str(path)) as container:
        return [
            (
                each["metadata"]["title"],
                each["start"] * each["time_base"] * 1000,
                each["end"] * each["time_base"] * 1000,
            )
            for each in container.chapters()
        ]


def streams(path: Path) -> list[tuple]:
    """What is known of the streams, except for data, which chapters and timecodes of MP4 files are."""
    with av.open(str(path)) as container:
        return [
            (
                stream.type,
                stream.codec_context and (stream.codec_context.name, stream.codec_context.codec_tag),
                stream.codec_context and bytes(stream.codec_context.extradata or b""),
                stream.time_base,
                stream.start_time,
                stream.disposition,
                {name: value for name, value in stream.metadata.items() if name != "DURATION"},
            )
            for stream in container.streams
            if stream.type != "data"
        ]


def film(
    path: Path,
    codec: str = "libx264",
    sound: str = "aac",
    before: Callable = lambda container: None,
    tag: str = "",
    timecode: str = "",
) -> Path:
    """Three seconds of pictures that are not decoded in the order in which they are shown, and sound in German."""
    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4v" else None) as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.max_b_frames = 3
        if tag:
            stream.codec_context.codec_tag = tag
        if timecode:
            stream.metadata["timecode"] = timecode
        voice = container.add_stream(sound, rate=48000)
        voice.metadata.update({"language": "deu", "title": "Stimmen"})
        container.metadata["title"] = 'Der "Film" & é'
        before(container)
        container.start_encoding()
        for frame in range(72):
            image = av.VideoFrame.from_ndarray(picture(frame // 24, frame, 64, 48), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
        kind = "s16" if sound == "libopus" else "fltp"
        for start in range(0, 3 * 48000, 960):
            values = np.zeros((1, 960), np.int16 if kind == "s16" else np.float32)
            silence = av.AudioFrame.from_ndarray(values, format=kind, layout="mono")
            silence.sample_rate, silence.pts = 48000, start
            container.mux(voice.encode(silence))
        container.mux(voice.encode())
    return path


def cover() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, "JPEG")
    return buffer.getvalue()


def attach(container) -> None:
    container.add_attachment("cover.jpg", "image/jpeg", cover())
    container.add_attachment("é.ttf", "font/ttf", b"font" * 100)


def add_cover(container) -> None:
    stream = container.add_mux_stream("mjpeg", width=32, height=32)
    stream.disposition = av.stream.Disposition.attached_pic
    packet = av.Packet(cover())
    packet.stream, packet.pts, packet.dts = stream, 0, 0
    container.start_encoding()
    container.mux(packet)


def add_subtitles(path: Path) -> Path:
    """A copy of a film in Matroska, with forced subtitles in French."""
    path.with_suffix(".srt").write_text("1\n00:00:00,500 --> 00:00:01,000\nÇa <i>va</i>\n")
    output = path.with_name(f"subtitled {path.name}")
    with (
        av.open(str(path)) as source,
        av.open(str(path.with_suffix(".srt"))) as text,
        av.open(str(output), "w") as copy,
    ):
        pairs = [(each, copy.add_stream_from_template(each, opaque=True)) for each in (*source.streams, *text.streams)]
        pairs[-1][1].metadata["language"] = "fra"
        pairs[-1][1].disposition = av.stream.Disposition.forced
        for stream, twin in pairs:
            for packet in stream.container.demux(stream):
                if packet.size:
                    packet.stream = twin
                    copy.mux(packet)
            if stream.container is source:
                source.seek(0)
    return output


MAKERS = {
    "bframes.mp4": film,
    "bframes.mkv": film,
    "quicktime.mov": film,
    "opus.mkv": lambda path: film(path, sound="libopus"),
    "opus.webm": lambda path: film(path, codec="libvpx", sound="libopus"),
    "hvc1.mp4": lambda path: film(path, codec="libx265", tag="hvc1"),
    "cover and font.mkv": lambda path: film(path, before=attach),
    "cover.m4v": lambda path: film(path, before=add_cover),
    "subtitles.mkv": lambda path: add_subtitles(film(path)),
    "timecode.mov": lambda path: film(path, timecode="01:00:00:00"),
    "trimmed.mp4": lambda path: trim(film(path.with_name("whole.mp4")), 0.7, path),
    "turned.mp4": lambda path: rotate(make_video(path, [36, 36]), 90),
    "caf\udce9.mp4": lambda path: shutil.move(film(path.with_name("x.mp4")), path),  # a name that is not UTF-8
}


def shape(path) -> tuple:
    """The size of a film's pictures, the shape of its pixels, and how it is turned."""
    with VideoFrames(path) as frames:
        return frames.first.shape, Orientation.of(frames.first.frame)


@pytest.mark.parametrize("name", MAKERS, ids=lambda name: name.encode("utf-8", "replace").decode())
def test_a_copy_has_the_chapters_and_every_packet(name, tmp_path, monkeypatch):
    video = Path(MAKERS[name](tmp_path / name))
    original = video.read_bytes()
    copy = tmp_path / f"copy{video.suffix}"
    assert copy_with_chapters(video, copy, CHAPTERS) == []
    assert video.read_bytes() == original
    os.rename(video, readable := tmp_path / f"readable{video.suffix}")
    assert [title for title, _, _ in chapters(copy)] == [title for title, _, _ in CHAPTERS]
    assert [start for _, start, _ in chapters(copy)] == [start for _, start, _ in CHAPTERS]
    assert packets(copy) == packets(readable) and len(packets(copy)[("video", 0)]) == 72
    assert streams(copy) == streams(readable)
    assert shape(readable) == shape(copy)
    with av.open(str(readable)) as first, av.open(str(copy)) as second:
        assert second.metadata.get("title") == first.metadata.get("title")
        assert second.streams.video[0].metadata.get("timecode") == first.streams.video[0].metadata.get("timecode")
        assert first.streams.best("video").codec_context.pix_fmt == second.streams.best("video").codec_context.pix_fmt


def test_an_attached_font_stays(tmp_path):
    copy_with_chapters(film(tmp_path / "a.mkv", before=attach), tmp_path / "b.mkv", CHAPTERS)
    with av.open(str(tmp_path / "b.mkv")) as container:
        (font,) = container.streams.attachments
        assert (font.name, font.mimetype, font.data) == ("é.ttf", "font/ttf", b"font" * 100)


def test_a_stream_of_data_is_named_and_left_out(tmp_path):
    video = tmp_path / "camera.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        places = container.add_mux_stream("bin_data")
        container.start_encoding()
        for frame in range(24):
            image = av.VideoFrame.from_ndarray(picture(0, frame, 64, 48), format="rgb24")
            container.mux(stream.encode(image))
            packet = av.Packet(b"here")
            packet.stream, packet.pts, packet.dts, packet.duration = places, frame, frame, 1
            container.mux(packet)
        container.mux(stream.encode())
    assert copy_with_chapters(video, tmp_path / "copy.mp4", CHAPTERS[:1]) == ["stream 1, GoPro MET"]
    assert packets(tmp_path / "copy.mp4") == packets(video)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_new_chapters_replace_the_former_ones(suffix, tmp_path):
    first, second, third = (tmp_path / f"{number}{suffix}" for number in range(3))
    copy_with_chapters(film(first), second, CHAPTERS)
    assert copy_with_chapters(second, third, CHAPTERS[:1]) == []
    assert [title for title, _, _ in chapters(third)] == ["Scene 1"]
    assert packets(third) == packets(first)


def test_chapters_count_from_the_first_frame_of_a_film_that_begins_late(tmp_path):
    late = tmp_path / "late.mkv"
    times = [2500 + 40 * frame for frame in range(72)]
    make_video(late, [24, 48], times=times)
    copy_with_chapters(late, tmp_path / "copy.mkv", [("one", 0, 960), ("two", 960, 2880)])
    assert [start for _, start, _ in chapters(tmp_path / "copy.mkv")] == [2500, 3460]


def test_the_film_itself_is_never_written_over(tmp_path):
    video = make_video(tmp_path / "a.mp4", [20])
    os.link(video, tmp_path / "hard.mp4")
    os.symlink(video, tmp_path / "soft.mp4")
    original = video.read_bytes()
    for target in (video, tmp_path / "hard.mp4", tmp_path / "soft.mp4", tmp_path / "sub/../a.mp4"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(StorageError, match="this is the film itself, which is never written over"):
            copy_with_chapters(video, target, CHAPTERS)
    assert video.read_bytes() == original


def test_films_without_chapters_gone_and_broken_ones_are_refused(tmp_path):
    target = tmp_path / "copy.mp4"
    with pytest.raises(VideoError, match=r"a.avi: chapters fit into .mkv .webm .mp4 .m4v .mov files; leave"):
        copy_with_chapters(make_video(tmp_path / "a.avi", [20], codec="mpeg4"), target, CHAPTERS)
    with pytest.raises(VideoError, match=r"gone.mp4: the film is not there any more; leave out --embed"):
        copy_with_chapters(tmp_path / "gone.mp4", target, CHAPTERS)
    (tmp_path / "broken.mp4").write_bytes(b"no film" * 1000)
    with pytest.raises(VideoError, match=r"broken.mp4: cannot be copied \(Invalid data found"):
        copy_with_chapters(tmp_path / "broken.mp4", target, CHAPTERS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.avi", "broken.mp4"]


def test_a_full_disk_leaves_nothing(tmp_path):
    video = make_video(tmp_path / "a.mkv", [60], grain=255, size=(160, 120))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (video.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"b.mkv: cannot be written \(File too large\)"):
            copy_with_chapters(video, tmp_path / "b.mkv", CHAPTERS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


@pytest.fixture(scope="module")
def index(tiny_folder, tmp_path_factory) -> Path:
    """Two films, one of them in a container without chapters."""
    folder = tmp_path_factory.mktemp("films")
    make_video(folder / "good.mkv", [20, 25, 30], seed=1)
    make_video(folder / "old.avi", [20, 25, 30], seed=2, codec="mpeg4")
    output = tmp_path_factory.mktemp("index") / "out"
    flags = ["--model", str(tiny_folder), "--shots-per-scene", "1", "--output", str(output)]
    assert main(["embed", str(folder), *flags]) == 0
    return output


def test_the_command_copies_what_it_can_and_names_the_rest(index, tmp_path, capsys):
    capsys.readouterr()
    command = ["export", str(index), "--format", "chapters", "--embed", "--output"]
    assert main([*command, str(tmp_path / "copies")]) == 1
    told = capsys.readouterr()
    assert "old.avi: chapters fit into" in told.err and len(told.err.splitlines()) == 1
    (copy,) = (tmp_path / "copies").iterdir()
    assert told.out == f"{copy}: 3 scenes\n"
    assert [round(start * 24 / 1000) for _, start, _ in chapters(copy)] == [0, 20, 45]

    assert main([*command, str(tmp_path / "one.mkv"), "--film", "good"]) == 0
    written = (tmp_path / "one.mkv").read_bytes()
    assert main([*command, str(tmp_path / "one.mkv"), "--film", "good"]) == 1
    assert "one.mkv is there already; --embed replaces no film" in capsys.readouterr().err
    assert (tmp_path / "one.mkv").read_bytes() == written
    assert main([*command, str(tmp_path / "one.mp4"), "--film", "good"]) == 1
    assert "the copy of good.mkv is of the same kind; name it *.mkv" in capsys.readouterr().err


def test_chapters_do_not_go_into_a_film_that_was_replaced(index, tmp_path, capsys):
    moved = shutil.copytree(index, tmp_path / "moved")
    video = next(index.parent.parent.rglob("good.mkv"))
    kept = video.rename(video.with_suffix(".kept"))
    make_video(video, [30, 30], seed=9)
    try:
        assert main(["export", str(moved), "--format", "chapters", "--embed", "--film", "good"]) == 1
        assert f"{video}: another film than when the index was made; run m2s embed again" in capsys.readouterr().err
    finally:
        kept.replace(video)


def test_a_film_that_is_gone_is_still_exported_but_not_copied(index, tmp_path, capsys):
    moved = shutil.copytree(index, tmp_path / "moved")
    video = next(index.parent.parent.rglob("good.mkv"))
    hidden = video.rename(video.with_suffix(".hidden"))
    try:
        for kind in ("csv", "json", "edl", "otio", "fcpxml", "chapters", "srt", "html"):
            assert main(["export", str(moved), "--format", kind, "--film", "good"]) == 0
        capsys.readouterr()
        assert main(["export", str(moved), "--format", "chapters", "--embed", "--film", "good"]) == 1
        told = capsys.readouterr().err
        assert f"{video}: the film is not there any more; leave out --embed for a text file" in told
    finally:
        hidden.rename(video)
