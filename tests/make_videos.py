"""Small films with known cuts, written with PyAV: the awkward ones that the assets do not hold."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def picture(shot: int, frame: int, width: int, height: int, seed: int = 0) -> np.ndarray:
    """An RGB image: a colored texture that a shot keeps, a bar that moves with the frame."""
    generator = np.random.default_rng((seed, shot))
    blocks = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    rows = np.arange(height) * 5 // height
    columns = np.arange(width) * 7 // width
    image = blocks[rows][:, columns].copy()
    place = frame * 3 % max(1, width - width // 8)
    image[:, place : place + max(1, width // 8)] //= 2
    return image


def make_video(
    path: Path,
    shot_lengths: Sequence[int],
    size: tuple[int, int] = (128, 96),
    rate: int = 24,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    pixel_aspect: Fraction | None = None,
    keyframe_interval: int = 12,
    seed: int = 0,
    audio: bool = False,
    audio_codec: str = "aac",
    audio_layout: str = "stereo",
    times: Sequence[int] | None = None,
    second_stream: Sequence[int] = (),
    grain: int = 0,
    codec_options: Mapping[str, str] | None = None,
    audio_seconds: float = 0.0,
    colors: Mapping[str, int] | None = None,
    fields: str = "",
    **options: str,
) -> Path:
    """Write a film of shots of so many frames each.

    Args:
        times: presentation times of the frames in milliseconds, for a variable frame rate.
        second_stream: shot lengths of another video stream in the file.
        grain: amplitude of noise over every frame, for a film that costs as much to decode as a real one.
        codec_options: the encoder's.
        audio_seconds: length of the sound, if it is another than the film's.
        colors: the encoder's `color_range`, `colorspace`, `color_trc` and `color_primaries`, as FFmpeg numbers them.
        fields: `top` or `bottom`: each frame holds the lines of two pictures, whose field is first.
        options: the container's, such as `movflags="faststart"`.
    """
    with av.open(str(path), "w", options=options) as container:

        def add_stream():
            chosen = {"preset": "ultrafast"} if codec in ("libx264", "libx265") else {}
            chosen |= {"flags": "+ildct+ilme"} if fields else {}
            stream = container.add_stream(codec, rate=rate, options={**chosen, **(codec_options or {})})
            stream.width, stream.height = size
            stream.pix_fmt = pixel_format
            stream.codec_context.gop_size = keyframe_interval
            stream.codec_context.thread_count = 1
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            for name, value in (colors or {}).items():
                setattr(stream.codec_context, name, value)
            if pixel_aspect:
                stream.codec_context.sample_aspect_ratio = pixel_aspect
            return stream

        streams = [(add_stream(), shot_lengths)] + ([(add_stream(), second_stream)] if second_stream else [])
        sound = container.add_stream(audio_codec, rate=16000, layout=audio_layout) if audio else None
        noise = np.random.default_rng(seed).integers(0, grain + 1, (2 * size[1], size[0], 3), dtype=np.uint8)
        container.start_encoding()
        for stream, lengths in streams:
            shots = [shot for shot, length in enumerate(lengths) for _ in range(length)]
            for index, shot in enumerate(shots):
                image = picture(shot, index, *size, seed)
                if fields:
                    image = weave(
                        picture(shot, 2 * index, *size, seed), picture(shot, 2 * index + 1, *size, seed), fields
                    )
                if grain:
                    image = image // 2 + noise[index % size[1] :][: size[1]]
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                if colors and "color_range" in colors:
                    frame = frame.reformat(format=pixel_format, dst_color_range=colors["color_range"])
                if fields:
                    frame = mark_interlaced(frame.reformat(format=pixel_format), fields, Fraction(index, rate))
                if times is not None:
                    frame.pts, frame.time_base = times[index], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if sound is not None:
            _write_silence(container, sound, audio_seconds or sum(shot_lengths) / rate)
    return path


def write_film(path: Path, images: Sequence[np.ndarray]) -> Path:
    """A film of these RGB images, 24 a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "qp": "10"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def weave(first: np.ndarray, second: np.ndarray, fields: str) -> np.ndarray:
    """A frame of two fields: the lines of `first` are the even ones if the `top` field is first, else the odd ones."""
    image, start = second.copy(), 0 if fields == "top" else 1
    image[start::2] = first[start::2]
    return image


def mark_interlaced(frame: av.VideoFrame, fields: str, seconds: Fraction) -> av.VideoFrame:
    """The frame with the mark that encoders and decoders go by."""
    graph = av.filter.Graph()
    frame.time_base = Fraction(1, 90000)
    frame.pts = int(seconds / frame.time_base)
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    mark = graph.add("setfield", {"top": "tff", "bottom": "bff"}[fields])
    graph.link_nodes(source, mark, graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def make_audio(path: Path, seconds: float = 1.0) -> Path:
    """A file with sound only."""
    with av.open(str(path), "w") as container:
        _write_silence(container, container.add_stream("aac", rate=16000), seconds)
    return path


def _write_silence(container, stream, seconds: float) -> None:
    for start in range(0, int(seconds * 16000), 1024):
        silence = np.zeros((1, 1024), np.float32 if stream.codec.name == "aac" else np.int16)
        frame = av.AudioFrame.from_ndarray(silence, "fltp" if stream.codec.name == "aac" else "s16", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def rotate(path: Path, degrees: int) -> Path:
    """Set the display rotation of the (first) track of an MP4, clockwise, as cameras do: only its matrix changes."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    return orient(path, (cosine, sine, -sine, cosine))


def orient(path: Path, turn: tuple[int, int, int, int]) -> Path:
    """Set the display matrix of the (first) track of an MP4: a pixel at (x, y) is shown at (a·x + c·y, b·x + d·y).

    Args:
        turn: a, b, c and d, each -1, 0 or 1.
    """
    a, b, c, d = (value << 16 for value in turn)
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4
    place = start + (40 if data[start] == 0 else 52)
    data[place : place + 36] = matrix
    path.write_bytes(data)
    return path


def damage(path: Path, start: float, length: int) -> Path:
    """Flip all bits of `length` bytes from the share `start` of the file on."""
    data = bytearray(path.read_bytes())
    first = int(len(data) * start)
    data[first : first + length] = bytes(byte ^ 0xFF for byte in data[first : first + length])
    path.write_bytes(data)
    return path


def truncate(path: Path, share: float) -> Path:
    """Keep the first `share` of the file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def concatenate(path: Path, times: int, output: Path) -> Path:
    """The video stream of a film so many times in a row, its packets joined without recoding."""
    with av.open(str(output), "w") as target:
        stream, shift = None, 0
        for _ in range(times):
            with av.open(str(path)) as source:
                video = source.streams.video[0]
                stream = stream or target.add_stream_from_template(video)
                end = shift
                for packet in source.demux(video):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    end = max(end, packet.pts + packet.duration)
                    packet.stream = stream
                    target.mux(packet)
                shift = end
    return output


def trim(path: Path, seconds: float, output: Path) -> Path:
    """Hide the start of a film by an edit list, as a cut without recoding does: its packets stay."""
    with av.open(str(path)) as source, av.open(str(output), "w", options={"avoid_negative_ts": "disabled"}) as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        shift = int(seconds / video.time_base)
        for packet in source.demux(video):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    return output


def remux(path: Path, output: Path, packets: Iterable[int] | None = None, **options: str) -> Path:
    """Copy the video packets of these numbers, in the order of the file, to another container; all if None."""
    kept = None if packets is None else set(packets)
    with av.open(str(path)) as source, av.open(str(output), "w", options=options) as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        for number, packet in enumerate(source.demux(video)):
            if packet.size and (kept is None or number in kept):
                packet.stream = stream
                target.mux(packet)
    return output


def join(paths: Sequence[Path], output: Path) -> Path:
    """The bytes of recordings, one after another."""
    output.write_bytes(b"".join(path.read_bytes() for path in paths))
    return output


def make_sparse(path: Path, num_pictures: int = 4, seconds: int = 120, packets_a_second: int = 40) -> Path:
    """A picture every so many seconds, beside sound of many small packets."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(1, seconds), options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("mp2" if path.suffix == ".ts" else "pcm_u8", rate=16000)
        container.start_encoding()
        data = bytes(100)
        if path.suffix == ".ts":
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts = 16000, 0
            (packet, *_) = [packet for _ in range(3) for packet in sound.encode(silence)]
            data, packets_a_second = bytes(packet), 14
        for place in range(num_pictures):
            frame = av.VideoFrame.from_ndarray(picture(place, 0, 64, 48), format="rgb24")
            container.mux(video.encode(frame))
            for count in range(packets_a_second * seconds):
                packet = av.Packet(data)
                packet.stream, packet.time_base = sound, Fraction(1, 90000)
                packet.pts = packet.dts = 90000 * place * seconds + 90000 * count // packets_a_second
                packet.duration = 90000 // packets_a_second
                container.mux(packet)
        container.mux(video.encode())
    return path
