"""Write the card of a model or a dataset from the records of the commands that made and measured it.

    python -m model_cards.generate runs/moco                    README.md in runs/moco/model
    python -m model_cards.generate catalog/shot_features        README.md beside the dataset's m2s.json
    python -m model_cards.generate runs/moco --repo-id USER/scenes --license apache-2.0

Trainings write the card themselves, and `eval.probe --card` adds results. No number is typed by hand; a line without a
record is left out. A card that was written by hand is never replaced.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command


@dataclass
class GenerateArguments:
    """The folder, and the facts that are in no record."""

    folder: Path = field(metadata={"help": "a model, a training's output, a dataset, or datasets side by side"})
    repo_id: str | None = field(default=None, metadata={"help": "USER/NAME on the Hub, for the code on the card"})
    license: str | None = field(
        default=None, metadata={"help": "SPDX id of the license; by default as the card that is there names it"}
    )


def main(argv: list[str] | None = None) -> None:
    run_command("python -m model_cards.generate", GenerateArguments, generate, argv, unnamed="folder")


def generate(arguments: GenerateArguments) -> None:
    """Write the card and print its path.

    Raises:
        CardError: neither a model nor a dataset; a record cannot be read; the card was written by hand.
        PushError: `repo_id` is not the name of a repository.
    """
    from modeling_m2s.cards_m2s import CardError, write_card
    from modeling_m2s.dataset_cards_m2s import stages_in, write_dataset_card
    from modeling_m2s.push_m2s import require_repo_id

    if arguments.repo_id:
        require_repo_id(arguments.repo_id)
    folder = arguments.folder
    models = [each for each in (folder, folder / "model") if (each / "config.json").is_file()]
    if models:
        print(write_card(models[0], arguments.repo_id, arguments.license))
    elif stages_in(folder):
        print(write_dataset_card(folder, arguments.repo_id, arguments.license))
    else:
        raise CardError(f"{folder}: neither a model (config.json) nor a dataset of a stage (m2s.json)")


if __name__ == "__main__":
    main()
