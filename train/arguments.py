"""The flags that all trainings have."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class RunArguments:
    """The run's folder, and how often it writes. The trained weights do not depend on these settings."""

    output: Path = field(metadata={"help": "folder of the run; the trained model is in its subfolder model/"})
    checkpoint_steps: int = field(default=200, metadata={"help": "steps from one checkpoint to the next"})
    log_steps: int = field(default=10, metadata={"help": "steps from one line of the log to the next"})
    log_with: list[str] = field(
        default_factory=list,
        metadata={"help": "experiment trackers that get the log as well, such as tensorboard, trackio or wandb"},
    )

    push_to_hub: str | None = field(
        default=None,
        metadata={"help": "USER/NAME: repository of the Hub that the trained model is pushed to, with its card"},
    )
    private: bool = field(default=False, metadata={"help": "with --push-to-hub: make the repository private"})
    push_checkpoints: bool = field(
        default=False,
        metadata={"help": "with --push-to-hub: push each checkpoint to the branch checkpoints as well, for --resume"},
    )
    resume: str | None = field(
        default=None,
        metadata={
            "help": "USER/NAME or USER/NAME@REVISION: go on from the checkpoint that a run of the same recipe pushed; "
            "an output folder with checkpoints goes on from its own"
        },
    )

    def __post_init__(self) -> None:
        """Raises: ValueError: a number of steps below 1, an invalid name of a repository, or no token for it."""
        if self.push_checkpoints and not self.push_to_hub:
            raise ValueError("--push-checkpoints needs --push-to-hub USER/NAME")
        if self.push_to_hub:  # fail now, not after hours of training
            from modeling_m2s.push_m2s import require_repo_id, require_token

            require_repo_id(self.push_to_hub)
            require_token()
        for name in ("checkpoint_steps", "log_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def push(self) -> None:
        """With --push-to-hub, push the results in `output` and print the commit's address.

        Raises:
            PushError: the Hub refuses the push or cannot be reached; `m2s push` can do the same later.
        """
        if self.push_to_hub:
            from modeling_m2s.push_m2s import collect, push

            print(push(collect(self.output, self.push_to_hub), self.push_to_hub, self.private))
