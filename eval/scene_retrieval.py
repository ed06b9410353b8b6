"""Are scenes of the same place in other films near? Measured on held-out films of a film world.

    python -m eval.scene_retrieval --world world --held-out held_out.txt --model runs/moco/model --output measured.json
    … --features shot_features         instead of --model: the mean of single shots, which needs no training

Every true scene of the held-out films is a query, read as up to nine shots, evenly spaced. Its neighbors are searched
among the scenes of other held-out films, by cosine, in three spaces:

    raw         the embeddings as they are
    centered    minus the mean of training films' scenes
    whitened    minus that mean, on principal axes of training films' scenes, each divided by its standard deviation

With `--neighbors training`, they are searched among scenes of training films instead. A world of photographs needs
this: its held-out films share pictures with one another, and finding the same picture again says little.

The probes are logistic regressions for the place and for the event, fitted on the training films' scenes. Nothing is
fitted on held-out films. Values are kept for each query, so that two encoders can be compared on the same queries.

Boundaries: the score after each shot is 1 minus the cosine, in whitened space, between the four shots before the cut
and the four after it. Its average precision for the ends of true scenes is computed per film, over cuts with four shots
on both sides; not with `--context-shots`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from m2s.commands import run_command


@dataclass
class SceneRetrievalArguments:
    """The scenes to measure, and the encoder."""

    world: Path = field(metadata={"help": "folder of a film world"})
    held_out: Path = field(metadata={"help": "text file with the movie ids of held-out films, one a line"})
    output: Path = field(metadata={"help": "JSON file for the measurement"})
    model: str | None = field(
        default=None, metadata={"help": "CLIP checkpoint or scene encoder: a folder, a Hub id, or m2s-clip-tiny"}
    )
    position_interpolation: Literal["grid", "mosaic", "sequence", "repeat"] | None = field(
        default=None,
        metadata={
            "help": "how position embeddings are interpolated for several frames; by default the model's own way"
        },
    )
    features: Path | None = field(
        default=None, metadata={"help": "folder of the world's shot_features: measure the mean of single shots"}
    )
    shot_space: Literal["raw", "whitened"] = field(
        default="raw", metadata={"help": "with --features: whether single shots are whitened before the mean is taken"}
    )
    context_shots: int = field(
        default=0, metadata={"help": "with --features: shots before and after a scene that its mean takes in as well"}
    )
    neighbors: Literal["held_out", "training"] = field(
        default="held_out",
        metadata={"help": "films whose scenes a query seeks: other held-out films, or training films"},
    )
    num_films: int = field(default=200, metadata={"help": "number of held-out films whose scenes are queries, at most"})
    num_training_scenes: int = field(
        default=600, metadata={"help": "number of training films' scenes for statistics and probe, at most"}
    )
    num_boundary_films: int = field(
        default=40, metadata={"help": "number of held-out films whose scene boundaries are sought, at most; 0 for none"}
    )
    bf16: bool = field(default=True, metadata={"help": "compute in bfloat16, where the device has it"})
    seed: int = field(default=0, metadata={"help": "seed of the draw of films and training scenes"})
    card: bool = field(default=False, metadata={"help": "put the figures on the model card in the folder --model"})

    def __post_init__(self) -> None:
        """Raises: ValueError: not exactly one of model and features, or a number below its minimum."""
        if (self.model is None) == (self.features is None):
            raise ValueError("give --model or --features, one of them")
        if self.card and not (self.model and Path(self.model).is_dir()):
            raise ValueError("--card writes on a model's card: give the model's folder by --model")
        for name, least in (("num_films", 1), ("num_training_scenes", 1), ("context_shots", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("context_shots", "shot_space") if self.model else ("position_interpolation",):
            if (value := getattr(self, name)) != getattr(type(self), name):
                flag, needed = name.replace("_", "-"), "features" if self.model else "model"
                raise ValueError(f"--{flag} {value} is for --{needed}")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.scene_retrieval", SceneRetrievalArguments, run, argv)


def run(arguments: SceneRetrievalArguments) -> None:
    from eval.film_worlds.retrieval import card_entry, measure, print_measurement
    from modeling_m2s.cards_m2s import add_evaluations
    from modeling_m2s.pretrained_m2s import model_revision
    from modeling_m2s.storage_m2s import write_json

    folder = Path(str(arguments.model))
    revision = model_revision(str(folder), None) if arguments.card else ""
    measurement = measure(arguments)
    write_json(arguments.output, measurement)
    if arguments.card:
        add_evaluations(folder, revision, card_entry(measurement, arguments.world.name))
    print_measurement(measurement)


if __name__ == "__main__":
    main()
