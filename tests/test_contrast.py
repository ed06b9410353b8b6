"""Contrast as functions of tensors, against loops written out, at sizes that do not divide."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from train.moco import contrast as contrasts
from train.moco.contrast import Contrast, FilmSimilarity, Queue


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def info_nce(query: torch.Tensor, positive: torch.Tensor, negatives: list[torch.Tensor], temperature: float) -> float:
    """-log of the positive's share, one number after the other."""
    scores = [math.exp(float(query @ key) / temperature) for key in [positive, *negatives]]
    return -math.log(scores[0] / sum(scores))


@pytest.mark.parametrize(("B", "K", "C"), [(1, 1, 2), (3, 7, 5), (13, 11, 6)])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_momentum_contrast_is_the_loop_over_queries_and_keys(B, K, C, temperature):
    query, key, queue = unit(B, C), unit(B, C, seed=1), unit(K, C, seed=2)
    masked = torch.rand(B, K, generator=torch.Generator().manual_seed(3)) < 0.3
    for mask in (None, masked):
        expected = np.mean(
            [
                info_nce(query[i], key[i], [queue[j] for j in range(K) if mask is None or not mask[i, j]], temperature)
                for i in range(B)
            ]
        )
        found = contrasts.momentum_contrast(query, key, queue, temperature, mask)
        assert float(found.loss) == pytest.approx(expected, rel=1e-9)
        assert found.logits.shape == (B, 1 + K) and not found.targets.any()


def test_a_query_whose_negatives_are_all_masked_has_no_loss():
    found = contrasts.momentum_contrast(
        unit(2, 3), unit(2, 3, seed=1), unit(4, 3, seed=2), 0.1, torch.ones(2, 4, dtype=torch.bool)
    )
    assert float(found.loss) == 0


@pytest.mark.parametrize(("B", "C"), [(2, 3), (7, 5)])
def test_in_batch_contrast_is_the_loop_in_both_directions(B, C):
    first, second = unit(B, C), unit(B, C, seed=1)
    masked = torch.rand(B, B, generator=torch.Generator().manual_seed(2)) < 0.4
    masked.fill_diagonal_(True)  # a pair itself counts all the same
    for mask in (None, masked):
        losses = []
        for i in range(B):
            others = [j for j in range(B) if j != i]
            forth = [second[j] for j in others if mask is None or not mask[i, j]]
            back = [first[j] for j in others if mask is None or not mask[j, i]]
            losses += [info_nce(first[i], second[i], forth, 0.2), info_nce(second[i], first[i], back, 0.2)]
        found = contrasts.in_batch_contrast(first, second, 0.2, mask)
        assert float(found.loss) == pytest.approx(np.mean(losses), rel=1e-9)


def test_gradient_flows_to_both_sides_in_batch():
    first, second = (unit(4, 3, seed=seed).requires_grad_() for seed in range(2))
    contrasts.in_batch_contrast(first, second, 0.1).loss.backward()
    assert first.grad.abs().sum() > 0 and second.grad.abs().sum() > 0


def test_masks_are_the_loop_over_films():
    random = np.random.default_rng(0)
    pairs = random.integers(9, size=(11, 2))
    query, key = random.integers(9, size=5), random.integers(9, size=8)
    similarity = FilmSimilarity(torch.from_numpy(pairs), 9)
    known = {tuple(pair) for pair in pairs.tolist()} | {tuple(pair[::-1]) for pair in pairs.tolist()}
    own = [[a == b for b in key] for a in query]
    similar = [[a == b or (a, b) in known for b in key] for a in query]
    query, key = torch.from_numpy(query), torch.from_numpy(key)
    assert similarity.masked(query, key, similar=False).tolist() == own
    assert similarity.masked(query, key, similar=True).tolist() == similar
    assert similar != own
    nothing = FilmSimilarity(torch.zeros((0, 2), dtype=torch.long), 9)
    assert nothing.masked(query, key, similar=True).tolist() == own


@pytest.mark.parametrize(("size", "batch"), [(7, 3), (6, 3), (5, 8), (1, 2)])
def test_queue_holds_the_latest_keys(size, batch):
    queue, pushed = Queue(size, 2, torch.device("cpu")), []
    for step in range(6):
        keys = torch.full((batch, 2), float(step)) + torch.arange(batch)[:, None] / 100
        films = 10 * step + torch.arange(batch)
        queue.push(keys, films, step)
        pushed += list(zip(keys.tolist(), films.tolist(), [step] * batch, strict=True))
        newest = pushed[::-1][:size]
        order = queue.by_age()[: len(newest)]
        found = zip(queue.keys_KC[order].tolist(), queue.films_K[order].tolist(), queue.steps_K[order], strict=True)
        assert [(key, film, int(step)) for key, film, step in found] == newest


def test_queue_comes_back_from_its_state_and_refuses_another_size():
    queue, other = Queue(5, 2, torch.device("cpu")), Queue(5, 2, torch.device("cpu"))
    queue.push(torch.randn(3, 2), torch.arange(3), 4)
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.keys_KC, queue.keys_KC) and torch.equal(other.films_K, queue.films_K)
    assert torch.equal(other.steps_K, queue.steps_K) and other.pointer == queue.pointer == 3
    with pytest.raises(ValueError, match=r"queue holds \(keys, dimensions\) \(5, 2\), this recipe's \(5, 3\)"):
        Queue(5, 3, torch.device("cpu")).load_state_dict(queue.state_dict())


def test_queue_keys_do_not_follow_later_changes():
    queue, keys = Queue(2, 2, torch.device("cpu")), torch.ones(2, 2, requires_grad=True)
    queue.push(keys, torch.arange(2), 0)
    assert not queue.keys_KC.requires_grad
    with torch.no_grad():
        keys.zero_()
    assert queue.keys_KC.tolist() == [[1, 1], [1, 1]]


def test_key_encoder_moves_by_the_momentum_and_leaves_frozen_parameters():
    query, key = (nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)) for _ in range(2))
    key.requires_grad_(False)
    query[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in key.named_parameters()}
    for _ in range(3):
        contrasts.update_key_encoder(key, query, 0.9)
    for name, value in key.named_parameters():
        expected = before[name]
        for _ in range(3):
            expected = expected if name == "0.bias" else 0.9 * expected + 0.1 * query.get_parameter(name)
        torch.testing.assert_close(value, expected)
    assert torch.equal(key[0].bias, before["0.bias"])


def test_small_steps_are_not_lost():
    query, key = nn.Linear(50, 50), nn.Linear(50, 50).requires_grad_(False)
    key.load_state_dict(query.state_dict())
    with torch.no_grad():
        query.weight += 1e-5
    for _ in range(1000):
        contrasts.update_key_encoder(key, query, 0.999)
    moved = float((key.weight - query.weight.detach()).mean()) + 1e-5
    assert moved == pytest.approx((1 - 0.999**1000) * 1e-5, rel=0.15)  # in bfloat16 it would be nothing


def test_momentum_schedules():
    assert contrasts.scheduled_momentum(0.99, "constant", 0.7) == 0.99
    values = [contrasts.scheduled_momentum(0.99, "cosine", progress) for progress in (0, 0.25, 0.5, 1)]
    expected = [1 - 0.01 * (1 + math.cos(math.pi * progress)) / 2 for progress in (0, 0.25, 0.5, 1)]
    assert values == pytest.approx(expected) and values[0] == pytest.approx(0.99) and values[-1] == 1


def test_accuracy_counts_the_partner_among_the_best_and_ties_against_it():
    logits = torch.tensor([[3.0, 1, 2, 0], [1.0, 3, 2, 0], [2.0, 2, 2, 2], [0.0, 5, 4, 3]])
    contrast = Contrast(torch.tensor(0.0), logits, torch.zeros(4, dtype=torch.long))
    assert [float(contrasts.accuracy(contrast, k)) for k in (1, 2, 3, 4)] == [0.25, 0.25, 0.5, 1.0]


def test_spread_tells_collapse_from_an_even_spread():
    assert float(contrasts.spread(unit(1, 5).expand(20, 5))) == pytest.approx(0, abs=1e-3)
    assert float(contrasts.spread(unit(5000, 16))) == pytest.approx(1, abs=0.01)
    points = unit(30, 4)
    assert float(contrasts.spread(points)) == pytest.approx(math.sqrt(float(points.var(0, correction=0).sum())))


@pytest.mark.parametrize("size", [4, 9, 10])
def test_similarity_by_age_is_the_mean_over_parts_of_the_queue(size):
    queue, queries = Queue(size, 3, torch.device("cpu")), unit(5, 3).float()
    for step in range(size + 3):
        queue.push(unit(1, 3, seed=step + 1).float(), torch.tensor([0]), step)
    newest_first = [unit(1, 3, seed=step + 1)[0].float() for step in range(size + 2, 2, -1)]
    length = math.ceil(size / 4)
    parts = [newest_first[start : start + length] for start in range(0, size, length)]
    expected = [np.mean([float(query @ key) for query in queries for key in part]) for part in parts]
    assert contrasts.similarity_by_age(queries, queue) == pytest.approx(expected, abs=1e-6)
