"""The arithmetic of benchmarks/words.py, by brute force and by scipy and scikit-learn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import distance
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import words
from flawforge.proving import specimens

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 30), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_shares_by_brute_force(seed: int, count: int, vocabulary: int) -> None:
    rng = np.random.default_rng(seed)
    patches, book = rng.standard_normal((count, 5)), rng.standard_normal((vocabulary, 5))
    counts = np.zeros(vocabulary)
    for patch in patches:
        counts[np.argmin([np.square(patch - word).sum() for word in book])] += 1
    found = words.shares(patches, book)
    np.testing.assert_allclose(found**2, counts / count)
    assert np.square(found).sum() == pytest.approx(1)
    np.testing.assert_allclose(words.shares(np.concatenate([patches, patches]), book), found)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_a_training_picture_is_measured_without_its_fold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    train, others = rng.random((23, 4)), rng.random((3, 4))
    left_out, judged = words.distances(train, others)
    whole = LedoitWolf().fit(train)
    inverse = np.linalg.inv(whole.covariance_)
    np.testing.assert_allclose(judged, [distance.mahalanobis(x, whole.location_, inverse) for x in others])
    for place in (0, 7, 22):
        rest = LedoitWolf().fit(train[np.arange(23) % words.FOLDS != place % words.FOLDS])
        expected = distance.mahalanobis(train[place], rest.location_, np.linalg.inv(rest.covariance_))
        assert left_out[place] == pytest.approx(expected)


def test_figures_are_over_all_kinds_and_of_each_against_the_good() -> None:
    rng = np.random.default_rng(0)
    kinds = ["good"] * 12 + [kind for kind in specimens.KINDS[:3] for _ in range(4)]
    scores = rng.integers(0, 6, len(kinds)).astype(float).tolist()  # with ties
    found = words.figures(scores, kinds)
    assert set(found) == {"auroc", *(f"auroc_{kind}" for kind in specimens.KINDS[:3])}
    assert found["auroc"] == pytest.approx(roc_auc_score([kind != "good" for kind in kinds], scores))
    for kind in specimens.KINDS[:3]:
        pairs = [(score, each == kind) for score, each in zip(scores, kinds, strict=True) if each in ("good", kind)]
        expected = roc_auc_score([label for _, label in pairs], [score for score, _ in pairs])
        assert found[f"auroc_{kind}"] == pytest.approx(expected)
