"""Which landmark distances tell emotions apart: importance scores (paper 1, section 3, stage 2).

scikit-learn grows paper 1's three ensembles on the 2,278 distances of single frames, with the
emotion as target; a distance's importance is the mean of its three normalised impurity
importances. Settings are those of the paper's table 2, but for AdaBoost's SAMME.R, scikit-learn's
default in 2020, which it has no more (SAMME is left). What the table leaves open is as
docs/reproduction.md 1.1 says.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax import machine
from fer_jax.config import Data, Features, Importance
from fer_jax.data.geometry import compute, dimension, landmark_pairs
from fer_jax.data.samples import Samples
from fer_jax.errors import UserError

#: The ensembles, in the order of importances' columns.
ENSEMBLES = ("rf", "et", "ada")
#: Trees between two reports; forests grow in such steps.
_STEP = 25
#: Frames whose distances are computed at once.
_CHUNK = 4096
#: Beside a list of pairs: the clips whose frames it was chosen by.
CLIPS = "clips.csv"


def fit_importances(
    values: np.ndarray,
    label: np.ndarray,
    settings: Importance,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Importance of each feature in a random forest, in extra trees and in AdaBoost.

    Forests grow on every core, AdaBoost on one: each of its stumps needs the one before.

    Args:
      values: f32[n, F] features.
      label: i[n], the class of each.
      settings: trees and seed; `frames` is not read.
      on_progress: is told trees grown and in all.

    Returns:
      f64[F, 3], each column (see `ENSEMBLES`) sums to 1.
    """
    from sklearn.ensemble import AdaBoostClassifier, ExtraTreesClassifier, RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    grown, trees, seed = 0, settings.trees, settings.seed

    def tell(count: int) -> None:
        nonlocal grown
        grown += count
        if on_progress is not None:
            on_progress(grown, 3 * trees)

    class Stump(DecisionTreeClassifier):
        """scikit-learn's, which says when it is grown."""

        def fit(self, X: Any, y: Any, sample_weight: Any = None, check_input: bool = True) -> Any:
            super().fit(X, y, sample_weight, check_input)
            tell(1)
            return self

    common = {"min_samples_leaf": 2, "max_features": "sqrt", "random_state": seed}
    common |= {"n_jobs": machine.available_cores(), "warm_start": True}
    forests = (
        RandomForestClassifier(max_depth=6, **common),
        ExtraTreesClassifier(max_depth=8, **common),
    )
    found = []
    for forest in forests:
        # Grown in steps or at once, a forest is the same one.
        for start in range(0, trees, _STEP):
            step = min(_STEP, trees - start)
            forest.set_params(n_estimators=start + step).fit(values, label)
            tell(step)
        found.append(forest.feature_importances_)
    boosted = AdaBoostClassifier(
        Stump(max_depth=1), n_estimators=trees, learning_rate=0.75, random_state=seed
    )
    found.append(boosted.fit(values, label).feature_importances_)
    tell(3 * trees - grown)  # Boosting ends early where a stump makes no mistake.
    return np.stack(found, axis=1)


def draw_frames(samples: Samples, settings: Importance) -> tuple[np.ndarray, np.ndarray]:
    """Frames at random, of those that samples show.

    Returns:
      i[n], rows of the streams, n = `settings.frames` or all there are; i32[n], their classes.
    """
    used = samples.used
    if len(used) > settings.frames:
        rng = np.random.default_rng(settings.seed)
        used = used[np.sort(rng.choice(len(used), settings.frames, replace=False))]
    label = np.zeros(len(samples.streams["raw"]), np.int32)
    mask = samples.frame_mask
    label[samples.rows[mask]] = np.broadcast_to(samples.label[:, None], mask.shape)[mask]
    return used, label[used]


def distance_importances(
    samples: Samples,
    settings: Importance,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Importances of all distances of 68 landmarks over a training set.

    Args:
      samples: whose "raw" stream are landmarks.

    Returns:
      f64[2278, 3] in the order of `landmark_pairs("distances-2278")`; see `fit_importances`.

    Raises:
      UserError: the frames have one emotion only.
    """
    frames, label = draw_frames(samples, settings)
    if len(np.unique(label)) < 2:
        raise UserError(
            f"the {len(frames)} frames drawn have one emotion only: importance needs two or more"
        )
    raw = samples.streams["raw"]
    values = np.empty((len(frames), dimension("distances-2278")), np.float32)
    for start in range(0, len(frames), _CHUNK):
        part = frames[start : start + _CHUNK]
        values[start : start + _CHUNK] = compute("distances-2278", raw[part])
    return fit_importances(values, label, settings, on_progress)


def ranking(importances: np.ndarray) -> np.ndarray:
    """i[F], features from the most important one by the ensembles' mean; of equals the first."""
    return np.argsort(-importances.mean(axis=1), kind="stable")


def choose_pairs(
    samples: Samples, data: Data, on_progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """The pairs of `chosen_distances` features: from their file, or by importance.

    Returns:
      i32[F, 2].

    Raises:
      UserError: no such list, or no such training set to choose by.
    """
    if data.features.startswith("pairs/"):
        return read_pairs(data.features)
    importances = distance_importances(samples, data.importance, on_progress)
    best = ranking(importances)[: dimension(data.features)]
    return landmark_pairs("distances-2278")[best]


def read_pairs(features: Features) -> np.ndarray:
    """The list of "pairs/FILE-SIZE": columns i and j of FILE-SIZE.csv, others may follow.

    Returns:
      i32[SIZE, 2], i < j.

    Raises:
      UserError: there is no such file, or it does not list that many pairs.
    """
    path, size = _list_of(features), dimension(features)
    if not path.is_file():
        raise UserError(
            f"there is no {path}, which data.features={features} names: write it with "
            "`fer-jax importance`, or choose importance-SIZE"
        )
    try:
        with path.open(newline="") as file:
            pairs = [(int(row["i"]), int(row["j"])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, csv.Error):
        raise UserError(f"{path} is no list of landmark pairs: give columns i and j") from None
    if wrong := [pair for pair in pairs if not 0 <= pair[0] < pair[1] < 68]:
        raise UserError(f"{path}: {wrong[0]} is no pair i < j of landmarks 0 to 67")
    if len(set(pairs)) != size or len(pairs) != size:
        raise UserError(
            f"{path} lists {len(set(pairs))} different pairs, {len(pairs)} in all; its name says "
            f"{size}"
        )
    return np.array(pairs, np.int32)


def looked_at(features: Features) -> set[str] | None:
    """Ids of the clips that a list of pairs was chosen by, as far as the file beside it says; None
    where features are no such list or nobody knows."""
    if not features.startswith("pairs/"):
        return None
    path = _list_of(features).with_name(CLIPS)
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        return {row["clip_id"] for row in csv.DictReader(file)}


def _list_of(features: Features) -> Path:
    return Path(f"{features.removeprefix('pairs/')}.csv")
