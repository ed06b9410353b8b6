"""The movie-similarity network against the paper's, written out: all shot similarities, then the two poolings."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from modeling_m2s import M2SMovieSimilarityConfig, M2SMovieSimilarityModel

DIM = 5


def build(seed: int = 0, **sizes) -> M2SMovieSimilarityModel:
    """A network of random weights in double precision, without dropout."""
    torch.manual_seed(seed)
    return M2SMovieSimilarityModel(M2SMovieSimilarityConfig(feature_dim=DIM, hidden_dim=7, **sizes)).double().eval()


def film(num_shots: int, seed: int = 0, without_keyframe: int = 0) -> torch.Tensor:
    """Features of shots, of which some, anywhere, have no keyframe."""
    generator = torch.Generator().manual_seed(1000 * seed + num_shots)
    features = torch.randn(num_shots, DIM, generator=generator, dtype=torch.float64)
    features[torch.randperm(num_shots, generator=generator)[:without_keyframe]] = 0
    return features


def written_out(model: M2SMovieSimilarityModel, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
    """One pair of films: E_learnable of every shot, zeros after it where there is none, A, and B and V out of A."""
    config, encoded = model.config, []
    for features in (a, b):
        padded = F.pad(features, (0, 0, 0, config.max_shots - len(features)))
        shots = model.comparison_projection(model.activation(model.shot_projection(padded)))
        encoded.append(torch.where((padded != 0).any(-1, keepdim=True), shots, torch.zeros_like(shots)))
    A = encoded[0] @ encoded[1].T
    B = F.avg_pool2d(A[None], config.average_kernel, config.average_stride)
    V = F.max_pool2d(B, config.max_kernel, config.max_stride).flatten(1)
    return {"scene_similarities": B, "pooled_similarities": V, "logits": model.classifier(V)}


def value_and_gradients(model, outputs, films) -> list[torch.Tensor]:
    """The loss of `outputs` for a similar pair, and its gradients by every weight and feature."""
    loss = F.cross_entropy(outputs["logits"], torch.ones(1, dtype=torch.long))
    return [loss, *torch.autograd.grad(loss, [*model.parameters(), *films], retain_graph=True)]


# Films of one shot, shorter than a window, at its borders, odd, as long as the network reads.
LENGTHS = [(1, 1), (1, 5), (15, 16), (17, 129), (8, 1024), (301, 130), (1023, 1024)]
POOLINGS = [
    {"max_shots": 50, "average_kernel": 6, "average_stride": 4, "max_kernel": 3, "max_stride": 2},
    {"max_shots": 47, "average_kernel": 5, "average_stride": 5, "max_kernel": 4, "max_stride": 3},
    {"max_shots": 40, "average_kernel": 3, "average_stride": 4, "max_kernel": 2, "max_stride": 3},
    {"max_shots": 16, "average_kernel": 16, "average_stride": 8, "max_kernel": 1, "max_stride": 1},
]
CASES = [({}, *lengths) for lengths in LENGTHS] + [
    (sizes, *lengths) for sizes in POOLINGS for lengths in ((1, 7), (13, sizes["max_shots"]))
]


@pytest.mark.parametrize("without_keyframe", [0, 3])
@pytest.mark.parametrize(("sizes", "num_shots_a", "num_shots_b"), CASES)
def test_the_network_is_the_one_written_out(sizes, num_shots_a, num_shots_b, without_keyframe):
    """In value and gradient, for two films alone and for the same two among longer ones."""
    model = build(**sizes)
    a, b = (film(n, seed, without_keyframe).requires_grad_() for seed, n in enumerate((num_shots_a, num_shots_b)))
    expected = written_out(model, a, b)
    longest = model.config.max_shots
    padded = [F.pad(features, (0, 0, 0, longest - len(features))) for features in (a, b)]
    for found in (model(a[None], b[None]), model(padded[0][None], padded[1][None])):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(
            value_and_gradients(model, found, (a, b)),
            value_and_gradients(model, expected, (a, b)),
            rtol=1e-9,
            atol=1e-13,
        )


def test_the_sizes_are_the_papers():
    outputs = build()(film(300)[None], film(40)[None])
    assert outputs.scene_similarities.shape == (1, 127, 127)
    assert outputs.pooled_similarities.shape == (1, 196) and outputs.logits.shape == (1, 2)
    config = M2SMovieSimilarityConfig()
    assert (config.feature_dim, config.hidden_dim, config.dropout, config.activation) == (512, 512, 0.5, "relu")


def test_swapping_the_films_transposes_what_is_compared():
    """And not more: the classifier reads places, so that logits differ."""
    model, a, b = build(), film(333, 1, 5)[None], film(150, 2)[None]
    one, other = model(a, b), model(b, a)
    torch.testing.assert_close(one.scene_similarities, other.scene_similarities.mT, rtol=1e-12, atol=1e-14)
    swapped = other.pooled_similarities.view(1, 14, 14).mT.flatten(1)
    torch.testing.assert_close(one.pooled_similarities, swapped, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(one.logits, other.logits, rtol=1e-6)


def test_what_is_under_the_mask_does_not_matter():
    """Wherever padding stands, and whatever it holds: the biases make it other than zero."""
    model, a, b = build(), film(130, 1)[None], film(70, 2)[None]
    mask = torch.rand(1, 130, generator=torch.Generator().manual_seed(0)) < 0.6
    expected = model(a * mask[..., None], b).logits
    torch.testing.assert_close(model(a, b, shot_mask_a=mask).logits, expected)
    torch.testing.assert_close(model(torch.where(mask[..., None], a, 9.0), b, shot_mask_a=mask).logits, expected)
    assert not torch.allclose(model(a, b).logits, expected, rtol=1e-4)


def test_a_film_of_padding_alone_is_like_nothing():
    outputs = build()(torch.zeros(1, 20, DIM, dtype=torch.float64), film(30)[None])
    assert outputs.scene_similarities.abs().max() == 0 and outputs.logits.isfinite().all()


def test_films_encoded_once_compare_as_each_pair_alone():
    model, lengths = build(), (3, 40, 129, 200)
    films = [film(length, seed, 2) for seed, length in enumerate(lengths)]
    padded = torch.nn.utils.rnn.pad_sequence(films, batch_first=True)
    pairs = torch.tensor([(0, 1), (1, 0), (2, 3), (3, 3), (1, 2)])
    windows = model.encode_films(padded)
    together = model.compare(windows[pairs[:, 0]], windows[pairs[:, 1]])
    for number, (a, b) in enumerate(pairs.tolist()):
        alone = written_out(model, films[a], films[b])
        torch.testing.assert_close(together.logits[number], alone["logits"][0])


def test_the_loss_is_cross_entropy_of_similar_or_not():
    model, labels = build(), torch.tensor([1, 0, 1])
    a, b = (torch.stack([film(20, seed + side) for seed in range(3)]) for side in (0, 7))
    outputs = model(a, b, labels=labels)
    logs = outputs.logits.log_softmax(-1)
    assert outputs.loss.item() == pytest.approx(-sum(logs[n, label].item() for n, label in enumerate(labels)) / 3)
    assert model(a, b).loss is None


@pytest.mark.parametrize("activation", ["relu", "none", "gelu"])
def test_mining_sees_the_first_layer_without_dropout(activation):
    model, features = build(activation=activation).train(), film(30)
    hidden = features @ model.shot_projection.weight.T + model.shot_projection.bias
    expected = {"relu": hidden.relu(), "none": hidden, "gelu": F.gelu(hidden)}[activation]
    torch.testing.assert_close(model.shot_embeddings(features), expected)


def test_dropout_is_for_training_alone():
    model, a = build(), film(40)[None]
    assert torch.equal(model(a, a).logits, model(a, a).logits)
    model.train()
    torch.manual_seed(0)
    hidden = torch.stack([model.encode_films(a) for _ in range(2000)]).mean(0)
    assert not torch.allclose(model.encode_films(a), model.eval().encode_films(a), rtol=0.1)
    torch.testing.assert_close(hidden, model.encode_films(a), rtol=0.1, atol=0.03)


def test_features_may_be_stored_in_half_precision():
    model, a, b = build().float(), film(40).half(), film(30, 1).half()
    torch.testing.assert_close(model(a[None], b[None]).logits, model(a[None].float(), b[None].float()).logits)


def test_a_saved_network_is_found_by_auto_model(tmp_path):
    record = {"encoder": "clip", "revision": "r1"}
    model = build(features=record, max_shots=60, average_kernel=4, average_stride=2).float()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded, config = AutoModel.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is M2SMovieSimilarityModel and type(config) is M2SMovieSimilarityConfig
    assert (config.features, config.max_shots, config.average_kernel) == (record, 60, 4)
    a, b = film(33).float()[None], film(60, 1).float()[None]
    assert torch.equal(loaded(a, b).logits, model(a, b).logits)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"max_shots": 15}, "max_shots=15 are too few for the two poolings"),
        ({"max_shots": 100}, "max_shots=100 are too few for the two poolings"),
        ({"average_stride": 0}, "average_stride=0 must be at least 1"),
        ({"hidden_dim": 0}, "hidden_dim=0 must be at least 1"),
        ({"activation": "rely"}, "activation='rely'.*none, .*relu"),
        ({"dropout": 1.5}, "dropout=1.5"),
    ],
)
def test_sizes_that_make_no_network_are_refused(sizes, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        M2SMovieSimilarityConfig(**sizes)


def test_films_that_are_too_long_are_refused():
    model = build()
    with pytest.raises(ValueError, match="a film of 1025 shots: the network reads 1024"):
        model(film(1025)[None], film(3)[None])
