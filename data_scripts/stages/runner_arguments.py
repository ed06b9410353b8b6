"""The flags of stages whose work on films is distributed."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class RunnerArguments:
    """How a stage's work on films is distributed."""

    runner: Literal["local", "ray"] = field(
        default="local", metadata={"help": "what runs the work: processes of this machine, or Ray"}
    )
    workers: int = field(
        default=0, metadata={"help": "number of films at a time; 0: one for each CPU of the machine or cluster"}
    )
    job: str | None = field(
        default=None, metadata={"help": "i/N: only every N-th film from film i on, i from 0; for job arrays"}
    )

    def __post_init__(self):
        if self.workers < 0:
            raise ValueError(f"workers={self.workers} must be at least 1, or 0 for one a CPU")
        _ = self.job_of

    @property
    def job_of(self) -> tuple[int, int] | None:
        """(i, N) of the job; None for all films.

        Raises:
            ValueError: `job` is not i/N with i from 0 to N-1.
        """
        if self.job is None:
            return None
        index, slash, number = self.job.partition("/")
        if not (slash and index.isdecimal() and number.isdecimal() and int(index) < int(number)):
            raise ValueError(f"job={self.job!r} is not i/N with i from 0 to N-1, as in 0/4, 1/4, 2/4, 3/4")
        return int(index), int(number)
