"""A page of one training of a scene encoder: its inputs, mined pairs, curves, and scenes before and after.

    python -m eval.training_report --run runs/moco --shots catalog/shots --pairs catalog/scene_pairs --output page.html
    … --mil runs/mil                                     the curves of movie similarity as well
    … --films runs/mil/held_out_films.txt                scenes of these films alone
    … --world world --measured before.json after.json    in a film world: what is right and wrong, and a table
    … --seconds seconds.csv                              what each command took: seconds,command

The page is one self-contained HTML file without scripts. It shows the true scenes in a film world; in other films, it
shows nine consecutive shots, as in training. Embeddings are whitened by the statistics of the shown scenes, then
compared by cosine.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command


@dataclass
class TrainingReportArguments:
    """The training to report on, and the scenes to show."""

    run: Path = field(metadata={"help": "folder of a run of train.train_moco"})
    shots: Path = field(metadata={"help": "folder of the shots dataset"})
    pairs: Path = field(metadata={"help": "folder of the scene_pairs dataset that was trained on"})
    output: Path = field(metadata={"help": "the page, an HTML file"})
    mil: Path | None = field(default=None, metadata={"help": "folder of the run of train.train_mil"})
    before: str | None = field(
        default=None, metadata={"help": "the encoder that training began with; by default the one its recipe names"}
    )
    films: Path | None = field(
        default=None, metadata={"help": "text file with the ids of films whose scenes are shown; by default all films"}
    )
    world: Path | None = field(default=None, metadata={"help": "folder of the film world, if the films are of one"})
    measured: list[Path] = field(
        default_factory=list,
        metadata={"help": "result files of eval.scene_retrieval; each is a row that is named after its file"},
    )
    seconds: Path | None = field(
        default=None, metadata={"help": "CSV file of what each command took: seconds and command, a line each"}
    )
    num_scenes: int = field(default=240, metadata={"help": "number of scenes on the maps, at most"})
    seed: int = field(default=0, metadata={"help": "seed of the draw of scenes and pairs that are shown"})

    def __post_init__(self) -> None:
        """Raises: ValueError: too few scenes."""
        if self.num_scenes < 20:
            raise ValueError(f"num_scenes={self.num_scenes} must be at least 20")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.training_report", TrainingReportArguments, run, argv)


def run(arguments: TrainingReportArguments) -> None:
    from eval.reports.training_page import write_training_report

    write_training_report(arguments)


if __name__ == "__main__":
    main()
