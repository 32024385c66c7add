"""Names and states of attributes; seeds that depend on purpose and position alone."""

import numpy as np
import pytest
import torch

from facegen.attributes import attribute_vector, parse_attributes, parse_strengths
from facegen.rng import derive_seed, numpy_generator, torch_generator

NAMES = ["Male", "Smiling", "Blond_Hair"]


def test_parse():
    assert parse_attributes("Male=1, Smiling=no,Blond_Hair=any", NAMES) == {"Male": 1, "Smiling": 0, "Blond_Hair": -1}
    assert parse_attributes("", NAMES) == {}
    assert parse_strengths(["Male=2.5"], NAMES) == {"Male": 2.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Blonde_Hair=1", "did you mean Blond_Hair"),
        ("male=1", "did you mean Male"),
        ("Male", "write Male=1"),
        ("Male=maybe", "write Male=1"),
        ("Male=1,Male=0", "given twice"),
        ("Zebra=1", "known: Male, Smiling"),
    ],
)
def test_parse_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        parse_attributes(text, NAMES)


def test_strengths_say_what_is_wrong():
    with pytest.raises(ValueError, match="finite number"):
        parse_strengths(["Male=inf"], NAMES)
    with pytest.raises(ValueError, match="did you mean Smiling"):
        parse_strengths(["Smilin=1"], NAMES)


def test_vector():
    assert attribute_vector({"Smiling": 1}, NAMES).tolist() == [-1, 1, -1]
    with pytest.raises(ValueError, match="allowed: -1"):
        attribute_vector({"Smiling": 2}, NAMES)


def test_streams_are_separate_and_stable():
    assert derive_seed(0, "a", 1, 2) == derive_seed(0, "a", 1, 2) == 7501077092547964780
    seeds = {derive_seed(s, p, i) for s in range(3) for p in ("a", "b") for i in range(3)} | {derive_seed(0, "a", 0, 1)}
    assert len(seeds) == 19
    assert derive_seed(0, "a", 11) != derive_seed(0, "a", 1, 1)
    first = torch.randn(4, generator=torch_generator(0, "a"))
    torch.manual_seed(123)
    assert torch.equal(first, torch.randn(4, generator=torch_generator(0, "a")))
    assert np.array_equal(numpy_generator(0, "a").random(3), numpy_generator(0, "a").random(3))
