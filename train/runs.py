"""The folder of a training run: what it was asked for, its log, its checkpoints.

RUN/
  recipe.json                 every argument; another recipe is refused here
  log.jsonl                   one line a logged step
  checkpoints/step-000400/    all that the next step depends on, and state.json to read; the latest only
"""

import contextlib
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from modeling_m2s.storage_m2s import StorageError, atomic_write, exclusive, require_settings, write_json


class RunFolder:
    """Log and checkpoints of one run, written by the main process alone.

    Args:
        folder: made if it does not exist.
        recipe: what the run depends on, as JSON holds it.

    Raises:
        StorageError: the folder holds a run of another recipe, with the fields that differ and both values.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any], accelerator: Accelerator):
        self.folder, self.accelerator = folder, accelerator
        path = folder / "recipe.json"
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise StorageError(f"{path}: not readable ({error}); use another folder") from error
            require_settings(folder, found, json.loads(json.dumps(recipe)))
        elif accelerator.is_main_process:
            write_json(path, recipe)
        accelerator.wait_for_everyone()

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep a second run out of the folder."""
        with exclusive(self.folder) if self.accelerator.is_main_process else contextlib.nullcontext():
            yield

    def log(self, step: int, **values: float) -> None:
        if self.accelerator.is_main_process:
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        path = self.folder / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def save(self, step: int, **state: Any) -> None:
        """A checkpoint of everything the accelerator prepared; older ones go when it is complete."""
        final = self._checkpoint(step)
        aside = final.with_name(final.name + ".tmp")
        if self.accelerator.is_main_process:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(aside))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            write_json(aside / "state.json", {"step": step, **state})
            aside.rename(final)
            for other in final.parent.iterdir():
                if other != final:
                    shutil.rmtree(other)
        self.accelerator.wait_for_everyone()

    def has_checkpoint(self) -> bool:
        return bool(self._checkpoints())

    def restore(self) -> dict[str, Any]:
        """Load the latest checkpoint; returns its state, `{"step": 0}` without one. The log is cut back to it."""
        checkpoints = self._checkpoints()
        state: dict[str, Any] = {"step": 0}
        if checkpoints:
            self.accelerator.load_state(str(checkpoints[-1]))
            state = json.loads((checkpoints[-1] / "state.json").read_text(encoding="utf-8"))
        if self.accelerator.is_main_process:
            kept = [json.dumps(line) + "\n" for line in self.read_log() if line["step"] <= state["step"]]
            with atomic_write(self.folder / "log.jsonl") as file:
                file.write("".join(kept).encode())
        self.accelerator.wait_for_everyone()
        return state

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoints/step-*[0-9]"))

    def _checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:08d}"


def made_with(accelerator: Accelerator) -> dict[str, Any]:
    """What a run ran on, for its results."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "accelerate")}
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else platform.machine()
    return {"device": device, "processes": accelerator.num_processes, "threads": torch.get_num_threads(), **versions}
