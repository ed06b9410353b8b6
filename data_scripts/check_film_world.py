"""Is a film world a fair benchmark? Measures what can be seen in it without learning anything from films.

    python -m data_scripts.check_film_world --world world --output figures.json
    … --photographs FOLDER         a world of photographs, with the folder that it was made of

A good world has three properties. Pictures without any nuisance tell places apart. Colors tell films apart. A frozen
image encoder sees a film's look and the appearance types more than the place: its nearest neighbors in other films show
the same place only slightly more often than random neighbors do.

Training films and test films of a world of photographs share no picture. The probe is therefore fitted on training
films and measured on test films, and neighbors of a scene are searched in the other part. There are no figures on
events, because events have no picture there.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from m2s.commands import run_command


@dataclass
class CheckArguments:
    """Which world is checked, and with which encoder."""

    world: Path = field(metadata={"help": "folder of a world"})
    output: Path | None = field(default=None, metadata={"help": "JSON file for the figures"})
    sheet: Path | None = field(
        default=None, metadata={"help": "picture file: shots of a film of each theme, a row each"}
    )
    photographs: Path | None = field(
        default=None, metadata={"help": "for a world of photographs: the folder that it was made of"}
    )
    model: str | None = field(
        default=None, metadata={"help": "folder or Hub id of an encoder (default: m2s-clip-tiny)"}
    )


def main(argv: list[str] | None = None) -> None:
    run_command("python -m data_scripts.check_film_world", CheckArguments, run, argv)


def run(arguments: CheckArguments) -> None:
    from data_scripts.film_world.checks import check_film_world, contact_sheet, read_world
    from modeling_m2s.storage_m2s import write_json

    figures = check_film_world(arguments.world, arguments.model, arguments.photographs)
    if arguments.output:
        write_json(arguments.output, figures)
    if arguments.sheet:
        settings, films, _ = read_world(arguments.world, arguments.photographs)
        contact_sheet(settings, films, arguments.photographs).save(arguments.sheet, quality=85)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
