"""Movies2Scenes: from a video file to scene embeddings, on transformers.

Importing this package makes its classes known to `AutoConfig`, `AutoModel`, `AutoProcessor` and `pipeline`.
"""

import sys

try:
    from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoProcessor

    from .configuration_m2s import M2SSceneConfig
    from .modeling_m2s import M2SSceneForClassification, M2SSceneForContrastiveLearning, M2SSceneModel
    from .pipeline_m2s import SceneEmbeddingPipeline
    from .pretrained_m2s import tiny_model
    from .processing_m2s import M2SSceneProcessor
    from .version import __version__
except KeyboardInterrupt:
    # Loading takes seconds: the command, interrupted meanwhile, ends without a traceback.
    if not sys.argv[0].endswith("m2s"):
        raise
    raise SystemExit(130) from None

AutoConfig.register(M2SSceneConfig.model_type, M2SSceneConfig, exist_ok=True)
AutoModel.register(M2SSceneConfig, M2SSceneModel, exist_ok=True)
AutoModelForVideoClassification.register(M2SSceneConfig, M2SSceneForClassification, exist_ok=True)
AutoProcessor.register(M2SSceneConfig, M2SSceneProcessor, exist_ok=True)

__all__ = [
    "M2SSceneConfig",
    "M2SSceneForClassification",
    "M2SSceneForContrastiveLearning",
    "M2SSceneModel",
    "M2SSceneProcessor",
    "SceneEmbeddingPipeline",
    "__version__",
    "tiny_model",
]
