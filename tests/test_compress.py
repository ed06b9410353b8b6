"""Compression in closed form: each step against the same written out, the whole on a teacher of random weights.

Teacher: width 48, 4 layers of 3 heads of 16. Student: width 32, 2 heads, 2 layers. Images are smooth, so that patches
are like their neighbors and images differ in more than noise.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from train.distillation.compress import (
    centered,
    check_compressible,
    compress,
    fit_mlp,
    fit_projection,
    fold,
    principal_directions,
    read,
    ridge,
)

pytestmark = pytest.mark.slow

BORDERS = [0, 2, 4]
LARGE = {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_hidden_layers": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 20,
}
SMALL = {**LARGE, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "image_size": 16}


def build_tower(sizes: dict[str, int], seed: int = 0) -> CLIPVisionModelWithProjection:
    """A tower of random weights, biases and norms included."""
    torch.manual_seed(seed)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, initializer_factor=2.0)).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return tower.requires_grad_(False)


def smooth_images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Normalized images (count, 3, size, size) of a few blots of color."""
    blots = torch.randn(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(blots, size=(size, size), mode="bicubic", align_corners=True)


@pytest.fixture(scope="module")
def teacher() -> CLIPVisionModelWithProjection:
    return build_tower(LARGE)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.01, 3.0])
def test_ridge_is_weighted_least_squares_with_rows_for_the_penalty(strength, weighted):
    """Rows √strength · I, times the mean square of the regressors with the one of the bias among them."""
    random = np.random.default_rng(0)
    inputs, targets, weights = random.normal(2, 1, (5, 7, 3)), random.normal(-4, 1, (5, 7, 2)), random.random((5, 7))
    weights[0] = 0.0
    weights = weights if weighted else np.ones_like(weights)
    tensors = [torch.from_numpy(values) for values in (inputs, targets, weights)]
    weight, bias = ridge(tensors[0], tensors[1], strength, tensors[2] if weighted else None)

    rows = np.concatenate([inputs, np.ones((5, 7, 1))], 2).reshape(35, 4)
    roots = np.sqrt(weights).reshape(35, 1)
    mean_square = np.mean([sum(weights.flatten() * rows[:, column] ** 2) for column in range(4)])
    penalty = np.sqrt(strength * mean_square) * np.eye(4)
    expected, *_ = np.linalg.lstsq(
        np.concatenate([rows * roots, penalty]),
        np.concatenate([targets.reshape(35, 2) * roots, np.zeros((4, 2))]),
        rcond=None,
    )
    assert (weight.shape, bias.shape) == ((2, 3), (2,))
    np.testing.assert_allclose(weight.numpy(), expected[:3].T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(bias.numpy(), expected[3], rtol=1e-8)


def test_ridge_does_not_see_rows_without_weight():
    inputs, targets = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    weights = torch.tensor([1.0] * 6 + [0.0] * 3, dtype=torch.float64)
    spoiled = torch.cat([targets[:6], 1e6 * targets[6:]])
    for found, expected in zip(
        ridge(inputs, spoiled, 0.01, weights), ridge(inputs[:6], targets[:6], 0.01), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("large", "small"), [(13, 5), (48, 32)])
def test_a_folded_layer_reads_from_the_basis_what_it_read_before(large, small):
    """Exactly so for states in the basis whose coordinates have mean zero; the state's own mean counts for nothing."""
    torch.manual_seed(0)
    linear, norm = nn.Linear(large, 7), nn.LayerNorm(large, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(large) + 0.5)
        norm.bias.copy_(torch.randn(large))
        basis = torch.linalg.qr(torch.cat([torch.ones(large, 1), torch.randn(large, small)], 1)).Q[:, 1:]
        seen = centered(3 * torch.randn(11, small))
        states = seen @ basis.mT + torch.randn(11, 1)
        weight, bias = fold(linear, norm, basis)
        found = F.layer_norm(centered(states) @ basis, (small,), eps=0.0) @ weight.mT + bias
        torch.testing.assert_close(found, linear(norm(states)), rtol=1e-5, atol=1e-5)
        shifted = fold(linear, norm, basis + 0.3)[0]  # a basis that the direction of ones is part of
        torch.testing.assert_close(shifted, weight, rtol=1e-5, atol=1e-5)


def states_of(teacher: CLIPVisionModelWithProjection, inputs: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """Of each layer: its input, what its attention added, its context (heads side by side), from hooks and by hand."""
    found: dict[str, list[torch.Tensor]] = {"inputs": [], "outputs": [], "added": [], "contexts": []}
    state = teacher.vision_model.pre_layrnorm(teacher.vision_model.embeddings(inputs, interpolate_pos_encoding=True))
    for layer in teacher.vision_model.encoder.layers:
        attention, normed = layer.self_attn, layer.layer_norm1(state)
        contexts = []
        for head in range(attention.num_heads):
            rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            q, k, v = (
                normed @ part.weight[rows].mT + part.bias[rows]
                for part in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            contexts.append((q @ k.mT / math.sqrt(attention.head_dim)).softmax(-1) @ v)
        found["inputs"].append(state)
        found["contexts"].append(torch.cat(contexts, -1))
        found["added"].append(attention.out_proj(found["contexts"][-1]))
        state = state + found["added"][-1]
        state = state + layer.mlp(layer.layer_norm2(state))
        found["outputs"].append(state)
    return found


@pytest.mark.parametrize("borders", [[0, 2, 4], [0, 1, 4], [0, 1, 2, 3, 4]])
def test_reading_is_what_the_teacher_computes(borders, teacher):
    """Two batches, the second not full, of images smaller than the teacher's."""
    inputs = smooth_images(70, 16)
    readings = list(read(teacher, inputs, borders))
    assert [len(reading.states[0]) for reading in readings] == [64, 6]
    whole = states_of(teacher, inputs)
    states = [whole["inputs"][0], *whole["outputs"]]
    close = {"rtol": 1e-4, "atol": 1e-4}
    for reading, rows in zip(readings, (slice(64), slice(64, None)), strict=True):
        for found, border in zip(reading.states, borders, strict=True):
            expected = states[border][rows]
            torch.testing.assert_close(found, expected - expected.mean(-1, keepdim=True), **close)
        for found, first, last in zip(reading.attention, borders[:-1], borders[1:], strict=True):
            expected = sum(whole["added"][index][rows] for index in range(first, last))
            torch.testing.assert_close(found, expected - expected.mean(-1, keepdim=True), **close)
        for found, expected in zip(reading.contexts, whole["contexts"], strict=True):
            torch.testing.assert_close(found, expected[rows], **close)
    outputs = teacher(inputs, interpolate_pos_encoding=True, output_hidden_states=True)
    for found, border in zip(readings[0].states, borders, strict=True):
        torch.testing.assert_close(found, centered(outputs.hidden_states[border][:64]), **close)


def test_no_hook_stays_on_the_teacher(teacher):
    """Neither after all batches, nor after some, nor after an error."""

    def hooked() -> bool:
        return any(layer.self_attn.out_proj._forward_hooks for layer in teacher.vision_model.encoder.layers)

    list(read(teacher, smooth_images(2, 16), BORDERS))
    assert not hooked()
    reading = read(teacher, smooth_images(70, 16), BORDERS)
    next(reading)
    assert hooked()
    reading.close()
    assert not hooked()
    with pytest.raises(RuntimeError):
        list(read(teacher, torch.zeros(2, 5, 16, 16), BORDERS))  # five colors
    assert not hooked()


@pytest.mark.parametrize("width", [16, 32, 47])
def test_directions_are_orthonormal_and_ones_is_the_least_of_them(width, teacher):
    """So that the mean that a layer norm takes off is what the states vary least in."""
    inputs = smooth_images(70, 16)
    basis, _ = principal_directions(teacher, inputs, BORDERS, width)
    assert basis.shape == (48, width)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(width), atol=1e-5, rtol=0)
    moments = torch.zeros(width, width)
    for reading in read(teacher, inputs, BORDERS):
        for state in reading.states:
            seen = F.normalize(state, dim=-1) @ basis
            moments += sum(rows.mT @ rows / len(rows) for rows in (seen.flatten(0, 1), seen[:, 0]))
    ones = torch.full((width,), width**-0.5)
    values = torch.linalg.eigvalsh(moments)
    assert ones @ moments @ ones == pytest.approx(values[0].item(), abs=1e-5 * values[-1].item())
    assert ones @ moments @ ones < 0.2 * moments.diagonal().mean()


def test_directions_hold_more_of_the_states_than_random_ones_do(teacher):
    inputs = smooth_images(40, 16)
    basis, _ = principal_directions(teacher, inputs, BORDERS, 24)
    lost = {}
    for name, directions in (("found", basis), ("random", torch.linalg.qr(torch.randn(48, 24)).Q)):
        states = torch.cat(
            [state.flatten(0, 1) for reading in read(teacher, inputs, BORDERS) for state in reading.states]
        )
        lost[name] = ((states - states @ directions @ directions.mT).square().sum() / states.square().sum()).item()
    assert lost["found"] < 0.2 * lost["random"]


def test_energies_are_what_each_head_writes(teacher):
    """The mean square of what a head adds, less its mean over images."""
    inputs = smooth_images(9, 16)
    _, energies = principal_directions(teacher, inputs, BORDERS, 32)
    assert energies.shape == (4, 3)
    contexts = states_of(teacher, inputs)["contexts"]
    for layer, head in [(0, 0), (2, 1), (3, 2)]:
        columns = range(16 * head, 16 * head + 16)
        writer = teacher.vision_model.encoder.layers[layer].self_attn.out_proj.weight
        written = sum(contexts[layer][:, :, column, None] * writer[:, column] for column in columns)
        squares = [
            (written[:, token, channel] - written[:, token, channel].mean()).square().mean()
            for token in range(5)
            for channel in range(48)
        ]
        assert energies[layer, head].item() == pytest.approx(sum(squares).item() / len(squares), rel=1e-3)


def squared_error(student: CLIPVisionModelWithProjection, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Of embeddings, as a share of the targets' variance: 1 for the mean embedding."""
    error = (student(inputs).image_embeds - targets).square().mean()
    return (error / (targets - targets.mean(0)).square().mean()).item()


def compressed(teacher: CLIPVisionModelWithProjection, sizes: dict, borders: list[int]) -> tuple:
    """A student, its calibration images and their embeddings, which are the teacher's of larger images."""
    inputs, student = smooth_images(300, 16), build_tower(sizes, seed=1)
    embeds = teacher(smooth_images(300, 32)).image_embeds
    basis, energies = principal_directions(teacher, inputs[:100], borders, sizes["hidden_size"])
    compress(student, teacher, inputs, embeds, borders, basis, energies)
    return student, inputs, embeds


@pytest.mark.parametrize(
    ("layers", "borders"), [(2, BORDERS), (1, [0, 4]), (4, [0, 1, 2, 3, 4])], ids=["two", "one", "four"]
)
def test_a_compressed_student_is_near_the_teacher(layers, borders, teacher):
    """On the images of its calibration and on others: where the mean embedding is off by 1, random weights by more."""
    sizes = {**SMALL, "num_hidden_layers": layers}
    student, inputs, embeds = compressed(teacher, sizes, borders)
    assert all(value.isfinite().all() for value in student.state_dict().values())
    others, targets = smooth_images(100, 16, seed=1), teacher(smooth_images(100, 32, seed=1)).image_embeds
    found = [squared_error(student, inputs, embeds), squared_error(student, others, targets)]
    random = build_tower(sizes, seed=1)
    assert squared_error(random, others, targets) > 1
    assert found[0] < 0.3 and found[1] < 0.4
    biases = [value.abs().max().item() for name, value in student.state_dict().items() if name.endswith("bias")]
    assert max(biases) < 30


def test_each_layer_takes_the_heads_of_its_group_that_write_most(teacher):
    """The student's layers are the teacher's first two and last two; the strongest heads here are made up."""
    energies = torch.tensor([[1.0, 2.0, 9.0], [7.0, 0.0, 3.0], [0.5, 0.1, 0.2], [0.3, 99.0, 0.4]])
    inputs, student = smooth_images(80, 16), build_tower(SMALL, seed=1)
    basis, _ = principal_directions(teacher, inputs, BORDERS, 32)
    compress(student, teacher, inputs, teacher(inputs, interpolate_pos_encoding=True)[0], BORDERS, basis, energies)
    layers = teacher.vision_model.encoder.layers
    for layer, heads in zip(student.vision_model.encoder.layers, ([(0, 2), (1, 0)], [(3, 1), (2, 0)]), strict=True):
        for name in ("q_proj", "k_proj", "v_proj"):
            ours = getattr(layer.self_attn, name)
            for place, (index, head) in enumerate(heads):
                weight, bias = fold(getattr(layers[index].self_attn, name), layers[index].layer_norm1, basis)
                rows, theirs = slice(16 * place, 16 * place + 16), slice(16 * head, 16 * head + 16)
                assert torch.equal(ours.weight[rows], weight[theirs]) and torch.equal(ours.bias[rows], bias[theirs])


def test_an_mlp_takes_the_neurons_that_write_and_vary():
    """Of two layers of 64: half of them write nothing, or never change; the other 64 are the student's."""
    teacher, student = build_tower(LARGE), build_tower(SMALL, seed=1)
    group, kept = list(teacher.vision_model.encoder.layers[:2]), []
    basis = torch.linalg.qr(torch.randn(48, 32)).Q
    with torch.no_grad():
        for number, layer in enumerate(group):
            layer.mlp.fc2.weight[:, number::4] = 0.0
            layer.mlp.fc1.weight[number + 1 :: 4] = 0.0
            weight, bias = fold(layer.mlp.fc1, layer.layer_norm2, basis)
            busy = [n for n in range(64) if n % 4 not in (number, number + 1)]
            kept += [(*weight[n].tolist(), bias[n].item()) for n in busy]
        layer = student.vision_model.encoder.layers[0]
        states, targets = torch.randn(30, 5, 32), torch.randn(30, 5, 32)
        fit_mlp(layer, group, basis, states, targets, torch.ones(30, 5))
    found = torch.cat([layer.mlp.fc1.weight, layer.mlp.fc1.bias[:, None]], 1)
    assert sorted(map(tuple, found.tolist())) == sorted(kept)


def test_patches_of_the_last_layer_weigh_nothing(teacher, monkeypatch):
    seen: list[list[float] | None] = []

    def weighed(inputs, targets, strength, weights=None):
        seen.append(None if weights is None else weights[0].tolist())
        return ridge(inputs, targets, strength, weights)

    monkeypatch.setattr("train.distillation.compress.ridge", weighed)
    compressed(teacher, SMALL, BORDERS)
    first, last = [20.0, 1.0, 1.0, 1.0, 1.0], [20.0, 0.0, 0.0, 0.0, 0.0]
    assert seen == [None, first, first, last, last, None]  # embeddings, two layers, projection


def test_the_student_computes_what_it_was_fitted_to(teacher):
    """Its class token after the last layer is the teacher's in the basis; so are its tokens after the first."""
    student, inputs, _ = compressed(teacher, SMALL, BORDERS)
    basis, _ = principal_directions(teacher, inputs[:100], BORDERS, 32)
    ours = student(inputs, output_hidden_states=True).hidden_states
    theirs = teacher(inputs, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    for layer, tokens in [(0, slice(None)), (1, slice(None)), (2, slice(1))]:
        expected = centered(theirs[BORDERS[layer]])[:, tokens] @ basis
        varying = expected - expected.mean(0)
        lost = (ours[layer][:, tokens] - expected).square().mean() / varying.square().mean()
        assert lost < 0.3, layer


def test_the_projection_comes_near_without_a_huge_bias():
    """Embeddings of rank 3 but for a little noise: what the noise could do for their mean would take huge numbers."""
    torch.manual_seed(0)
    student, tokens = build_tower(SMALL), 5 * torch.randn(400, 32) + 1
    varying = F.layer_norm(tokens, (32,)) @ torch.randn(32, 3) @ torch.randn(3, 20)
    embeds = varying + 1e-4 * torch.randn(400, 20) + 2.0
    with torch.no_grad():
        fit_projection(student, tokens, embeds)
    norm = student.vision_model.post_layernorm
    assert norm.bias.abs().max() < 10 and torch.equal(norm.weight, torch.ones(32))
    off = student.visual_projection(norm(tokens)) - embeds
    assert (off - off.mean(0)).square().mean() < 0.01 * varying.square().mean()
    full_rank = F.layer_norm(tokens, (32,)) @ torch.randn(32, 20) + 2.0
    with torch.no_grad():
        fit_projection(student, tokens, full_rank)
    off = student.visual_projection(norm(tokens)) - full_rank
    assert off.square().mean() < 0.01 * (full_rank - 2).square().mean()


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 64, "num_attention_heads": 4},
        {"hidden_size": 48, "num_attention_heads": 3},
        {"num_attention_heads": 1},
        {"patch_size": 16},
        {"num_hidden_layers": 5},
        {"intermediate_size": 129},
        {"num_hidden_layers": 3, "intermediate_size": 65},
    ],
    ids=["wider", "as wide", "other heads", "other patches", "deeper", "more neurons", "more neurons than a layer"],
)
def test_students_that_cannot_be_cut_out_are_refused(change):
    with pytest.raises(ValueError, match=r"the student \(width .*\) cannot be cut .*\(width 48, 4 .*compress to false"):
        check_compressible(CLIPVisionConfig(**{**SMALL, **change}), CLIPVisionConfig(**LARGE))


@pytest.mark.parametrize(
    "change", [{}, {"intermediate_size": 128}, {"num_hidden_layers": 4}, {"num_hidden_layers": 3, "image_size": 64}]
)
def test_students_that_can_be_cut_out_are_not(change):
    check_compressible(CLIPVisionConfig(**{**SMALL, **change}), CLIPVisionConfig(**LARGE))
