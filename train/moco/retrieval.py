"""Retrieval on a small labeled set during training: does the nearest scene of another film have the same label?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_scripts.features.scene_embedding import Scene, embed_scenes
from data_scripts.readers.scene_frames import SceneFrames
from data_scripts.stages.text_files import read_table
from eval.metrics.intervals import mean_interval
from eval.metrics.retrieval import chance, precision_at_k
from modeling_m2s import M2SSceneModel
from modeling_m2s.pipeline_m2s import evenly_spaced

COLUMNS = ("movie_id", "first_shot", "num_shots", "label")


@dataclass
class LabeledScenes:
    """Scenes with one label each, for measuring only.

    Attributes:
        num_workers: processes that decode their frames, as in `decoded`.
    """

    frames: SceneFrames
    scenes: list[Scene]
    labels: list[str]
    num_workers: int | None = None

    @classmethod
    def read(cls, path: Path, frames: SceneFrames, num_workers: int | None = None) -> "LabeledScenes":
        """Read a CSV file with the columns movie_id, first_shot, num_shots and label.

        Raises:
            MetadataError: the file is no such table.
            ValueError: a number is not whole, a scene ends after its film, or all scenes are from one film.
        """
        scenes, labels = [], []
        for line, row in read_table(path, COLUMNS):
            try:
                first, length = int(row["first_shot"]), int(row["num_shots"])
            except ValueError:
                raise ValueError(f"{path}, line {line}: first_shot and num_shots must be whole numbers") from None
            there = frames.num_shots.get(row["movie_id"], 0)
            if not 0 <= first < first + length <= there:
                raise ValueError(
                    f"{path}, line {line}: shots {first} to {first + length - 1} of film {row['movie_id']}, which "
                    f"has {there} shots"
                )
            scenes.append(Scene(row["movie_id"], evenly_spaced(first, length)))
            labels.append(row["label"])
        if len({scene.movie_id for scene in scenes}) < 2:
            raise ValueError(f"{path}: retrieval needs labeled scenes of at least two films")
        return cls(frames, scenes, labels, num_workers)

    @property
    def movie_ids(self) -> set[str]:
        return {scene.movie_id for scene in self.scenes}

    def measure(self, encoder: M2SSceneModel, bf16: bool = False) -> dict[str, float]:
        """Mean precision at 1 and 5, by cosine, among scenes of other films."""
        return {name: round(float(hits_N.mean()), 4) for name, hits_N in self.hits(encoder, bf16).items()}

    def hits(self, encoder: M2SSceneModel, bf16: bool = False) -> dict[str, np.ndarray]:
        """Precision at 1 and 5 of each scene, (scenes,)."""
        embeddings_ND = embed_scenes(encoder, self.frames, self.scenes, bf16, num_workers=self.num_workers)
        found = precision_at_k(embeddings_ND, np.array(self.labels), self.films_N(), (1, 5))
        return {f"precision_at_{k}": hits_N for k, hits_N in found.items()}

    def films_N(self) -> np.ndarray:
        """The film of each scene."""
        return np.array([scene.movie_id for scene in self.scenes])

    def evaluation(self, encoder: M2SSceneModel, bf16: bool = False) -> dict[str, Any]:
        """The figures for the card, in the form of `eval.probe`, with intervals by film and chance."""
        films_N = self.films_N()
        figures = {}
        for name, hits_N in self.hits(encoder, bf16).items():
            ends = mean_interval(hits_N, films_N)
            interval = None if np.isnan(ends).any() else [round(end, 4) for end in ends]
            figures[name] = {"mean": round(float(hits_N.mean()), 4), "interval": interval}
        guessed = round(float(chance(self.labels, films_N).mean()), 4)
        return {
            "figure": "precision_at_1",
            "scenes": {"test": len(self.scenes)},
            "films": len(self.movie_ids),
            "chosen_on": True,  # these scenes chose the weights: the best ones are kept
            "probes": {"nearest scenes of other films": {"figures": figures}},
            "trivial": {"chance": dict.fromkeys(figures, guessed)},
        }
