"""A page to look at mined scene pairs, as in figures 2 and 3 of the paper but for anyone's films.

    python -m data_scripts.pair_atlas --pairs catalog/scene_pairs --shots catalog/shots --movies catalog/movies \\
        --output atlas.html

The page is one self-contained HTML file of at most 10 MB, without scripts. It shows pairs drawn evenly over their
scores, as strips of keyframes; a histogram of the scores; the places of scenes in film pairs, which do not overlap; and
which films, and which parts of them, are used. The same pairs and seed give the same page.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command

# A noisy thumbnail takes 9 kB, a usual one 3 kB; with 18 per pair, 45 pairs stay below 10 MB.
MOST_PAIRS = 45


@dataclass
class AtlasArguments:
    """Which pairs the page shows."""

    pairs: Path = field(metadata={"help": "folder of a scene_pairs dataset"})
    shots: Path = field(metadata={"help": "folder of the shots dataset that they were mined from"})
    output: Path = field(metadata={"help": "the page, an HTML file"})
    movies: Path | None = field(default=None, metadata={"help": "folder of a movies dataset, for titles"})
    num_pairs: int = field(default=24, metadata={"help": f"scene pairs shown as strips, 1 to {MOST_PAIRS}"})
    num_film_pairs: int = field(default=8, metadata={"help": "film pairs shown with all their scenes, 0 to 50"})
    seed: int = field(default=0, metadata={"help": "seed of the pairs that are drawn"})

    def __post_init__(self) -> None:
        if not 1 <= self.num_pairs <= MOST_PAIRS:
            raise ValueError(f"num_pairs={self.num_pairs} must be from 1 to {MOST_PAIRS}: the page stays below 10 MB")
        if not 0 <= self.num_film_pairs <= 50:
            raise ValueError(f"num_film_pairs={self.num_film_pairs} must be from 0 to 50")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m data_scripts.pair_atlas", AtlasArguments, run, argv)


def run(arguments: AtlasArguments) -> None:
    from data_scripts.mining.atlas import write_pair_atlas

    write_pair_atlas(arguments)


if __name__ == "__main__":
    main()
