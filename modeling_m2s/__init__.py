"""Movies2Scenes: from a video file to scene embeddings, on transformers.

Importing this package makes its classes known to `AutoConfig`, `AutoModel`, `AutoProcessor` and `pipeline`, and to
`AutoVideoProcessor` where torchvision is installed.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoVideoProcessor,
)
from transformers.utils import is_torchvision_available

from .configuration_m2s import M2SMovieSimilarityConfig, M2SSceneConfig, M2SSceneEnsembleConfig
from .ensemble_m2s import M2SSceneEnsembleModel
from .modeling_m2s import M2SSceneForClassification, M2SSceneForContrastiveLearning, M2SSceneModel
from .movie_similarity_m2s import M2SMovieSimilarityModel
from .pipeline_m2s import SceneEmbeddingPipeline
from .pretrained_m2s import tiny_model
from .processing_m2s import M2SSceneProcessor
from .version import __version__
from .video_processing_m2s import M2SVideoProcessor

AutoConfig.register(M2SSceneConfig.model_type, M2SSceneConfig, exist_ok=True)
AutoModel.register(M2SSceneConfig, M2SSceneModel, exist_ok=True)
AutoConfig.register(M2SSceneEnsembleConfig.model_type, M2SSceneEnsembleConfig, exist_ok=True)
AutoModel.register(M2SSceneEnsembleConfig, M2SSceneEnsembleModel, exist_ok=True)
AutoConfig.register(M2SMovieSimilarityConfig.model_type, M2SMovieSimilarityConfig, exist_ok=True)
AutoModel.register(M2SMovieSimilarityConfig, M2SMovieSimilarityModel, exist_ok=True)
AutoModelForVideoClassification.register(M2SSceneConfig, M2SSceneForClassification, exist_ok=True)
AutoProcessor.register(M2SSceneConfig, M2SSceneProcessor, exist_ok=True)
AutoProcessor.register(M2SSceneEnsembleConfig, M2SSceneProcessor, exist_ok=True)
if is_torchvision_available():
    AutoVideoProcessor.register(M2SSceneConfig, M2SVideoProcessor, exist_ok=True)
    AutoVideoProcessor.register(M2SSceneEnsembleConfig, M2SVideoProcessor, exist_ok=True)

__all__ = [
    "M2SMovieSimilarityConfig",
    "M2SMovieSimilarityModel",
    "M2SSceneConfig",
    "M2SSceneEnsembleConfig",
    "M2SSceneEnsembleModel",
    "M2SSceneForClassification",
    "M2SSceneForContrastiveLearning",
    "M2SSceneModel",
    "M2SSceneProcessor",
    "M2SVideoProcessor",
    "SceneEmbeddingPipeline",
    "__version__",
    "tiny_model",
]
