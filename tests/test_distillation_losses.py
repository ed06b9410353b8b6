"""The losses of distillation against loops written out, at awkward sizes."""

import pytest
import torch

from train.distillation.losses import TeacherSpace, embedding_losses, relation_loss, token_loss


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    product = sum(a[d] * b[d] for d in range(len(a)))
    return product / (sum(x * x for x in a).sqrt() * sum(x * x for x in b).sqrt())


def written_out_losses(
    student: torch.Tensor, teacher: torch.Tensor, space: TeacherSpace, temperature: float
) -> dict[str, torch.Tensor]:
    """The losses, one number at a time."""

    def whitened(embeds: torch.Tensor) -> torch.Tensor:
        rows = [
            [sum((row[d] - space.mean_D[d]) * axis[d] for d in range(len(row))) for axis in space.axes_DK.T]
            for row in embeds
        ]
        return torch.stack([torch.stack(row) for row in rows])

    def relation(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for i in range(count):
            others = [j for j in range(count) if j != i]
            mine, its = ([(cosine(side[i], side[j]) / temperature).exp() for j in others] for side in (ours, theirs))
            for m, t in zip(mine, its, strict=True):
                total = total + t / sum(its) * ((t / sum(its)).log() - (m / sum(mine)).log()) / count
        return total

    count = len(student)
    ratios = [sum(x * x for x in student[i]).sqrt() / sum(x * x for x in teacher[i]).sqrt() for i in range(count)]
    ours, theirs = whitened(student), whitened(teacher)
    return {
        "cosine": sum(1 - cosine(student[i], teacher[i]) for i in range(count)) / count,
        "norm": sum((ratio - 1) ** 2 for ratio in ratios) / count,
        "whitened": sum(1 - cosine(ours[i], theirs[i]) for i in range(count)) / count,
        "relation": relation(ours, theirs),
    }


def random_space(dim: int = 7) -> TeacherSpace:
    """More axes than none and fewer than all: five of seven."""
    generator = torch.Generator().manual_seed(9)
    mean, axes = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((dim,), (dim, 5)))
    return TeacherSpace(mean, axes)


@pytest.mark.parametrize("temperature", [0.05, 1.7])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_losses_are_those_written_out(batch, temperature):
    generator = torch.Generator().manual_seed(batch)
    student, teacher = (torch.randn(batch, 7, dtype=torch.float64, generator=generator) * 3 for _ in range(2))
    copies = [student.clone().requires_grad_() for _ in range(2)]
    found = embedding_losses(copies[0], teacher, random_space(), temperature)
    expected = written_out_losses(copies[1], teacher, random_space(), temperature)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)
        gradients = [
            torch.autograd.grad(losses[name], copy, retain_graph=True)[0]
            if losses[name].requires_grad
            else torch.zeros_like(copy)
            for losses, copy in ((found, copies[0]), (expected, copies[1]))
        ]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
        assert (gradients[0].abs().max() > 1e-6) == (name != "relation" or batch > 2)


def test_losses_of_the_teacher_itself_are_zero():
    teacher, space = torch.randn(5, 7, dtype=torch.float64), random_space()
    itself = embedding_losses(teacher, teacher, space, 0.05)
    assert all(abs(value) < 1e-12 for value in itself.values())
    longer = embedding_losses(1.5 * teacher, teacher, space, 0.05)
    assert longer["norm"].item() == pytest.approx(0.25) and longer["cosine"] < 1e-12
    assert longer["whitened"] > 0.01  # the mean is taken off before lengths are


def test_the_teachers_mean_alone_is_near_in_cosine_and_far_after_whitening():
    """What the plain cosine does not see."""
    generator = torch.Generator().manual_seed(0)
    teacher = 3 * torch.ones(200, 6) + torch.randn(200, 6, generator=generator)
    space = TeacherSpace.fit(teacher, 0.1)
    losses = embedding_losses(teacher.mean(0).expand(200, 6) + 1e-3, teacher, space, 0.1)
    assert losses["cosine"] < 0.1 and 0.9 < losses["whitened"] < 1.1


@pytest.mark.parametrize("shrinkage", [0.1, 1e6])
def test_the_teachers_space_is_whitened_by_its_own_statistics(shrinkage):
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(300, 6, generator=generator) * torch.tensor([5.0, 2, 1, 1, 0.5, 0.1]) + 4
    space = TeacherSpace.fit(embeds.half(), shrinkage)
    centered = embeds.half().float() - embeds.half().float().mean(0)
    inverse = torch.linalg.inv(torch.cov(centered.T) + shrinkage * centered.var(0).mean() * torch.eye(6))
    products = centered @ inverse @ centered.T  # inner products do not depend on how axes are turned
    lengths = products.diagonal().sqrt()
    units = space.units(embeds.half().float())
    torch.testing.assert_close(units @ units.T, products / lengths / lengths[:, None], atol=2e-3, rtol=0)


def test_a_batch_of_one_has_no_relations():
    student, teacher = torch.randn(1, 7, requires_grad=True), torch.randn(1, 7)
    assert relation_loss(student, teacher, 0.05) == 0
    losses = embedding_losses(student, teacher, TeacherSpace(torch.zeros(7), torch.eye(7)), 0.05)
    sum(losses.values()).backward()
    assert student.grad.isfinite().all() and losses["cosine"].item() > 0


def written_out_token_loss(student: torch.Tensor, teacher: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """One token at a time: the mean over class tokens plus the mean over patches of all layers but the last."""

    def normed(token: torch.Tensor) -> torch.Tensor:
        mean = sum(token) / len(token)
        return (token - mean) / (sum((x - mean) ** 2 for x in token) / len(token) + 1e-5).sqrt()

    batch, layers, tokens, width = student.shape
    parts = {"class": [], "patches": []}
    for i in range(batch):
        for layer in range(layers):
            for t in range(tokens):
                error = normed(student[i, layer, t]) - normed(teacher[i, layer, t])
                if t == 0:
                    parts["class"].append(sum((error[d] * scale[layer, 0, d]) ** 2 for d in range(width)) / width)
                elif layer < layers - 1:
                    parts["patches"].append(sum((error[d] * scale[layer, 1, d]) ** 2 for d in range(width)) / width)
    return sum(sum(part) / len(part) for part in parts.values() if part)


def random_tokens(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (batch, layers, tokens, width) of student and teacher and a scale, all different, float64."""
    generator = torch.Generator().manual_seed(sum(shape))
    student, teacher = (torch.randn(*shape, dtype=torch.float64, generator=generator) * 2 + 1 for _ in range(2))
    scale = torch.rand(shape[1], 2, shape[3], dtype=torch.float64, generator=generator) + 0.5
    return student.requires_grad_(), teacher, scale


@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (2, 2, 3, 9), (1, 1, 4, 5), (2, 3, 2, 6)])
def test_token_loss_is_the_one_written_out(shape):
    student, teacher, scale = random_tokens(*shape)
    found, expected = token_loss(student, teacher, scale), written_out_token_loss(student, teacher, scale)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert (gradients[0][:, -1, 1:] == 0).all()
    assert (gradients[0][:, :, 0].abs().amax(-1) > 0).all() and (gradients[0][:, :-1, 1:].abs().amax(-1) > 0).all()


def test_the_class_token_weighs_as_much_as_all_patches():
    """However many patches there are: here every token is off by the same."""
    student, teacher, _ = random_tokens(3, 2, 2, 7)
    for patches in (1, 3, 10):
        ours, theirs = (side[:, :1, :1].expand(3, 2, 1 + patches, 7) for side in (student, teacher))
        of_class, of_patches, both = (
            token_loss(ours, theirs, torch.tensor(weights, dtype=torch.float64)[None, :, None].expand(2, 2, 7))
            for weights in ([1, 0], [0, 1], [1, 1])
        )
        torch.testing.assert_close(of_class, of_patches)
        torch.testing.assert_close(both, 2 * of_class)


def test_token_loss_is_zero_for_tokens_of_another_length_and_mean():
    """What the layer norms that read them take off anyway."""
    student, teacher, scale = random_tokens(2, 3, 4, 6)
    assert token_loss(3 * teacher - 5, teacher, scale) < 1e-8 < token_loss(student, teacher, scale)
