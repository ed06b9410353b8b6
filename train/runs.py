"""The folder of a training run: its recipe, its log, its checkpoints.

RUN/
  recipe.json                 the recipe and the facts of its data; a run with another recipe is refused
  log.jsonl                   one line for each logged step
  checkpoints/step-00000400/  everything that the next step depends on, and a readable state.json; the two latest are
                              kept; with --push-checkpoints the latest is also on the Hub, for --resume
  trackers/                   files of trackers such as TensorBoard, with --log-with
"""

import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, filter_trackers
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from modeling_m2s.pretrained_m2s import computing_format
from modeling_m2s.storage_m2s import StorageError, atomic_write, exclusive, read_json, require_settings, write_json
from modeling_m2s.version import __version__
from train.arguments import RunArguments
from train.hub_checkpoints import fetch_checkpoint, push_checkpoint

CHECKPOINTS = 2  # checkpoints to keep: if the latest is damaged, the run goes on from the other
PROJECT = "movies2scenes"  # the project's name in trackers


class BestWeights:
    """The weights of the best measurement so far. If registered for checkpointing, each checkpoint contains them."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def keep(self, model: nn.Module) -> None:
        self.weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weights

    def load_state_dict(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights


class RunFolder:
    """Log and checkpoints of one run, written by the main process alone.

    Args:
        folder: made if it does not exist.
        recipe: everything that the trained weights depend on, as JSON values.
        log_with: names of trackers (or trackers of your own) that also get the log. If a run goes on from a checkpoint,
            its log is cut back to the checkpoint; trackers keep the later steps and get them again.
        hub: settings for pushing and fetching checkpoints; by default neither is done.
        defaults: values for recipe fields that runs of earlier releases lack.

    Raises:
        StorageError: the folder, or the run to resume, has another recipe (the message names the fields that differ,
            with both values); or the run to resume cannot be downloaded.
        ValueError: a tracker is unknown or not installed.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, Any],
        accelerator: Accelerator,
        log_with: Sequence[str | GeneralTracker] = (),
        hub: RunArguments | None = None,
        defaults: Mapping[str, Any] | None = None,
    ):
        self.folder, self.accelerator, self.hub, self.defaults = folder, accelerator, hub, defaults
        self.recipe = json.loads(json.dumps(recipe))
        accelerator.project_configuration.logging_dir = str(folder / "trackers")
        accelerator.log_with = filter_trackers(list(log_with), accelerator.logging_dir)
        installed = {str(tracker) for tracker in accelerator.log_with}
        if missing := [name for name in log_with if isinstance(name, str) and name not in {*installed, "all"}]:
            raise ValueError(f"log_with names {missing[0]}, which is not installed: pip install {missing[0]}")
        path = folder / "recipe.json"
        if path.exists():
            self._require_same_recipe(path, folder)
        if accelerator.is_main_process:
            if hub and hub.resume and not self._checkpoints():
                with exclusive(folder):
                    print(fetch_checkpoint(hub.resume, folder, self._require_same_recipe))
            if not path.exists():
                write_json(path, recipe)
        accelerator.wait_for_everyone()

    def _require_same_recipe(self, path: Path, run: Path) -> None:
        """Raises: StorageError: the recipe of `run`, in the file `path`, differs from this one."""
        require_settings(run, dict(_flat(read_json(path))), dict(_flat(self.recipe)), self.defaults)

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder against a second run, and keep trackers open."""
        with exclusive(self.folder) if self.is_main else contextlib.nullcontext():
            if self.accelerator.log_with:
                simple = {
                    name: value if isinstance(value, int | float | str) else json.dumps(value)
                    for name, value in _flat(self.recipe)
                }
                names = {tracker: {"name": self.folder.resolve().name} for tracker in ("trackio", "wandb")}
                self.accelerator.init_trackers(PROJECT, simple, names)
            try:
                yield
            finally:
                for tracker in self.accelerator.trackers:
                    tracker.finish()
                self.accelerator.trackers = []

    def log(self, step: int, **values: float) -> None:
        """Add a line to the log, and send it to the trackers."""
        if self.is_main:
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            self.accelerator.log(values, step)

    def read_log(self) -> list[dict[str, Any]]:
        path = self.folder / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def curve(self, name: str) -> list[tuple[int, float]]:
        """(step, value) for all lines of the log that have this value."""
        return [(line["step"], line[name]) for line in self.read_log() if name in line]

    def save(self, step: int, **state: Any) -> None:
        """Save a checkpoint of everything that the accelerator prepared; it gets its final name once all is on disk.

        Raises:
            ValueError: a weight is infinite or NaN; the message names it. No checkpoint is written, and older ones are
                kept.
        """
        final = self.folder / "checkpoints" / f"step-{step:08d}"
        aside = final.with_name(final.name + ".tmp")
        if self.is_main:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        hook = self.accelerator.register_save_state_pre_hook(functools.partial(_require_finite, step))
        try:
            self.accelerator.save_state(str(aside))
        finally:
            hook.remove()
        self.accelerator.wait_for_everyone()
        if self.is_main:
            files = {path.name: path.stat().st_size for path in sorted(aside.iterdir())}
            facts = {"processes": self.accelerator.num_processes, "files": files}
            write_json(aside / "state.json", {"step": step, **state, **facts})
            for path in (*aside.iterdir(), aside):
                _sync(path)
            shutil.rmtree(final, ignore_errors=True)  # an existing one is damaged, so the run did not go on from it
            aside.rename(final)
            _sync(final.parent)
            kept = [path for path in self._checkpoints() if path <= final][-CHECKPOINTS:]
            for other in {*final.parent.glob("step-*")} - {*kept}:
                shutil.rmtree(other)
            self._share(final)
        self.accelerator.wait_for_everyone()

    def _share(self, checkpoint: Path) -> None:
        """With --push-checkpoints, push a checkpoint; if that fails, print the reason and go on."""
        repo_id = self.hub.push_to_hub if self.hub and self.hub.push_checkpoints else None
        if repo_id and (reason := push_checkpoint(checkpoint, repo_id, self.hub.private)):
            self.accelerator.print(f"checkpoint {checkpoint.name} was not pushed, training goes on: {reason}")

    def has_checkpoint(self) -> bool:
        return bool(self._checkpoints())

    def restore(self) -> dict[str, Any]:
        """Load the latest checkpoint and cut the log back to it.

        Returns:
            The arguments of `save`, or `{"step": 0}` without a checkpoint.

        Raises:
            StorageError: there are checkpoints, but none can be loaded.
        """
        state = self._load_latest()
        before, now = state.pop("processes", None), self.accelerator.num_processes
        if before not in (None, now):
            self.accelerator.print(
                f"this run goes on with {now} processes instead of {before}: the same batches in the same order; "
                "sums may differ in the last bits, and dropout draws anew"
            )
        if self.is_main:
            kept = [json.dumps(line) + "\n" for line in self.read_log() if line["step"] <= state["step"]]
            with atomic_write(self.folder / "log.jsonl") as file:
                file.write("".join(kept).encode())
        self.accelerator.wait_for_everyone()
        return state

    def _load_latest(self) -> dict[str, Any]:
        """The state of the latest checkpoint that all processes can load; all load the same one."""
        names = [[path.name for path in self._checkpoints()]]
        broadcast_object_list(names)
        for name in reversed(names[0]):
            state, problem = self._load(self.folder / "checkpoints" / name)
            problem = next(filter(None, gather_object([problem])), None)
            if not problem:
                return state
            self.accelerator.print(f"{self.folder}/checkpoints/{name} cannot be loaded: {problem}")
        if names[0]:
            raise StorageError(f"{self.folder}/checkpoints: none can be loaded ({problem}); remove them to begin anew")
        return {"step": 0}

    def _load(self, checkpoint: Path) -> tuple[dict[str, Any], str | None]:
        """Load a checkpoint; returns its state, and the reason if it cannot be loaded."""
        try:
            state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
            for name, size in state.pop("files", {}).items():  # accelerate silently skips damaged random states
                if (found := (checkpoint / name).stat().st_size) != size:
                    return {}, f"{name} has {found} bytes instead of {size}"
            self.accelerator.load_state(str(checkpoint))
            return state, None
        except Exception as error:  # a damaged file can fail in any way
            return {}, " ".join(str(error).split()) or type(error).__name__

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoints/step-*[0-9]"))


def _require_finite(step: int, _: list[nn.Module], weights: list[dict[str, torch.Tensor]], __: str) -> None:
    """A hook that runs before `Accelerator.save_state` writes.

    Raises:
        ValueError: a weight has infinite values or NaN; the message names the first.
    """
    for name, value in itertools.chain.from_iterable(each.items() for each in weights):
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"after step {step}, {name} holds infinite values or NaN: training diverged; use a lower "
                "learning_rate, and another folder"
            )


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields of a table, and of the tables in it as `outer.inner`."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _sync(path: Path) -> None:
    """Wait until a file's bytes or a folder's entries are on disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # Windows cannot sync folders
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def mixed_precision(bf16: bool) -> Literal["bf16", "no"]:
    """The precision that an `Accelerator` is to use; bfloat16 only where the device has instructions for it."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return "bf16" if computing_format(bf16, device) == torch.bfloat16 else "no"


def made_with(accelerator: Accelerator) -> dict[str, Any]:
    """Device, processes and versions of a run, for its results."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "accelerate")}
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else platform.machine()
    return {
        "device": device,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "movies2scenes": __version__,
        **versions,
    }


def command_line() -> str:
    """This process's command, for its results. It may name local folders, so keep it out of model cards."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    return shlex.join([*(["python", "-m", module] if module else [sys.argv[0]]), *sys.argv[1:]])
