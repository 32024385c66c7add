"""Three-state attributes: -1 unknown (null), 0 absent, 1 present.

A vector of length A holds one state per attribute name, in the order of the names. Unknown is a state of its own, so that
"not wearing glasses" and "say nothing about glasses" are different requests (and classifier-free guidance has a true null).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

UNKNOWN, ABSENT, PRESENT = -1, 0, 1
STATES = (UNKNOWN, ABSENT, PRESENT)
_WORDS = {"1": PRESENT, "yes": PRESENT, "0": ABSENT, "no": ABSENT, "-1": UNKNOWN, "any": UNKNOWN, "?": UNKNOWN}


def require_known(name: str, names: Sequence[str]) -> str:
    """Return the attribute's exact name.

    Raises:
        ValueError: if no such attribute exists; the message suggests the nearest.
    """
    if name in names:
        return name
    folded = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.5)
    hint = f"; did you mean {folded[near[0]]}?" if near else ""
    raise ValueError(f"unknown attribute {name!r}{hint} (known: {', '.join(names)})")


def parse_attributes(text: str, names: Sequence[str]) -> dict[str, int]:
    """Parse "Male=1,Smiling=0" (also yes, no, any) into states by name.

    Raises:
        ValueError: for an unknown name, an unknown state, or a name given twice.
    """
    states: dict[str, int] = {}
    for part in (p.strip() for p in text.split(",")):
        if not part:
            continue
        name, sign, word = (s.strip() for s in part.partition("="))
        require_known(name, names)
        if not sign or word.lower() not in _WORDS:
            raise ValueError(f"attribute {part!r}: write {name}=1 (present), {name}=0 (absent) or {name}=any")
        if name in states:
            raise ValueError(f"attribute {name} is given twice")
        states[name] = _WORDS[word.lower()]
    return states


def attribute_vector(states: Mapping[str, int], names: Sequence[str]) -> np.ndarray:
    """Return the int8 vector (A,) of these states, -1 (unknown) where nothing is said.

    Raises:
        ValueError: for an unknown name or a state outside -1, 0, 1.
    """
    vector = np.full(len(names), UNKNOWN, dtype=np.int8)
    for name, state in states.items():
        if state not in STATES:
            raise ValueError(f"attribute {name} is {state!r}; allowed: -1 (unknown), 0 (absent), 1 (present)")
        vector[list(names).index(require_known(name, names))] = state
    return vector


def parse_strengths(texts: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Parse ["Eyeglasses=2.5", ...] into guidance scales by name.

    Raises:
        ValueError: for an unknown name or something that is not a finite number.
    """
    scales: dict[str, float] = {}
    for text in texts:
        name, _, number = (s.strip() for s in text.partition("="))
        require_known(name, names)
        try:
            scales[name] = float(number)
        except ValueError:
            scales[name] = float("nan")
        if not np.isfinite(scales[name]):
            raise ValueError(f"strength {text!r}: write {name}=2.5, a finite number")
    return scales
