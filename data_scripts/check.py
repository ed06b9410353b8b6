"""Read datasets in full and report their problems.

    python -m data_scripts.check catalog/movies catalog/shots catalog/shot_features

The checks of every dataset cover the record, the schema, the order of rows, the counts, the decoding of images and
unfinished runs. Then come the checks specific to its kind (`CHECKS`), including consistency with sibling datasets under
their usual names (`../shots`, `../films`). Prints one line per problem; the exit status is 1 if there is any.
"""

from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command


@dataclass
class CheckArguments:
    """Which datasets are checked."""

    folders: list[Path] = field(metadata={"help": "folders of datasets, each with an m2s.json"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m data_scripts.check", CheckArguments, run, argv, unnamed="folders")


def run(arguments: CheckArguments) -> int:

    from tqdm import tqdm

    from data_scripts.stages.dataset_checks import check_folder

    problems = 0
    for folder in tqdm(arguments.folders, disable=None):
        found = check_folder(folder)
        problems += len(found)
        tqdm.write("\n".join(found) or f"{folder}: all there")
    return 1 if problems else 0


if __name__ == "__main__":
    main()
