"""The network that contrast trains: a scene encoder and a linear head [3.2.2]. Scenes are compared after the head.

Shapes: b scenes of this process, B scenes of all processes, F frames, D width of the encoder, C dimensions of the
contrast space.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BaseImageProcessor

from data_scripts.mining.whitening import Moments, Whitening
from modeling_m2s import M2SSceneModel
from modeling_m2s.frames_m2s import normalize
from train.moco.augment import augment
from train.moco.contrast import gather
from train.moco.pairs import kept_patches
from train.moco.recipe import MoCoRecipe


class ContrastHead(nn.Module):
    """Linear layer, then scaling to length 1 [supp. 1.1b]; optionally whitening and batch normalization before (ours).

    Both options matter because most of the squared length of a pretrained encoder's embeddings is common to all
    scenes, and Adam changes that part first. Neither is part of the saved encoder.
    """

    def __init__(self, dim: int, contrast_dim: int, batch_norm: bool):
        super().__init__()
        self.projection = nn.Linear(dim, contrast_dim)
        self.batch_norm = batch_norm
        self.register_buffer("mean_D", torch.zeros(dim))
        self.register_buffer("axes_DD", torch.eye(dim))

    def whiten(self, features_BD: torch.Tensor) -> None:
        """Fit the whitening to embeddings (B, D) of the untrained encoder; it is fixed from then on."""
        moments = Moments(features_BD.shape[1])
        moments.add(features_BD)
        whitening = Whitening.fit(moments)
        self.mean_D.copy_(torch.from_numpy(whitening.mean_D))
        self.axes_DD.zero_()
        self.axes_DD[:, : whitening.axes_DK.shape[1]] = torch.from_numpy(whitening.axes_DK)

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        """Points (B, C) of length 1 for the embeddings of all processes, computed in float32."""
        with torch.autocast(features_BD.device.type, enabled=False):
            features_BD = (features_BD.float() - self.mean_D) @ self.axes_DD
            if self.batch_norm:
                features_BD = F.batch_norm(features_BD, None, None, training=True)
            return F.normalize(self.projection(features_BD), dim=-1)


class SceneContrast(nn.Module):
    """The network from scenes as uint8 pixels to points of the contrast space.

    Args:
        encoder: the scene encoder; its projection is not used here and not trained.
    """

    def __init__(self, encoder: M2SSceneModel, image_processor: BaseImageProcessor, recipe: MoCoRecipe):
        super().__init__()
        self.encoder, self.image_processor = encoder, image_processor
        self.head = ContrastHead(
            encoder.config.vision_config.hidden_size, encoder.config.contrastive_dim, recipe.batch_norm
        )
        freeze(encoder, recipe)

    def encode(
        self, pixels_sbFCYX: torch.Tensor, kept_sbP: torch.Tensor | None, augmentations_sbA: torch.Tensor | None
    ) -> torch.Tensor:
        """`pooler_output` (s, B, D) of s times b scenes, gathered from all processes in their order."""
        sides, pairs = pixels_sbFCYX.shape[:2]
        pixels = pixels_sbFCYX.flatten(0, 1)
        if augmentations_sbA is not None:
            pixels = augment(pixels, augmentations_sbA.flatten(0, 1))
        kept = None if kept_sbP is None else kept_sbP.flatten(0, 1)
        features = self.encoder(normalize(pixels, self.image_processor), kept_patches=kept).pooler_output
        # Gathered scenes are ordered by process, then by side.
        return gather(features).unflatten(0, (-1, sides, pairs)).transpose(0, 1).flatten(1, 2)

    def forward(
        self, pixels_sbFCYX: torch.Tensor, kept_sbP: torch.Tensor | None, augmentations_sbA: torch.Tensor | None
    ) -> torch.Tensor:
        """Points (s, B, C) of the contrast space for the same scenes as `encode`."""
        features_sBD = self.encode(pixels_sbFCYX, kept_sbP, augmentations_sbA)
        return self.head(features_sBD.flatten(0, 1)).unflatten(0, features_sBD.shape[:2])


def freeze(encoder: M2SSceneModel, recipe: MoCoRecipe) -> None:
    """Freeze the projection and the layers that the recipe names.

    Raises:
        ValueError: the recipe freezes more layers than the encoder has.
    """
    encoder.visual_projection.requires_grad_(False)
    tower = encoder.vision_model
    layers = tower.encoder.layers
    if recipe.frozen_layers >= len(layers):
        raise ValueError(f"frozen_layers is {recipe.frozen_layers}, but the encoder has {len(layers)} layers")
    if recipe.freeze_patch_embedding:
        tower.embeddings.patch_embedding.requires_grad_(False)
    if recipe.frozen_layers:
        for module in (tower.embeddings, tower.pre_layrnorm, *layers[: recipe.frozen_layers]):
            module.requires_grad_(False)


def step_operations(encoder: M2SSceneModel, recipe: MoCoRecipe, num_frames: int) -> float:
    """Floating-point operations of one pair in a step; a multiplication and an addition count as two.

    A layer costs 8·S·D² + 4·S·D·I + 4·S²·D for S tokens, width D and MLP width I. Its backward pass costs twice that,
    unless it is frozen. In-batch contrast trains through both scenes, momentum through one; the key is forward only.
    """
    config = encoder.config.vision_config
    patches = (config.image_size // config.patch_size) ** 2
    S, D, I = 1 + num_frames * kept_patches(patches, recipe), config.hidden_size, config.intermediate_size  # noqa: E741
    layer = 8 * S * D * D + 4 * S * D * I + 4 * S * S * D
    embedding = 2 * num_frames * patches * D * config.num_channels * config.patch_size**2
    forward = config.num_hidden_layers * layer + embedding
    trained = (config.num_hidden_layers - recipe.frozen_layers) * layer
    trained += 0 if recipe.frozen_layers or recipe.freeze_patch_embedding else embedding / 2  # pixels have no gradient
    through_one = forward + 2 * trained
    if recipe.objective == "in_batch":
        return 2 * through_one
    return (2 if recipe.symmetric else 1) * (through_one + forward)
