"""Movie-level similarity: are two films alike, judged by which of their scenes are (paper §3.1, supplement 1.1a)?

A multiple-instance network: every shot of one film is compared with every shot of the other, the comparisons are pooled
to scenes and to the best matches in a neighborhood, and these decide. What it learns on the way is a space of shots in
which similar scenes of similar films are near: `shot_embeddings`, which scene pairs are mined in.

Names of tensors end in their shape: F films, T shots (of the longest film), D features of a shot, H hidden width, W
windows of average pooling (scenes), V windows of max pooling along one film, P pairs of films.

The matrix A of all shot similarities (T×T, the paper's equation 1) is never built. It is linear in the shots of each
film, so its average over a window is the product of the windows' mean shots, exactly; the second linear layer is linear
too, so the means are taken before it. A pair of films of 1,024 shots costs 4·T·D·H + 4·W·H² + 2·W²·H = 1.2 GFLOP
forward, where building A costs 4·T·D·H + 4·T·H² + 2·T²·H = 3.2; and a film that is in several pairs is encoded once.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_m2s import M2SMovieSimilarityConfig


@dataclass
class M2SMovieSimilarityOutput(ModelOutput):
    """
    `loss`, mean cross-entropy, with labels; `logits` (P, 2), of different and of similar; `pooled_similarities` (P, V²)
    is the paper's V; `scene_similarities` (P, W, W) its B, mean similarities of the shots of two scenes.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    pooled_similarities: torch.Tensor | None = None
    scene_similarities: torch.Tensor | None = None


class M2SMovieSimilarityModel(PreTrainedModel):
    """
    The paper's movie-similarity network on features of shots (E_fixed's, as they are: their length matters).

    Args:
        config ([`M2SMovieSimilarityConfig`]): its sizes.
    """

    config: M2SMovieSimilarityConfig
    config_class = M2SMovieSimilarityConfig
    base_model_prefix = "m2s_movie_similarity"
    main_input_name = "features_a"
    input_modalities = ()

    def __init__(self, config: M2SMovieSimilarityConfig):
        super().__init__(config)
        self.shot_projection = nn.Linear(config.feature_dim, config.hidden_dim)
        self.activation = nn.Identity() if config.activation == "none" else ACT2FN[config.activation]
        self.dropout = nn.Dropout(config.dropout)
        self.comparison_projection = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.classifier = nn.Linear(config.num_pooled**2, 2)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # As torch initializes linear layers, whatever their width; the paper is silent. A classifier that starts near
        # zero keeps the large part that all films' similarities have in common from deciding the first steps; and it
        # starts by taking near scenes for a sign of similar films: with signs that vary, the space first has to learn
        # which neighborhoods to draw together and which apart, and for hundreds of steps learns nothing.
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            if module is self.classifier:
                init.uniform_(module.weight, 0, 0.1 * bound)
                init.copy_(module.weight, module.weight * module.weight.new_tensor([[-1.0], [1.0]]))
            else:
                init.uniform_(module.weight, -bound, bound)
            init.zeros_(module.bias)

    def shot_embeddings(self, features: torch.Tensor) -> torch.Tensor:
        """The space of shots (…, H) that scene pairs are mined in: after the first layer and its activation.

        The paper mines in E_learnable "before the last fully-connected layer" (supplement 1.1b); that the activation
        counts in and dropout does not is ours.
        """
        return self.activation(self.shot_projection(features))

    def encode_films(self, features_FTD: torch.Tensor, shot_mask_FT: torch.Tensor | None = None) -> torch.Tensor:
        """Scenes of films, ready to be compared: means over windows of E_learnable of their shots.

        Args:
            features_FTD: features of shots, of any floating type; films padded to the longest.
            shot_mask_FT: True where a shot is real. By default where its features are not all zero: padding, and shots
                without a keyframe. Others count as zeros, as the paper's padding does, after the encoder.

        Returns:
            (F, W, H) with the W windows that begin in the longest film; all others are zero.

        Raises:
            ValueError: films longer than `config.max_shots`.
        """
        if features_FTD.shape[1] > self.config.max_shots:
            raise ValueError(
                f"a film of {features_FTD.shape[1]} shots: the network reads {self.config.max_shots}; cut it first"
            )
        if shot_mask_FT is None:
            shot_mask_FT = features_FTD.any(-1)
        hidden_FTH = self.dropout(self.shot_embeddings(features_FTD.to(self.shot_projection.weight.dtype)))
        mask_FT1 = shot_mask_FT[..., None].to(hidden_FTH.dtype)
        weight, bias = self.comparison_projection.weight, self.comparison_projection.bias
        # The share of real shots in a window weighs the bias.
        return F.linear(self._window_means(hidden_FTH * mask_FT1), weight) + self._window_means(mask_FT1) * bias

    def _window_means(self, values_FTC: torch.Tensor) -> torch.Tensor:
        """`avg_pool1d` along shots, (F, W, C), by way of the blocks that windows share: a ten times faster gradient."""
        kernel, stride = self.config.average_kernel, self.config.average_stride
        extent = _extent(values_FTC.shape[1], kernel, stride, self.config.num_windows)
        block = math.gcd(kernel, stride)
        if missing := extent - values_FTC.shape[1]:  # else it would copy them all, half of the time
            values_FTC = F.pad(values_FTC, (0, 0, 0, missing))
        blocks_FBC = values_FTC.unflatten(1, (-1, block)).sum(2)
        last = (extent - kernel) // block + 1
        return sum(blocks_FBC[:, b : b + last : stride // block] for b in range(kernel // block)) / kernel

    def compare(self, windows_a_PWH: torch.Tensor, windows_b_PWH: torch.Tensor) -> M2SMovieSimilarityOutput:
        """Logits of pairs of films that `encode_films` encoded; both may have fewer windows than the network sees."""
        kernel, stride, num_pooled = self.config.max_kernel, self.config.max_stride, self.config.num_pooled
        scenes_PWW = windows_a_PWH @ windows_b_PWH.mT
        missing = [_extent(size, kernel, stride, num_pooled) - size for size in scenes_PWW.shape[:0:-1]]
        padded_PWW = F.pad(scenes_PWW, (0, missing[0], 0, missing[1]))
        best_PVV = F.max_pool2d(padded_PWW, kernel, stride)
        # Neighborhoods beyond the films hold zeros only.
        rest = [num_pooled - size for size in best_PVV.shape[:0:-1]]
        pooled = F.pad(best_PVV, (0, rest[0], 0, rest[1])).flatten(1)
        return M2SMovieSimilarityOutput(None, self.classifier(pooled), pooled, scenes_PWW)

    @can_return_tuple
    def forward(
        self,
        features_a: torch.Tensor,
        features_b: torch.Tensor,
        shot_mask_a: torch.Tensor | None = None,
        shot_mask_b: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> M2SMovieSimilarityOutput:
        r"""
        Args:
            features_a, features_b (`torch.Tensor` of shape `(pairs, shots, feature_dim)`):
                Features of the shots of the first and of the second film of each pair, each padded to its longest.
            shot_mask_a, shot_mask_b (`torch.Tensor` of shape `(pairs, shots)`, *optional*):
                True where a shot is real; by default where its features are not all zero.
            labels (`torch.Tensor` of shape `(pairs,)`, *optional*):
                1 for similar films, 0 for others.
        """
        outputs = self.compare(self.encode_films(features_a, shot_mask_a), self.encode_films(features_b, shot_mask_b))
        if labels is not None:
            outputs.loss = F.cross_entropy(outputs["logits"], labels)
        # All windows of the network, whatever the films' lengths.
        scenes_PWW = outputs["scene_similarities"]
        missing = [self.config.num_windows - size for size in scenes_PWW.shape[:0:-1]]
        outputs.scene_similarities = F.pad(scenes_PWW, (0, missing[0], 0, missing[1]))
        return outputs


def _extent(length: int, kernel: int, stride: int, most: int) -> int:
    """What the pooling windows that begin before `length`, at most `most` of them, cover."""
    return (min(most, -(-length // stride)) - 1) * stride + kernel


__all__ = ["M2SMovieSimilarityModel", "M2SMovieSimilarityOutput"]
