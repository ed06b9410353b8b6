"""Subtract the mean from a student's output before the projection, in closed form, without changing embeddings.

Scenes are compared by `pooler_output`, and most of it is the same for every image. The bias of the last layer norm can
subtract its mean, if the projection then adds the mean's part of the embedding. The projection has no bias, so one
channel is made constant to carry this part. No information is lost: the layer norm's channels sum to zero, so each
channel follows from the others.

Shapes: D width, P width of the embedding.
"""

import torch
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

CONSTANT_SHARE = 0.01  # squared constant as a share of the mean squared length of outputs minus their mean


@torch.no_grad()
def center_pooled(student: CLIPVisionModelWithProjection, pooled_ND: Tensor) -> None:
    """Change the last layer norm and the projection so that outputs have mean 0, except for one constant channel.

    Args:
        pooled_ND: `pooler_output` of at least two different images, to compute the mean from.
    """
    norm, projection = student.vision_model.post_layernorm, student.visual_projection
    gain_D, bias_D, weight_PD = (tensor.double() for tensor in (norm.weight, norm.bias, projection.weight))
    mean_D, variance_D = (pooled_ND.to(gain_D).mean(0), pooled_ND.to(gain_D).var(0, correction=0))
    carrier = int(variance_D.argmin())
    others = torch.arange(len(gain_D)) != carrier
    # The normalized channels n sum to zero, so weight * gain * n of the carrier can be spread over all others.
    spread_PD = weight_PD.clone()
    spread_PD[:, others] -= weight_PD[:, [carrier]] * gain_D[carrier] / gain_D[others]
    centered_D = bias_D - mean_D
    constant = (CONSTANT_SHARE * variance_D.sum()).sqrt()
    centered_D[carrier] = constant
    missing_P = weight_PD @ bias_D - spread_PD[:, others] @ centered_D[others]
    spread_PD[:, carrier] = missing_P / constant
    gain_D[carrier] = 0.0
    for target, value in ((norm.weight, gain_D), (norm.bias, centered_D), (projection.weight, spread_PD)):
        target.copy_(value)
