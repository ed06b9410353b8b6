"""8×8 pixels as shot features: a rival of scene encoders that needs no network.

    python -m eval.pixel_features --shots world/shots --output pixel_shot_features
    python -m eval.scene_retrieval --features pixel_shot_features --shot-space whitened …

A shot's feature is its middle keyframe at 8×8 pixels (192 numbers), with mean 0 and standard deviation 1. What it finds
can be told from the layout of colors alone.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command


@dataclass
class PixelFeaturesArguments:
    """The shots to read and the folder for their features."""

    shots: Path = field(metadata={"help": "folder of a shots dataset"})
    output: Path = field(metadata={"help": "folder of the shot_features dataset"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.pixel_features", PixelFeaturesArguments, run, argv)


def run(arguments: PixelFeaturesArguments) -> None:
    from eval.film_worlds.pixels import pixel_features

    pixel_features(arguments.shots, arguments.output)


if __name__ == "__main__":
    main()
