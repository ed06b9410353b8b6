"""What all images have in common leaves the output before the projection; embeddings stay as they were."""

import copy

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from train.distillation.pooled import CONSTANT_SHARE, center_pooled


@pytest.fixture
def student() -> CLIPVisionModelWithProjection:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = CLIPVisionConfig(**sizes, image_size=32, patch_size=16, projection_dim=48, initializer_factor=3.0)
    student = CLIPVisionModelWithProjection(config).eval()
    norm = student.vision_model.post_layernorm
    norm.weight.data.uniform_(0.5, 1.5)
    norm.bias.data.normal_(std=2.0)
    return student


def pooled_of(student: CLIPVisionModelWithProjection, pixels: torch.Tensor) -> torch.Tensor:
    return student.vision_model(pixels).pooler_output


def test_only_what_is_common_is_taken_off(student):
    images, others = torch.randn(2, 40, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(student)
    with torch.no_grad():
        center_pooled(student, pooled_of(before, images))
        for pixels in (images, others):
            torch.testing.assert_close(student(pixels).image_embeds, before(pixels).image_embeds, atol=1e-4, rtol=1e-4)
        pooled, old = pooled_of(student, images), pooled_of(before, images)
    expected = old - old.mean(0)
    changed = (pooled - expected).abs().amax(0) > 1e-4
    assert changed.sum() == 1  # the channel that carries the constant: that which varied least
    carrier = int(changed.nonzero())
    assert carrier == old.var(0).argmin()
    assert (pooled[:, carrier] == pooled[0, carrier]).all()
    share = pooled[0, carrier].square() / expected.square().sum(1).mean()
    assert share == pytest.approx(CONSTANT_SHARE, rel=1e-3)
