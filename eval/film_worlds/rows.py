"""The rows of `eval.experiments`: sets of scene pairs, encoders that are trained on them, and claims to test.

Names of rows are used in its results. A row of `TRAINED` starts from m2s-clip-tiny and differs from the recipe by its
flags alone. `CORE` rows answer the main question and are run with five seeds, the others with two.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mined:
    """How a set of scene pairs is mined.

    Attributes:
        space: flag of mine_scene_pairs; `truth` for scenes of the same place.
        flags: its other flags.
        sources: sources of film similarity.
        random_films: mine between random films that are not similar.
        share: share of the training films that take part at all.
        mined_with: the trained row whose encoder gives the features to mine in.
        surest_of: the set whose pairs of the highest scores are taken, instead of mining.
        surest_share: share of these pairs.
    """

    space: str
    flags: tuple[str, ...] = ()
    sources: tuple[str, ...] = ("synopsis",)
    random_films: bool = False
    share: float = 1.0
    mined_with: str | None = None
    surest_of: str | None = None
    surest_share: float = 1.0


@dataclass(frozen=True)
class Trained:
    """An encoder that is trained on a pair set.

    Attributes:
        pairs: name of the set in `MINED`.
        flags: flags of train_moco besides the recipe.
        by_momentum: the momentum recipe instead of the in-batch one.
        keyframes: keyframes of a shot in the world that it is trained on.
    """

    pairs: str
    flags: tuple[str, ...] = ()
    by_momentum: bool = False
    keyframes: int = 1


@dataclass(frozen=True)
class ReadByShot:
    """A trained encoder that reads each shot by itself, compared just as a rival without training is.

    Attributes:
        encoder: the trained row.
        rival: the row of `UNTRAINED` whose way of averaging shots, and whose space, it takes over.
    """

    encoder: str
    rival: str


@dataclass(frozen=True)
class Claim:
    """A sentence that holds if the row `better` finds more than the row `worse`."""

    claim: str
    better: str
    worse: str


MINED = {
    "random_films": Mined("random", random_films=True),
    "random_windows": Mined("random"),
    "frozen": Mined("features"),  # the paper's ablation-selection
    "whitened": Mined("whitened"),  # frozen features, whitened; nothing is learned (ours)
    "learned": Mined("model"),  # the paper's rule
    "learned_centered": Mined("model", ("--center", "true")),  # ours
    "both": Mined("both"),  # learned and whitened, side by side (ours)
    "true_places": Mined("truth"),
    "surest_third": Mined("both", surest_of="both", surest_share=1 / 3),
    "third_of_films": Mined("both", share=1 / 3),  # the paper's ablation-scale
    "genre": Mined("both", sources=("genre",)),
    "co_watch": Mined("both", sources=("co_watch",)),
    "genre_and_synopsis": Mined("both", sources=("genre", "synopsis")),
    "second_round": Mined("whitened", mined_with="whitened"),
    "third_round": Mined("whitened", mined_with="second_round"),
}

# Sets that are mined beside a row's, to compare what their scenes have in common; nothing is trained on them.
MINED_BESIDE = {
    source: {
        f"{source}_random": Mined("random", sources=(source,)),
        f"{source}_frozen": Mined("features", sources=(source,)),
        f"{source}_whitened": Mined("whitened", sources=(source,)),
        f"{source}_learned": Mined("model", sources=(source,)),
    }
    for source in ("genre", "co_watch")
}

TRAINED = {
    **{name: Trained(name) for name in MINED},
    "one_shot": Trained("both", ("--shots-per-scene", "1")),
    "nine_shots": Trained("both", ("--shots-per-scene", "9")),
    "three_keyframes": Trained("both", ("--frames-per-shot", "3"), keyframes=3),
    "grid": Trained("both", ("--position-interpolation", "grid")),
    "mosaic": Trained("both", ("--position-interpolation", "mosaic")),
    "sequence": Trained("both", ("--position-interpolation", "sequence")),
    "momentum": Trained("both", by_momentum=True),
    "no_mask": Trained("both", ("--mask", "none")),
    "all_patches": Trained("both", ("--patch-dropout", "0")),
}

CORE = ("random_films", "random_windows", "frozen", "whitened", "learned", "both", "true_places")
CEILING = "true_places"
ELSEWHERE = ("learned", "both", CEILING)  # rows that are measured on photographs of other places as well
FROZEN = "frozen_encoder"

# Flags of scene_retrieval for what is measured without scene pairs. The recipe's position mode is `repeat`.
UNTRAINED = {
    FROZEN: ("--model", "m2s-clip-tiny", "--position-interpolation", "repeat"),
    "frozen_grid": ("--model", "m2s-clip-tiny", "--position-interpolation", "grid"),
    "frozen_mosaic": ("--model", "m2s-clip-tiny", "--position-interpolation", "mosaic"),
    "frozen_sequence": ("--model", "m2s-clip-tiny", "--position-interpolation", "sequence"),
    "mean_of_shots": ("--features", "shot_features"),
    "mean_of_whitened_shots": ("--features", "shot_features", "--shot-space", "whitened"),
    "mean_with_neighbors": ("--features", "shot_features", "--shot-space", "whitened", "--context-shots", "4"),
    "masked_shots": ("--features", "masked_shot_features"),
    "mean_of_pixels": ("--features", "pixel_shot_features"),
    "mean_of_whitened_pixels": ("--features", "pixel_shot_features", "--shot-space", "whitened"),
}
# Frozen encoders in other position modes, beside the rows that are trained in them.
FROZEN_MODES = {"frozen_grid": "grid", "frozen_mosaic": "mosaic", "frozen_sequence": "sequence"}
RIVALS = (
    "mean_of_shots",
    "mean_of_whitened_shots",
    "mean_with_neighbors",
    "masked_shots",
    "mean_of_pixels",
    "mean_of_whitened_pixels",
)

READ_BY_SHOT = {
    f"{rival}_by_{encoder}": ReadByShot(encoder, rival)
    for encoder in ("learned", "whitened")
    for rival in ("mean_of_shots", "mean_of_whitened_shots")
}

CLAIMS = [
    *(
        Claim(f"training on {pairs} pairs beats the {rival.replace('_', ' ')}", row, rival)
        for row, pairs in (("learned", "learned"), ("both", "learned and whitened"))
        for rival in (FROZEN, *RIVALS)
    ),
    *(
        Claim(f"training on {each.encoder} pairs improves the {each.rival.replace('_', ' ')}", name, each.rival)
        for name, each in READ_BY_SHOT.items()
    ),
    *(
        Claim(f"the {each.rival.replace('_', ' ')} beats reading jointly, {each.encoder} pairs", name, each.encoder)
        for name, each in READ_BY_SHOT.items()
    ),
    Claim("training on random windows of similar films helps", "random_windows", FROZEN),
    Claim("training on random windows of random films helps", "random_films", FROZEN),
    Claim("learned selection beats frozen selection", "learned", "frozen"),
    Claim("frozen selection beats the frozen encoder", "frozen", FROZEN),
    Claim("learned selection beats frozen selection, whitened", "learned", "whitened"),
    Claim("both spaces beat whitening alone", "both", "whitened"),
    Claim("taking the mean off the learned space helps", "learned_centered", "learned"),
    Claim("all pairs beat the surest third of them", "both", "surest_third"),
    Claim("more films beat a third of them", "both", "third_of_films"),
    Claim("co-watch beats genre", "co_watch", "genre"),
    Claim("genre and synopsis beat genre", "genre_and_synopsis", "genre"),
    Claim("genre and synopsis beat synopsis", "genre_and_synopsis", "both"),
    Claim("nine shots beat four", "nine_shots", "both"),
    Claim("four shots beat one", "both", "one_shot"),
    Claim("three keyframes a shot beat one", "three_keyframes", "both"),
    *(Claim(f"position mode repeat beats {mode}", "both", mode) for mode in ("grid", "mosaic", "sequence")),
    Claim("in-batch contrast beats momentum contrast", "both", "momentum"),
    Claim("leaving out negatives of similar films helps", "both", "no_mask"),
    Claim("all patches beat a quarter of them", "all_patches", "both"),
    Claim("a second round of mining helps", "second_round", "whitened"),
    Claim("a third round of mining helps", "third_round", "second_round"),
]


def rounds_before(name: str) -> list[str]:
    """Rows that must be trained before this one, the nearest first: those whose encoders its pairs are mined with."""
    earlier = MINED[TRAINED[name].pairs].mined_with
    return [earlier, *rounds_before(earlier)] if earlier else []
