"""A trained probe and its encoder as one model that reads frames and gives logits.

>>> export_classifier(encoder, image_processor, result.mlp, labeled.classes, labeled.problem, "runs/scene/model")
>>> M2SSceneForClassification.from_pretrained("runs/scene/model")
"""

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from transformers import BaseImageProcessor

from data_scripts.formats.labeled_scenes import Problem
from modeling_m2s import M2SSceneForClassification, M2SSceneModel, M2SSceneProcessor

from .mlp import MLP
from .tasks import ProbeError


def export_classifier(
    encoder: M2SSceneModel,
    image_processor: BaseImageProcessor,
    probe: MLP,
    classes: Sequence[str],
    problem: Problem,
    folder: Path | str,
) -> None:
    """Save an `M2SSceneForClassification` whose logits are the probe's on the encoder's `pooler_output`.

    Its processor is saved with it. The encoder is not changed.

    Args:
        classes: names of the classes; an unnamed one becomes, e.g., `LABEL_2`, by its index. Empty for regression,
            whose single logit is the value.

    Raises:
        ProbeError: the probe's width is not that of the encoder's embeddings, the encoder is an ensemble, the number of
            classes differs, or two classes share a name.
    """
    _check(encoder, probe, classes)
    num_labels = probe.weights[-1].shape[1]
    names = [name or f"LABEL_{number}" for number, name in enumerate(classes or ["LABEL_0"] * num_labels)]
    config = deepcopy(encoder.config)
    config.id2label, config.label2id = dict(enumerate(names)), {name: number for number, name in enumerate(names)}
    config.problem_type = problem
    config.classifier_hidden_size, config.classifier_dropout = probe.weights[0].shape[1], probe.dropout
    model = M2SSceneForClassification(config).to(encoder.dtype)
    model.scene_model.load_state_dict(encoder.state_dict())
    linear = [layer for layer in model.classifier if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for layer, weight, bias in zip(linear, probe.weights, probe.biases, strict=True):
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.copy_(torch.from_numpy(bias))
    model.save_pretrained(folder)
    M2SSceneProcessor(image_processor).save_pretrained(folder)


def _check(encoder: M2SSceneModel, probe: MLP, classes: Sequence[str]) -> None:
    if not isinstance(encoder, M2SSceneModel):
        raise ProbeError(f"{type(encoder).__name__} cannot be exported with a probe; only a single scene encoder can")
    width, num_labels = probe.weights[0].shape[0], probe.weights[-1].shape[1]
    if width != encoder.config.hidden_size:
        raise ProbeError(
            f"the probe reads {width} numbers, the encoder's pooler_output has {encoder.config.hidden_size}; train the "
            "probe on this encoder's pooler_output, one embedding a scene"
        )
    if classes and len(classes) != num_labels:
        raise ProbeError(f"{len(classes)} class names, but the probe has {num_labels} classes")
    twice = [name for name, count in Counter(filter(None, classes)).items() if count > 1]
    if twice:
        raise ProbeError(f"two classes are named {twice[0]!r}; give each a name of its own")
