"""K-means, from a generator of its own: the start of mixtures whose result must be the same bit for bit."""

import numpy as np
from jaxtyping import Float64, Int64

ROUNDS = 100


def k_means(
    points: Float64[np.ndarray, "N D"], clusters: int, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "clusters D"], Int64[np.ndarray, " N"]]:
    """Centres, and the centre that each point is nearest to. A cluster that loses all its points keeps its place.

    The first centres are points, each drawn with odds as its squared distance to the nearest one before.

    Source: Lloyd, IEEE Transactions on Information Theory 28(2):129-137 (1982); the start is of Arthur &
    Vassilvitskii, k-means++, SODA (2007), section 2.2.
    """
    centres = points[rng.integers(len(points), size=1)]
    while len(centres) < clusters:
        odds = _distances(points, centres).min(axis=1)
        odds = odds / odds.sum() if odds.sum() else np.full(len(points), 1 / len(points))
        centres = np.concatenate([centres, points[rng.choice(len(points), size=1, p=odds)]])
    nearest = _distances(points, centres).argmin(axis=1)
    for _ in range(ROUNDS):
        members = [points[nearest == cluster] for cluster in range(clusters)]
        pairs = zip(members, centres, strict=True)
        centres = np.stack([mine.mean(axis=0) if len(mine) else centre for mine, centre in pairs])
        before, nearest = nearest, _distances(points, centres).argmin(axis=1)
        if (before == nearest).all():
            break
    return centres, nearest


def _distances(points: np.ndarray, centres: np.ndarray) -> Float64[np.ndarray, "N clusters"]:
    """Squared distances."""
    return ((points[:, None] - centres) ** 2).sum(axis=-1)
