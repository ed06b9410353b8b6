"""Probe embeddings on a task: labels and embeddings → results beside trivial baselines, as JSON and printed.

    python -m eval.probe --task lvu --labels lvu_1.0 --embeddings runs/lvu --output results/lvu.json
    python -m eval.probe --task lvu/scene lvu/director …           two of the nine
    python -m eval.probe --task lvu_place_retrieval --labels lvu_1.0 …
    python -m eval.probe --task movienet_places --labels MOVIENET …
    python -m eval.probe --task movienet_boundaries --labels scene318 --embeddings SHOT_FEATURES …
    python -m eval.probe --task moderation --labels clips.csv …    --task own: a CSV of your own
    python -m eval.probe --task photographs/miniplaces/9 --labels FOLDER …
    … --features slowfast.parquet                                  in place of --embeddings: vectors made elsewhere

Every probe is selected on validation and predicts the test scenes once [4.3, supplement 1.2–1.4]:

    mlp       two hidden layers, five seeds; all tasks and seeds train together. Recipes (eval/configs) are the paper's
              for its tasks, our own for others
    linear    logistic or ridge regression on standardized embeddings
    knn       the classes or values of the nearest training scenes
    nearest   the class or value of the nearest training scene

Place retrieval trains nothing. Labeled scenes without an embedding are left out and counted. NAME.predictions.parquet,
beside NAME.json, has the predictions for each test scene. Intervals are 95% bootstrap intervals by film; they reflect
the choice of test films, not of training films. The paper reports single numbers on media that have partly gone since,
so its rows are for orientation, not measured on the same scenes. The same command gives the same bytes.

`--export FOLDER` saves the best MLP of each task on validation, with its encoder, as a classifier of frames:
`M2SSceneForClassification.from_pretrained("FOLDER/lvu/scene")`. `--card FOLDER` writes the results onto the model card
of the encoder in FOLDER. The nine LVU tasks take minutes on two cores.
"""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command

PROBES = ("mlp", "linear", "knn", "nearest")


@dataclass
class ProbeArguments:
    """Tasks, embeddings and probes."""

    task: list[str] = field(
        metadata={
            "help": "tasks of one group: lvu, lvu_place_retrieval, movienet_places, movienet_boundaries, moderation, "
            "own, photographs, movieclip; lvu/scene is one of lvu"
        }
    )
    labels: Path = field(metadata={"help": "folder or file of the labels, as published; a CSV for moderation and own"})
    output: Path = field(metadata={"help": "JSON file for the results"})
    embeddings: Path | None = field(
        default=None, metadata={"help": "folder of scene_embeddings; for movienet_boundaries, of shot_features"}
    )
    features: Path | None = field(
        default=None,
        metadata={"help": "vectors made elsewhere: Parquet with columns scene_id and embedding, or .npy with .txt"},
    )
    probes: list[str] = field(
        default_factory=list, metadata={"help": f"probes, of {', '.join(PROBES)}; by default those that suit the task"}
    )
    seeds: int = field(default=5, metadata={"help": "number of MLPs that are trained for each task"})
    recipe: Path | None = field(
        default=None, metadata={"help": "YAML file of an MLP recipe for all tasks, in place of those of eval/configs"}
    )
    name: str | None = field(
        default=None,
        metadata={"help": "name of the encoder in reports; by default its model, with its kind if that is not scene"},
    )
    device: str = field(default="cpu", metadata={"help": "device that MLPs are trained on: cpu or cuda"})
    export: Path | None = field(
        default=None,
        metadata={"help": "folder to save the best MLP of each task to, with its encoder, as a classifier"},
    )
    model: str | None = field(
        default=None,
        metadata={"help": "with --export, the encoder's folder or Hub id; by default as the embeddings' record has it"},
    )
    card: Path | None = field(
        default=None, metadata={"help": "folder of the encoder that was measured: put the results on its model card"}
    )
    hub_dataset: str | None = field(
        default=None,
        metadata={
            "help": "with --card: id of the benchmark's dataset on the Hub, for .eval_results/ and its leaderboard"
        },
    )

    def __post_init__(self) -> None:
        """Raises: ValueError: not exactly one source of embeddings, an unknown probe, no seed, or no .json output."""
        if (self.embeddings is None) == (self.features is None):
            raise ValueError("give --embeddings or --features, one of them")
        if unknown := sorted(set(self.probes) - set(PROBES)):
            raise ValueError(f"probes {' '.join(unknown)!r} must be of {', '.join(PROBES)}")
        if self.seeds < 1:
            raise ValueError(f"seeds={self.seeds} must be at least 1")
        if self.output.suffix != ".json":
            raise ValueError(f"--output {self.output} must end in .json")
        if self.export and self.probes and "mlp" not in self.probes:
            raise ValueError("--export saves MLPs: add mlp to --probes, or leave --probes out")
        for name in ("recipe", "seeds", "device") if self.probes and "mlp" not in self.probes else ():
            if (value := getattr(self, name)) != getattr(type(self), name):
                raise ValueError(f"--{name} {value} is for MLPs: add mlp to --probes")
        if self.model and not self.export:
            raise ValueError(f"--model {self.model} is for --export; embeddings name their encoder")
        if self.hub_dataset and not self.card:
            raise ValueError("--hub-dataset goes onto a model card: give the model's folder by --card")


def main(argv: list[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)

    def run(arguments: ProbeArguments) -> None:
        from eval.probes.probing import print_results, probe

        record = probe(arguments, shlex.join(["python", "-m", "eval.probe", *words]))
        print_results(record)
        print(f"\n{arguments.output}; next: python -m eval.report --results {arguments.output} --output report.html")

    run_command("python -m eval.probe", ProbeArguments, run, words)


if __name__ == "__main__":
    main()
