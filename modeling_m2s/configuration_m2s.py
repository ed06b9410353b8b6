"""Configurations of the scene encoder (paper §3.2.1), of ensembles, and of the movie-similarity network (§3.1).

Shapes and choices that are fixed for the life of a checkpoint live here; everything about training lives in `train/`.
"""

import os
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CLIPVisionConfig, PreTrainedConfig
from transformers.activations import ACT2CLS

POSITION_INTERPOLATIONS = ("grid", "mosaic", "sequence", "repeat")
CLIP_MODEL_TYPES = ("clip", "clip_vision_model")
# Frames taken from a video file whose shots are unknown; the paper's scene is nine shots (§3).
FRAMES_PER_VIDEO = 9


@strict
class M2SSceneConfig(PreTrainedConfig):
    r"""
    Configuration of [`M2SSceneModel`] and its heads.

    Args:
        vision_config (`dict` or `CLIPVisionConfig`, *optional*):
            The CLIP image tower that reads the frames; by default ViT-B/16, as in the paper.
        projection_dim (`int`, defaults to 512):
            Width of `scene_embeds`, the projection of the class token into CLIP's joint space.
        position_interpolation (`str`, defaults to `"grid"`):
            How a table of G×G position embeddings serves n frames (the paper says only "2-D interpolation to N·n·k"):

            - `"grid"`: the table is resized to (n·G)×G, as if the frames were stacked top to bottom;
            - `"mosaic"`: the table is resized to ⌈n/c⌉ rows and c = ⌈√n⌉ columns of tiles, and each frame takes a tile;
            - `"sequence"`: the G² positions in reading order are resized along that one axis;
            - `"repeat"`: every frame gets the table as it is.

            With one frame all four are the original table.
        contrastive_dim (`int`, defaults to 128):
            Width of the vectors that momentum contrast compares (paper, supplement 1.1b).
        classifier_hidden_size (`int`, defaults to 512):
            Width of the two hidden layers of the classification head (paper §4.2, supplement 1.3).
        classifier_dropout (`float`, defaults to 0.0):
            Dropout after each hidden layer. The paper tunes it for each task, from 0.25 to 0.875.
        trained_on_scenes (`bool`, defaults to `False`):
            Whether the encoder learned to read several frames jointly, as `train.train_moco` teaches it. `m2s embed`
            reads scenes jointly then, and otherwise shot by shot.
    """

    model_type = "m2s_scene"
    sub_configs_defaults = {"vision_config": CLIPVisionConfig}

    vision_config: Any = None  # a dict or nothing may be given; a CLIPVisionConfig after construction
    projection_dim: int = 512
    position_interpolation: str = "grid"
    contrastive_dim: int = 128
    classifier_hidden_size: int = 512
    classifier_dropout: float | int = 0.0
    trained_on_scenes: bool = False

    def __post_init__(self, **kwargs):
        if self.vision_config is None:
            self.vision_config = {"patch_size": 16}
        if isinstance(self.vision_config, dict):
            self.vision_config = CLIPVisionConfig(**self.vision_config)
        super().__post_init__(**kwargs)

    @property
    def image_size(self) -> int:
        """Height and width of the frames, in pixels."""
        return self.vision_config.image_size

    @property
    def num_frames(self) -> int:
        """Frames that pipelines take from a video file; the model itself reads any number."""
        return FRAMES_PER_VIDEO

    @property
    def hidden_size(self) -> int:
        """Width of `pooler_output`."""
        return self.vision_config.hidden_size

    def validate_architecture(self):
        """Refuse an unknown position interpolation, and an image size that is no multiple of the patch size."""
        if self.position_interpolation not in POSITION_INTERPOLATIONS:
            raise ValueError(
                f"position_interpolation={self.position_interpolation!r} is unknown; "
                f"choose one of {', '.join(POSITION_INTERPOLATIONS)}"
            )
        image_size, patch_size = self.vision_config.image_size, self.vision_config.patch_size
        if image_size % patch_size:
            raise ValueError(f"image_size={image_size} is not a multiple of patch_size={patch_size}")

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> tuple[dict[str, Any], dict]:
        """Read `config.json`; turn a CLIP checkpoint's into a scene configuration around its image tower.

        A file of type `clip` has the tower's configuration under `vision_config`; `clip_vision_model` is the tower's.

        Raises:
            ValueError: the checkpoint is neither a scene encoder nor CLIP.
        """
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        found = config_dict.get("model_type", cls.model_type)
        if found == cls.model_type:
            return config_dict, kwargs
        if found not in CLIP_MODEL_TYPES:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a model of type {found!r}; {cls.__name__} reads "
                f"{cls.model_type!r} or CLIP checkpoints ({', '.join(CLIP_MODEL_TYPES)})"
            )
        return cls.clip_to_scene_dict(config_dict), kwargs

    @classmethod
    def clip_to_scene_dict(cls, clip_dict: dict[str, Any]) -> dict[str, Any]:
        """The scene configuration, as a dict, around the image tower of a CLIP configuration, as a dict."""
        tower = clip_dict.get("vision_config") or {} if clip_dict["model_type"] == "clip" else clip_dict
        kept: dict[str, Any] = {
            key: clip_dict[key] for key in ("projection_dim", "dtype", "_commit_hash") if key in clip_dict
        }
        return {**kept, "vision_config": dict(tower)}


@strict
class M2SSceneEnsembleConfig(PreTrainedConfig):
    r"""
    Configuration of [`M2SSceneEnsembleModel`].

    Args:
        names (`list[str]`):
            Names of the members, such as the source of similarity that each was trained by: `["genre", "synopsis"]`.
        members (`list` of `dict` or `M2SSceneConfig`):
            Their configurations, in the order in which their vectors are concatenated. They are kept as dicts.
        normalize (`bool`, defaults to `False`):
            Divide the vector of each member by its norm before concatenation, so that all members weigh the same in a
            distance. The paper concatenates the vectors as they are; this option is ours.
    """

    model_type = "m2s_scene_ensemble"

    # Two lists instead of one dict: `config.json` is written with sorted keys, which would lose the order.
    names: list[str] = field(default_factory=list)
    members: list[Any] = field(default_factory=list)
    normalize: bool = False

    def __post_init__(self, **kwargs):
        self.members = [
            member.to_diff_dict() if isinstance(member, PreTrainedConfig) else member for member in self.members
        ]
        super().__post_init__(**kwargs)

    def member_configs(self) -> list[M2SSceneConfig]:
        """The configurations of the members, in order."""
        return [M2SSceneConfig(**member) for member in self.members]

    @property
    def image_size(self) -> int:
        """Height and width of the frames, in pixels; one size for all members."""
        return self.member_configs()[0].image_size

    @property
    def hidden_size(self) -> int:
        """Width of `pooler_output`: the sum over the members."""
        return sum(member.hidden_size for member in self.member_configs())

    @property
    def trained_on_scenes(self) -> bool:
        """Whether all members learned to read several frames jointly."""
        return all(member.trained_on_scenes for member in self.member_configs())

    @property
    def projection_dim(self) -> int:
        """Width of `scene_embeds`: the sum over the members."""
        return sum(member.projection_dim for member in self.member_configs())

    def validate_architecture(self):
        """Refuse members without a name of their own, and members that cannot read the same frames."""
        if len(self.names) != len(self.members) or len(set(self.names)) != len(self.names):
            raise ValueError(f"names={self.names} must be {len(self.members)} different names, one for each member")
        towers = [member.vision_config for member in self.member_configs()]
        shapes = [(tower.num_channels, tower.image_size, tower.image_size) for tower in towers]
        for name, shape in zip(self.names, shapes, strict=True):
            if shape != shapes[0]:
                raise ValueError(
                    f"{self.names[0]} reads frames of shape {shapes[0]}, {name} of {shape} (channels, height, width); "
                    "members must read frames of the same shape"
                )

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> tuple[dict[str, Any], dict]:
        """Read `config.json`.

        Raises:
            ValueError: the checkpoint is no ensemble.
        """
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        found = config_dict.get("model_type", cls.model_type)
        if found != cls.model_type:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a model of type {found!r}; {cls.__name__} reads "
                f"{cls.model_type!r}. M2SSceneModel loads a single scene encoder"
            )
        return config_dict, kwargs


@strict
class M2SMovieSimilarityConfig(PreTrainedConfig):
    r"""
    Configuration of [`M2SMovieSimilarityModel`]; defaults are the paper's (§4.2, supplement 1.1a), except where said.

    Args:
        feature_dim (`int`, defaults to 512):
            Width of the features of a shot.
        hidden_dim (`int`, defaults to 512):
            Width of the two linear layers of E_learnable.
        activation (`str`, defaults to `"relu"`):
            Activation between the two layers, by its name in transformers; `"none"` for none. The paper names no
            activation; ReLU is ours.
        dropout (`float`, defaults to 0.5):
            Dropout after the activation.
        max_shots (`int`, defaults to 1024):
            Maximum number of shots in a film.
        average_kernel, average_stride (`int`, default to 16 and 8):
            Number of shots in a scene, and from one scene's start to the next one's (k_a and s_a).
        max_kernel, max_stride (`int`, default to 16 and 8):
            Number of scenes in a neighborhood, and from one neighborhood's start to the next one's (k_m and s_m).
        features (`dict`, *optional*):
            Settings of the `shot_features` dataset that the network was trained on.
    """

    model_type = "m2s_movie_similarity"

    feature_dim: int = 512
    hidden_dim: int = 512
    activation: str = "relu"
    dropout: float | int = 0.5
    max_shots: int = 1024
    average_kernel: int = 16
    average_stride: int = 8
    max_kernel: int = 16
    max_stride: int = 8
    features: dict[str, Any] | None = None

    @property
    def num_windows(self) -> int:
        """Number of scenes along a film; 127 by default."""
        return (self.max_shots - self.average_kernel) // self.average_stride + 1

    @property
    def num_pooled(self) -> int:
        """Number of neighborhoods along a film; 14 by default. The classifier reads 14² values for a pair of films."""
        return (self.num_windows - self.max_kernel) // self.max_stride + 1

    def validate_architecture(self):
        """Refuse wrong sizes, poolings that leave nothing to classify, and an unknown activation."""
        sizes = ("feature_dim", "hidden_dim", "average_kernel", "average_stride", "max_kernel", "max_stride")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.num_windows < 1 or self.num_pooled < 1:
            raise ValueError(f"max_shots={self.max_shots} are too few for the two poolings")
        if self.activation not in ("none", *ACT2CLS):
            raise ValueError(f"activation={self.activation!r} is unknown; choose none, {', '.join(ACT2CLS)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be a share below 1")


__all__ = ["POSITION_INTERPOLATIONS", "M2SMovieSimilarityConfig", "M2SSceneConfig", "M2SSceneEnsembleConfig"]
