"""Generate a film world: films, ratings, genres and synopses with known ground truth.

    python -m data_scripts.make_film_world --output world                          48 films as MP4 files
    python -m data_scripts.make_film_world --output world --num-films 300 --keyframes-only           no video files
    python -m data_scripts.make_film_world --output world --photographs FOLDER      places are photographs, not drawings

Output:

    world/
      world.json            the settings; a folder of another world is refused
      videos/tt….mp4        films with real cuts (without --keyframes-only)
      shots/, films/        or: the `shots` dataset with the true boundaries, one keyframe per shot, and its index
      metadata/             ratings.csv, movies.csv, links.csv as MovieLens has them; wikipedia.json as Wikipedia's dump
      truth/                films.csv (theme, look) and shots.csv (scene, place, event, types)

A world of photographs (`film_world/photographs.py`) has test films, made of pictures that are never used for training.
films.csv gives a film's part and shots.csv a shot's picture; test_films.txt and training_films.txt in `truth` list ids.
Give test_films.txt to `--exclude` of make_catalog and to `--held-out` of eval.scene_retrieval. Pictures of such a world
do not show events; truth and synopses keep them.

A run that was killed continues with the films that are missing. The same settings give the same bytes, with the same
versions of this package, NumPy, Pillow and PyAV.
"""

from dataclasses import dataclass, field
from pathlib import Path

from data_scripts.film_world.photographs import PhotographSettings
from data_scripts.film_world.plan import WorldSettings
from m2s.commands import run_command


@dataclass
class OutputArguments:
    """The output of a world and its form."""

    output: Path = field(metadata={"help": "folder of the world"})
    keyframes_only: bool = field(default=False, metadata={"help": "write the shots dataset instead of videos"})
    keyframes_per_shot: int = field(
        default=1,
        metadata={"help": "with --keyframes-only: number of keyframes of a shot, the middles of as many equal parts"},
    )
    workers: int = field(default=1, metadata={"help": "processes that draw films"})

    def __post_init__(self) -> None:
        """Raises: ValueError: no keyframe per shot, or several for videos."""
        if self.keyframes_per_shot < 1:
            raise ValueError(f"keyframes_per_shot is {self.keyframes_per_shot}; it must be at least 1")
        if self.keyframes_per_shot > 1 and not self.keyframes_only:
            raise ValueError("keyframes_per_shot is for --keyframes-only: videos have all their frames")


def main(argv: list[str] | None = None) -> None:
    kinds = (WorldSettings, PhotographSettings, OutputArguments)
    run_command("python -m data_scripts.make_film_world", kinds, run, argv)


def run(settings: WorldSettings, source: PhotographSettings, output: OutputArguments) -> None:
    from data_scripts.film_world.making import make_film_world

    make_film_world(settings, output.output, output.keyframes_only, output.workers, source, output.keyframes_per_shot)


if __name__ == "__main__":
    main()
