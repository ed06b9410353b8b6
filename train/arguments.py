"""Arguments of a training script: a typed dataclass, filled from a YAML recipe and from flags, which win."""

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser

Arguments = TypeVar("Arguments")


def parse_arguments(kind: type[Arguments], command: str, argv: Sequence[str] | None = None) -> Arguments:
    """`COMMAND [RECIPE.yaml] [--field value …]`; in a recipe, `$NAME` stands for the environment variable.

    Exits with a message where a recipe cannot be read or names a field that does not exist.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(kind, prog=command, usage=f"{command} [RECIPE.yaml] [--field value ...]")
    if argv and argv[0].endswith((".yaml", ".yml")):
        try:
            recipe = yaml.safe_load(Path(argv[0]).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            parser.error(f"{argv[0]}: {error}")
        if not isinstance(recipe, dict):
            parser.error(f"{argv[0]}: a recipe is a table of fields")
        unknown = sorted(set(map(str, recipe)) - {field.name for field in fields(kind)})  # type: ignore[arg-type]
        if unknown:
            parser.error(f"{argv[0]}: no such field: {', '.join(unknown)}")
        argv = [word for name, value in recipe.items() for word in _as_flags(name, value)] + argv[1:]
    arguments, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(f"no such field: {' '.join(unknown)}")
    return arguments


def _as_flags(name: str, value: Any) -> list[str]:
    """A field that a recipe leaves empty keeps its default."""
    if value is None or value == []:
        return []
    values = value if isinstance(value, list) else [value]
    return [f"--{name}", *(os.path.expandvars(str(item)) for item in values)]
