"""`evaluate` module: scene boundaries of films, as MovieNet's benchmark measures them."""

import datasets
import evaluate
import numpy as np

from .boundaries import ScoredFilm, boundary_metrics

DESCRIPTION = "AP, F1, recall, recall within three seconds and mIoU of scene boundaries, as LGSS computes them."
INPUTS = """
Args:
    predictions: for each film, how likely a scene ends with each of its shots, in order.
    references: for each film, 1 for each shot that ends a scene, 0 for the others.
    end_frames: for each film, the number of each shot's last frame.
    threshold: score above which a boundary is predicted.
Returns:
    ap and f1 over the shots of all films; ap_per_film, ap_per_film_rounded (each AP to two decimals, as LGSS does),
    f1_per_film, recall_per_film, recall_at_3_seconds and miou, means over films; chance, a random score's AP.
"""
CITATION = """@inproceedings{rao2020local,
  title={A Local-to-Global Approach to Multi-modal Movie Scene Segmentation},
  author={Rao, Anyi and Xu, Linning and Xiong, Yu and Xu, Guodong and Huang, Qingqiu and Zhou, Bolei and Lin, Dahua},
  booktitle={CVPR},
  year={2020}
}"""


class BoundaryDetection(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("int64")),
                    "end_frames": datasets.List(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions, references, end_frames, threshold=0.5):
        films = [
            ScoredFilm(np.asarray(scores, float), np.asarray(labels, int), np.asarray(ends, int))
            for scores, labels, ends in zip(predictions, references, end_frames, strict=True)
        ]
        return boundary_metrics(films, threshold)
