"""Compress a large CLIP image tower into a small one, in closed form: the starting point of distillation.

A few thousand images teach a student little; the teacher knows more. So the student starts as a compressed copy of the
teacher instead of random weights. Both read images of the student's size:

- The student's channels are the directions of the teacher's residual stream that its layers read most (as in SliceGPT,
  Ashkboos et al. 2024). Layer norms are folded into the linear layers after them.
- Each student layer replaces a group of teacher layers. It takes over the group's heads and MLP neurons with the most
  output. Ridge regression fits their output to that of the whole group, on the student's own states.
- The projection is fitted to the teacher's embeddings.

Letters: N images, T tokens, D teacher width, d student width.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

MASSIVE_DIRECTIONS = 16  # kept because they set the length of the residual stream, by which layer norms divide
CLASS_WEIGHT = 20.0  # weight of the class token in regressions; a patch has 1
RIDGE = 1e-3  # penalty as a share of the regressors' mean square
BASIS_IMAGES = 512  # images that the directions are found on
BATCH = 64


class Reading(NamedTuple):
    """The teacher's states and attention outputs for a batch of images, by group of layers."""

    states: list[torch.Tensor]  # the residual stream at each border of groups (N, T, D), centered over its channels
    attention: list[torch.Tensor]  # the sum of each group's attention outputs (N, T, D), centered
    contexts: list[torch.Tensor]  # each layer's heads, concatenated, before the output projection (N, T, D)


def compress(
    student: CLIPVisionModelWithProjection,
    teacher: CLIPVisionModelWithProjection,
    inputs: torch.Tensor,
    embeds: torch.Tensor,
    borders: list[int],
    basis_Dd: torch.Tensor,
    energies: torch.Tensor,
) -> None:
    """Fill the student's weights.

    Args:
        inputs: normalized images (N, 3, size, size) of the student's size; a few thousand.
        embeds: the embeddings (N, projection_dim) that the student is fitted to.
        borders: 0, then the number (from 1) of the teacher layer at which each student layer ends.
        basis_Dd, energies: results of `principal_directions`.
    """
    small, large = student.config, teacher.config
    with torch.no_grad():
        states, attention = zip(
            *(
                ([state @ basis_Dd for state in reading.states], [added @ basis_Dd for added in reading.attention])
                for reading in read(teacher, inputs, borders)
            ),
            strict=True,
        )
        states_NTd = [torch.cat(batches) for batches in zip(*states, strict=True)]
        attention_NTd = [torch.cat(batches) for batches in zip(*attention, strict=True)]
        state_NTd = fit_embeddings(student, inputs, states_NTd[0])
        layers = teacher.vision_model.encoder.layers
        for number, layer in enumerate(student.vision_model.encoder.layers):
            group = range(borders[number], borders[number + 1])
            weights_NT = torch.ones(state_NTd.shape[:2], device=inputs.device)
            weights_NT[:, 0] = CLASS_WEIGHT
            if number == small.num_hidden_layers - 1:
                weights_NT[:, 1:] = 0.0  # the last layer's patches are never read
            heads = [(index, head) for index in group for head in range(large.num_attention_heads)]
            heads.sort(key=lambda at: -float(energies[at]))
            state_NTd = fit_attention(
                layer,
                layers,
                heads[: small.num_attention_heads],
                basis_Dd,
                state_NTd,
                attention_NTd[number],
                weights_NT,
            )
            state_NTd = fit_mlp(
                layer, [layers[index] for index in group], basis_Dd, state_NTd, states_NTd[number + 1], weights_NT
            )
        fit_projection(student, state_NTd[:, 0], embeds)


def check_compressible(small: CLIPVisionConfig, large: CLIPVisionConfig) -> None:
    """Check that a student can be compressed from a teacher.

    Raises:
        ValueError: the student is not smaller, or its heads or patches differ in size from the teacher's.
    """
    shapes = [
        f"width {config.hidden_size}, {config.num_hidden_layers} layers, heads of "
        f"{config.hidden_size // config.num_attention_heads}, patches of {config.patch_size}"
        for config in (small, large)
    ]
    same = [(config.hidden_size // config.num_attention_heads, config.patch_size) for config in (small, large)]
    smaller = small.hidden_size < large.hidden_size and small.num_hidden_layers <= large.num_hidden_layers
    neurons = small.intermediate_size <= large.intermediate_size * (large.num_hidden_layers // small.num_hidden_layers)
    if same[0] != same[1] or not (smaller and neurons):
        raise ValueError(
            f"the student ({shapes[0]}) cannot be cut out of the teacher ({shapes[1]}); set compress to false"
        )


def read(teacher: CLIPVisionModelWithProjection, inputs: torch.Tensor, borders: list[int]) -> Iterator[Reading]:
    """Run the teacher on images of any size, one batch at a time."""
    contexts: list[torch.Tensor] = []
    added: list[torch.Tensor] = []

    def keep(_, seen: tuple[torch.Tensor], output: torch.Tensor) -> None:
        contexts.append(seen[0].float())
        added.append(output)

    layers = teacher.vision_model.encoder.layers
    hooks = [layer.self_attn.out_proj.register_forward_hook(keep) for layer in layers]
    try:
        for batch in inputs.to(teacher.dtype).split(BATCH):
            contexts.clear(), added.clear()
            outputs = teacher(batch, interpolate_pos_encoding=True, output_hidden_states=True)
            yield Reading(
                [centered(outputs.hidden_states[border].float()) for border in borders],
                [centered(sum(added[first:last]).float()) for first, last in pairwise(borders)],
                list(contexts),
            )
    finally:
        for hook in hooks:
            hook.remove()


def principal_directions(
    teacher: CLIPVisionModelWithProjection, inputs: torch.Tensor, borders: list[int], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """An orthonormal basis (D, d) of the residual stream, and how much each head writes (layers, heads).

    The basis contains the directions of greatest variance, then those of greatest variance after scaling by the layer
    norms' weights. A layer norm in d channels subtracts their mean and thereby removes one direction; the basis is
    turned so that this is the direction of least variance.
    """
    layers, size = teacher.vision_model.encoder.layers, teacher.config.hidden_size
    heads = teacher.config.num_attention_heads
    moments_DD = torch.zeros(size, size, device=inputs.device)
    energies = torch.zeros(len(layers), heads)
    for reading in read(teacher, inputs, borders):
        for state_NTD in reading.states:
            unit_NTD = F.normalize(state_NTD, dim=-1)
            for rows in (unit_NTD.flatten(0, 1), unit_NTD[:, 0]):  # gives the class token as much weight as all tokens
                moments_DD += rows.mT @ rows / len(rows)
        for index, context in enumerate(reading.contexts):
            varying = (context - context.mean(0)).unflatten(-1, (heads, -1))
            writers = layers[index].self_attn.out_proj.weight.float().unflatten(1, (heads, -1))
            energies[index] += torch.stack(
                [(varying[:, :, head] @ writers[:, head].mT).square().mean() for head in range(heads)]
            ).cpu()
    norms = [norm.weight.float() for layer in layers for norm in (layer.layer_norm1, layer.layer_norm2)]
    scale_D = torch.stack(norms).square().mean(0).sqrt()
    massive = torch.linalg.eigh(moments_DD).eigenvectors[:, -min(MASSIVE_DIRECTIONS, width // 4) :]
    others_DD = torch.eye(size, device=inputs.device) - massive @ massive.mT
    scaled_DD = scale_D[:, None] * (others_DD @ moments_DD @ others_DD) * scale_D
    read_most = torch.linalg.eigh(scaled_DD).eigenvectors[:, massive.shape[1] - width :] * scale_D[:, None]
    basis_Dd = torch.linalg.qr(torch.cat([massive, others_DD @ read_most], 1)).Q
    basis_Dd = basis_Dd @ torch.linalg.eigh(basis_Dd.mT @ moments_DD @ basis_Dd).eigenvectors  # least variance first
    mirror = torch.zeros(width, device=inputs.device)
    mirror[0] = 1.0
    mirror = F.normalize(mirror - width**-0.5, dim=0)
    return basis_Dd - 2 * (basis_Dd @ mirror)[:, None] * mirror, energies


def fit_embeddings(
    student: CLIPVisionModelWithProjection, inputs: torch.Tensor, target_NTd: torch.Tensor
) -> torch.Tensor:
    """Fit patch, class and position embeddings so that their layer norm gives the teacher's first state.

    Returns:
        The student's first state.
    """
    tower, size = student.vision_model, student.config.patch_size
    embeddings = tower.embeddings
    patches_NTp = F.unfold(inputs, size, stride=size).mT
    place_Td = target_NTd[:, 1:].mean(0)
    weight, _ = ridge(patches_NTp - patches_NTp.mean(0), target_NTd[:, 1:] - place_Td, RIDGE / 10)
    embeddings.patch_embedding.weight.copy_(weight.view_as(embeddings.patch_embedding.weight))
    embeddings.class_embedding.copy_(target_NTd[:, 0].mean(0))
    embeddings.position_embedding.weight[0] = 0.0
    embeddings.position_embedding.weight[1:] = place_Td - patches_NTp.mean(0) @ weight.mT
    tower.pre_layrnorm.weight.fill_(target_NTd[:, 1:].norm(dim=-1).mean() / math.sqrt(target_NTd.shape[-1]))
    tower.pre_layrnorm.bias.zero_()
    return tower.pre_layrnorm(embeddings(inputs))


def fit_attention(
    layer: nn.Module,
    teacher_layers: nn.ModuleList,
    heads: list[tuple[int, int]],
    basis_Dd: torch.Tensor,
    state_NTd: torch.Tensor,
    target_NTd: torch.Tensor,
    weights_NT: torch.Tensor,
) -> torch.Tensor:
    """Take over the teacher's `heads` (layer, head) and fit their output to `target_NTd`; returns the new state."""
    attention = layer.self_attn
    size = attention.head_dim
    layer.layer_norm1.weight.fill_(1.0), layer.layer_norm1.bias.zero_()
    for name in ("q_proj", "k_proj", "v_proj"):
        parts = [
            fold(getattr(teacher_layers[at].self_attn, name), teacher_layers[at].layer_norm1, basis_Dd)
            for at, _ in heads
        ]
        rows = [slice(head * size, head * size + size) for _, head in heads]
        getattr(attention, name).weight.copy_(torch.cat([w[r] for (w, _), r in zip(parts, rows, strict=True)]))
        getattr(attention, name).bias.copy_(torch.cat([b[r] for (_, b), r in zip(parts, rows, strict=True)]))
    normed_NTd = layer.layer_norm1(state_NTd)
    queries, keys, values = (
        getattr(attention, name)(normed_NTd).unflatten(-1, (len(heads), size)).transpose(1, 2)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    context_NTd = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
    weight, bias = ridge(context_NTd, target_NTd, RIDGE, weights_NT)
    attention.out_proj.weight.copy_(weight), attention.out_proj.bias.copy_(bias)
    return state_NTd + attention.out_proj(context_NTd)


def fit_mlp(
    layer: nn.Module,
    group: list[nn.Module],
    basis_Dd: torch.Tensor,
    state_NTd: torch.Tensor,
    target_NTd: torch.Tensor,
    weights_NT: torch.Tensor,
) -> torch.Tensor:
    """Take over the group's neurons with the most output and fit them to reach `target_NTd`; returns the new state."""
    layer.layer_norm2.weight.fill_(1.0), layer.layer_norm2.bias.zero_()
    normed_NTd, activate = layer.layer_norm2(state_NTd), layer.mlp.activation_fn
    folded = [fold(each.mlp.fc1, each.layer_norm2, basis_Dd) for each in group]
    readers, biases = (torch.cat(parts) for parts in zip(*folded, strict=True))
    writers = torch.cat([(basis_Dd.mT @ each.mlp.fc2.weight.float()).norm(dim=0) for each in group])
    active = activate(normed_NTd[:BASIS_IMAGES] @ readers.mT + biases)
    varying = active.flatten(0, 1).std(0) + active[:, 0].std(0)
    chosen = (varying * writers).argsort(descending=True)[: layer.mlp.fc1.out_features]
    layer.mlp.fc1.weight.copy_(readers[chosen]), layer.mlp.fc1.bias.copy_(biases[chosen])
    hidden = activate(layer.mlp.fc1(normed_NTd))
    weight, bias = ridge(hidden, target_NTd - state_NTd, RIDGE, weights_NT)
    layer.mlp.fc2.weight.copy_(weight), layer.mlp.fc2.bias.copy_(bias)
    return state_NTd + layer.mlp.fc2(hidden)


def fit_projection(student: CLIPVisionModelWithProjection, class_Nd: torch.Tensor, embeds: torch.Tensor) -> None:
    """Fit the projection to `embeds`; it has no bias, so the last layer norm's bias replaces one."""
    norm = student.vision_model.post_layernorm
    norm.weight.fill_(1.0), norm.bias.zero_()
    weight, bias = ridge(norm(class_Nd), embeds, 10 * RIDGE)
    student.visual_projection.weight.copy_(weight)
    norm.bias.copy_(torch.linalg.pinv(weight, rtol=0.01) @ bias)


def fold(linear: nn.Linear, norm: nn.LayerNorm, basis_Dd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias equivalent to `linear` after `norm`, for states in the basis after a plain layer norm."""
    weight = linear.weight.float()
    reader = centered(weight * norm.weight.float()) @ basis_Dd * math.sqrt(basis_Dd.shape[0] / basis_Dd.shape[1])
    return reader, linear.bias.float() + weight @ norm.bias.float()


def ridge(
    inputs: torch.Tensor, targets: torch.Tensor, strength: float, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (outputs, inputs) and bias (outputs,) of the ridge regression from `inputs` (…, inputs) to `targets`."""
    inputs, targets = inputs.flatten(0, -2), targets.flatten(0, -2)
    ones = torch.ones(len(inputs), 1, device=inputs.device)
    inputs = torch.cat([inputs, ones], 1)
    weighted = inputs if weights is None else inputs * weights.flatten()[:, None]
    moments = weighted.mT @ inputs
    moments.diagonal().add_(strength * moments.diagonal().mean())
    solution = torch.linalg.solve(moments, weighted.mT @ targets)
    return solution[:-1].mT.contiguous(), solution[-1].contiguous()


def centered(values: torch.Tensor) -> torch.Tensor:
    return values - values.mean(-1, keepdim=True)
