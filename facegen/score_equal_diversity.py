"""Two ways to draw people at the same diversity: more guidance always buys consistency with diversity.

Plain guidance was measured at several scales. Between the two whose diversities enclose that of the method in question,
every person's figures are interpolated linearly to its diversity, and compared with the method's, person by person.
Shapes: P people.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from facegen.metrics.people import people_interval
from facegen.score_leakage import json_of

COMPARED = ("consistency", "consistency_left_out")
RATES = ("eer", "fnmr_at_fmr_1e-3")  # of a whole set: no person has one


def at_equal_diversity(
    values: Mapping[str, Mapping[str, np.ndarray]],
    figures: Mapping[str, Mapping[str, Any]],
    *,
    method: str,
    baseline: str,
    generator: np.random.Generator,
) -> dict[str, Any] | None:
    """Return what a method has more than the baseline would have at the scale that gives as much diversity.

    Args:
        values: of every set of people, (P,) arrays by name, `diversity` and COMPARED among them; the same people.
        figures: of every set, the figures of the whole, RATES among them.
        method: the set that is compared.
        baseline: the method with a curve: the sets of this name and of this name with @ and a scale.
        generator: of the bootstrap over people.

    Returns:
        `sets`, the two that enclose it; `weight` of the first; `diversity`, of both by construction; differences with
        intervals under COMPARED, and without under RATES. None where the curve does not enclose the method.
    """
    curve = [name for name in values if name == baseline or name.startswith(f"{baseline}@")]
    if method not in values or method in curve:
        return None
    wanted = float(np.nanmean(values[method]["diversity"]))
    mean = {name: float(np.nanmean(values[name]["diversity"])) for name in curve}
    above, below = ([name for name in curve if (mean[name] >= wanted) == up] for up in (True, False))
    if not above or not below:
        return None
    first, second = min(above, key=mean.__getitem__), max(below, key=mean.__getitem__)
    weight = (wanted - mean[second]) / (mean[first] - mean[second])

    def between(a: Any, b: Any) -> Any:
        return weight * a + (1 - weight) * b

    found: dict[str, Any] = {
        "method": method, "baseline": baseline, "sets": [first, second], "weight": weight, "diversity": wanted,
    }  # fmt: skip
    for name in COMPARED:
        theirs = between(values[first][name], values[second][name])
        found[name] = json_of(people_interval(values[method][name] - theirs, generator=generator))
    for name in RATES:
        rates = [figures[part].get(name) for part in (method, first, second)]
        found[name] = None
        if all(rate is not None for rate in rates):
            ours, *others = (float(rate["value"]) for rate in rates if rate is not None)
            found[name] = ours - between(*others)
    return found
