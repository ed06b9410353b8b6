"""Are story scenes the true scenes? Measured in film worlds with known ground truth, beside rivals.

    python -m eval.story_scenes --output runs/story_scenes --results eval/results/story_scenes.json

For every seed, a film world is drawn, and the encoder reads every shot by itself. Each way below divides the films:

    story                the library's `story_scenes`; its axes are fitted to all films, without labels
    story, film alone    the axes are fitted to the one film
    story, true number   the same costs, with the true number of scenes given
    least deviation      whitened shots of length 1: the runs with the least squared deviation from their means, as many
                         as lower it most below that of the same shots in random order (mean of five orders)
    cosine               cuts between the least alike whitened neighbors, with the true number of scenes given
    windows              nine shots a scene, as the paper's
    probe                a linear probe on absolute differences of whitened shots: of the two at a cut, and of the means
                         of two on each side. It is trained on the true scenes of three fifths of the films, selected
                         with its threshold on a fifth, and measured on the last fifth, beside story

The paper's MLP on four shots side by side (`eval.tasks.scene_boundaries`) needs far more films than a world has.

Seed 0 served to choose the method and its constants, and is not reported. Figures are those of
`eval.metrics.boundaries`, over the cuts of all films of a world together, and `f1_within_one`: ends of scenes count as
found if one is found at most one shot away; each counts once. A second run goes on where a killed one was. Five worlds
take about ten minutes on two cores.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command
from m2s.shared import TINY_MODEL


@dataclass
class StoryScenesArguments:
    output: Path = field(metadata={"help": "folder for the worlds and their features"})
    results: Path | None = field(
        default=None, metadata={"help": "JSON file for the figures; a table goes beside it as Markdown"}
    )
    model: str = field(default=TINY_MODEL, metadata={"help": "scene encoder or CLIP checkpoint: a folder or a Hub id"})
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5], metadata={"help": "seeds of the worlds"})
    num_films: int = field(default=80, metadata={"help": "number of films in a world, at least 5"})
    film_seconds: float = field(default=120.0, metadata={"help": "length of a film in seconds, about"})

    def __post_init__(self) -> None:
        """Raises: ValueError: fewer than five films, or no seeds."""
        if self.num_films < 5:
            raise ValueError(f"num_films is {self.num_films}; the probe needs at least 5")
        if not self.seeds:
            raise ValueError("seeds is empty; give at least one")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.story_scenes", StoryScenesArguments, run, argv)


def run(arguments: StoryScenesArguments) -> None:
    from eval.film_worlds.results import publish
    from eval.film_worlds.scene_divisions import markdown, measure_worlds

    results = measure_worlds(arguments)
    publish(results, markdown(results), arguments.results)


if __name__ == "__main__":
    main()
