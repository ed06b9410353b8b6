"""A page of encoders' results on the paper's tasks, beside trivial baselines and the paper's own numbers.

    python -m eval.report --results results/lvu-m2s.json results/lvu-clip.json --output report.html
    … --markdown report.md                                        the same tables as Markdown
    … --shots catalog/shots --embeddings runs/lvu-m2s             pictures of scenes: retrieval, predictions
    … --pictures scene15                                          pictures of tasks on photographs

Results are files of `eval.probe`, for any encoders and task groups. The first file of a group comes first wherever two
encoders are shown side by side, so give ours first and the baseline second. The page is one self-contained HTML file
without scripts. The paper's numbers are below the measured ones, in rows marked as printed in the paper.

In a group with one table per task, the paper's rows are under the task with the group's name.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command


@dataclass
class ReportArguments:
    """The results to show, the page's path, and the sources of pictures."""

    results: list[Path] = field(metadata={"help": "result files of eval.probe, of any encoders and tasks; ours first"})
    output: Path = field(metadata={"help": "the page, an HTML file"})
    markdown: Path | None = field(default=None, metadata={"help": "file for the same tables as Markdown"})
    shots: list[Path] = field(
        default_factory=list, metadata={"help": "folders of shots datasets, for pictures of scenes"}
    )
    embeddings: list[Path] = field(
        default_factory=list,
        metadata={"help": "folders of the scene_embeddings that were measured: they tell which shots a scene has"},
    )
    pictures: Path | None = field(default=None, metadata={"help": "folder of photographs that scenes are named after"})
    seed: int = field(default=0, metadata={"help": "seed of the draw of scenes and films that are shown"})

    def __post_init__(self) -> None:
        """Raises: ValueError: embeddings without shots."""
        if self.embeddings and not self.shots:
            raise ValueError("--embeddings tells where scenes are; their pictures are in shots: give --shots as well")


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.report", ReportArguments, run, argv)


def run(arguments: ReportArguments) -> None:
    from eval.reports.page import write_report

    write_report(arguments)


if __name__ == "__main__":
    main()
