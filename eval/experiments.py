"""The paper's method and its rivals in film worlds with known ground truth: which claims hold there, which do not?

    python -m eval.experiments --output runs/experiments --results results.json              core rows, five seeds
    python -m eval.experiments --output runs/experiments --rows others --seeds 1 2 …         all other rows
    python -m eval.experiments … --rows by_shot                   trained encoders that read each shot by itself
    python -m eval.experiments … --photographs FOLDER                                        worlds of photographs

Every seed has a film world of its own. A fifth of its films is held out and takes no part in anything but the
measurement. Among the others, similar films are found, a movie-similarity network is trained [3.1], scene pairs are
mined in several ways [3.2], and a scene encoder is trained on each set of pairs [3.2.2]. `film_worlds/rows.py` says
what each row is and which claims are tested. All encoders are measured on the same scenes (`eval.scene_retrieval`).

All work is done by the commands that users run, each once: the same command goes on after a kill, and a call with more
seeds or rows adds to what is there. `--results` keeps the seeds and rows that are in its file already, so several
machines can take turns; a row that was run again replaces the old one. Two cores take half an hour for a seed's core
rows, and an hour for all its others. The settings of all rows were chosen on the world of seed 0, which is not
reported.
"""

from dataclasses import dataclass, field
from pathlib import Path

from eval.film_worlds.rows import CORE, READ_BY_SHOT, TRAINED, ReadByShot, rounds_before
from m2s.commands import run_command

RECIPES = Path("train/configs")
GROUPS = ("core", "others", "all", "untrained", "by_shot")


@dataclass
class ExperimentsArguments:
    """Worlds, rows, and how many commands run at a time."""

    output: Path = field(metadata={"help": "folder for worlds, datasets and runs"})
    results: Path | None = field(
        default=None,
        metadata={"help": "JSON file for the results; those that it has already are kept; tables go beside it, as .md"},
    )
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5], metadata={"help": "seeds of the worlds"})
    rows: list[str] = field(
        default_factory=lambda: ["core"],
        metadata={
            "help": "core, others, all, untrained (nothing is trained), by_shot (encoders trained on learned and on "
            "whitened pairs, each shot read by itself), or names of rows that are trained"
        },
    )
    photographs: Path | None = field(
        default=None,
        metadata={"help": "folder of photographs with manifest.tsv: worlds of photographs; by default of drawings"},
    )
    pictures: Path | None = field(
        default=None,
        metadata={"help": "folder with train/CLASS/* and test/CLASS/* photographs: what training costs there"},
    )
    num_films: int = field(default=1000, metadata={"help": "number of films in a world"})
    film_seconds: float = field(default=120.0, metadata={"help": "length of a film in seconds, about"})
    mil_recipe: Path = field(default=RECIPES / "mil_film_world.yaml", metadata={"help": "recipe of train.train_mil"})
    recipe: Path = field(default=RECIPES / "moco_film_world.yaml", metadata={"help": "recipe of train.train_moco"})
    momentum_recipe: Path = field(
        default=RECIPES / "moco_film_world_momentum.yaml",
        metadata={"help": "recipe of train.train_moco for the row momentum"},
    )
    queried_films: int = field(default=120, metadata={"help": "number of held-out films to measure on, at most"})
    training_scenes: int = field(
        default=400, metadata={"help": "number of training scenes for the measurement's statistics and probe, at most"}
    )
    boundary_films: int = field(
        default=15, metadata={"help": "number of held-out films whose scene boundaries are sought, at most"}
    )
    workers: int = field(default=2, metadata={"help": "number of commands that run at the same time"})
    threads: int = field(default=1, metadata={"help": "number of threads of each command"})
    scratch: Path | None = field(
        default=None, metadata={"help": "folder for the copies that the library datasets makes; by default its cache"}
    )

    def __post_init__(self) -> None:
        """Raises: ValueError: an unknown row, no seeds, or a number out of its range."""
        if unknown := sorted(set(self.rows) - {*GROUPS, *TRAINED}):
            raise ValueError(f"rows {', '.join(unknown)} must be among {', '.join((*GROUPS, *TRAINED))}")
        if not (self.seeds and self.rows):
            raise ValueError("give at least one seed and one row")
        for name in ("workers", "threads", "queried_films", "training_scenes", "boundary_films"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def recipes(self) -> list[Path]:
        return [self.mil_recipe, self.recipe, self.momentum_recipe]

    def rows_by_shot(self) -> dict[str, ReadByShot]:
        """The rows in which a trained encoder reads each shot by itself, if they are asked for."""
        return READ_BY_SHOT if {"all", "by_shot"} & set(self.rows) else {}

    def trained_rows(self) -> list[str]:
        """Names of the rows to train, each with the row whose encoder mines its pairs, earlier rounds first."""
        groups = {name: {"all", "core" if name in CORE else "others", name} for name in TRAINED}
        chosen = {name for name in TRAINED if groups[name] & set(self.rows)}
        chosen |= {each.encoder for each in self.rows_by_shot().values()}
        chosen |= {earlier for name in chosen for earlier in rounds_before(name)}
        return sorted(chosen, key=lambda name: (len(rounds_before(name)), list(TRAINED).index(name)))


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.experiments", ExperimentsArguments, run, argv)


def run(arguments: ExperimentsArguments) -> None:
    from eval.film_worlds.results import add_earlier, publish
    from eval.film_worlds.tables import tables
    from eval.film_worlds.worlds import experiments

    results = experiments(arguments)
    if arguments.results and arguments.results.exists():
        results = add_earlier(results, arguments.results)
    publish(results, tables(results), arguments.results)


if __name__ == "__main__":
    main()
