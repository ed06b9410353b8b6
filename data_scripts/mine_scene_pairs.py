"""Mine scene pairs of similar films [3.2, supp. 1.1b]: the nine-shot scenes of two films that are most alike.

    python -m data_scripts.mine_scene_pairs --features catalog/shot_features --similar catalog/similar_movies \\
        --model runs/mil/model --output catalog/scene_pairs

    … --space features          without a model: the frozen features themselves, the paper's "ablation-selection"
    … --space random            the same number of scenes, drawn at random: the baseline (ours)
    … --space whitened          without a model: frozen features minus their mean, whitened (ours)
    … --space model --center    the learned space, window means minus their mean over all films (ours)
    … --space both --model …    the two above side by side (ours)
    accelerate launch --num_processes 8 -m data_scripts.mine_scene_pairs …        several GPUs

Every pair of similar films is mined once, whichever film lists the other; `source` joins the pair's sources with "+".
The arithmetic is exact (`mining/scenes.py`), so device, batch and number of processes do not change the result. A run
that was killed continues with the films that are missing. If the catalog has grown, films with other similar films than
before, or with replaced features, are mined again; the pairs of all others stay.

Means, axes and scales (`mining/spaces.py`) are measured on the films of the first run and stored beside the pairs in
statistics.safetensors; another folder measures them again. The axes come from LAPACK, whose last bits may differ on
another processor. Films that `--films` leaves out give neither pairs nor statistics. Films that `train_mil` held out
are mined too, unless `--films` leaves them out. Films that the catalog excludes from training are not among the similar
films. If other films are excluded, the pairs need another folder.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from m2s.commands import run_command


@dataclass(kw_only=True)
class MiningArguments:
    """Which films are mined, in which space, and how."""

    features: Path = field(metadata={"help": "folder of a shot_features dataset"})
    similar: Path = field(metadata={"help": "folder of a similar_movies dataset"})
    output: Path = field(metadata={"help": "folder of the scene_pairs dataset"})
    model: Path | None = field(
        default=None, metadata={"help": "with --space model or both: folder of a movie-similarity model"}
    )
    space: Literal["model", "features", "random", "whitened", "both"] = field(
        default="model",
        metadata={
            "help": "space in which scenes are compared. model: that of the movie-similarity network, the paper's "
            "rule; features: the features as they are; whitened: the features, whitened; both: model and whitened side "
            "by side; random: none, pairs are drawn"
        },
    )
    center: bool = field(
        default=False,
        metadata={"help": "with --space model: subtract the mean of all windows; --space both always does"},
    )
    films: Path | None = field(
        default=None, metadata={"help": "text file with one movie id a line: only these films are mined and measured"}
    )
    sources: list[str] = field(
        default_factory=list,
        metadata={"help": "only films that are similar by these sources, such as co_watch; by default by any"},
    )
    allow_missing: bool = field(default=False, metadata={"help": "skip similar films that have no features"})
    seed: int = field(default=0, metadata={"help": "seed of the draws that --space random and --space both make"})
    device: Literal["cpu", "cuda"] | None = field(
        default=None, metadata={"help": "device to mine on; by default each process takes its GPU, if there is one"}
    )
    batch_pairs: int | None = field(
        default=None,
        metadata={"help": "number of film pairs at a time, by default 64 on a GPU and 4 else; the result is the same"},
    )
    cached_films: int = field(default=1000, metadata={"help": "number of films held in memory, each 2 kB a shot"})

    def __post_init__(self) -> None:
        is_learned = self.space in ("model", "both")
        if is_learned != (self.model is not None):
            fix = "needs a movie-similarity model: give --model" if is_learned else "uses no model: leave out --model"
            raise ValueError(f"--space {self.space} {fix}")
        if self.center and not is_learned:
            raise ValueError(f"center with space={self.space}: only a learned space is centered; leave --center out")
        if self.batch_pairs is not None and self.batch_pairs < 1:
            raise ValueError(f"batch_pairs={self.batch_pairs} must be at least 1")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m data_scripts.mine_scene_pairs", MiningArguments, run, argv)


def run(arguments: MiningArguments) -> None:
    from data_scripts.mining.films import mine_catalog
    from data_scripts.stages.ranks import ranks

    with ranks() as state:
        mine_catalog(arguments, state)


if __name__ == "__main__":
    main()
