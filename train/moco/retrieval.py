"""Retrieval on a small labeled set while contrast trains: has the nearest scene of another film the same label?"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_scripts.readers.scene_frames import SceneFrames
from data_scripts.scene_embedding import Scene, embed_scenes, evenly_spaced
from eval.metrics.retrieval import precision_at_k
from modeling_m2s import M2SSceneModel

COLUMNS = ("movie_id", "first_shot", "num_shots", "label")


@dataclass
class LabeledScenes:
    """Scenes with a label each, for measuring only."""

    frames: SceneFrames
    scenes: list[Scene]
    labels: list[str]

    @classmethod
    def read(cls, path: Path, frames: SceneFrames) -> "LabeledScenes":
        """From a CSV with the columns movie_id, first_shot, num_shots and label.

        Raises:
            ValueError: columns are missing, a number is none, a scene ends after its film, or all are of one film.
        """
        scenes, labels = [], []
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := set(COLUMNS) - set(reader.fieldnames or ()):
                raise ValueError(f"{path}: columns are missing: {', '.join(sorted(missing))}")
            for line, row in enumerate(reader, 2):
                try:
                    first, length = int(row["first_shot"]), int(row["num_shots"])
                except (TypeError, ValueError):
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
        return cls(frames, scenes, labels)

    @property
    def movie_ids(self) -> set[str]:
        return {scene.movie_id for scene in self.scenes}

    def measure(self, encoder: M2SSceneModel, bf16: bool = False) -> dict[str, float]:
        """Precision at 1 and 5 by cosine, among scenes of other films."""
        embeddings_ND = embed_scenes(encoder, self.frames, self.scenes, bf16)
        films = np.array([scene.movie_id for scene in self.scenes])
        found = precision_at_k(embeddings_ND, np.array(self.labels), films, (1, 5))
        return {f"precision_at_{k}": round(float(hits.mean()), 4) for k, hits in found.items()}
