"""The flags of stages whose work on films is distributed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

Value = TypeVar("Value")


@dataclass(kw_only=True)
class RunnerArguments:
    """How a stage's work on films is distributed."""

    runner: Literal["local", "ray"] = field(
        default="local", metadata={"help": "what runs the work: processes of this machine, or Ray"}
    )
    workers: int = field(
        default=0, metadata={"help": "number of films at a time; 0: one for each CPU of the machine or cluster"}
    )
    shard: str | None = field(
        default=None, metadata={"help": "i/N: only every N-th film from film i on, i from 0; for job arrays"}
    )

    def __post_init__(self):
        if self.workers < 0:
            raise ValueError(f"workers={self.workers} must be at least 1, or 0 for one a CPU")
        _ = self.shard_of

    @property
    def shard_of(self) -> tuple[int, int] | None:
        """(i, N) of the shard; None for all films.

        Raises:
            ValueError: `shard` is not i/N with i from 0 to N-1.
        """
        if self.shard is None:
            return None
        index, slash, number = self.shard.partition("/")
        if not (slash and index.isdecimal() and number.isdecimal() and int(index) < int(number)):
            raise ValueError(f"shard={self.shard!r} is not i/N with i from 0 to N-1, as in 0/4, 1/4, 2/4, 3/4")
        return int(index), int(number)

    def films_of_shard(self, films: Mapping[str, Value]) -> dict[str, Value]:
        """The films that this run does, in the order of their ids."""
        first, step = self.shard_of or (0, 1)
        return dict(sorted(films.items())[first::step])
