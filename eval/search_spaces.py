"""Which vectors of scenes find the same place, and in which space? Measured in film worlds, with an encoder as it is.

    python -m eval.search_spaces --output runs/search_spaces --results eval/results/search_spaces.json
    … --photographs FOLDER             also in worlds whose places are photographs (data_scripts.make_film_world)

Vectors and spaces are those of `m2s embed --scene-vector` and `m2s search --space`:

    joint     the encoder reads a scene's shots together, up to nine, evenly spaced
    mean      it reads each shot by itself; the mean of the vectors of all shots

Every true scene is a query, and the figure is P@1: how often the nearest scene of another film shows the same place.
Statistics are those of the searched scenes themselves, as in an index. Worlds of drawings are also searched in parts of
20 films, since a small index has poor statistics. In worlds of photographs, scenes of test films seek scenes of
training films, which are made of other pictures. Three worlds of each kind take about half an hour on two cores.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command
from m2s.shared import TINY_MODEL


@dataclass
class SearchSpacesArguments:
    output: Path = field(metadata={"help": "folder for the worlds and their vectors"})
    results: Path | None = field(
        default=None, metadata={"help": "JSON file for the figures; a table goes beside it as Markdown"}
    )
    photographs: Path | None = field(
        default=None, metadata={"help": "folder of photographs, for worlds of them: see data_scripts.make_film_world"}
    )
    model: str = field(default=TINY_MODEL, metadata={"help": "scene encoder or CLIP checkpoint: a folder or a Hub id"})
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "seeds of the worlds"})
    num_films: int = field(default=80, metadata={"help": "number of films in a world, a multiple of 20"})
    film_seconds: float = field(default=120.0, metadata={"help": "length of a film in seconds, about"})

    def __post_init__(self) -> None:
        """Raises: ValueError: films that do not make parts of 20, or no seeds."""
        if self.num_films < 20 or self.num_films % 20:
            raise ValueError(f"num_films is {self.num_films}; it must be a multiple of 20")
        if not self.seeds:
            raise ValueError("seeds is empty; give at least one")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.search_spaces", SearchSpacesArguments, run, argv)


def run(arguments: SearchSpacesArguments) -> None:
    from eval.film_worlds.results import publish
    from eval.film_worlds.search_figures import markdown, measure_worlds

    results = measure_worlds(arguments)
    publish(results, markdown(results), arguments.results)


if __name__ == "__main__":
    main()
