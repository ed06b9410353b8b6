"""`evaluate` module: mean average precision of scenes that may have several labels."""

import datasets
import evaluate
import numpy as np

from .classification import average_precisions, mean_average_precision

DESCRIPTION = "Mean of average precision over the classes that some scene has; equal scores count as in scikit-learn."
INPUTS = """
Args:
    predictions: scores of all classes for each scene; higher is more likely.
    references: 1 for each class that the scene has, 0 for the others.
Returns:
    mean_average_precision; average_precision, a list by class, None for a class that no scene has; chance, the mean
    share of scenes that have a class, which random scores reach.
"""
CITATION = """@article{scikit-learn,
  title={Scikit-learn: Machine Learning in Python},
  author={Pedregosa, F. and others},
  journal={Journal of Machine Learning Research},
  volume={12},
  year={2011}
}"""


class MeanAveragePrecision(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions, references):
        labels_NC = np.asarray(references)
        found_C = average_precisions(np.asarray(predictions), labels_NC)
        share_C = np.where(np.isnan(found_C), np.nan, labels_NC.mean(0))
        return {
            "mean_average_precision": mean_average_precision(found_C),
            "average_precision": [None if np.isnan(each) else float(each) for each in found_C],
            "chance": mean_average_precision(share_C),
        }
