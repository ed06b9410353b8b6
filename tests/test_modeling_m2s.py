"""The scene encoder against CLIP and PyTorch, which it must equal; every scene alone against itself in a padded batch.

Tiny towers here have 3×3 patches and large position embeddings, so that a wrong position shows.
"""

import math
from pathlib import Path

import accelerate
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipVisionConfig,
)

from modeling_m2s import M2SSceneConfig, M2SSceneForClassification, M2SSceneForContrastiveLearning, M2SSceneModel
from modeling_m2s.configuration_m2s import POSITION_INTERPOLATIONS
from modeling_m2s.modeling_m2s import bicubic_weights

HEADS = [M2SSceneForContrastiveLearning, M2SSceneForClassification]
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
}
PATCHES, SIDE = 9, 3
FRAME_COUNTS = [2, 3, 5, 7, 9, 16]


def strengthen_positions(model: nn.Module) -> nn.Module:
    """Make the position embeddings large."""
    for name, parameter in model.named_parameters():
        if "vision_model" in name and "position_embedding" in name:
            nn.init.normal_(parameter)
    return model.eval()


def tiny(model_class=M2SSceneModel, attn_implementation="eager", **config) -> nn.Module:
    """A small random model of this class, in evaluation mode."""
    torch.manual_seed(1)
    config = M2SSceneConfig(**{"vision_config": TOWER, "projection_dim": 20, **config})
    return strengthen_positions(model_class._from_config(config, attn_implementation=attn_implementation))


def random_frames(*shape: int, size: int = 24, seed: int = 0) -> torch.Tensor:
    """Normal pixels (*shape, 3, size, size)."""
    return torch.randn(*shape, 3, size, size, generator=torch.Generator().manual_seed(seed))


def assert_near(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Nowhere further apart than `tolerance` times the largest expected value; with 0, equal."""
    assert got.shape == expected.shape
    assert (got.float() - expected.float()).abs().max() <= tolerance * expected.abs().max()


def ragged_mask(lengths: list[int], place: str = "back") -> torch.Tensor:
    """A frame mask with these counts of real frames and the padding at the `back`, the `front` or `scattered`."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    if place == "front":
        return mask.flip(1)
    if place == "scattered":
        return mask[:, torch.randperm(max(lengths), generator=torch.Generator().manual_seed(2))]
    return mask


def probe(outputs) -> torch.Tensor:
    """A scalar that depends on every entry of the scene's vectors."""
    return (outputs.scene_embeds * torch.linspace(-1, 1, outputs.scene_embeds.shape[-1])).sum()


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """The loss's gradient of every parameter, by name."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory) -> Path:
    """A folder of type `clip_vision_model` with random weights and a projection."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny_clip")
    config = CLIPVisionConfig(**TOWER, projection_dim=20)
    strengthen_positions(CLIPVisionModelWithProjection(config)).save_pretrained(folder)
    return folder


@pytest.fixture(params=["tiny_clip", "clip_folder"])
def clip(request) -> Path:
    """CLIP's image tower on disk: random and small, then the real one."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(("attention", "tolerance"), [("eager", 0), ("sdpa", 1e-6)])
def test_one_frame_is_clip(clip, attention, tolerance):
    reference = CLIPVisionModelWithProjection.from_pretrained(clip, attn_implementation=attention).eval()
    model = M2SSceneModel.from_pretrained(clip, attn_implementation=attention).eval()
    frames = random_frames(3, size=reference.config.image_size)
    with torch.no_grad():
        expected = reference(frames)
        for mask in (None, torch.ones(3, 1, dtype=torch.bool)):
            outputs = model(frames[:, None], frame_mask=mask)
            assert_near(outputs.scene_embeds, expected.image_embeds, tolerance)
            assert_near(outputs.last_hidden_state, expected.last_hidden_state, tolerance)


def test_one_frame_among_longer_scenes_is_clip(clip):
    reference = CLIPVisionModelWithProjection.from_pretrained(clip).eval()
    model = M2SSceneModel.from_pretrained(clip).eval()
    frames = random_frames(2, 3, size=reference.config.image_size)
    with torch.no_grad():
        outputs = model(frames, frame_mask=ragged_mask([3, 1]))
        assert_near(outputs.scene_embeds[1:], reference(frames[1, :1]).image_embeds, 1e-5)


@pytest.mark.parametrize("mode", POSITION_INTERPOLATIONS)
def test_one_frame_has_the_original_positions(mode):
    embeddings = tiny(position_interpolation=mode).vision_model.embeddings
    positions = embeddings.interpolate_positions(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long))
    assert torch.equal(positions[0, 0], embeddings.position_embedding.weight[1:])


def positions_of(mode: str, num_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (F·N, D) of one scene, and the table (N, D) they come from."""
    embeddings = tiny(position_interpolation=mode).vision_model.embeddings
    rank = torch.arange(num_frames)[None]
    positions = embeddings.interpolate_positions(rank, torch.tensor([num_frames]))
    return positions[0].flatten(0, 1).detach(), embeddings.position_embedding.weight[1:].detach()


@pytest.mark.parametrize("num_frames", FRAME_COUNTS)
def test_grid_is_clip_on_the_stacked_frames(tiny_clip, num_frames):
    frames = random_frames(2, num_frames)
    tall_image = frames.transpose(1, 2).flatten(2, 3)
    with torch.no_grad():
        expected = CLIPVisionModel.from_pretrained(tiny_clip).eval()(tall_image, interpolate_pos_encoding=True)
        outputs = M2SSceneModel.from_pretrained(tiny_clip).eval()(frames)
    assert_near(outputs.last_hidden_state, expected.last_hidden_state, 1e-5)
    assert_near(outputs.pooler_output, expected.pooler_output, 1e-5)


@pytest.mark.parametrize("num_frames", FRAME_COUNTS)
def test_mosaic_is_clip_on_the_tiled_frames(tiny_clip, num_frames):
    """Tiles that no frame fills are hidden from CLIP by an attention mask."""
    cols = math.ceil(math.sqrt(num_frames))
    rows = math.ceil(num_frames / cols)
    frames = random_frames(2, num_frames)
    tiles = torch.cat([frames, random_frames(2, rows * cols - num_frames, seed=1)], dim=1).unflatten(1, (rows, cols))
    image = tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    # Tokens by frame and patch, as places in the tiled image's row-major sequence; the class token stands first.
    place = torch.arange(rows * cols * PATCHES).view(rows, SIDE, cols, SIDE).transpose(1, 2).flatten()
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + place[: num_frames * PATCHES]])
    hidden = torch.full((2, 1, 1, 1 + rows * cols * PATCHES), torch.finfo(torch.float32).min)
    hidden[..., order] = 0

    with torch.no_grad():
        reference = CLIPVisionModel.from_pretrained(tiny_clip, attn_implementation="eager").eval()
        expected = reference(image, interpolate_pos_encoding=True, attention_mask=hidden)
        outputs = M2SSceneModel.from_pretrained(tiny_clip, position_interpolation="mosaic").eval()(frames)
    assert_near(outputs.last_hidden_state, expected.last_hidden_state[:, order], 1e-5)
    assert_near(outputs.pooler_output, expected.pooler_output, 1e-5)


@pytest.mark.parametrize("num_frames", FRAME_COUNTS)
def test_sequence_resizes_the_positions_along_one_axis(num_frames):
    positions, table = positions_of("sequence", num_frames)
    column = table.T[None, :, :, None]
    resized = F.interpolate(column, size=(num_frames * PATCHES, 1), mode="bicubic", align_corners=False)
    assert_near(positions, resized[0, :, :, 0].T, 1e-5)


@pytest.mark.parametrize("num_frames", FRAME_COUNTS)
def test_repeat_gives_every_frame_the_original_positions(num_frames):
    positions, table = positions_of("repeat", num_frames)
    assert torch.equal(positions, table.repeat(num_frames, 1))


@pytest.mark.parametrize(("size", "resized"), [(5, 13), (7, 7), (14, 9), (3, 50), (1, 4), (14, 126)])
def test_bicubic_weights_are_interpolate(size, resized):
    table = torch.randn(size, 6, generator=torch.Generator().manual_seed(0))
    weights = bicubic_weights((torch.arange(resized) + 0.5) * (size / resized) - 0.5, size)
    expected = F.interpolate(table.T[None, :, :, None], size=(resized, 1), mode="bicubic", align_corners=False)
    assert_near(weights @ table, expected[0, :, :, 0].T, 1e-5)


def test_bicubic_weights_at_samples_are_exactly_the_samples():
    assert torch.equal(bicubic_weights(torch.arange(11.0), 11), torch.eye(11))


@pytest.mark.parametrize("place", ["back", "front", "scattered"])
@pytest.mark.parametrize("mode", POSITION_INTERPOLATIONS)
def test_scenes_in_a_padded_batch_are_as_alone(mode, place):
    """Outputs and gradients, with garbage in the padding."""
    model = tiny(position_interpolation=mode, attn_implementation="sdpa")
    lengths = [4, 1, 16, 2, 9]
    mask = ragged_mask(lengths, place)
    scenes = [random_frames(length, seed=length) for length in lengths]
    batch = 100 * random_frames(*mask.shape, seed=99)
    batch[mask] = torch.cat(scenes)

    alone = [model(scene[None]) for scene in scenes]
    together = model(batch, frame_mask=mask)
    assert_near(together.pooler_output, torch.cat([outputs.pooler_output for outputs in alone]), 1e-5)
    assert_near(together.scene_embeds, torch.cat([outputs.scene_embeds for outputs in alone]), 1e-5)

    token_mask = torch.cat([torch.ones(len(lengths), 1, dtype=torch.bool), mask.repeat_interleave(PATCHES, 1)], 1)
    tokens = torch.cat([outputs.last_hidden_state[0] for outputs in alone])
    assert_near(together.last_hidden_state[token_mask], tokens, 1e-5)

    expected = gradients(model, sum(probe(outputs) for outputs in alone))
    for name, gradient in gradients(model, probe(together)).items():
        # A key's bias moves all scores of a query alike: its true gradient is zero, and rounding is all there is.
        scale = 1 if name.endswith("k_proj.bias") else expected[name].abs().max()
        assert (gradient - expected[name]).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("lengths", [[3, 3], [3, 1]])
def test_dropped_patches_are_as_if_attention_did_not_see_them(lengths):
    """Without a mask for the others, which attention would have to compute, and with padded frames."""
    model, mask = tiny(attn_implementation="sdpa"), ragged_mask(lengths)
    frames = random_frames(*mask.shape)
    kept = torch.stack([torch.randperm(3 * PATCHES, generator=torch.Generator().manual_seed(n))[:7] for n in (0, 1)])
    found = model(frames, frame_mask=None if mask.all() else mask, kept_patches=kept)
    assert found.last_hidden_state.shape[1] == 8

    tower = model.vision_model
    seen = torch.zeros(2, 1 + 3 * PATCHES, dtype=torch.bool).scatter(1, kept + 1, True)
    seen &= torch.cat([torch.ones(2, 1, dtype=torch.bool), mask.repeat_interleave(PATCHES, 1)], 1)
    seen[:, 0] = True
    hidden = tower.pre_layrnorm(tower.embeddings(frames, mask))
    for layer in tower.encoder.layers:
        hidden = layer(hidden, attention_mask=seen[:, None, None])
    assert_near(found.pooler_output, tower.post_layernorm(hidden[:, 0]), 1e-5)
    all_patches = torch.arange(3 * PATCHES).expand(2, -1)
    whole = model(frames, frame_mask=mask)
    assert_near(model(frames, frame_mask=mask, kept_patches=all_patches).pooler_output, whole.pooler_output, 1e-6)


@pytest.mark.parametrize("lengths", [[3, 3], [5, 2]])
@pytest.mark.parametrize("attention", ["sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_attention_backends_equal_eager(attention, lengths):
    frames, mask = random_frames(len(lengths), max(lengths)), ragged_mask(lengths)
    with torch.no_grad():
        outputs = tiny(attn_implementation=attention)(frames, frame_mask=mask)
        expected = tiny(attn_implementation="eager")(frames, frame_mask=mask)
    assert_near(outputs.scene_embeds, expected.scene_embeds, 1e-5)


@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [(torch.bfloat16, False, 5e-2), (torch.float16, False, 5e-3), (torch.bfloat16, True, 5e-2)],
)
def test_half_precision_is_near_fp32(dtype, autocast, tolerance):
    frames, mask = random_frames(2, 5), ragged_mask([5, 2])
    model = tiny(attn_implementation="sdpa")
    with torch.no_grad():
        expected = model(frames, frame_mask=mask)
        with torch.autocast("cpu", dtype, enabled=autocast):
            outputs = (model if autocast else model.to(dtype))(frames, frame_mask=mask)
    assert outputs.scene_embeds.dtype == dtype
    assert_near(outputs.scene_embeds, expected.scene_embeds, tolerance)


@pytest.mark.parametrize("mode", POSITION_INTERPOLATIONS)
def test_autocast_interpolates_positions_in_fp32(mode):
    embeddings = tiny(position_interpolation=mode).vision_model.embeddings
    rank, num_frames = torch.arange(5)[None], torch.tensor([5])
    expected = embeddings.interpolate_positions(rank, num_frames)
    with torch.autocast("cpu", torch.bfloat16):
        positions = embeddings.interpolate_positions(rank, num_frames)
    assert positions.dtype == torch.float32
    assert torch.equal(positions, expected)


def test_gradient_checkpointing_computes_the_same_twice():
    """Every layer runs once more in the backward pass, and nothing else changes."""
    runs = {}
    for checkpointing in (False, True):
        model = tiny(M2SSceneForContrastiveLearning).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        calls = []
        for layer in model.scene_model.vision_model.encoder.layers:
            layer.mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        loss = model(random_frames(2, 3), frame_mask=ragged_mask([3, 2])).contrastive_embeds[:, ::3].sum()
        loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        runs[checkpointing] = loss.item(), grads, len(calls)

    (loss, grads, calls), (checkpointed_loss, checkpointed_grads, checkpointed_calls) = runs[False], runs[True]
    assert checkpointed_loss == loss
    assert (calls, checkpointed_calls) == (2, 4)
    assert checkpointed_grads.keys() == grads.keys()
    assert all(torch.equal(checkpointed_grads[name], grads[name]) for name in grads)


@pytest.mark.parametrize("head_class", HEADS)
def test_heads_train_everything_but_the_projection_into_clip(head_class):
    head = tiny(head_class)
    head(random_frames(2, 3))[0][:, 0].sum().backward()
    untrained = {name for name, parameter in head.named_parameters() if parameter.grad is None}
    assert untrained == {"scene_model.visual_projection.weight"}


@pytest.fixture
def strict_compiler():
    """A fresh compiler that refuses to compile anything twice."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
        pytest.skip("older versions, 2.6 for one, cannot compile transformers' wrappers of forward")
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", POSITION_INTERPOLATIONS)
def test_compiles_into_one_graph_for_all_masks(strict_compiler, mode, backend):
    model = tiny(position_interpolation=mode, attn_implementation="sdpa")
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    frames = random_frames(3, 5)
    for lengths in ([5, 1, 2], [3, 5, 4], [5, 5, 5]):
        mask = ragged_mask(lengths)
        assert_near(compiled(frames, mask).scene_embeds, model(frames, mask).scene_embeds, 1e-5)


@pytest.mark.parametrize("model_class", [M2SSceneModel, *HEADS])
def test_compiles_into_one_graph_without_a_mask(strict_compiler, model_class):
    model = tiny(model_class, attn_implementation="sdpa")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    frames = random_frames(2, 3)
    assert_near(compiled(frames)[0], model(frames)[0], 1e-5)


@pytest.mark.parametrize("model_class", [M2SSceneModel, *HEADS])
def test_hidden_states_and_attentions_are_returned_on_request(model_class):
    model, frames, mask = tiny(model_class), random_frames(2, 3), ragged_mask([3, 1])
    outputs = model(frames, mask, output_hidden_states=True, output_attentions=True)
    num_tokens = 1 + 3 * PATCHES
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(2, num_tokens, 32)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(2, 2, num_tokens, num_tokens)] * 2
    assert all((weights[1, :, :, 1 + PATCHES :] == 0).all() for weights in outputs.attentions)

    plain = model(frames, mask)
    assert plain.hidden_states is None
    assert plain.attentions is None


@pytest.mark.parametrize("model_class", [M2SSceneModel, *HEADS])
def test_return_dict_false_gives_the_same_as_a_tuple(model_class):
    model, frames = tiny(model_class), random_frames(2, 3)
    values = model(frames, return_dict=False)
    expected = model(frames)
    assert isinstance(values, tuple)
    assert len(values) == len(expected)
    assert all(torch.equal(value, other) for value, other in zip(values, expected.values(), strict=True))


def test_contrastive_embeds_are_the_projected_scene_with_norm_one():
    outputs = (model := tiny(M2SSceneForContrastiveLearning, contrastive_dim=7))(random_frames(3, 2))
    projected = outputs.pooler_output @ model.contrastive_projection.weight.T + model.contrastive_projection.bias
    assert outputs.contrastive_embeds.shape == (3, 7)
    assert_near(outputs.contrastive_embeds.norm(dim=-1), torch.ones(3), 1e-6)
    assert_near(outputs.contrastive_embeds, projected / projected.norm(dim=-1, keepdim=True), 1e-6)


def test_classifier_is_an_mlp_with_two_hidden_layers():
    model, frames = tiny(M2SSceneForClassification, num_labels=5, classifier_hidden_size=11), random_frames(3, 2)
    first, second, last = [layer for layer in model.classifier if isinstance(layer, nn.Linear)]
    expected = last(F.relu(second(F.relu(first(model.scene_model(frames).pooler_output)))))
    assert torch.equal(model(frames).logits, expected)
    assert (first.out_features, second.out_features, last.out_features) == (11, 11, 5)
    assert model(frames).loss is None


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels", "expected_loss"),
    [
        ("single_label_classification", 5, torch.tensor([4, 0, 2]), F.cross_entropy),
        (
            "multi_label_classification",
            5,
            (torch.arange(15).view(3, 5) % 4 == 0).float(),
            F.binary_cross_entropy_with_logits,
        ),
        ("regression", 1, torch.tensor([1.5, -2.0, 0.25]), F.mse_loss),
        ("regression", 2, torch.tensor([[1.5, -2.0], [0.25, 3.0], [0.0, 1.0]]), F.mse_loss),
    ],
)
def test_classification_loss(problem_type, num_labels, labels, expected_loss):
    model = tiny(M2SSceneForClassification, num_labels=num_labels, problem_type=problem_type)
    outputs = model(random_frames(3, 2), labels=labels)
    assert_near(outputs.loss, expected_loss(outputs.logits.squeeze(-1), labels), 1e-6)
    # The parts of an accumulated batch add up to it.
    items = labels.ne(-100).sum()
    parts = [
        model(random_frames(3, 2)[part], labels=labels[part], num_items_in_batch=items).loss
        for part in (slice(0, 1), slice(1, 3))
    ]
    assert_near(sum(parts), outputs.loss, 1e-6)


@pytest.mark.parametrize(
    ("shape", "mask_shape", "message"),
    [
        ((3, 24, 24), None, r"pixel_values has shape \(3, 24, 24\); expected \(scenes, frames"),
        ((2, 3, 24, 32), None, r"pixel_values has shape \(2, 1, 3, 24, 32\)"),
        ((2, 3, 24, 24), (2, 3), r"frame_mask has shape \(2, 3\), pixel_values holds \(2, 1\)"),
        ((2, 1, 3, 24, 32), None, r"pixel_values has shape \(2, 1, 3, 24, 32\).*\(3, 24, 24\)"),
        ((2, 1, 1, 24, 24), None, r"pixel_values has shape \(2, 1, 1, 24, 24\)"),
        ((2, 3, 3, 24, 24), (2, 2), r"frame_mask has shape \(2, 2\), pixel_values holds \(2, 3\)"),
    ],
)
def test_wrong_shapes_are_refused(shape, mask_shape, message):
    mask = None if mask_shape is None else torch.ones(mask_shape, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        tiny()(torch.zeros(shape), frame_mask=mask)


def test_masks_and_videos_that_would_be_misread_are_refused():
    scenes, mask = torch.zeros(2, 3, 3, 24, 24), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="padding_mask is not read; the mask of real frames is frame_mask"):
        tiny()(scenes, padding_mask=mask)
    with pytest.raises(ValueError, match=r"frame_mask is of torch.float32; it is True or 1 for real frames"):
        tiny()(scenes, frame_mask=mask.float())
    with pytest.raises(ValueError, match=r"pixel_values_videos has shape \(2, 3, 24, 24\); expected \(scenes, frames"):
        tiny()(pixel_values_videos=scenes[:, 0])
    assert torch.equal(tiny()(scenes, frame_mask=mask.long()).pooler_output, tiny()(scenes).pooler_output)


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    """Whether both hold the same tensors under the same names."""
    weights, others = model.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(
    ("source_class", "missing"),
    [
        (CLIPModel, set()),
        (CLIPVisionModelWithProjection, set()),
        (CLIPVisionModel, {"visual_projection.weight"}),
    ],
)
def test_clip_checkpoints_load_without_a_converter(tmp_path, source_class, missing):
    tower = CLIPVisionConfig(**TOWER, projection_dim=20)
    config = CLIPConfig(
        text_config=CLIPTextConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9),
        vision_config=tower,
        projection_dim=20,
    )
    source = source_class(config if source_class is CLIPModel else tower)
    source.save_pretrained(tmp_path)

    model, info = M2SSceneModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == missing
    assert not info["unexpected_keys"]
    assert same_weights(model.vision_model, getattr(source, "vision_model", source))
    assert missing or same_weights(model.visual_projection, source.visual_projection)
    assert model.config.projection_dim == 20

    model.save_pretrained(tmp_path / "saved")
    assert load_file(tmp_path / "saved/model.safetensors").keys() == model.state_dict().keys()

    for head_class in HEADS:
        head, info = head_class.from_pretrained(tmp_path, output_loading_info=True)
        backbone_missing = {name for name in info["missing_keys"] if name.startswith("scene_model.")}
        assert backbone_missing == {f"scene_model.{name}" for name in missing}
        assert set(info["missing_keys"]) - backbone_missing == {
            name for name in head.state_dict() if not name.startswith("scene_model.")
        }
        assert not info["unexpected_keys"]
        assert same_weights(head.scene_model.vision_model, model.vision_model)


@pytest.mark.parametrize("head_class", HEADS)
def test_encoder_and_heads_load_each_other(tmp_path, head_class):
    encoder, head = tiny(), tiny(head_class)
    encoder.save_pretrained(tmp_path / "encoder")
    head.save_pretrained(tmp_path / "head")
    assert same_weights(head_class.from_pretrained(tmp_path / "encoder").scene_model, encoder)
    assert same_weights(M2SSceneModel.from_pretrained(tmp_path / "head"), head.scene_model)


@pytest.mark.parametrize("model_class", [M2SSceneModel, *HEADS])
def test_saved_models_load_as_they_were(tmp_path, model_class):
    model = tiny(model_class, position_interpolation="mosaic", num_labels=5, contrastive_dim=7, projection_dim=13)
    model.save_pretrained(tmp_path)
    sentence_transformers = ["1_Pooling", "modules.json", "sentence_bert_config.json"]
    files = ["config.json", "model.safetensors", *(sentence_transformers if model_class is M2SSceneModel else [])]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)

    loaded = model_class.from_pretrained(tmp_path, attn_implementation="eager")
    for name in ("position_interpolation", "num_labels", "contrastive_dim", "projection_dim"):
        assert getattr(loaded.config, name) == getattr(model.config, name)
    assert all(getattr(loaded.config.vision_config, name) == value for name, value in TOWER.items())
    assert same_weights(loaded, model)
    frames = random_frames(2, 3)
    assert torch.equal(loaded(frames)[0], model(frames)[0])


def test_position_interpolation_can_be_chosen_at_loading(tiny_clip, tmp_path):
    M2SSceneModel.from_pretrained(tiny_clip, position_interpolation="mosaic").save_pretrained(tmp_path)
    for kwargs, mode in (({}, "mosaic"), ({"position_interpolation": "repeat"}, "repeat")):
        model = M2SSceneModel.from_pretrained(tmp_path, **kwargs)
        assert model.config.position_interpolation == mode
        assert model.vision_model.embeddings.position_interpolation == mode


def test_other_models_are_refused(tmp_path):
    SiglipVisionConfig(hidden_size=32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'siglip_vision_model'; M2SSceneConfig reads 'm2s_scene' or CLIP"):
        M2SSceneModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_interpolation": "tall"}, "'tall' is unknown; choose one of grid, mosaic, sequence, repeat"),
        ({"vision_config": {**TOWER, "image_size": 25}}, "image_size=25 is not a multiple of patch_size=8"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        M2SSceneConfig(**fields)


def test_default_configuration_is_vit_b_16():
    tower = M2SSceneConfig().vision_config
    assert (tower.hidden_size, tower.num_hidden_layers, tower.image_size, tower.patch_size) == (768, 12, 224, 16)


@pytest.mark.parametrize("place", ["cpu", "disk", "device_map"])
@pytest.mark.parametrize("mode", POSITION_INTERPOLATIONS)
def test_offloaded_models_give_the_same(tiny_folder, tmp_path, place, mode):
    """accelerate loads a module's weights when the module is called, and only then."""
    model = M2SSceneModel.from_pretrained(tiny_folder, position_interpolation=mode).eval()
    pixels = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    expected = model(pixels).pooler_output
    if place == "cpu":
        accelerate.cpu_offload(model, execution_device="cpu")
    elif place == "disk":
        accelerate.disk_offload(model, tmp_path, execution_device="cpu")
    else:
        layers = ("pre_layrnorm", "encoder", "post_layernorm")
        parts = {"vision_model.embeddings": "disk", **{f"vision_model.{name}": "cpu" for name in layers}}
        parts["visual_projection"] = "disk"
        model = M2SSceneModel.from_pretrained(
            tiny_folder, position_interpolation=mode, device_map=parts, offload_folder=tmp_path
        ).eval()
    assert torch.equal(model(pixels).pooler_output, expected)
