"""Movie-level similarity: a network judges by two films' scenes if the films are similar (paper §3.1, supplement 1.1a).

It is a multiple-instance network. It compares every shot of one film with every shot of the other, pools the
similarities to scenes and then to the best match in each neighborhood, and classifies these. On the way it learns a
space of shots in which similar scenes of similar films are near (`shot_embeddings`). Scene pairs are mined in it.

Names of tensors end in their shape: F films, T shots (of the longest film), D features of a shot, H hidden width, W
windows of average pooling (scenes), V windows of max pooling along one film, P pairs of films.

The matrix A of all shot similarities (T×T, the paper's equation 1) is never built. It is linear in the shots of each
film, so its average over a window is exactly the product of the windows' mean shots. The second layer is linear too, so
the means are taken before it. A pair of films of 1,024 shots costs 4·T·D·H + 4·W·H² + 2·W²·H = 1.2 GFLOP forward;
building A would cost 4·T·D·H + 4·T·H² + 2·T²·H = 3.2. A film that is in several pairs is encoded once.
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
    `loss`: mean cross-entropy, if there are labels; `logits` (P, 2): for different and for similar films;
    `pooled_similarities` (P, V²): the paper's V; `scene_similarities` (P, W, W): the paper's B, the mean similarity of
    two scenes' shots.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    pooled_similarities: torch.Tensor | None = None
    scene_similarities: torch.Tensor | None = None


class M2SMovieSimilarityModel(PreTrainedModel):
    """
    The paper's movie-similarity network. It reads shot features of E_fixed, not normalized: their length matters.

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
        # Weights start as torch initializes linear layers, whatever their width; the paper is silent. The classifier
        # starts near zero, so that the large part that all films' similarities share does not decide the first steps.
        # Its weights start positive for "similar" and negative for "different", so that near scenes speak for similar
        # films. With random signs, the space first has to learn which neighborhoods to draw together and which apart,
        # and training stalls for hundreds of steps.
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            if module is self.classifier:
                init.uniform_(module.weight, 0, 0.1 * bound)
                init.copy_(module.weight, module.weight * module.weight.new_tensor([[-1.0], [1.0]]))
            else:
                init.uniform_(module.weight, -bound, bound)
            init.zeros_(module.bias)

    def shot_embeddings(self, features: torch.Tensor) -> torch.Tensor:
        """Embeddings of shots (…, H) in the space of scene-pair mining: outputs of the first layer and its activation.

        The paper mines in E_learnable "before the last fully-connected layer" (supplement 1.1b). Including the
        activation and leaving out dropout is ours.
        """
        return self.activation(self.shot_projection(features))

    def encode_films(self, features_FTD: torch.Tensor, shot_mask_FT: torch.Tensor | None = None) -> torch.Tensor:
        """Encode films for comparison: the means of E_learnable's outputs over windows of shots, i.e. scenes.

        Args:
            features_FTD: features of shots, of any floating type; films padded to the longest.
            shot_mask_FT: True where a shot is real; by default where its features are not all zero (padding and shots
                without a keyframe are all zero). Other shots count as zeros after the encoder, as the paper's padding.

        Returns:
            (F, W, H) for the W windows that begin in the longest film; all later windows are zero.

        Raises:
            ValueError: a film is longer than `config.max_shots`.
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
        """`avg_pool1d` along shots, (F, W, C). Sums of blocks that windows share make the gradient ten times faster."""
        kernel, stride = self.config.average_kernel, self.config.average_stride
        extent = _extent(values_FTC.shape[1], kernel, stride, self.config.num_windows)
        block = math.gcd(kernel, stride)
        if missing := extent - values_FTC.shape[1]:  # F.pad copies even if nothing is missing: half of the time
            values_FTC = F.pad(values_FTC, (0, 0, 0, missing))
        blocks_FBC = values_FTC.unflatten(1, (-1, block)).sum(2)
        last = (extent - kernel) // block + 1
        return sum(blocks_FBC[:, b : b + last : stride // block] for b in range(kernel // block)) / kernel

    def compare(self, windows_a_PWH: torch.Tensor, windows_b_PWH: torch.Tensor) -> M2SMovieSimilarityOutput:
        """Compare pairs of films that `encode_films` encoded; both may have fewer windows than the network reads."""
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
        # The output has all windows of the network, whatever the films' lengths.
        scenes_PWW = outputs["scene_similarities"]
        missing = [self.config.num_windows - size for size in scenes_PWW.shape[:0:-1]]
        outputs.scene_similarities = F.pad(scenes_PWW, (0, missing[0], 0, missing[1]))
        return outputs


def _extent(length: int, kernel: int, stride: int, most: int) -> int:
    """The length that pooling windows cover: those that begin before `length`, at most `most`."""
    return (min(most, -(-length // stride)) - 1) * stride + kernel


__all__ = ["M2SMovieSimilarityModel", "M2SMovieSimilarityOutput"]
