"""Contrast between scenes as functions of tensors (paper §3.2.2, supplement 1.1b; momentum contrast, He et al. 2020).

Shapes: B query scenes of a step over all processes, K entries of the queue, C dimensions of the contrast space.
Embeddings have length 1. Films are identified by numbers.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Contrast(NamedTuple):
    """`loss` (a scalar), `logits` (B, candidates), and `targets` (B,): the index of each query's partner."""

    loss: Tensor
    logits: Tensor
    targets: Tensor


def momentum_contrast(
    query_BC: Tensor, key_BC: Tensor, queue_KC: Tensor, temperature: float, masked_BK: Tensor | None = None
) -> Contrast:
    """InfoNCE of each query with its key against the queue (the paper's objective).

    Args:
        key_BC: embeddings of the queries' partners by the key encoder, without gradient.
        queue_KC: keys of earlier steps, the negatives.
        masked_BK: True for queue entries that must not count as negatives of a query; none by default, as in the paper.
    """
    positive_B1 = (query_BC * key_BC).sum(-1, keepdim=True)
    negative_BK = query_BC @ queue_KC.T
    if masked_BK is not None:
        negative_BK = negative_BK.masked_fill(masked_BK, -torch.inf)
    logits = torch.cat([positive_B1, negative_BK], 1) / temperature
    targets_B = torch.zeros(len(query_BC), dtype=torch.long, device=query_BC.device)
    return Contrast(F.cross_entropy(logits, targets_B), logits, targets_B)


def in_batch_contrast(
    first_BC: Tensor, second_BC: Tensor, temperature: float, masked_BB: Tensor | None = None
) -> Contrast:
    """InfoNCE in both directions among the pairs of a batch, with gradient through both sides (ours, an option).

    Args:
        masked_BB: True if the second scene of pair `column` must not count as a negative of the first scene of pair
            `row`, and the other way round. A pair itself is never masked.

    Returns:
        The mean loss of both directions; `logits` are those of the first scenes.
    """
    logits_BB = first_BC @ second_BC.T / temperature
    targets_B = torch.arange(len(first_BC), device=first_BC.device)
    if masked_BB is not None:
        is_pair_BB = torch.eye(len(first_BC), dtype=torch.bool, device=first_BC.device)
        logits_BB = logits_BB.masked_fill(masked_BB & ~is_pair_BB, -torch.inf)
    loss = (F.cross_entropy(logits_BB, targets_B) + F.cross_entropy(logits_BB.T, targets_B)) / 2
    return Contrast(loss, logits_BB, targets_B)


class FilmSimilarity:
    """The pairs of similar films, to recognize false negatives.

    Args:
        pairs_P2: numbers of similar films; a pair may occur several times and in any order.
        num_films: films are numbered from 0 to `num_films - 1`.
    """

    def __init__(self, pairs_P2: Tensor, num_films: int):
        self.num_films = num_films
        both_ways = torch.cat([pairs_P2, pairs_P2.flip(1)]).long()
        self.codes = torch.unique(both_ways[:, 0] * num_films + both_ways[:, 1])

    def to(self, device: torch.device) -> "FilmSimilarity":
        self.codes = self.codes.to(device)
        return self

    def masked(self, query_B: Tensor, key_K: Tensor, similar: bool) -> Tensor:
        """True (B, K) for keys from the query's own film or, if `similar`, from a film similar to it."""
        own_BK = query_B[:, None] == key_K
        if not similar or not len(self.codes):
            return own_BK
        code_BK = query_B[:, None] * self.num_films + key_K
        place_BK = torch.searchsorted(self.codes, code_BK).clamp(max=len(self.codes) - 1)
        return own_BK | (self.codes[place_BK] == code_BK)


class Queue:
    """The latest K keys with the film and the step of each, outside of the module that DistributedDataParallel wraps.

    Attributes:
        keys_KC: float32; films_K, steps_K: int64; `pointer`: index of the oldest key, which the next one replaces.
    """

    def __init__(self, size: int, dim: int, device: torch.device):
        self.keys_KC = torch.zeros(size, dim, device=device)
        self.films_K = torch.full((size,), -1, device=device)
        self.steps_K = torch.zeros(size, dtype=torch.long, device=device)
        self.pointer = 0

    def push(self, key_BC: Tensor, film_B: Tensor, step: int) -> None:
        """Replace the oldest keys by new ones; if there are more than K, only the last K are kept."""
        size = len(self.keys_KC)
        key_BC, film_B = key_BC[-size:], film_B[-size:]
        places = (self.pointer + torch.arange(len(key_BC), device=key_BC.device)) % size
        self.keys_KC[places], self.films_K[places], self.steps_K[places] = key_BC.detach().float(), film_B, step
        self.pointer = (self.pointer + len(key_BC)) % size

    def by_age(self) -> Tensor:
        """Indices (K,) of the entries, the newest first."""
        return (self.pointer - 1 - torch.arange(len(self.keys_KC), device=self.keys_KC.device)) % len(self.keys_KC)

    def state_dict(self) -> dict[str, Any]:
        tensors = {"keys": self.keys_KC, "films": self.films_K, "steps": self.steps_K}
        return {**tensors, "pointer": torch.tensor(self.pointer)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises: ValueError: the stored queue has another size or dimension."""
        if state["keys"].shape != self.keys_KC.shape:
            raise ValueError(
                f"the checkpoint's queue holds (keys, dimensions) {tuple(state['keys'].shape)}, this recipe's "
                f"{tuple(self.keys_KC.shape)}; use the same recipe, or another folder"
            )
        for mine, stored in ((self.keys_KC, "keys"), (self.films_K, "films"), (self.steps_K, "steps")):
            mine.copy_(state[stored])
        self.pointer = int(state["pointer"])


def update_key_encoder(key_encoder: nn.Module, encoder: nn.Module, momentum: float) -> None:
    """Each parameter of the key encoder becomes `momentum · key + (1 - momentum) · query`, in float32."""
    pairs = zip(key_encoder.parameters(), encoder.parameters(), strict=True)
    keys, queries = zip(*((key, query) for key, query in pairs if query.requires_grad), strict=True)
    get_ema_multi_avg_fn(momentum)(list(keys), list(queries), None)


def scheduled_momentum(momentum: float, schedule: str, progress: float) -> float:
    """`constant` gives `momentum`; `cosine` rises from `momentum` to 1 as `progress` goes from 0 to 1 (MoCo v3)."""
    return momentum if schedule == "constant" else 1 - (1 - momentum) * (1 + math.cos(math.pi * progress)) / 2


class _Gather(torch.autograd.Function):
    """Gather with gradients; PyTorch's own version, in `torch.distributed.nn`, is deprecated."""

    @staticmethod
    def forward(context: Any, own_bD: Tensor) -> Tensor:
        parts = [torch.empty_like(own_bD) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, own_bD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient_BD: Tensor) -> Tensor:
        gradient_BD = gradient_BD.contiguous().clone()  # autograd's own tensor must not be changed
        distributed.all_reduce(gradient_BD)
        return gradient_BD.chunk(distributed.get_world_size())[distributed.get_rank()]


def gather(embeddings_bD: Tensor) -> Tensor:
    """The embeddings (B, D) of all processes, in their order; each gradient flows back to the embedding's process.

    Every process then computes the whole loss. Gradients are summed over the processes here and averaged by
    DistributedDataParallel, so a step equals that of one process with the joint batch.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return embeddings_bD
    return _Gather.apply(embeddings_bD)


@torch.no_grad()
def accuracy(contrast: Contrast, k: int) -> Tensor:
    """Share of the queries whose partner is among the `k` best candidates; ties count against it."""
    partner_B1 = contrast.logits.gather(1, contrast.targets[:, None])
    rank_B = (contrast.logits >= partner_B1).sum(1)
    return (rank_B <= k).float().mean()


@torch.no_grad()
def spread(embeddings_BC: Tensor) -> Tensor:
    """Root of the variance of embeddings of length 1: near 1 if they cover the sphere, 0 if they are all equal."""
    return (1 - embeddings_BC.float().mean(0).square().sum()).clamp(min=0).sqrt()


@torch.no_grad()
def similarity_by_age(query_BC: Tensor, queue: Queue, parts: int = 4) -> list[float]:
    """Mean inner product of the queries with each of `parts` parts of the queue, from the newest to the oldest.

    If the values differ, queries distinguish keys by their age rather than by their content.
    """
    mean_C = query_BC.float().mean(0)
    return [float((queue.keys_KC[part] @ mean_C).mean()) for part in queue.by_age().chunk(parts)]
