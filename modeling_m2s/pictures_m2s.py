"""A decoded frame to pixels as they are shown: deinterlaced, upright, square pixels, 8 bits a channel.

FFmpeg converts colors by the frame's own matrix and range. High dynamic range (PQ, HLG) is not tone-mapped: its values
are cut to 8 bits, here and wherever FFmpeg makes a picture without being told more.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np

try:
    import av
    import cv2
    from av.sidedata.sidedata import Type as DataType
    from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
except ImportError as error:
    raise ImportError(f"reading videos needs more packages: pip install 'movies2scenes[video]' ({error})") from error

# FFmpeg's bwdif needs three lines and columns.
_MIN_DEINTERLACED = 3


class Shape(NamedTuple):
    """Size of a decoded frame in pixels, and the aspect ratio of its pixels (width over height)."""

    width: int
    height: int
    pixel_aspect: Fraction = Fraction(1)

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) with square pixels, before it is turned upright."""
        return max(1, round(self.width * self.pixel_aspect)), self.height


class FilmFrame(NamedTuple):
    """A decoded frame and its shape, its film time after the first frame and its duration, both in ticks."""

    frame: av.VideoFrame
    ticks: int
    duration: int
    shape: Shape


class Orientation(NamedTuple):
    """How pixels are turned for display: transposed first, then mirrored left to right, then flipped upside down."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Orientation":
        """The one of the eight orientations that is nearest to the frame's display matrix."""
        side_data: Mapping[Any, Any] = frame.side_data
        if DataType.DISPLAYMATRIX not in side_data:
            return cls()
        a, b, _, c, d = np.frombuffer(side_data[DataType.DISPLAYMATRIX], np.int32)[:5].tolist()
        if abs(b) > abs(a):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    def turn(self, image: np.ndarray) -> np.ndarray:
        if self.transposed:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1])

    def turn_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[::-1] if self.transposed else size


def fit_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(width, height) scaled down so that the smaller one is `short_side`; never up."""
    smaller = min(size)
    if short_side is None or smaller <= short_side:
        return size
    return (max(1, round(size[0] * short_side / smaller)), max(1, round(size[1] * short_side / smaller)))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image to `size` (width, height) by pixel area, which does not alias when shrinking."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def fit_box(display: tuple[int, int], first: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a frame inside a picture of `size` that shows frames of the display size `first` entirely.

    A frame of the same shape fills the picture, whatever its size; any other is as large as the picture allows.
    """
    scale = min(first[0] / display[0], first[1] / display[1])
    box = [round(size[axis] * display[axis] * scale / first[axis]) for axis in (0, 1)]
    if all(abs(box[axis] - size[axis]) <= 1 for axis in (0, 1)):
        return size
    return max(1, box[0]), max(1, box[1])


def letterbox(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image in the middle of a black picture of `size` (width, height)."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    picture[top : top + height, left : left + width] = image
    return picture


def contrast(image: np.ndarray) -> float:
    """How much a picture shows: near 0 if it is black, white or any other single color, whatever the color.

    It is the standard deviation, over 32×18 areas, of the color channel in which that is largest; white has the level
    255. Grain vanishes in areas of that size. A sixth of the picture at its upper and lower edges does not count,
    because films of a wide format have black bars there.
    """
    edge = image.shape[0] // 6
    small = resize(image[edge : image.shape[0] - edge], (32, 18))
    return float(small.std(axis=(0, 1)).max())


class PixelReader:
    """Converts frames to uint8 arrays (height, width, 3) by FFmpeg.

    A filter graph does it, since its buffers are used again: new ones cost more than the conversion of large frames.

    Args:
        pixel_format: FFmpeg's name: `bgr24` or `rgb24`.
        scale: options of FFmpeg's filter `scale`; by default it keeps the size.
    """

    def __init__(self, pixel_format: str = "bgr24", scale: str = "flags=bilinear"):
        self.pixel_format, self.scale = pixel_format, scale
        self._graph: av.filter.Graph | None = None
        self._layout: tuple | None = None

    def read(self, frame: av.VideoFrame) -> np.ndarray:
        try:
            converted = self._convert(frame)
        except av.error.FFmpegError:  # a color matrix that FFmpeg does not know
            frame.colorspace, self._graph = Colorspace.ITU601, None
            converted = self._convert(frame)
        (plane,) = converted.planes
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(converted.height, plane.line_size)
        return rows[:, : 3 * converted.width].reshape(converted.height, converted.width, 3)

    def _convert(self, frame: av.VideoFrame) -> av.VideoFrame:
        layout = frame_layout(frame)
        if self._graph is None or layout != self._layout:
            filters = [("scale", self.scale), ("format", self.pixel_format)]
            self._graph, self._layout = make_graph(frame, filters), layout
        self._graph.vpush(frame)
        return self._graph.vpull()


class DetectorPictures:
    """Pictures of a film's frames for a shot detector: of the first one's size, as decoded, not turned upright.

    PySceneDetect scales them down. If FFmpeg did, cuts near a threshold would differ from PySceneDetect's own.
    """

    def __init__(self, first: Shape):
        self.first, self.size = first, (first.width, first.height)
        self._pixels = PixelReader()

    def read(self, film_frame: FilmFrame) -> np.ndarray:
        """BGR pixels, uint8 (height, width, 3); a frame of another shape is letterboxed."""
        image, shape = self._pixels.read(film_frame.frame), film_frame.shape
        if shape == self.first:
            return image
        return letterbox(resize(image, fit_box(shape.display_size, self.first.display_size, self.size)), self.size)


class DisplayPictures:
    """Pictures of a film's frames as they are shown, all of the first frame's display shape.

    Args:
        first: the film's first frame.
        short_side: shorter side of the pictures in pixels; they are only scaled down.
        pixel_format: `bgr24` or `rgb24`.
    """

    def __init__(self, first: FilmFrame, short_side: int | None, pixel_format: str = "bgr24"):
        self.display_size = Orientation.of(first.frame).turn_size(first.shape.display_size)
        self.size = fit_size(self.display_size, short_side)
        self._pixels = PixelReader(pixel_format)
        self._shrinker = VideoReformatter()

    def read(self, film_frame: FilmFrame) -> np.ndarray:
        """Pixels, uint8 (height, width, 3)."""
        frame, shape = film_frame.frame, film_frame.shape
        orientation = Orientation.of(frame)
        display = orientation.turn_size(shape.display_size)
        image = orientation.turn(self._pixels.read(frame))
        return letterbox(resize(image, fit_box(display, self.display_size, self.size)), self.size)

    def shrink(self, film_frame: FilmFrame, max_bytes: int) -> FilmFrame:
        """The same frame, halved while it is larger than `max_bytes` and twice as large as the pictures."""
        frame = film_frame.frame
        if frame.width * frame.height * frame.format.padded_bits_per_pixel <= 8 * max_bytes:
            return film_frame
        size = frame.width, frame.height
        while min(size) >= 2 * min(self.size):
            size = size[0] // 2, size[1] // 2
        if size == (frame.width, frame.height):
            return film_frame
        shrink = partial(self._shrinker.reformat, frame, *size, interpolation=Interpolation.AREA, threads=1)
        try:
            return film_frame._replace(frame=shrink())
        except av.error.FFmpegError:  # a format that FFmpeg reads and does not write, such as a palette
            return film_frame._replace(frame=shrink(format="bgr24"))


def deinterlaced(frames: Iterator[FilmFrame]) -> Generator[FilmFrame, None, None]:
    """The same frames; from the first interlaced one on they pass FFmpeg's bwdif, which leaves progressive ones alone.

    Its output has one frame for each of its input.
    """
    graph: av.filter.Graph | None = None
    layout, waiting = None, deque[FilmFrame]()
    for film_frame in frames:
        frame = film_frame.frame
        if graph and frame_layout(frame) != layout:
            yield from _pull(graph, waiting, is_last=True)
            graph = None
        if graph is None:
            if not frame.interlaced_frame or min(frame.width, frame.height) < _MIN_DEINTERLACED:
                yield film_frame
                continue
            graph, layout = make_graph(frame, [("bwdif", "mode=send_frame:deint=interlaced")]), frame_layout(frame)
        waiting.append(film_frame)
        graph.vpush(frame)
        yield from _pull(graph, waiting)
    if graph:
        yield from _pull(graph, waiting, is_last=True)


def _pull(graph: av.filter.Graph, waiting: deque[FilmFrame], is_last: bool = False) -> Iterator[FilmFrame]:
    if is_last:
        graph.vpush(None)
    while waiting:
        try:
            frame = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield waiting.popleft()._replace(frame=frame)


def frame_layout(frame: av.VideoFrame) -> tuple[int, int, str]:
    """The properties of a frame on which a filter graph depends; if they change, a new graph is needed."""
    return frame.width, frame.height, frame.format.name


def make_graph(frame: av.VideoFrame, filters: Sequence[tuple[str, str]]) -> av.filter.Graph:
    """A chain of FFmpeg's filters, each a name and its options, for frames of this layout; it runs in one thread."""
    graph = av.filter.Graph()
    graph.threads = 1
    time_base = frame.time_base or Fraction(1, 25)
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    graph.link_nodes(source, *(graph.add(*filter) for filter in filters), graph.add("buffersink")).configure()
    return graph
