"""`evaluate` module: precision at k of queries in a gallery."""

import datasets
import evaluate
import numpy as np

from .neighbors import class_means, gallery_chance, gallery_precision_at_k

DESCRIPTION = "Share of the k nearest scenes of a gallery that have the label of the query, by exact search."
INPUTS = """
Args:
    predictions: embeddings of the queries, a list of numbers each.
    references: label of each query, a whole number.
    gallery: embeddings of the scenes to search, (scenes, dimensions).
    gallery_labels: label of each of them.
    k: numbers of neighbors.
    metric: euclidean or cosine.
    query_groups, gallery_groups: optional films; a query does not find scenes of its own film.
Returns:
    precision_at_1 and so on, means over all queries; chance, the precision of a random neighbor; by_class, a dictionary
    of the same means by label.
"""
CITATION = """@article{chen2022movies2scenes,
  title={Movies2Scenes: Learning Scene Representations Using Movie Similarities},
  author={Chen, Shixing and Hao, Xiang and Nie, Xiaohan and Hamid, Raffay},
  journal={arXiv:2202.10650},
  year={2022}
}"""


class PrecisionAtK(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self,
        predictions,
        references,
        gallery,
        gallery_labels,
        k=(1, 5, 10),
        metric="euclidean",
        query_groups=None,
        gallery_groups=None,
    ):
        hits = gallery_precision_at_k(
            np.asarray(predictions, np.float32),
            references,
            np.asarray(gallery, np.float32),
            gallery_labels,
            k,
            metric,
            query_groups,
            gallery_groups,
        )
        return {
            **{f"precision_at_{each}": float(hits_Q.mean()) for each, hits_Q in hits.items()},
            "chance": float(gallery_chance(references, gallery_labels, query_groups, gallery_groups).mean()),
            "by_class": {f"precision_at_{each}": class_means(hits_Q, references) for each, hits_Q in hits.items()},
        }
