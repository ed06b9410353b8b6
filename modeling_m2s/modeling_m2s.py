"""The scene encoder: a CLIP image tower that reads all frames of a scene in one joint attention (paper §3.2.1).

Names of tensors end in their shape: B scenes, F frames a scene (shots × frames a shot, padded to the longest), C color
channels, Y×X pixels, G×G patches a frame, N = G² of them, S = 1 + F·N tokens, D hidden width.

One scene costs L·(24·S·D² + 4·S²·D) + 6·F·N·D·patch² floating-point operations forward: 417 GFLOP for nine frames of
ViT-B/16, 35 for one.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedModel
from transformers import initialization as init
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_m2s import CLIP_MODEL_TYPES, POSITION_INTERPOLATIONS, M2SSceneConfig

# A folder of `CLIPVisionModel` alone may name its weights without the tower's prefix.
BARE_TOWER_KEYS = {r"^(embeddings|pre_layrnorm|encoder|post_layernorm)\.": r"vision_model.\1."}

# `SentenceTransformer(folder)` reads these files beside the model and its processor. sentence-transformers assumes that
# vectors pooled by a model have width `projection_dim`; here it pools the one token of `scene_tokens` itself instead.
MODULES = {"": "base.modules.transformer.Transformer", "1_Pooling": "sentence_transformer.modules.pooling.Pooling"}
SENTENCE_TRANSFORMERS_FILES = {
    "modules.json": [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.{module}"}
        for number, (path, module) in enumerate(MODULES.items())
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "image": {"method": "get_image_features", "method_output_name": "scene_tokens"},
            "video": {"method": "get_video_features", "method_output_name": "scene_tokens"},
        },
        "module_output_name": "token_embeddings",
    },
}


@dataclass
class M2SSceneModelOutput(BaseModelOutputWithPooling):
    """
    `last_hidden_state` (B, S, D); `pooler_output` (B, D), the class token after the last LayerNorm: the scene's
    representation; `scene_embeds` (B, projection_dim), its projection, comparable with CLIP's `image_embeds`.
    """

    scene_embeds: torch.Tensor | None = None

    @property
    def scene_tokens(self) -> torch.Tensor:
        """`pooler_output` as a sequence of one token (B, 1, D), for libraries that pool tokens themselves."""
        return self.pooler_output[:, None]


@dataclass
class M2SSceneContrastiveOutput(ModelOutput):
    """`contrastive_embeds` (B, contrastive_dim), of norm 1; `pooler_output` (B, D) as in [`M2SSceneModelOutput`]."""

    contrastive_embeds: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def scene_inputs(
    pixel_values: torch.Tensor | None,
    frame_mask: torch.Tensor | None,
    pixel_values_videos: torch.Tensor | None,
    padding_mask_videos: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`pixel_values` and `frame_mask`, each given under either of its two names.

    Raises:
        ValueError: an input is given under both names, there are no pixels, or videos do not have five axes.
    """
    for name, value, synonym, other in (
        ("pixel_values", pixel_values, "pixel_values_videos", pixel_values_videos),
        ("frame_mask", frame_mask, "padding_mask_videos", padding_mask_videos),
    ):
        if value is not None and other is not None:
            raise ValueError(f"{name} and {synonym} are two names of one input; give one of them")
    pixel_values = pixel_values_videos if pixel_values is None else pixel_values
    if pixel_values is None:
        raise ValueError("pixel_values is missing; M2SSceneProcessor makes it")
    if pixel_values_videos is not None and pixel_values.ndim != 5:
        shape = tuple(pixel_values.shape)
        raise ValueError(f"pixel_values_videos has shape {shape}; expected (scenes, frames, channels, height, width)")
    return pixel_values, padding_mask_videos if frame_mask is None else frame_mask


def bicubic_weights(coordinates: torch.Tensor, size: int) -> torch.Tensor:
    """Weights (..., size) with which `size` samples make the value at `coordinates` (...), measured in samples.

    The cubic convolution of `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`: four taps, a =
    -0.75, clamped at the border. At a whole coordinate the weights are exactly one 1 and zeros.
    """
    a = -0.75
    first = coordinates.floor()
    t = coordinates - first
    samples = torch.arange(size, device=coordinates.device)
    weights = torch.zeros((*coordinates.shape, size), device=coordinates.device)
    for tap, distance in ((-1, t + 1), (0, t), (1, 1 - t), (2, 2 - t)):
        if tap in (0, 1):
            weight = ((a + 2) * distance - (a + 3)) * distance * distance + 1
        else:
            weight = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        index = (first + tap).clamp(0, size - 1)
        weights = weights + weight[..., None] * (index[..., None] == samples)
    return weights


class M2SSceneEmbeddings(CLIPVisionEmbeddings):
    """CLIP's patch embeddings over all frames of a scene, one class token, positions interpolated to the scene."""

    def __init__(self, config: CLIPVisionConfig, position_interpolation: str = "grid"):
        super().__init__(config)
        if position_interpolation not in POSITION_INTERPOLATIONS:
            raise ValueError(f"position_interpolation={position_interpolation!r} is none of {POSITION_INTERPOLATIONS}")
        self.position_interpolation = position_interpolation

    def interpolate_positions(self, rank_BF: torch.Tensor, num_frames_B: torch.Tensor) -> torch.Tensor:
        """Position embeddings (B, F, N, D) of each frame's patches.

        All modes share one computation: the table, seen as H×W, is resized to (rows·H)×(cols·W), and frame `rank` of
        `num_frames` takes one H×W tile. Only the tiling differs. Tensor operations compute it from the frame count, so
        scenes of any lengths share a batch and a compiled graph.
        """
        mode = self.position_interpolation
        side = self.image_size // self.patch_size
        height, width = (side * side, 1) if mode == "sequence" else (side, side)
        zero_BF, one_B = torch.zeros_like(rank_BF), torch.ones_like(num_frames_B)
        if mode == "mosaic":
            # The number of j ≥ 0 with j² < n is ⌈√n⌉, without a square root's rounding.
            j = torch.arange(rank_BF.shape[-1], device=rank_BF.device)
            cols_B = (j * j < num_frames_B[:, None]).sum(-1)
            rows_B = (num_frames_B + cols_B - 1) // cols_B
            row_BF, col_BF = rank_BF // cols_B[:, None], rank_BF % cols_B[:, None]
        elif mode == "repeat":
            rows_B, cols_B, row_BF, col_BF = one_B, one_B, zero_BF, zero_BF
        else:
            rows_B, cols_B, row_BF, col_BF = num_frames_B, one_B, rank_BF, zero_BF

        def axis_weights(tile_BF: torch.Tensor, tiles_B: torch.Tensor, size: int) -> torch.Tensor:
            place = tile_BF[..., None] * size + torch.arange(size, device=tile_BF.device)
            return bicubic_weights((place + 0.5) / tiles_B[:, None, None] - 0.5, size)

        with torch.autocast(rank_BF.device.type, enabled=False):
            # The table is read by a call, because accelerate's offloading loads a module's weights when it is called.
            table_HWD = self.position_embedding(self.position_ids[0, 1:]).float().unflatten(0, (height, width))
            positions = torch.einsum("bfyh,hwd->bfywd", axis_weights(row_BF, rows_B, height), table_HWD)
            if mode == "mosaic":
                positions = torch.einsum("bfxw,bfywd->bfyxd", axis_weights(col_BF, cols_B, width), positions)
        return positions.flatten(2, 3)

    def forward(self, pixel_values: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
        """Token embeddings (B, S, D) of `pixel_values` (B, F, C, Y, X); padded frames have False in `frame_mask`."""
        num_scenes, num_frames = pixel_values.shape[:2]
        dtype = self.patch_embedding.weight.dtype
        patches = self.patch_embedding(pixel_values.flatten(0, 1).to(dtype)).flatten(2).transpose(1, 2)
        patches_BTD = patches.reshape(num_scenes, -1, self.embed_dim)

        if frame_mask is None:
            rank_BF = torch.arange(num_frames, device=pixel_values.device)[None]
            num_frames_B = torch.full_like(rank_BF[:, 0], num_frames)
        else:
            counts_BF = frame_mask.long().cumsum(1)
            rank_BF, num_frames_B = (counts_BF - 1).clamp(min=0), counts_BF[:, -1].clamp(min=1)
        positions = self.interpolate_positions(rank_BF, num_frames_B).to(dtype).flatten(1, 2)
        patches_BTD = patches_BTD + positions

        class_token = self.class_embedding + self.position_embedding(self.position_ids[0, :1])
        return torch.cat([class_token.expand(num_scenes, 1, -1), patches_BTD], dim=1)


class M2SSceneVisionModel(CLIPVisionModel):
    """`CLIPVisionModel` on scenes: the same weights under the same names, several frames in one attention."""

    config: CLIPVisionConfig

    def __init__(self, config: CLIPVisionConfig, position_interpolation: str = "grid"):
        super().__init__(config)
        self.embeddings = M2SSceneEmbeddings(config, position_interpolation)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(  # type: ignore[override]
        self,
        pixel_values: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        kept_patches: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """`last_hidden_state` (B, S, D) and `pooler_output` (B, D) of `pixel_values` (B, F, C, Y, X)."""
        embeddings_BSD = self.embeddings(pixel_values, frame_mask)
        token_mask_BS = None
        if frame_mask is not None:
            class_mask = torch.ones_like(frame_mask[:, :1])
            patch_mask = frame_mask.repeat_interleave(self.embeddings.num_patches, dim=1)
            token_mask_BS = torch.cat([class_mask, patch_mask], dim=1).bool()
        if kept_patches is not None:
            kept_BS = torch.cat([torch.zeros_like(kept_patches[:, :1]), kept_patches + 1], dim=1)
            embeddings_BSD = embeddings_BSD.gather(1, kept_BS[..., None].expand(-1, -1, self.embeddings.embed_dim))
            token_mask_BS = None if token_mask_BS is None else token_mask_BS.gather(1, kept_BS)
        embeddings_BSD = self.pre_layrnorm(embeddings_BSD)
        attention_mask = None
        if token_mask_BS is not None:
            attention_mask = create_bidirectional_mask(self.config, embeddings_BSD, token_mask_BS)
        last_hidden_state = self.encoder(embeddings_BSD, attention_mask=attention_mask, **kwargs).last_hidden_state
        pooler_output = self.post_layernorm(last_hidden_state[:, 0])
        return BaseModelOutputWithPooling(last_hidden_state=last_hidden_state, pooler_output=pooler_output)


class M2SScenePreTrainedModel(PreTrainedModel):
    """Weight initialization, attention backends and loading of CLIP checkpoints, shared by the three classes."""

    config: M2SSceneConfig
    config_class = M2SSceneConfig
    base_model_prefix = "scene_model"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["CLIPEncoderLayer", "M2SSceneEmbeddings"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # A full CLIP checkpoint also holds its text tower, which a scene encoder does not need.
    _keys_to_ignore_on_load_unexpected = [r"text_(model\..*|projection\.weight)", r"logit_scale", r".*position_ids"]

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in transformers; also reads CLIP's checkpoints, and takes CLIP's configurations as `config`."""
        config = kwargs.get("config")
        if getattr(config, "model_type", None) in CLIP_MODEL_TYPES:
            kwargs["config"] = M2SSceneConfig(**M2SSceneConfig.clip_to_scene_dict(config.to_dict()))
        kwargs.setdefault("key_mapping", BARE_TOWER_KEYS)
        return super().from_pretrained(*args, **kwargs)

    def save_pretrained(self, *args, **kwargs):
        """As in transformers; always saves under this model's names, whatever names the weights were loaded from."""
        kwargs.setdefault("save_original_format", False)
        return super().save_pretrained(*args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The image tower initializes itself; only the projection and the heads are left.
        super()._init_weights(module)
        if isinstance(module, M2SSceneModel):
            init.normal_(module.visual_projection.weight, std=module.config.vision_config.hidden_size**-0.5)

    def get_input_embeddings(self) -> nn.Module:
        """The convolution that embeds patches."""
        return self.base_model.vision_model.embeddings.patch_embedding

    def _refuse_pictures(self, pixel_values: torch.Tensor) -> None:
        """Refuse pixels of four dimensions: they may be pictures, or the frames of one scene."""
        if pixel_values.ndim == 4:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; {type(self).__name__} reads (scenes, frames, "
                "channels, height, width): pixel_values[None] for the frames of one scene, pixel_values[:, None] for "
                'single images. pipeline("video-classification") passes frames as images, unless it has a video '
                "processor; call the model on M2SSceneProcessor's processor(videos=[path]) instead"
            )


class M2SSceneEncoder(M2SScenePreTrainedModel):
    """The methods by which other libraries call a single scene encoder or an ensemble."""

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> M2SSceneModelOutput:
        """Encode single images (B, C, Y, X), each as a scene of one frame; outputs are those of a call.

        `pooler_output` is the representation itself, as everywhere in this package. CLIP's method of this name returns
        the projection there; here the projection is `scene_embeds`.

        Raises:
            ValueError: `pixel_values` is not four-dimensional, or its images are not of the model's size.
        """
        if pixel_values.ndim != 4:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; images are (images, channels, height, width). "
                "get_video_features takes scenes of several frames"
            )
        return self(pixel_values, **kwargs)

    def get_video_features(
        self,
        pixel_values: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        padding_mask_videos: torch.Tensor | None = None,
        **kwargs,
    ) -> M2SSceneModelOutput:
        """Encode scenes (B, F, C, Y, X) of several frames; inputs and outputs are those of a call.

        Raises:
            ValueError: the pixels are not five-dimensional, or a call refuses the inputs.
        """
        pixel_values, frame_mask = scene_inputs(pixel_values, frame_mask, pixel_values_videos, padding_mask_videos)
        if pixel_values.ndim != 5:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; videos are (videos, frames, channels, height, "
                "width). get_image_features takes single images"
            )
        return self(pixel_values, frame_mask=frame_mask, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs):
        """As in [`M2SScenePreTrainedModel`], with the files from which sentence-transformers loads the folder."""
        if kwargs.get("is_main_process", True) and not getattr(self, "_hf_peft_config_loaded", False):
            folder = Path(save_directory)
            pooling = {"embedding_dimension": self.config.hidden_size, "pooling_mode": "cls"}
            for name, content in {**SENTENCE_TRANSFORMERS_FILES, "1_Pooling/config.json": pooling}.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _get_files_timestamps(self, working_dir: str | os.PathLike) -> dict[str, float]:
        # transformers pushes files newer than these times. The files of sentence-transformers were written just before,
        # so they have none here.
        times = super()._get_files_timestamps(working_dir)
        return {name: time for name, time in times.items() if name not in {*SENTENCE_TRANSFORMERS_FILES, "1_Pooling"}}


class M2SSceneModel(M2SSceneEncoder):
    """
    The scene encoder E_scene (paper §3.2.1): one to many shots in, one vector out.

    A CLIP checkpoint (a folder or Hub id of type `clip` or `clip_vision_model`) loads as it is:
    `M2SSceneModel.from_pretrained("openai/clip-vit-base-patch16")`. A scene of a single frame is then exactly CLIP.
    """

    def __init__(self, config: M2SSceneConfig):
        super().__init__(config)
        self.vision_model = M2SSceneVisionModel._from_config(
            config.vision_config, position_interpolation=config.position_interpolation
        )
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        kept_patches: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        padding_mask_videos: torch.Tensor | None = None,
        **kwargs,
    ) -> M2SSceneModelOutput:
        """
        Args:
            pixel_values (`torch.Tensor` of shape (B, F, C, Y, X)):
                Frames of B scenes, shot after shot, normalized as [`M2SSceneProcessor`] does. Single images (B, C, Y,
                X) are scenes of one frame.
            frame_mask (`torch.Tensor` of shape (B, F), *optional*):
                True for real frames, False for padding, which may stand anywhere. Without it all frames are real. A
                scene's outputs are the same in a padded batch as alone.
            kept_patches (`torch.Tensor` of shape (B, P), *optional*):
                Numbers from 0 to F·N - 1 of the patches that are read, for training with patch dropout (ours). The
                other patches are left out. Without it all patches are read.
            pixel_values_videos, padding_mask_videos:
                Other models' names of `pixel_values` and `frame_mask`.

        Raises:
            ValueError: `pixel_values` is missing or of neither shape, its frames are not of the model's size, the mask
                has another shape, is of floating point or has an unknown name, or an input is given under both names.
        """
        pixel_values, frame_mask = scene_inputs(pixel_values, frame_mask, pixel_values_videos, padding_mask_videos)
        if pixel_values.ndim == 4:
            pixel_values = pixel_values[:, None]
        self._check_inputs(pixel_values, frame_mask)
        if unknown := [name for name in kwargs if name.endswith("mask")]:
            raise ValueError(f"{unknown[0]} is not read; the mask of real frames is frame_mask")
        outputs = self.vision_model(pixel_values, frame_mask=frame_mask, kept_patches=kept_patches, **kwargs)
        return M2SSceneModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=outputs.pooler_output,
            scene_embeds=self.visual_projection(outputs.pooler_output),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _check_inputs(self, pixel_values: torch.Tensor, frame_mask: torch.Tensor | None) -> None:
        vision_config = self.config.vision_config
        frame_shape = (vision_config.num_channels, vision_config.image_size, vision_config.image_size)
        if pixel_values.ndim != 5 or tuple(pixel_values.shape[2:]) != frame_shape:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; expected (scenes, frames, *{frame_shape}). "
                "M2SSceneProcessor makes it"
            )
        if frame_mask is not None and frame_mask.is_floating_point():
            raise ValueError(f"frame_mask is of {frame_mask.dtype}; it is True or 1 for real frames, else False or 0")
        if frame_mask is not None and frame_mask.shape != pixel_values.shape[:2]:
            raise ValueError(
                f"frame_mask has shape {tuple(frame_mask.shape)}, pixel_values holds {tuple(pixel_values.shape[:2])} "
                "(scenes, frames)"
            )


class M2SSceneForContrastiveLearning(M2SScenePreTrainedModel):
    """The scene encoder with the linear layer whose outputs momentum contrast compares (paper §3.2.2, supplement 1.1b).

    `train.train_moco` trains with a head of its own, which may whiten embeddings, and saves the encoder without it.
    """

    def __init__(self, config: M2SSceneConfig):
        super().__init__(config)
        self.scene_model = M2SSceneModel(config)
        self.contrastive_projection = nn.Linear(config.vision_config.hidden_size, config.contrastive_dim)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        padding_mask_videos: torch.Tensor | None = None,
        **kwargs,
    ) -> M2SSceneContrastiveOutput:
        """Inputs as in [`M2SSceneModel.forward`], except that single images are refused (`ValueError`)."""
        pixel_values, frame_mask = scene_inputs(pixel_values, frame_mask, pixel_values_videos, padding_mask_videos)
        self._refuse_pictures(pixel_values)
        outputs = self.scene_model(pixel_values, frame_mask=frame_mask, **kwargs)
        projected = self.contrastive_projection(outputs.pooler_output)
        return M2SSceneContrastiveOutput(
            contrastive_embeds=nn.functional.normalize(projected, dim=-1),
            pooler_output=outputs.pooler_output,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class M2SSceneForClassification(M2SScenePreTrainedModel):
    """The scene encoder with the MLP of the paper's downstream tasks: two hidden layers, ReLU (paper §4.2)."""

    def __init__(self, config: M2SSceneConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.scene_model = M2SSceneModel(config)
        width, dropout = config.classifier_hidden_size, config.classifier_dropout
        self.classifier = nn.Sequential(
            nn.Linear(config.vision_config.hidden_size, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, config.num_labels),
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        padding_mask_videos: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> ImageClassifierOutput:
        """
        Inputs as in [`M2SSceneModel.forward`], except that single images are refused (`ValueError`), and:

        Args:
            labels (`torch.Tensor` of shape (B,) or (B, num_labels), *optional*):
                Class indices (`problem_type="single_label_classification"`), zeros and ones as floats
                (`"multi_label_classification"`) or values (`"regression"`). With them the loss is returned.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Number of labels in all parts of an accumulated batch. The loss is then the sum over the labels here,
                divided by that number, so the parts' losses add up to the mean over the batch. `Trainer` gives it.
        """
        pixel_values, frame_mask = scene_inputs(pixel_values, frame_mask, pixel_values_videos, padding_mask_videos)
        self._refuse_pictures(pixel_values)
        outputs = self.scene_model(pixel_values, frame_mask=frame_mask, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = ForSequenceClassificationLoss(labels, logits, self.config)
            if num_items_in_batch is not None:
                loss = loss * labels.ne(-100).sum() / num_items_in_batch
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = ["M2SSceneForClassification", "M2SSceneForContrastiveLearning", "M2SSceneModel"]
