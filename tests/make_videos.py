"""Small films with known cuts, written with PyAV: the awkward ones that the assets do not hold."""

import struct
from collections.abc import Sequence
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
    times: Sequence[int] | None = None,
    second_stream: Sequence[int] = (),
    grain: int = 0,
    **options: str,
) -> Path:
    """Write a film of shots of so many frames each.

    Args:
        times: presentation times of the frames in milliseconds, for a variable frame rate.
        second_stream: shot lengths of another video stream in the file.
        grain: amplitude of noise over every frame, for a film that costs as much to decode as a real one.
        options: the container's, such as `movflags="faststart"`.
    """
    with av.open(str(path), "w", options=options) as container:

        def add_stream():
            stream = container.add_stream(codec, rate=rate, options={"preset": "ultrafast"})
            stream.width, stream.height = size
            stream.pix_fmt = pixel_format
            stream.codec_context.gop_size = keyframe_interval
            stream.codec_context.thread_count = 1
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            if pixel_aspect:
                stream.codec_context.sample_aspect_ratio = pixel_aspect
            return stream

        streams = [(add_stream(), shot_lengths)] + ([(add_stream(), second_stream)] if second_stream else [])
        sound = container.add_stream("aac", rate=16000) if audio else None
        noise = np.random.default_rng(seed).integers(0, grain + 1, (2 * size[1], size[0], 3), dtype=np.uint8)
        container.start_encoding()
        for stream, lengths in streams:
            shots = [shot for shot, length in enumerate(lengths) for _ in range(length)]
            for index, shot in enumerate(shots):
                image = picture(shot, index, *size, seed)
                if grain:
                    image = image // 2 + noise[index % size[1] :][: size[1]]
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                if times is not None:
                    frame.pts, frame.time_base = times[index], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if sound is not None:
            _write_silence(container, sound, sum(shot_lengths) / rate)
    return path


def make_audio(path: Path, seconds: float = 1.0) -> Path:
    """A file with sound only."""
    with av.open(str(path), "w") as container:
        _write_silence(container, container.add_stream("aac", rate=16000), seconds)
    return path


def _write_silence(container, stream, seconds: float) -> None:
    for start in range(0, int(seconds * 16000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def rotate(path: Path, degrees: int) -> Path:
    """Set the display rotation of the (first) track of an MP4, clockwise, as cameras do: only its matrix changes."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = struct.pack(">9i", cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
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
