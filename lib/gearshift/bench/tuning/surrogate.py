"""Which of the settings that are left promises most: a Gaussian process over the order of the rest.

Few settings are ever measured, since each costs a start of vLLM. What makes the most of few is a
smooth surface through them: their neighbourhood is like them, and what is far from all is unknown
(Rasmussen and Williams, Gaussian Processes for Machine Learning, algorithm 2.1). Only the order of
the scores counts, so that it does not matter what a score is made of.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LENGTH = 0.3  # of a parameter's whole range; over so much settings are alike
_NOISE = 0.1  # of the scores' variance: two loads of one setting differ
_CURIOSITY = 0.5  # standard deviations that what is unknown is thought to be better

Positions = Sequence[Sequence[float]]
"""A row for each setting: its parameters, from 0 for the first choice to 1 for the last."""


def promise(known: Positions, scores: Sequence[float], left: Positions) -> NDArray[np.float64]:
    """How much each of `left` promises, given `known` settings and their scores; higher is better.

    Only meant to be compared: an upper confidence bound, in standard deviations of the ranks.
    """
    at, asked = np.asarray(known, float), np.asarray(left, float)
    ranks = np.unique(scores, return_inverse=True)[1].astype(float)
    ranks = (ranks - ranks.mean()) / (ranks.std() or 1.0)
    covariance = _alike(at, at) + _NOISE * np.eye(len(at))
    across = _alike(asked, at)
    mean = across @ np.linalg.solve(covariance, ranks)
    told = np.einsum("ij,ji->i", across, np.linalg.solve(covariance, across.T))
    bound: NDArray[np.float64] = mean + _CURIOSITY * np.sqrt(np.maximum(1 - told, 0))
    return bound


def _alike(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    distances = np.square(one[:, None] - other[None]).sum(-1)
    alike: NDArray[np.float64] = np.exp(-distances / (2 * _LENGTH**2))
    return alike
