"""Losses of a student against its teacher, on embeddings and on tokens.

Half of the squared length of CLIP's embeddings lies along their mean, so the mean alone already has a high cosine.
Whitening subtracts the teacher's mean from both sides and scales its principal axes to about the same deviation.

Shapes: B images, D dimensions of the embedding, K dimensions of the teacher's space, L layers, T tokens, d width of the
student.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from data_scripts.mining.whitening import Moments, Whitening


class TeacherSpace(NamedTuple):
    """The space in which similarities are computed: embeddings minus a mean, on scaled axes."""

    mean_D: Tensor
    axes_DK: Tensor

    @classmethod
    def fit(cls, embeds_ND: Tensor, shrinkage: float) -> "TeacherSpace":
        """The space of the teacher's embeddings (N, D).

        Args:
            shrinkage: share of the mean variance that is added to the variance of each axis; with a larger share, more
                axes keep their weight in the teacher's space.
        """
        moments = Moments(embeds_ND.shape[1])
        moments.add(embeds_ND)
        whitening = Whitening.fit(moments, shrinkage=shrinkage)
        return cls(torch.from_numpy(whitening.mean_D).float(), torch.from_numpy(whitening.axes_DK).float())

    def to(self, device: torch.device) -> "TeacherSpace":
        return TeacherSpace(self.mean_D.to(device), self.axes_DK.to(device))

    def units(self, embeds_BD: Tensor) -> Tensor:
        """Embeddings of length 1 in this space, (B, K)."""
        return F.normalize((embeds_BD - self.mean_D) @ self.axes_DK, dim=-1)


def embedding_losses(
    student_BD: Tensor, teacher_BD: Tensor, space: TeacherSpace, temperature: float
) -> dict[str, Tensor]:
    """Distances of embeddings from the teacher's.

    Args:
        temperature: divides similarities before the softmax.

    Returns:
        `cosine`: mean of 1 - cos(student, teacher).
        `norm`: mean squared relative error of the length.
        `whitened`: mean of 1 - cosine in the teacher's space.
        `relation`: see `relation_loss`, in the teacher's space.
    """
    cosine = 1 - F.cosine_similarity(student_BD, teacher_BD).mean()
    norm = (student_BD.norm(dim=-1) / teacher_BD.norm(dim=-1) - 1).square().mean()
    student_BK, teacher_BK = space.units(student_BD), space.units(teacher_BD)
    return {
        "cosine": cosine,
        "norm": norm,
        "whitened": 1 - (student_BK * teacher_BK).sum(-1).mean(),
        "relation": relation_loss(student_BK, teacher_BK, temperature),
    }


def relation_loss(student_BD: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """Mean Kullback-Leibler divergence from the teacher of each item's similarities to the other items of the batch.

    Similarities are inner products of unit vectors, divided by `temperature` and passed through a softmax. The loss is
    0 for a batch of one.
    """
    others_BB = ~torch.eye(len(student_BD), dtype=torch.bool, device=student_BD.device)
    logs = [
        ((unit_BD @ unit_BD.mT)[others_BB].view(len(unit_BD), -1) / temperature).log_softmax(-1)
        for unit_BD in (student_BD, teacher_BK)
    ]
    return F.kl_div(*logs, reduction="batchmean", log_target=True)


def token_loss(student_BLTd: Tensor, teacher_BLTd: Tensor, scale_L2d: Tensor) -> Tensor:
    """Mean squared error of tokens after a plain layer norm, in standard deviations of each channel.

    The class token weighs as much as all patches together. The last layer's patches do not count, because they are
    never read.
    """
    width = (student_BLTd.shape[-1],)
    errors = F.layer_norm(student_BLTd, width) - F.layer_norm(teacher_BLTd, width)
    of_class = (errors[:, :, 0] * scale_L2d[:, 0]).square().mean()
    of_patches = (errors[:, :-1, 1:] * scale_L2d[:-1, None, 1]).square()
    return of_class + (of_patches.mean() if of_patches.numel() else 0.0)
