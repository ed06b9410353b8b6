"""Do mined scene pairs share what similar films share? The paper's steps up to mining, with known ground truth.

    python -m eval.film_world_pairs --output runs/film_world_pairs --results eval/results/film_world_pairs.json

For every seed, a film world is generated, and m2s-clip-tiny extracts its shots' features. For every source of film
similarity, the movie-similarity network is trained [3.1]. Scene pairs are then mined [3.2] in four ways: in its space,
in the space of the same network before training, in the space of the features as they are (the paper's
"ablation-selection"), and at random. The two scenes of a pair share a place if their most frequent place is the same;
events and light (day, night, monochrome) likewise. Similar films share places and events, but light is unrelated to
similarity. So learning should raise the share of pairs with the same place and event, and the share with the same light
should fall to chance. In the committed results, places rise, events hardly rise, and light does not fall.

The script runs the commands that users run. If it is killed and run again, it goes on where it was. It takes about two
hours on two cores, added up from its parts.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command


@dataclass
class FilmWorldPairsArguments:
    output: Path = field(metadata={"help": "folder for worlds, datasets and runs"})
    results: Path | None = field(default=None, metadata={"help": "JSON file for the figures"})
    recipe: Path = field(
        default=Path("train/configs/mil_film_world.yaml"), metadata={"help": "recipe of train.train_mil"}
    )
    seeds: int = field(default=5, metadata={"help": "number of worlds; their seeds count from 0"})
    sources: list[str] = field(
        default_factory=lambda: ["co_watch", "genre", "synopsis"], metadata={"help": "sources of film similarity"}
    )
    num_films: int = field(default=2000, metadata={"help": "number of films in a world"})
    film_seconds: float = field(default=120.0, metadata={"help": "length of a film in seconds, about"})
    top_k: int = field(
        default=10, metadata={"help": "number of similar films for each film; in a world many films are alike"}
    )

    def __post_init__(self) -> None:
        """Raises: ValueError: a number below 1."""
        for name in ("seeds", "num_films", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.film_world_pairs", FilmWorldPairsArguments, run, argv)


def run(arguments: FilmWorldPairsArguments) -> None:
    from eval.film_worlds.shares import film_world_pairs, print_table
    from modeling_m2s.storage_m2s import write_json

    if not arguments.recipe.is_file():  # it is read only after hours
        raise ValueError(f"--recipe {arguments.recipe}: no such file; give its path from the current folder")
    results = film_world_pairs(arguments)
    if arguments.results:
        write_json(arguments.results, results)
    print_table(results)


if __name__ == "__main__":
    main()
