"""Captions tell the truth, their ends lie on the nouns, and what a prompt asks is read as people mean it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from facegen.data.captions import asked_attributes, description, short_caption, subject_of, vocabulary
from facegen.data.face_palette import hsv
from facegen.data.face_parameters import FACE_ATTRIBUTES, sample_identity, sample_shot
from facegen.data.scene_drawing import cast_scene
from tests.made_scenes import small_population

PEOPLE = [
    [
        actor.subject
        for actor in cast_scene(small_population(people=200), "train", n, height=64, width=96, two_share=0.7)
    ]
    for n in range(300)
]
WRITERS = (short_caption, description)


def written() -> list[tuple]:
    """(subjects, text, ends) of every scene in both ways."""
    made = []
    for number, subjects in enumerate(PEOPLE):
        for way, write in enumerate(WRITERS):
            made.append((subjects, *write(subjects, np.random.default_rng([number, way]))))
    return made


def test_what_captions_say_is_so() -> None:
    told: dict[str, set[int]] = {name: set() for name in FACE_ATTRIBUTES}
    for subjects, text, _ in written():
        for subject, asked in zip(subjects, asked_attributes(text, len(subjects)), strict=True):
            for name, state in asked.items():
                assert subject.attributes[name] == state, (text, name)
                told[name].add(state)
    assert [name for name in FACE_ATTRIBUTES if 1 not in told[name]] == ["No_Beard"]
    assert 0 in told["No_Beard"]
    assert told["Smiling"] == told["Young"] == told["Male"] == {0, 1}


def test_most_of_what_belongs_to_the_shot_is_told() -> None:
    shown = told = 0
    for subjects, text, _ in written()[::2]:
        for subject, asked in zip(subjects, asked_attributes(text, len(subjects)), strict=True):
            present = [n for n in ("Smiling", "Eyeglasses", "Bangs", "Wearing_Hat") if subject.attributes[n]]
            shown += len(present)
            told += sum(asked.get(name) == 1 for name in present)
    assert told / shown == pytest.approx(0.9, abs=0.04)


def test_ends_lie_behind_the_nouns_in_the_order_of_the_people() -> None:
    words = set()
    for subjects, text, ends in written():
        assert len(ends) == len(subjects)
        assert list(ends) == sorted(set(ends))
        for subject, end in zip(subjects, ends, strict=True):
            noun = re.search(r"\b(man|woman|person)$", text[:end])
            assert noun is not None, (text, end)
            assert text[end : end + 1] in ("", " ", ",")
            assert noun[1] in ("person", "man" if subject.attributes["Male"] else "woman")
            words.add(noun[1])
    assert words == {"man", "woman", "person"}


def test_the_vocabulary_holds_every_word_and_no_other() -> None:
    words = {word for _, text, _ in written() for word in re.findall(r"[\w-]+|,", text)}
    known = set(vocabulary())
    assert words <= known
    assert known - words <= {"bald", "orange", "pink", "yellow", "goatee", "teal", "purple", "full"}  # rare ones
    assert vocabulary() == sorted(known)


@pytest.mark.parametrize(
    ("numbers", "states", "words"),
    [
        ({"skin_tone": -1.0, "iris": 0.4}, {}, ("pale skin", "blue eyes")),
        ({"skin_tone": 1.0, "iris": 1.0}, {}, ("dark skin", "brown eyes")),  # the dark have no light eyes
        ({"hair_other": 0.9, "hair_style": 0.0, "hair_length": 0.5, "hair_curl": 0.0}, {}, ("long red hair",)),
        ({"hair_other": -0.9, "hair_style": 0.9, "hair_curl": 0.9}, {}, ("curly brown hair in a bun",)),
        ({"hair_length": 0.0, "hair_curl": 0.0}, {"Male": 1, "Gray_Hair": 1}, ("short gray hair",)),
        ({"beard_style": -0.9}, {"Male": 1, "No_Beard": 0}, ("a goatee",)),
        ({"beard_style": 0.9}, {"Male": 1, "No_Beard": 0, "Mustache": 1}, ("a beard", "a mustache")),
        ({"freckles": 0.9, "nose_width": 0.9}, {}, ("freckles", "a wide nose")),
    ],
)
def test_words_follow_the_numbers_of_a_face(numbers: dict, states: dict, words: tuple[str, ...]) -> None:
    generator = np.random.default_rng(0)
    identity = replace(sample_identity(generator), **numbers)
    attributes = dict.fromkeys(FACE_ATTRIBUTES, 0) | {"No_Beard": 1} | states
    subject = subject_of(identity, sample_shot(generator), attributes)
    said = (subject.skin, subject.hair, subject.eyes, *subject.traits)
    assert set(words) <= set(said)


@pytest.mark.parametrize(("hue", "shirt"), [(-1.0, "red"), (-0.33, "green"), (0.33, "blue"), (0.98, "red")])
def test_shirts_have_the_colour_they_are_drawn_in(hue: float, shirt: str) -> None:
    generator = np.random.default_rng(0)
    identity, shot = sample_identity(generator), sample_shot(generator)
    subject = subject_of(identity, replace(shot, clothes_hue=hue), dict.fromkeys(FACE_ATTRIBUTES, 0))
    assert subject.clothes == f"in a {shirt} shirt"
    drawn = hsv(0.5 + 0.5 * hue, 0.5, 0.8)
    assert int(np.argmax(drawn)) == ("red", "green", "blue").index(shirt)


def test_two_people_fit_a_window_of_77_tokens() -> None:
    assert max(len(re.findall(r"[\w-]+|,", text)) for _, text, _ in written()) <= 75


def test_equal_draws_give_equal_captions_and_others_differ() -> None:
    pair = next(subjects for subjects in PEOPLE if len(subjects) == 2)
    texts = [description(pair, np.random.default_rng(seed))[0] for seed in (0, 0, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 2


@pytest.mark.parametrize(
    ("prompt", "first", "second"),
    [
        ("<id:0> and <id:1> wearing hats", {"Wearing_Hat": 1}, {"Wearing_Hat": 1}),
        ("<id:0> and <id:1>, both smiling", {"Smiling": 1}, {"Smiling": 1}),
        ("<id:0> and <id:1> smiling at the beach", {"Smiling": 1}, {"Smiling": 1}),
        ("<id:0> smiling and <id:1> with eyeglasses", {"Smiling": 1}, {"Eyeglasses": 1}),
        ("<id:1> with eyeglasses next to <id:0>", {}, {"Eyeglasses": 1}),
        ("<id:0> next to <id:1> smiling", {}, {"Smiling": 1}),
        ("<id:0> and <id:1> wearing a hat", {}, {"Wearing_Hat": 1}),
        ("<id:0> smiling and <id:1>, both wearing a hat", {"Smiling": 1, "Wearing_Hat": 1}, {"Wearing_Hat": 1}),
        ("<id:0> without a beard and <id:1> not smiling", {"No_Beard": 1}, {"Smiling": 0}),
        ("<id:0> with a beard and a smiling <id:1>", {"No_Beard": 0}, {"Smiling": 1}),
        ("a photo of an old <id:0> beside a young <id:1>", {"Young": 0}, {"Young": 1}),
        ("<id:0> smiling <id:1>", {"Smiling": 1}, {}),
        ("<id:0> with long black hair and <id:1> with gray hair", {"Black_Hair": 1}, {"Gray_Hair": 1}),
        ("<id:0> and <id:1> riding a horse on the moon", {}, {}),
        ("A WOMAN Smiling and a man in a hat", {"Male": 0, "Smiling": 1}, {"Male": 1, "Wearing_Hat": 1}),
        ("a man and a woman smiling", {"Male": 1, "Smiling": 1}, {"Male": 0, "Smiling": 1}),
        ("<id:0>, a man, and <id:1>", {}, {}),
    ],
)
def test_what_a_prompt_asks(prompt: str, first: dict, second: dict) -> None:
    assert asked_attributes(prompt, 2) == [first, second]


def test_brown_hair_asks_for_none_of_the_named_colours() -> None:
    colours = {"Black_Hair": 0, "Blond_Hair": 0, "Gray_Hair": 0}
    assert asked_attributes("<id:0> with long curly brown hair", 1) == [colours]
    assert asked_attributes("<id:0> without red hair", 1) == [{}]


def test_a_marker_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="<id:2> names a subject that there is not: there are 2"):
        asked_attributes("<id:0> and <id:2>", 2)
