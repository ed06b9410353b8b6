"""Whitening against scikit-learn's and against a loop written out; moments are the same however they are computed."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from data_scripts.mining.whitening import Moments, Whitening


def samples(count: int, dim: int, seed: int = 0, offset: float = 3.0) -> np.ndarray:
    """With correlated features of very different sizes."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(count, dim)) @ generator.normal(size=(dim, dim))
    return offset + mixed * np.geomspace(1, 1e-2, dim)


def moments_of(features: np.ndarray | torch.Tensor, parts: int = 1) -> Moments:
    moments = Moments(features.shape[1])
    for part in np.array_split(features, parts) if isinstance(features, np.ndarray) else features.chunk(parts):
        moments.add(part)
    return moments


@pytest.mark.parametrize(("count", "dim"), [(2, 1), (2, 5), (7, 13), (511, 6), (513, 6), (1300, 31)])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_moments_are_those_of_numpy(count, dim, offset):
    features = samples(count, dim, offset=offset)
    moments = moments_of(features, parts=min(count, 3))
    assert moments.count == count
    scale = features.std(0)
    np.testing.assert_allclose((moments.mean() - features.mean(0)) / scale, 0, atol=1e-6)
    expected = np.cov(features.T).reshape(dim, dim)
    np.testing.assert_allclose((moments.covariance() - expected) / np.outer(scale, scale), 0, atol=1e-5)


def test_moments_of_float16_are_exact():
    """In Python's integers: features of one exponent are whole multiples of 2**-10."""
    features = np.random.default_rng(0).uniform(1, 2, (600, 3)).astype(np.float16)
    moments = moments_of(features)
    units = [[int(value * 1024) for value in sample] for sample in features.astype(float)]
    sums = [sum(sample[j] for sample in units) for j in range(3)]
    for j in range(3):
        assert moments.mean()[j] == pytest.approx(sums[j] / 600 / 1024, rel=1e-15)
        for k in range(3):
            outer = 600 * sum(sample[j] * sample[k] for sample in units) - sums[j] * sums[k]
            assert moments.covariance()[j, k] == pytest.approx(outer / 600 / 599 / 1024**2, rel=1e-12, abs=1e-15)


def test_moments_do_not_depend_on_threads_format_or_order_within_a_block():
    """To the last bit: nothing is rounded when samples are added up."""
    features = samples(1000, 40).astype(np.float16)
    threads, found = torch.get_num_threads(), []
    shuffled = features.copy()
    shuffled[1:512] = features[np.random.default_rng(1).permutation(511) + 1]
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            for same in (features, features.astype(float), torch.from_numpy(features), shuffled):
                found.append(moments_of(same))
    finally:
        torch.set_num_threads(threads)
    for moments in found[1:]:
        assert (moments.mean() == found[0].mean()).all()
        assert (moments.covariance() == found[0].covariance()).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_moments():
    features = torch.from_numpy(samples(1000, 40))
    found = [moments_of(features.to(device), parts=3) for device in ("cpu", "cuda")]
    assert (found[0].mean() == found[1].mean()).all() and (found[0].covariance() == found[1].covariance()).all()


@pytest.mark.parametrize(("count", "dim", "kept"), [(1300, 31, None), (1300, 31, 7), (40, 6, 6), (5, 12, 4), (2, 3, 1)])
def test_without_shrinkage_it_is_the_whitening_of_scikit_learn(count, dim, kept):
    features, others = samples(count, dim), samples(20, dim, seed=1)
    whitening = Whitening.fit(moments_of(features), num_directions=kept, shrinkage=0)
    expected = PCA(kept, whiten=True).fit(features)
    signs = np.sign((whitening.apply(features) * expected.transform(features)).sum(0))
    for each in (features, others):
        ours, theirs = whitening.apply(each), expected.transform(each) * signs
        assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()
    np.testing.assert_allclose(np.cov(whitening.apply(features).T), np.eye(kept or dim), atol=1e-4)


@pytest.mark.parametrize("shrinkage", [0.02, 0.5])
def test_shrinkage_adds_a_share_of_the_mean_variance(shrinkage):
    features = samples(300, 8)
    variances, axes = np.linalg.eigh(np.cov(features.T))
    mean = sum(variances) / 8
    whitened = Whitening.fit(moments_of(features), 5, shrinkage).apply(features)
    for place in range(5):
        axis, variance = axes[:, 7 - place], variances[7 - place]
        axis = axis * np.sign(axis[np.abs(axis).argmax()])
        expected = [
            sum(axis[j] * (sample[j] - features[:, j].mean()) for j in range(8)) / (variance + shrinkage * mean) ** 0.5
            for sample in features
        ]
        np.testing.assert_allclose(whitened[:, place], expected, atol=1e-4)


def test_fewer_samples_than_features_leave_as_many_axes_as_they_span():
    features = samples(5, 12)
    whitening = Whitening.fit(moments_of(features))
    assert whitening.axes_DK.shape == (12, 4)
    apart = whitening.apply(features)
    assert np.isfinite(apart).all() and np.abs(apart.mean(0)).max() < 1e-6


def test_constant_features_count_for_nothing():
    features = samples(50, 6)
    wider = np.insert(features, [0, 3, 6], [0.0, 0.1, -7.3], axis=1)
    alone, beside = (Whitening.fit(moments_of(each)) for each in (features, wider))
    assert beside.axes_DK.shape == (9, 6)
    assert np.abs(beside.axes_DK[[0, 4, 8]]).max() < 1e-9
    np.testing.assert_allclose(np.abs(beside.apply(wider)), np.abs(alone.apply(features)), atol=1e-6)


def test_axes_have_a_fixed_sign_and_rows_that_lie_together():
    """Files keep memory as it lies; the sign of an eigenvector is the library's whim."""
    axes = Whitening.fit(moments_of(samples(60, 7))).axes_DK
    assert axes.flags["C_CONTIGUOUS"]
    assert (np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0) > 0).all()


def test_the_number_of_threads_does_not_show():
    moments, threads, found = moments_of(samples(900, 96)), torch.get_num_threads(), []
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            found.append(Whitening.fit(moments, 50).axes_DK)
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()


def test_any_leading_shape_is_whitened():
    features = samples(24, 5)
    whitening = Whitening.fit(moments_of(features), 3)
    assert whitening.apply(features.reshape(2, 3, 4, 5)).shape == (2, 3, 4, 3)
    np.testing.assert_allclose(whitening.apply(features.reshape(4, 6, 5)).reshape(24, 3), whitening.apply(features))


def test_no_samples_change_nothing():
    moments = moments_of(samples(9, 4))
    before = moments.covariance()
    moments.add(np.empty((0, 4)))
    assert moments.count == 9 and (moments.covariance() == before).all()


@pytest.mark.parametrize("bad", [np.zeros((3, 5)), np.zeros(4), np.zeros((1, 2, 4))])
def test_samples_of_another_shape_are_refused(bad):
    with pytest.raises(ValueError, match=r"samples of shape \(.*\); expected \(n, 4\)"):
        Moments(4).add(bad)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_are_refused(value):
    features = samples(9, 4)
    features[5, 2] = value
    with pytest.raises(ValueError, match="a feature is infinite or not a number"):
        Moments(4).add(features)


@pytest.mark.parametrize(
    ("features", "options", "words"),
    [
        (np.empty((0, 3)), {}, "0 samples: a covariance needs at least two"),
        (np.ones((1, 3)), {}, "1 samples: a covariance needs at least two"),
        (np.full((7, 3), 0.1), {}, "all 7 samples are equal"),
        (samples(9, 3), {"num_directions": 0}, "num_directions=0 must be at least 1"),
        (samples(9, 3), {"shrinkage": -0.1}, "shrinkage=-0.1 must be at least 0"),
        (samples(9, 3), {"shrinkage": np.nan}, "shrinkage=nan must be at least 0"),
    ],
)
def test_a_whitening_that_cannot_be_fitted_is_refused(features, options, words):
    with pytest.raises(ValueError, match=words):
        Whitening.fit(moments_of(features), **options)


def test_no_samples_have_no_mean():
    with pytest.raises(ValueError, match="no samples were added"):
        Moments(3).mean()
