"""Several scene encoders as one: their vectors side by side (paper §4.3.1, "genre+synopsis" in table 3).

Letters of shapes are those of `modeling_m2s.py`.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers.utils.generic import can_return_tuple

from .configuration_m2s import M2SSceneEnsembleConfig
from .modeling_m2s import M2SSceneEncoder, M2SSceneModel, M2SSceneModelOutput, scene_inputs


class M2SSceneEnsembleModel(M2SSceneEncoder):
    """
    Scene encoders that were trained by different sources of similarity; each reads the same frames.

    ```python
    >>> encoders = [M2SSceneModel.from_pretrained(f"runs/{name}/model") for name in ("genre", "synopsis")]
    >>> model = M2SSceneEnsembleModel.from_encoders(encoders, ["genre", "synopsis"])
    ```
    """

    config: M2SSceneEnsembleConfig  # type: ignore[assignment]
    config_class = M2SSceneEnsembleConfig  # type: ignore[assignment]

    def __init__(self, config: M2SSceneEnsembleConfig):
        super().__init__(config)  # type: ignore[arg-type]
        if not config.members:
            raise ValueError("an ensemble needs members: M2SSceneEnsembleConfig(names=[…], members=[…])")
        self.members = nn.ModuleList(
            M2SSceneModel._from_config(member, dtype=config.dtype, attn_implementation=config._attn_implementation)
            for member in config.member_configs()
        )
        self.post_init()

    @classmethod
    def from_encoders(
        cls, encoders: Sequence[M2SSceneModel], names: Sequence[str], normalize: bool = False
    ) -> "M2SSceneEnsembleModel":
        """An ensemble, in evaluation mode, of copies of these encoders; arguments as in [`M2SSceneEnsembleConfig`].

        Raises:
            StrictDataclassError: not one name for each encoder, or encoders that read frames of different shapes.
        """
        members = [encoder.config for encoder in encoders]
        model = cls(M2SSceneEnsembleConfig(names=list(names), members=members, normalize=normalize))
        for member, encoder in zip(model.members, encoders, strict=True):
            member.load_state_dict(encoder.state_dict())
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        """Not defined: each member embeds patches by itself."""
        raise NotImplementedError("an ensemble has no patch embedding of its own; ask one of its members")

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        padding_mask_videos: torch.Tensor | None = None,
        **kwargs,
    ) -> M2SSceneModelOutput:
        """
        Inputs as in [`M2SSceneModel.forward`].

        Returns:
            `pooler_output` (B, sum of D) and `scene_embeds` (B, sum of projection_dim), the vectors of the members in
            their order. Tokens, hidden states and attentions are None, since their shapes differ between members; ask
            one of `members` for them.
        """
        pixel_values, frame_mask = scene_inputs(pixel_values, frame_mask, pixel_values_videos, padding_mask_videos)
        outputs = [member(pixel_values, frame_mask=frame_mask, **kwargs) for member in self.members]
        return M2SSceneModelOutput(
            pooler_output=self._concatenate([output.pooler_output for output in outputs]),
            scene_embeds=self._concatenate([output.scene_embeds for output in outputs]),
        )

    def _concatenate(self, vectors_BD: list[torch.Tensor]) -> torch.Tensor:
        if self.config.normalize:
            vectors_BD = [nn.functional.normalize(vector_BD, dim=-1) for vector_BD in vectors_BD]
        return torch.cat(vectors_BD, dim=-1)


__all__ = ["M2SSceneEnsembleModel"]
