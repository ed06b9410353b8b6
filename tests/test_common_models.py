"""transformers' own model tests on our classes.

The tests ship in transformers' source distribution only. The one of the installed version is fetched once into
`.cache/` and unpacked there; without the network the module is skipped.
"""

import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
import unittest
import unittest.mock
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig
from transformers.models.auto import modeling_auto

from modeling_m2s import M2SSceneConfig, M2SSceneForClassification, M2SSceneForContrastiveLearning, M2SSceneModel

VERSION = importlib.metadata.version("transformers")
FOLDER = Path(__file__).parent.parent / ".cache" / f"transformers-{VERSION}-tests"
# Modules that the model tests import and the source distribution leaves out.
LEFT_OUT = {
    "exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def fetch_tests() -> None:
    """Unpack transformers' tests as the package `transformers_tests` in `FOLDER`, whole or not at all."""
    FOLDER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1", "--dest", folder]
        source_only = ["--no-deps", "--no-binary", "transformers", f"transformers=={VERSION}"]
        subprocess.run([*download, *source_only], check=True, capture_output=True, text=True)
        with tarfile.open(Path(folder, f"transformers-{VERSION}.tar.gz")) as archive:
            # Python 3.11.2, Debian's, has no filters yet.
            archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        package = Path(folder, "unpacked", "transformers_tests")
        package.parent.mkdir()
        Path(folder, f"transformers-{VERSION}", "tests").rename(package)
        for name, text in {"__init__.py": "", **LEFT_OUT}.items():
            (package / name).parent.mkdir(exist_ok=True)
            (package / name).write_text(text)
        package.parent.rename(FOLDER)


if not FOLDER.exists():
    try:
        fetch_tests()
    except (OSError, subprocess.CalledProcessError) as error:
        if not FOLDER.exists():  # else another worker has unpacked them
            reason = getattr(error, "stderr", None) or str(error)
            pytest.skip(f"cannot fetch transformers' tests: {reason.strip().splitlines()[-1]}", allow_module_level=True)
sys.path.append(str(FOLDER))

from transformers_tests.test_configuration_common import ConfigTester  # noqa: E402
from transformers_tests.test_modeling_common import ModelTesterMixin  # noqa: E402


class SceneModelTester:
    """Small configurations and inputs, under the names that transformers' tests look for."""

    batch_size = 3
    num_frames = 4
    image_size = 24
    patch_size = 8
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    seq_length = 1 + num_frames * (image_size // patch_size) ** 2
    is_training = True

    def get_config(self) -> M2SSceneConfig:
        vision_config = CLIPVisionConfig(
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            image_size=self.image_size,
            patch_size=self.patch_size,
        )
        return M2SSceneConfig(vision_config=vision_config, projection_dim=20, classifier_hidden_size=24)

    def prepare_config_and_inputs_for_common(self) -> tuple[M2SSceneConfig, dict[str, torch.Tensor]]:
        pixel_values = torch.randn(self.batch_size, self.num_frames, 3, self.image_size, self.image_size)
        frame_mask = torch.arange(self.num_frames) < torch.tensor([4, 1, 3])[:, None]
        return self.get_config(), {"pixel_values": pixel_values, "frame_mask": frame_mask}


class TestSceneModels(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (M2SSceneModel, M2SSceneForContrastiveLearning, M2SSceneForClassification)
    # There is no vocabulary to resize.
    test_resize_embeddings = False
    # The image tower is a model with a configuration of its own.
    _is_composite = True
    # The heads carry CLIP's projection along without using it, so that the encoder can be taken out whole;
    # test_modeling_m2s.py shows that it is the only parameter without a gradient.
    test_all_params_have_gradient = False
    # Asked of recent models only, which are known by the year in their file's first line.
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = SceneModelTester()
        self.config_tester = ConfigTester(self, config_class=M2SSceneConfig, has_text_modality=False, projection_dim=7)
        # By these lists, which hold transformers' own models only, the tests know which classes have no loss and what
        # labels the others take.
        for lists, classes in (
            (modeling_auto.MODEL_MAPPING_NAMES, ("M2SSceneModel", "M2SSceneForContrastiveLearning")),
            (modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES, "M2SSceneForClassification"),
        ):
            self.enterContext(unittest.mock.patch.dict(lists, {M2SSceneConfig.model_type: classes}))

    def _image_features_prepare_config_and_inputs(self):
        """Overridden: images are the first frames of the scenes."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        return config, {"pixel_values": inputs["pixel_values"][:, 0]}

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        """Overridden: the input embedding is a convolution over patches."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            assert isinstance(model.get_input_embeddings(), torch.nn.Conv2d)
            assert model.get_output_embeddings() is None
