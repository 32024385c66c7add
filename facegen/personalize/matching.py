"""Which face of a picture is which person: the assignment with the largest sum of similarities.

A greedy choice can give one person's only likeness to another. Shapes: F faces found, K people asked for.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

NO_FACE = -1


def assign_faces(similarity: np.ndarray) -> np.ndarray:
    """Return the face of each person, int64 (K,); -1 where no face is left for one.

    Args:
        similarity: (F, K), for instance cosines; F may be 0.

    Raises:
        ValueError: for another shape, or a value that is not finite.
    """
    similarity = np.asarray(similarity, dtype=np.float64)
    if similarity.ndim != 2 or not np.isfinite(similarity).all():
        raise ValueError(f"similarities of shape {similarity.shape}; expected finite numbers (faces, people)")
    faces, people = linear_sum_assignment(similarity, maximize=True)
    assigned = np.full(similarity.shape[1], NO_FACE, dtype=np.int64)
    assigned[people] = faces
    return assigned


def match_faces(similarity: np.ndarray) -> np.ndarray:
    """Return each person's similarity to the face assigned, float64 (K,); 0 where no face is left.

    Args:
        similarity: as `assign_faces`.

    Raises:
        ValueError: as `assign_faces`.
    """
    assigned = assign_faces(similarity)
    similarity = np.asarray(similarity, dtype=np.float64)
    found = assigned != NO_FACE
    matched = np.zeros(len(assigned))
    matched[found] = similarity[assigned[found], np.flatnonzero(found)]
    return matched
