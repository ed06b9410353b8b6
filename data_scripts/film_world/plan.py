"""Plan a film world before anything is drawn: themes, places, events, looks, shots and viewers.

- A **theme** is what films have in common. It favors some places, some events and some viewers.
- A **scene** is one place and one event over 5 to 15 shots.
- Two kinds of nuisance dominate the pictures: each film has a **look** of its own, and films of every theme share
  **appearance types** (night, monochrome, rain, close-up, framing). A frozen encoder pairs scenes by these; only the
  similarity between films reveals places and events.

Everything follows from the seed; a film's plan is enough to draw it again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

LIGHT_TYPES = ("night", "monochrome")  # for a whole scene, at most one of them
SCENE_TYPES = ("rain",)  # for a whole scene
SHOT_TYPES = ("close_up", "framed")  # for single shots
THEME_NAMES = ("voyage", "harvest", "heist", "reunion", "storm", "contest", "exile", "feast")


@dataclass(frozen=True)
class WorldSettings:
    """Size and difficulty of a world; the defaults were fixed before anything was trained on it."""

    seed: int = field(default=0, metadata={"help": "seed of the world; the same seed gives the same films"})
    num_films: int = field(default=48, metadata={"help": "number of films"})
    num_themes: int = field(default=6, metadata={"help": "number of themes, at most 8"})
    num_places: int = field(default=18, metadata={"help": "number of places that all films share"})
    num_events: int = field(default=12, metadata={"help": "number of events that all films share"})
    favored: int = field(default=4, metadata={"help": "number of places, and of events, that a theme favors"})
    focus: float = field(
        default=0.85, metadata={"help": "share of scenes at a favored place, and with a favored event"}
    )
    film_seconds: float = field(default=60.0, metadata={"help": "approximate length of a film in seconds"})
    frame_rate: int = field(default=12, metadata={"help": "frames a second"})
    width: int = field(default=320, metadata={"help": "width of the frames in pixels"})
    height: int = field(default=180, metadata={"help": "height of the frames in pixels"})
    type_share: float = field(default=0.2, metadata={"help": "share of scenes, and shots, of each appearance type"})
    look_strength: float = field(
        default=0.35,
        metadata={"help": "strength of looks. 0: places have their own colors; 1: only the film's look colors them"},
    )
    viewers_per_film: float = field(default=6.0, metadata={"help": "number of viewers for each film of the world"})
    taste: float = field(default=0.7, metadata={"help": "share of a viewer's films that are of the viewer's theme"})

    def __post_init__(self):
        if not 1 <= self.num_themes <= len(THEME_NAMES):
            raise ValueError(f"num_themes={self.num_themes} must be from 1 to {len(THEME_NAMES)}")
        if self.favored > min(self.num_places, self.num_events):
            raise ValueError(f"favored={self.favored} is more than there are places or events")
        if min(self.width, self.height) < 32 or self.width % 2 or self.height % 2:
            raise ValueError(f"{self.width}×{self.height} pixels: both sides must be even and at least 32")
        if self.num_films < 1 or self.film_seconds <= 0 or self.frame_rate < 1:
            raise ValueError("a world has at least one film, and films have a length and a frame rate")
        for name in ("focus", "type_share", "look_strength", "taste"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a share, from 0 to 1")


class Photograph(NamedTuple):
    """The photograph that a shot shows."""

    place: str  # its name
    file: str  # in the folder of photographs


@dataclass(frozen=True)
class PlannedShot:
    """One shot: its scene, its length, and the camera's view."""

    scene: int
    place: int
    event: int
    types: tuple[str, ...]
    num_frames: int
    view: int  # which of a place's views, in a world of drawings
    photograph: Photograph | None = None


@dataclass(frozen=True)
class PlannedFilm:
    """One film; `look` is the seed of its palette, grading, texture and figures."""

    movie_id: str
    title: str
    year: int
    theme: int
    genres: tuple[str, ...]
    synopsis: str
    look: int
    shots: tuple[PlannedShot, ...]
    part: str = ""  # in a world of photographs: training or test


def with_frames(film: PlannedFilm) -> Iterator[tuple[PlannedShot, int, int]]:
    """Each shot with its first frame and the one after its last."""
    start = 0
    for shot in film.shots:
        yield shot, start, start + shot.num_frames
        start += shot.num_frames


# The second number of each seed, by which every part of the world has random numbers of its own.
THEMES, FILMS, VIEWERS, PLACES, EVENTS, SHOTS, GROUPS, TEST_FILMS, PICTURES = range(9)

PLACE_NAMES = (
    *("harbor", "market", "forest", "castle", "station", "kitchen", "desert", "bridge", "library", "workshop"),
    *("meadow", "lighthouse", "mill", "arena", "cave", "garden", "rooftop", "tunnel", "farm", "square"),
    *("theater", "shore", "factory", "chapel"),
)
EVENT_NAMES = (
    *("chase", "talk", "dance", "fight", "wait", "meal", "search", "farewell", "race", "rescue", "lesson", "quarrel"),
    *("build", "game", "march", "sleep"),
)
GENRES = (
    ("Adventure", "Fantasy"),
    ("Drama", "Documentary"),
    ("Crime", "Thriller"),
    ("Romance", "Comedy"),
    ("Action", "Drama"),
    ("Comedy", "Musical"),
    ("War", "Drama"),
    ("Children", "Animation"),
)
NUM_VIEWS = 6


def plan_world(settings: WorldSettings, place_names: Sequence[str] = PLACE_NAMES) -> list[PlannedFilm]:
    """Every film of the world, in the order of their ids. `place_names` are what synopses call the places."""
    favorites = favored_vocabulary(settings)
    return [_plan_film(settings, number, favorites, place_names) for number in range(settings.num_films)]


def favored_vocabulary(settings: WorldSettings) -> list[tuple[list[int], list[int]]]:
    """The places and the events that each theme favors, spread evenly over all places and events."""
    random = np.random.default_rng([settings.seed, THEMES])
    places, events = (random.permutation(size) for size in (settings.num_places, settings.num_events))
    favorites = []
    for theme in range(settings.num_themes):
        chosen = [
            [
                int(table[(round(theme * len(table) / settings.num_themes) + n) % len(table)])
                for n in range(settings.favored)
            ]
            for table in (places, events)
        ]
        favorites.append((chosen[0], chosen[1]))
    return favorites


def _plan_film(
    settings: WorldSettings, number: int, favorites: list[tuple[list[int], list[int]]], place_names: Sequence[str]
) -> PlannedFilm:
    random = np.random.default_rng([settings.seed, FILMS, number])
    theme = number % settings.num_themes
    shots: list[PlannedShot] = []
    frames_left, scene = round(settings.film_seconds * settings.frame_rate), 0
    while frames_left > 0:
        place, event = (
            int(random.choice(favored)) if random.random() < settings.focus else int(random.integers(size))
            for favored, size in zip(favorites[theme], (settings.num_places, settings.num_events), strict=True)
        )
        light = [str(random.choice(LIGHT_TYPES))] if random.random() < settings.type_share * len(LIGHT_TYPES) else []
        scene_types = (*light, *(kind for kind in SCENE_TYPES if random.random() < settings.type_share))
        view = int(random.integers(NUM_VIEWS))
        for _ in range(int(random.integers(5, 16))):
            # Odd steps alternate between bright and dark views, so that every cut is visible.
            view = (view + int(random.choice([1, 3, 5]))) % NUM_VIEWS
            types = scene_types + tuple(kind for kind in SHOT_TYPES if random.random() < settings.type_share)
            num_frames = round(random.uniform(1.6, 3.2) * settings.frame_rate)
            shots.append(PlannedShot(scene, place, event, types, num_frames, view))
            frames_left -= num_frames
            if frames_left <= 0:
                break
        scene += 1
    return PlannedFilm(
        movie_id=f"tt{9_000_000 + number}",
        title=_title(random, number),
        year=int(random.integers(1960, 2024)),
        theme=theme,
        genres=_genres(random, theme, settings.num_themes),
        synopsis=_synopsis(random, theme, shots, place_names),
        look=number,
        shots=tuple(shots),
    )


def _title(random: np.random.Generator, number: int) -> str:
    """A title that is unique by its numeral, with commas and articles as in real catalogs."""
    first = random.choice(["Silent", "Last", "Golden", "Broken", "Long", "Hidden", "Second", "Distant"])
    second = random.choice(["Summer", "Road", "River", "Promise", "Night", "Letter", "Winter", "Song"])
    article = random.choice(["", ", The", ", A"])
    return f"{first} {second} {number + 1}{article}"


def _genres(random: np.random.Generator, theme: int, num_themes: int) -> tuple[str, ...]:
    """The theme's two genres; with probability 0.1, each is replaced by a genre of a random theme."""
    return tuple(
        dict.fromkeys(
            str(random.choice(GENRES[int(random.integers(num_themes))])) if random.random() < 0.1 else genre
            for genre in GENRES[theme]
        )
    )


def _synopsis(random: np.random.Generator, theme: int, shots: list[PlannedShot], place_names: Sequence[str]) -> str:
    """A sentence on the theme and one on up to four of the scenes."""
    scenes = list(dict.fromkeys((shot.place, shot.event) for shot in shots))
    chosen = [scenes[n] for n in sorted(random.permutation(len(scenes))[:4])]
    parts = [
        f"a {EVENT_NAMES[event % len(EVENT_NAMES)]} at the {place_names[place % len(place_names)]}"
        for place, event in chosen
    ]
    opening = random.choice(["A story of", "The tale of", "A film about"])
    return f"{opening} a {THEME_NAMES[theme]}. There is {', then '.join(parts)}."


@dataclass(frozen=True)
class Rating:
    viewer: int
    film: int
    stars: float
    seconds: int  # since 1970


def plan_ratings(settings: WorldSettings, films: list[PlannedFilm]) -> list[Rating]:
    """The ratings of all viewers, each in the order of watching. A viewer has a favorite theme and mostly watches that.

    Some ratings have the same second as the one before, as in MovieLens.
    """
    by_theme = [[n for n, film in enumerate(films) if film.theme == theme] for theme in range(settings.num_themes)]
    ratings = []
    for viewer in range(round(settings.viewers_per_film * len(films))):
        random = np.random.default_rng([settings.seed, VIEWERS, viewer])
        theme = viewer % settings.num_themes
        clock = int(random.integers(946_684_800, 1_700_000_000))
        unseen = set(range(len(films)))
        for _ in range(min(len(films), int(random.integers(5, 25)))):
            liked = [n for n in by_theme[theme] if n in unseen]
            among = liked if liked and random.random() < settings.taste else sorted(unseen)
            film = int(among[int(random.integers(len(among)))])
            unseen.remove(film)
            mean = 4.2 if films[film].theme == theme else 2.8
            stars = float(np.clip(round(2 * random.normal(mean, 0.7)) / 2, 0.5, 5))
            clock += 0 if random.random() < 0.15 else int(random.integers(60, 3 * 86_400))
            ratings.append(Rating(viewer + 1, film, stars, clock))
    return ratings
