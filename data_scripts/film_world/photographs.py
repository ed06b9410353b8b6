"""Photographs as the places of a film world: which ones its films show, and a painter that shows them.

A folder of photographs has a `manifest.tsv` with the columns `file` and `group`, and the pictures of MiniPlaces as
`miniplaces/NUMBER.jpg`. A place is one of their groups. Pictures whose number is divisible by three are the test part:
they are never used for training. Test films are made of these, training films of the others, so they share no picture.

A group has about twenty test pictures, fewer than its scenes need. Two test films at the same place therefore show some
of the same pictures, by different crops and in different looks, and retrieval among test films finds these first. Only
retrieval across the parts, as `check_film_world` does it, tests nothing but the kind of place.

Films, scenes, appearance types and viewers are planned as in a world of drawings. Pictures here do not show events;
truth and synopses keep them. Neither the pictures nor a world that is made of them may be redistributed.
"""

import csv
import dataclasses
import hashlib
import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_scripts.film_world.pictures import FilmPainter
from data_scripts.film_world.plan import (
    GROUPS,
    PICTURES,
    SHOTS,
    TEST_FILMS,
    Photograph,
    PlannedFilm,
    PlannedShot,
    WorldSettings,
    plan_world,
)

DATA_SET = "miniplaces"
TEST_EVERY = 3
TRAINING, TEST = PARTS = ("training", "test")
SQUEEZE = 4 / 3  # the makers of MiniPlaces squeezed pictures, most of them four by three, to squares
# Smallest and largest share of a picture's width that a shot shows. SLOWNESS is the share of the way to another crop
# that its pan and zoom go.
WIDE, CLOSE_UP, SLOWNESS = (0.75, 1.0), (0.4, 0.55), 0.3
Groups = dict[str, dict[str, list[str]]]


@dataclass(frozen=True)
class PhotographSettings:
    """The source of a world's pictures."""

    photographs: Path | None = field(
        default=None,
        metadata={"help": "folder with manifest.tsv and miniplaces/: places are photographs, not drawings"},
    )
    test_share: float = field(
        default=0.2, metadata={"help": "with --photographs: share of films that are made of the test pictures"}
    )

    def __post_init__(self) -> None:
        """Raises: ValueError: `test_share` is not between 0 and 1."""
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share={self.test_share} must lie between 0 and 1")


def plan_films(settings: WorldSettings, source: PhotographSettings) -> tuple[list[PlannedFilm], dict[str, Any]]:
    """All films of a world, and the facts about its photographs for the record; none for drawings.

    Raises:
        ValueError: the folder holds no such photographs, or too few; too few films for two parts.
        OSError: a picture of the manifest cannot be read.
    """
    if source.photographs is None:
        return plan_world(settings), {}
    groups = drawn_groups(read_groups(source.photographs), settings)
    films = plan_world(settings, [place_name(group) for group in groups])
    tested = draw_test_films(len(films), source.test_share, settings.seed)
    films = [
        with_photographs(film, TEST if number in tested else TRAINING, groups, settings)
        for number, film in enumerate(films)
    ]
    return films, {"photographs": pictures_digest(source.photographs, films), "test_share": source.test_share}


def read_groups(folder: Path) -> Groups:
    """The pictures of each group by part, in the order of their names; groups without pictures in a part are left out.

    Raises:
        ValueError: no manifest, or one that names no such pictures.
    """
    path = folder / "manifest.tsv"
    if not path.is_file():
        raise ValueError(f"{folder} has no manifest.tsv; give the folder that holds it and {DATA_SET}/")
    groups: Groups = defaultdict(lambda: {part: [] for part in PARTS})
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t")
        if not {"file", "group"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}, line 1: needs the columns file and group")
        for row in reader:
            name = Path(row["file"] or "")
            if name.parent.as_posix() != DATA_SET:
                continue
            if not (name.stem.isdecimal() and row["group"]):
                raise ValueError(f"{path}, line {reader.line_num}: needs {DATA_SET}/NUMBER.jpg and a group")
            groups[row["group"]][TRAINING if int(name.stem) % TEST_EVERY else TEST].append(name.as_posix())
    if not groups:
        raise ValueError(f"{path} names no picture of {DATA_SET}/")
    return {
        group: {part: sorted(parts[part]) for part in PARTS} for group, parts in groups.items() if all(parts.values())
    }


def place_name(group: str) -> str:
    """A group's name as words: "bakery shop" for "b/bakery/shop"."""
    letter, _, rest = group.partition("/")
    return (rest if len(letter) == 1 and rest else group).replace("/", " ").replace("_", " ")


def drawn_groups(groups: Groups, settings: WorldSettings) -> Groups:
    """As many groups as the world has places, drawn by its seed.

    Raises:
        ValueError: there are fewer.
    """
    if settings.num_places > len(groups):
        raise ValueError(
            f"num_places={settings.num_places} is more than the {len(groups)} groups of photographs with pictures in "
            "both parts"
        )
    names = sorted(groups)
    order = np.random.default_rng([settings.seed, GROUPS]).permutation(len(names))[: settings.num_places]
    return {names[number]: groups[names[number]] for number in order}


def draw_test_films(num_films: int, share: float, seed: int) -> set[int]:
    """The numbers of the films that are made of test pictures.

    Raises:
        ValueError: fewer than two, which retrieval needs, or all.
    """
    count = round(share * num_films)
    if not 2 <= count < num_films:
        raise ValueError(
            f"test_share={share} of num_films={num_films} makes {count} test films; at least two are needed, and a "
            "training film"
        )
    return set(np.random.default_rng([seed, TEST_FILMS]).permutation(num_films)[:count].tolist())


def with_photographs(film: PlannedFilm, part: str, groups: Groups, settings: WorldSettings) -> PlannedFilm:
    """The film with a picture for every shot, from the film's part of the scene's group.

    A film goes through a group in an order of its own, so it shows no picture twice before it has shown all of them.
    """
    names, pictures = list(groups), {}
    for place in {shot.place for shot in film.shots}:
        random = np.random.default_rng([settings.seed, PICTURES, film.look, place])
        pictures[place] = itertools.cycle(random.permutation(groups[names[place]][part]).tolist())
    shots = (
        dataclasses.replace(shot, photograph=Photograph(place_name(names[shot.place]), next(pictures[shot.place])))
        for shot in film.shots
    )
    return dataclasses.replace(film, part=part, shots=tuple(shots))


def pictures_digest(folder: Path, films: list[PlannedFilm]) -> str:
    """A digest of the names and bytes of all pictures that films show; it does not depend on their folder."""
    digest = hashlib.sha256()
    for name in sorted({shot.photograph.file for film in films for shot in film.shots if shot.photograph}):
        digest.update(f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


class PhotographPainter(FilmPainter):
    """Shows one photograph per shot with a slow pan and zoom; a close-up shows a smaller part of it.

    Args:
        folder: the folder of photographs.
    """

    def __init__(self, settings: WorldSettings, look: int | None, folder: Path):
        super().__init__(settings, look)
        self.folder = folder
        self._pictures: dict[str, Image.Image] = {}

    def frame(self, shot: PlannedShot, number: int, index: int) -> np.ndarray:
        """
        Raises: ValueError: the shot has no photograph, since it was planned for drawings.
        """
        if shot.photograph is None:
            raise ValueError("a shot of a world of drawings has no photograph")
        random = np.random.default_rng([self.settings.seed, SHOTS, self.look or 0, number])
        shares = CLOSE_UP if "close_up" in shot.types else WIDE
        first, other = (np.array([random.uniform(*shares), *random.uniform(size=2)]) for _ in range(2))
        share, x, y = first + SLOWNESS * index / shot.num_frames * (other - first)
        picture = self._picture(shot.photograph.file)
        # The crop's height as a share of the picture's height, divided by its width as a share of the picture's width.
        ratio = SQUEEZE * self.settings.height / self.settings.width
        width, height = picture.width * share / max(1, ratio), picture.height * share * min(1, ratio)
        left, top = x * (picture.width - width), y * (picture.height - height)
        box = (left, top, left + width, top + height)
        pixels = np.asarray(picture.resize(self.size, Image.Resampling.BICUBIC, box), dtype=np.float32)
        return self.finish(pixels, shot, index / self.settings.frame_rate)

    def _picture(self, name: str) -> Image.Image:
        if name not in self._pictures:
            with Image.open(self.folder / name) as picture:
                self._pictures[name] = picture.convert("RGB")
        return self._pictures[name]
