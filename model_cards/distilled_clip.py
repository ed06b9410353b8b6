"""Write the card of a distilled CLIP from the records of its training and evaluation.

    python -m model_cards.distilled_clip model_cards/m2s-clip-tiny

The command reads three files in that folder: `run.json` (the `results.json` of `train.distill_clip`), `evaluation.json`
(from `eval.image_encoders`) and `trials.json` (short runs with other losses, from their logs). It writes `README.md`
there. No measured number on the card is typed by hand.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from m2s.commands import run_command

TEMPLATES = Path(__file__).parent / "templates"


INPUTS = ("run", "evaluation", "trials")


@dataclass
class DistilledCardArguments:
    """The folder of the card."""

    folder: Path = field(metadata={"help": "folder with run.json, evaluation.json and trials.json"})


def render(run: dict[str, Any], evaluation: dict[str, Any], trials: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    counts = {source["name"]: source["images"] for source in run["sources"]}
    of_the_film = sum(count for name, count in counts.items() if name.startswith("big_buck_bunny"))
    template = environment.get_template("distilled_clip.md")
    total = sum(counts.values())
    return template.render(
        run=run, evaluation=evaluation, trials=trials, image_count=total, film_share=of_the_film / total
    )


def main(argv: list[str] | None = None) -> None:
    run_command("python -m model_cards.distilled_clip", DistilledCardArguments, run, argv, unnamed="folder")


def run(arguments: DistilledCardArguments) -> None:
    facts = [json.loads((arguments.folder / f"{name}.json").read_text(encoding="utf-8")) for name in INPUTS]
    (arguments.folder / "README.md").write_text(render(*facts), encoding="utf-8")


if __name__ == "__main__":
    main()
