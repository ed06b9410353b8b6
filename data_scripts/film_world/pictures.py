"""Draw the shots of a film world: numbers of places, events and looks in, frames out.

A place is an arrangement of shapes along a panorama of six views. An event is the number of figures and the way they
stand and move. A film's look recolors everything, adds a texture and dresses the figures. Appearance types come last.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from colorsys import hsv_to_rgb

import numpy as np
from PIL import Image, ImageDraw

from data_scripts.film_world.plan import EVENTS, FILMS, NUM_VIEWS, PLACES, SHOTS, PlannedShot, WorldSettings

ROLES = ("sky", "ground", "back", "front", "detail")
STRUCTURES = ("towers", "gables", "trees", "columns", "hills", "shelves", "arches", "waves")
LAYOUTS = ("row", "cluster", "pairs", "ring")
MOTIONS = ("still", "sway", "hop", "run")
PROPS = ("none", "ball", "table", "flag")
BODIES = ("round", "square", "pointed", "slim")
TEXTURES = ("grain", "lines", "dots", "weave")


class FilmPainter(ABC):
    """Makes the frames of one film of a world; base class of the painters of drawings and of photographs.

    Args:
        look: the film's look; None makes clean pictures: places in their own colors and nothing else, which a probe
            must be able to tell apart.
    """

    def __init__(self, settings: WorldSettings, look: int | None):
        self.settings, self.size = settings, (settings.width, settings.height)
        self.look = look
        # A world's bytes depend on the order of these draws; only drawings use the palette and the figures' dress.
        random = np.random.default_rng([settings.seed, FILMS, look or 0, 1])
        hue = random.random()
        hues = (hue + np.array([0, random.uniform(0.05, 0.5), 0.08, 0.5, 0.58])) % 1
        values = random.uniform(0.35, 0.95, 5)
        self.palette = np.array([_rgb(h, random.uniform(0.15, 0.8), v) for h, v in zip(hues, values, strict=True)])
        self.contrast = random.uniform(0.75, 1.25)
        self.tint = random.uniform(0.6, 1.4, 3)
        self.body = BODIES[int(random.integers(len(BODIES)))]
        self.dress = [_rgb(random.random(), random.uniform(0.3, 1), random.uniform(0.3, 1)) for _ in range(3)]
        self.texture = _texture(random, (settings.height, settings.width)) if look is not None else None

    def frames(self, shot: PlannedShot, number: int) -> Iterator[np.ndarray]:
        """Every frame of a shot (height, width, 3), uint8; `number` is the shot's number in its film."""
        return (self.frame(shot, number, index) for index in range(shot.num_frames))

    @abstractmethod
    def frame(self, shot: PlannedShot, number: int, index: int) -> np.ndarray:
        """One frame of a shot."""

    def finish(self, pixels: np.ndarray, shot: PlannedShot, seconds: float) -> np.ndarray:
        """Apply the grading and texture of the look, then the appearance types."""
        height, width = pixels.shape[:2]
        if self.texture is not None:
            pixels = ((pixels - 128) * self.contrast + 128) * self.tint + self.texture[..., None]
        if "night" in shot.types:
            pixels = pixels * np.float32([0.5, 0.55, 0.75]) + np.float32([0, 4, 22])
        if "monochrome" in shot.types:
            pixels = np.repeat(pixels @ np.float32([[0.299], [0.587], [0.114]]), 3, axis=2)
        if "rain" in shot.types:
            rows, columns = np.mgrid[:height, :width]
            streaks = ((columns * 3 + rows - round(400 * seconds)) % 61 < 3) & ((columns // 7 + rows // 40) % 3 == 0)
            pixels = np.where(streaks[..., None], 0.45 * pixels + 120, pixels)
        if "framed" in shot.types:
            bar = height // 6
            pixels = pixels.copy()
            pixels[:bar] = pixels[height - bar :] = 8
        return np.clip(pixels, 0, 255).astype(np.uint8)


class Painter(FilmPainter):
    """Draws places, and figures that act out events."""

    def __init__(self, settings: WorldSettings, look: int | None):
        super().__init__(settings, look)
        self.strength = 0.0 if look is None else settings.look_strength
        self._panoramas: dict[int, Image.Image] = {}

    def frame(self, shot: PlannedShot, number: int, index: int) -> np.ndarray:
        random = np.random.default_rng([self.settings.seed, SHOTS, self.look or 0, number])
        width, height = self.size
        zoom, drift = random.uniform(0.75, 1.0), random.uniform(-0.6, 0.6)
        view_width = round(width * zoom)
        left = round(shot.view * width + random.uniform(0, width - view_width) + drift * index) % (NUM_VIEWS * width)
        top = round(random.uniform(0, height * (1 - zoom)))
        box = (left, top, left + view_width, top + round(height * zoom))
        picture = self._panorama(shot.place).crop(box).resize(self.size, Image.Resampling.BILINEAR)
        seconds = index / self.settings.frame_rate
        self._figures(ImageDraw.Draw(picture), shot, seconds, random)
        light = 1.3 if shot.view % 2 else 0.5
        return self.finish(np.asarray(picture, dtype=np.float32) * light, shot, seconds)

    def _panorama(self, place: int) -> Image.Image:
        """All views of a place side by side, the first once more at the end."""
        if place not in self._panoramas:
            self._panoramas[place] = self._draw_place(place)
        return self._panoramas[place]

    def _draw_place(self, place: int) -> Image.Image:
        width, height = self.size
        random = np.random.default_rng([self.settings.seed, PLACES, place])
        own = np.array([_rgb(random.random(), random.uniform(0.2, 0.8), random.uniform(0.3, 0.95)) for _ in ROLES])
        colors = {
            role: tuple(int(c) for c in (1 - self.strength) * own[n] + self.strength * self.palette[n])
            for n, role in enumerate(ROLES)
        }
        picture = Image.new("RGB", ((NUM_VIEWS + 2) * width, height), colors["sky"])
        draw = ImageDraw.Draw(picture)
        horizon = random.uniform(0.35, 0.75) * height
        draw.rectangle((0, horizon, picture.width, height), colors["ground"])
        rows = (("back", horizon, 0.5, 0.35), ("front", horizon + 0.18 * height, 0.9, 0.6))
        for role, foot, tallest, smallest in rows:
            kind = STRUCTURES[int(random.integers(len(STRUCTURES)))]
            step = random.uniform(0.1, 0.35) * width
            regular = random.random() < 0.5
            for n in range(int(NUM_VIEWS * width / step)):
                x = n * step + (0 if regular else random.uniform(-0.3, 0.3) * step)
                w = step * (0.7 if regular else random.uniform(0.4, 0.9))
                h = foot * (0.6 * (tallest + smallest) if regular else random.uniform(smallest, tallest))
                for offset in (0, NUM_VIEWS * width):  # the panorama closes
                    _draw_structure(draw, kind, x + offset, foot, w, h, colors[role], colors["detail"])
        return picture

    def _figures(
        self, draw: ImageDraw.ImageDraw, shot: PlannedShot, seconds: float, random: np.random.Generator
    ) -> None:
        width, height = self.size
        event = np.random.default_rng([self.settings.seed, EVENTS, shot.event])
        count, layout = 1 + int(event.integers(6)), LAYOUTS[int(event.integers(len(LAYOUTS)))]
        motion, prop = MOTIONS[int(event.integers(len(MOTIONS)))], PROPS[int(event.integers(len(PROPS)))]
        size = event.uniform(0.3, 0.5) * height
        middle, ground = random.uniform(0.35, 0.65) * width, 0.92 * height
        places = _layout(layout, count)
        if prop != "none":
            _draw_prop(draw, prop, middle, ground, size, self.dress[2])
        for n, (x, y) in enumerate(places):
            swing = np.sin(2 * np.pi * (0.7 * seconds + n / count))
            dx = {"sway": 0.15 * swing, "run": 0.9 * seconds - 0.9}.get(motion, 0.0)
            dy = -0.35 * abs(swing) if motion == "hop" else 0.0
            at = (middle + (x + dx) * size, ground + (y + dy) * size)
            _draw_body(draw, self.body, at, size, self.dress[0], self.dress[1])
        if "close_up" in shot.types:
            at = (random.uniform(0.3, 0.7) * width + 6 * np.sin(2 * seconds), 1.55 * height)
            _draw_body(draw, self.body, at, 1.5 * height, self.dress[0], self.dress[1])


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(hsv_to_rgb(hue % 1, saturation, value))


def _texture(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """The value that is added to each pixel of every frame of a film, (height, width)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    kind, strength = TEXTURES[int(random.integers(len(TEXTURES)))], random.uniform(8, 22)
    period, slope = random.uniform(5, 14), random.uniform(-1, 1)
    waves = {
        "grain": lambda: (
            random.normal(size=(-(-shape[0] // 2), -(-shape[1] // 2))).repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]]
        ),
        "lines": lambda: np.sin(2 * np.pi * (rows + slope * columns) / period),
        "dots": lambda: np.sin(2 * np.pi * rows / period) * np.sin(2 * np.pi * columns / period),
        "weave": lambda: np.sign(np.sin(2 * np.pi * rows / period)) * np.sign(np.sin(2 * np.pi * columns / period)),
    }
    return np.float32(strength * waves[kind]())


def _layout(layout: str, count: int) -> list[tuple[float, float]]:
    """Places of the figures relative to the middle, in units of their height; those behind come first."""
    if layout == "row":
        places = [(0.8 * (n - (count - 1) / 2), 0.0) for n in range(count)]
    elif layout == "cluster":
        places = [(0.45 * (n - (count - 1) / 2), -0.25 * (n % 2)) for n in range(count)]
    elif layout == "pairs":
        places = [(1.6 * (n // 2 - (count - 1) // 4) + 0.5 * (n % 2), 0.0) for n in range(count)]
    else:
        angles = 2 * np.pi * np.arange(count) / count
        places = [(1.1 * float(np.cos(a)), 0.35 * float(np.sin(a)) - 0.2) for a in angles]
    return sorted(places, key=lambda place: place[1])


def _draw_body(draw, body: str, foot: tuple[float, float], size: float, dress, skin) -> None:
    x, y = foot
    dress, skin = (tuple(int(c) for c in color) for color in (dress, skin))
    half = size * (0.14 if body == "slim" else 0.24)
    head = size * 0.16
    top = y - size + 2 * head
    if body == "pointed":
        draw.polygon([(x, top - head / 2), (x - half, y), (x + half, y)], dress)
    elif body == "square":
        draw.rectangle((x - half, top, x + half, y), dress)
    else:
        draw.ellipse((x - half, top, x + half, y), dress)
    draw.ellipse((x - head, top - 1.8 * head, x + head, top + 0.2 * head), skin)


def _draw_prop(draw, prop: str, x: float, ground: float, size: float, color) -> None:
    color = tuple(int(c) for c in color)
    if prop == "ball":
        draw.ellipse((x - 0.2 * size, ground - 0.4 * size, x + 0.2 * size, ground), color)
    elif prop == "table":
        draw.rectangle((x - 0.8 * size, ground - 0.5 * size, x + 0.8 * size, ground - 0.38 * size), color)
        for side in (-0.7, 0.6):
            draw.rectangle((x + side * size, ground - 0.4 * size, x + (side + 0.1) * size, ground), color)
    else:
        draw.rectangle((x, ground - 1.9 * size, x + 0.06 * size, ground), color)
        draw.polygon(
            [(x, ground - 1.9 * size), (x + 0.7 * size, ground - 1.65 * size), (x, ground - 1.4 * size)], color
        )


def _draw_structure(draw, kind: str, x: float, foot: float, w: float, h: float, color, detail) -> None:
    """One of a place's shapes, standing on `foot`, `w` wide and `h` high."""
    top = foot - h
    if kind == "towers":
        draw.rectangle((x, top, x + w, foot), color)
        for n in range(3):
            y = top + (0.15 + 0.27 * n) * h
            draw.rectangle((x + 0.25 * w, y, x + 0.45 * w, y + 0.12 * h), detail)
            draw.rectangle((x + 0.6 * w, y, x + 0.8 * w, y + 0.12 * h), detail)
    elif kind == "gables":
        draw.rectangle((x, top + 0.4 * h, x + w, foot), color)
        draw.polygon([(x - 0.1 * w, top + 0.4 * h), (x + 0.5 * w, top), (x + 1.1 * w, top + 0.4 * h)], detail)
    elif kind == "trees":
        draw.rectangle((x + 0.42 * w, top + 0.5 * h, x + 0.58 * w, foot), detail)
        draw.ellipse((x, top, x + w, top + 0.65 * h), color)
    elif kind == "columns":
        draw.rectangle((x + 0.3 * w, top, x + 0.7 * w, foot), color)
        draw.rectangle((x + 0.15 * w, top, x + 0.85 * w, top + 0.08 * h), detail)
    elif kind == "hills":
        draw.ellipse((x - 0.4 * w, top, x + 1.4 * w, foot + h), color)
        draw.line((x - 0.4 * w, foot, x + 1.4 * w, foot), detail, 2)
    elif kind == "shelves":
        draw.rectangle((x, top, x + w, foot), color)
        for n in range(1, 5):
            draw.line((x, top + n * h / 5, x + w, top + n * h / 5), detail, 2)
    elif kind == "arches":
        draw.rectangle((x, top, x + w, foot), color)
        draw.rectangle((x + 0.25 * w, top + 0.45 * h, x + 0.75 * w, foot), detail)
        draw.ellipse((x + 0.25 * w, top + 0.25 * h, x + 0.75 * w, top + 0.65 * h), detail)
    else:
        for n in range(4):
            y = foot - n * h / 4
            draw.arc((x, y - 0.2 * h, x + w, y + 0.2 * h), 180, 360, color if n % 2 else detail, 4)
