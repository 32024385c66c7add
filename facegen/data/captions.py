"""Captions of scenes, written and read: words for what a person looks like, and what a prompt asks of each person.

A scene has a short caption (class nouns and what belongs to the shot: "a woman smiling next to a man wearing a hat")
and a description (looks too: "a young woman with fair skin, long red hair and blue eyes, smiling"). Both name people
from left to right, and tell for each where its noun phrase ends. What is said of people in a row without a word between
them ("a man and a woman smiling") is said of all of them; so is what is said of "both", and what stands in the plural.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facegen.data.face_parameters import Identity, Shot

NOUNS = {"man": 1, "woman": 0}  # what a noun says of the attribute Male
ANYBODY = "person"
# The phrases that captions tell an attribute of the shot by: (of one person, of several).
_SHOT_PHRASES: dict[str, tuple[tuple[str, str], ...]] = {
    "Smiling": (("smiling", "smiling"), ("smiling", "smiling"), ("with a smile", "with smiles")),
    "Bangs": (("with bangs", "with bangs"),),
    "Eyeglasses": (("with eyeglasses", "with eyeglasses"), ("wearing eyeglasses", "wearing eyeglasses")),
    "Wearing_Hat": (("wearing a hat", "wearing hats"), ("with a hat", "with hats"), ("in a hat", "in hats")),
}
_SERIOUS = "serious"
# What words ask: a pattern, and the states of the attributes that it stands for.
ATTRIBUTE_PHRASES: tuple[tuple[str, Mapping[str, int]], ...] = (
    (r"smil(?:ing|es?)|laughing", {"Smiling": 1}),
    (r"serious|unsmiling", {"Smiling": 0}),
    (r"eyeglasses|glasses|spectacles", {"Eyeglasses": 1}),
    (r"hats?|caps?|beanies?", {"Wearing_Hat": 1}),
    (r"bangs|fringes?", {"Bangs": 1}),
    (r"mo?ustaches?", {"Mustache": 1}),
    (r"beards?|bearded|goatees?", {"No_Beard": 0}),
    (r"clean[- ]shaven", {"No_Beard": 1}),
    (r"bald", {"Bald": 1}),
    (r"black(?: \w+){0,2} hair|black-haired", {"Black_Hair": 1}),
    (r"blonde?(?: \w+){0,2} hair|blonde?-haired|blonde?", {"Blond_Hair": 1}),
    (r"gr[ae]y(?: \w+){0,2} hair|gr[ae]y-haired", {"Gray_Hair": 1}),
    (r"(?:brown|red)(?: \w+){0,2} hair", {"Black_Hair": 0, "Blond_Hair": 0, "Gray_Hair": 0}),
    (r"young", {"Young": 1}),
    (r"old|elderly", {"Young": 0}),
)
_NOT = r"(?P<no>\b(?:without|no|not|never)\s+(?:(?:wearing|being|with)\s+)?(?:(?:an?|any)\s+)?)?"
_ARTICLE = r"(?P<one>\ban?\s+)?"
_ASKED = tuple((re.compile(rf"{_NOT}{_ARTICLE}\b(?:{words})\b"), states) for words, states in ATTRIBUTE_PHRASES)
_ADJECTIVES = r"(?:young|old|elderly|smiling|serious|bald|bearded|blonde?|(?:black|gr[ae]y)-haired|clean-shaven)"
_BEFORE_NOUN = re.compile(
    rf"(?P<joint>(?:^|\b(?:and|by|to|beside|near)\b|,)\s*)(?P<said>(?:an?\s+|the\s+)?(?:{_ADJECTIVES}[\s,]+)*)$"
)
_JOINT = re.compile(r"^(?:[\s,&]|\b(?:and|an?|the)\b)*$")
_ALL = re.compile(r"\b(?:both|all|each|everyone|together)\b")
_PLURAL = re.compile(r"(?:hats|caps|beanies|smiles|beards|goatees|mo?ustaches|fringes)\b")
_MARKER = re.compile(r"<id:(\d+)>")
_NOUN = re.compile(rf"\b(?:{'|'.join(NOUNS)}|{ANYBODY})\b")

_SKINS = ("pale", "fair", "tan", "brown", "dark")
_IRISES = ("dark", "brown", "green", "blue", "gray")
# Hues in degrees, each up to the number; from the last one on red begins again.
_HUES = {15: "red", 42: "orange", 70: "yellow", 160: "green", 200: "teal", 260: "blue", 300: "purple", 345: "pink"}
_TRAITS = (
    "a mustache", "a beard", "a goatee", "a round face", "a narrow face", "thick eyebrows", "thin eyebrows",
    "a wide nose", "a narrow nose", "full lips", "freckles",
)  # fmt: skip
_ANYBODY_SHARE = 0.3  # of the subjects are called "a person"
_TOLD_SHOT = 0.9  # share of what is to be seen of the shot that a caption tells
_TOLD_SERIOUS = 0.5
_TOLD_LOOK = 0.75
_TOLD_CLOTHES = 0.3
_MOST_TRAITS = 2  # told of one person; two people have to fit a text encoder's window
_JOINED = 0.5  # share of what two people have in common that is told once, of both


@dataclass(frozen=True)
class Subject:
    """One person as captions see them.

    Attributes:
        attributes: 0 or 1 by name.
        skin: what is said of the skin, "fair skin".
        hair: of the hair, "long red hair"; empty for the bald.
        eyes: of the eyes.
        traits: whatever else stays the same over a person's pictures, as phrases that follow "with".
        clothes: "in a blue shirt".
    """

    attributes: Mapping[str, int]
    skin: str
    hair: str
    eyes: str
    traits: tuple[str, ...]
    clothes: str


def subject_of(identity: Identity, shot: Shot, attributes: Mapping[str, int]) -> Subject:
    """The words for one drawn person; they follow the thresholds and ramps of the drawing."""
    skin = _SKINS[_step(identity.skin_tone, len(_SKINS))]
    iris = _IRISES[_step(max(-1.0, min(identity.iris, 0.7 - 1.4 * identity.skin_tone)), len(_IRISES))]
    degrees = 180.0 * (1.0 + shot.clothes_hue)
    shirt = next((word for below, word in _HUES.items() if degrees < below), "red")
    return Subject(
        attributes, f"{skin} skin", _hair(identity, attributes), f"{iris} eyes", _traits(identity, attributes),
        f"in {'an' if shirt == 'orange' else 'a'} {shirt} shirt",
    )  # fmt: skip


def _step(position: float, count: int) -> int:
    """Which of `count` evenly spaced values over [-1, 1] is nearest."""
    return min(count - 1, max(0, round((position + 1.0) / 2.0 * (count - 1))))


def _hair(identity: Identity, attributes: Mapping[str, int]) -> str:
    if attributes["Bald"]:
        return ""
    names = {"Black_Hair": "black", "Blond_Hair": "blond", "Gray_Hair": "gray"}
    other = "red" if identity.hair_other > 0.4 else "brown"
    colour = next((word for name, word in names.items() if attributes[name]), other)
    curly = "curly " if identity.hair_curl > 0.35 else ""
    if attributes["Male"]:
        return f"{'long' if identity.hair_length > 0.8 else 'short'} {curly}{colour} hair"
    if identity.hair_style > 0.55:
        return f"{curly}{colour} hair in a bun"
    return f"{'long' if identity.hair_length > -0.2 else 'bobbed'} {curly}{colour} hair"


def _traits(identity: Identity, attributes: Mapping[str, int]) -> tuple[str, ...]:
    shape = identity.face_width - identity.face_length
    lips = identity.lip_upper + identity.lip_lower
    bearded = not attributes["No_Beard"]
    holds = (
        bool(attributes["Mustache"]),
        bearded and identity.beard_style > -0.35,
        bearded and identity.beard_style <= -0.35,
        shape > 0.7,
        shape < -0.7,
        identity.brow_thickness > 0.5,
        identity.brow_thickness < -0.5,
        identity.nose_width > 0.5,
        identity.nose_width < -0.5,
        lips > 0.9,
        identity.freckles > 0.5,
    )
    return tuple(words for words, told in zip(_TRAITS, holds, strict=True) if told)


def short_caption(subjects: Sequence[Subject], rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
    """A caption of class nouns and what belongs to the shot.

    Args:
        subjects: from left to right; at least one.
        rng: chooses words, and what is told.

    Returns:
        the text, and for each subject the character offset at which its noun phrase ends.
    """
    nouns = [_noun(subject, rng) for subject in subjects]
    told = [_told(subject, rng) for subject in subjects]
    shared = [name for name in _SHOT_PHRASES if all(name in names for names in told)] if len(told) > 1 else []
    joint = [name for name in shared if rng.random() < _JOINED]
    own = [[_phrase(name, rng, several=False) for name in names if name not in joint] for names in told]
    plural = [_phrase(name, rng, several=True) for name in joint]
    text, ends = "", []
    for index, (noun, phrases) in enumerate(zip(nouns, own, strict=True)):
        if index:  # "and" alone would tell of both what is told of the second
            text += " and " if own[index - 1] or not phrases else " next to "
        text += f"a {noun}"
        ends.append(len(text))
        text += "".join(f" {phrase}" for phrase in phrases)
    if plural:
        text += (", both " if any(own) or rng.random() < 0.5 else " ") + " and ".join(plural)
    return text, tuple(ends)


def _noun(subject: Subject, rng: np.random.Generator) -> str:
    if rng.random() < _ANYBODY_SHARE:
        return ANYBODY
    return "man" if subject.attributes["Male"] else "woman"


def _told(subject: Subject, rng: np.random.Generator) -> list[str]:
    """Names of the shot's attributes that a caption tells; a serious face counts as one."""
    chance = rng.random(len(_SHOT_PHRASES) + 1)
    names = [n for n, c in zip(_SHOT_PHRASES, chance, strict=False) if subject.attributes[n] and c < _TOLD_SHOT]
    if not subject.attributes["Smiling"] and chance[-1] < _TOLD_SERIOUS:
        names.insert(0, _SERIOUS)
    return names


def _phrase(name: str, rng: np.random.Generator, *, several: bool) -> str:
    if name == _SERIOUS:
        return _SERIOUS
    forms = _SHOT_PHRASES[name]
    return forms[int(rng.integers(len(forms)))][several]


def description(subjects: Sequence[Subject], rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
    """A caption that tells looks too, each at random.

    Args:
        subjects: from left to right; at least one.
        rng: chooses words, and what is told.

    Returns:
        the text, and for each subject the character offset at which its noun phrase ends.
    """
    text, ends = "", []
    for subject in subjects:
        text += " and " if text else ""
        age = "" if rng.random() > _TOLD_LOOK else "young " if subject.attributes["Young"] else "old "
        text += f"{'an' if age == 'old ' else 'a'} {age}{_noun(subject, rng)}"
        ends.append(len(text))
        bald = subject.attributes["Bald"] and rng.random() < _TOLD_LOOK
        looks = [look for look in (subject.skin, subject.hair, subject.eyes) if look and rng.random() < _TOLD_LOOK]
        some = rng.permutation(len(subject.traits))[:_MOST_TRAITS].tolist()
        looks += [subject.traits[index] for index in sorted(some) if rng.random() < _TOLD_LOOK]
        phrases = [_phrase(name, rng, several=False) for name in _told(subject, rng)]
        if rng.random() < _TOLD_CLOTHES:
            phrases.append(subject.clothes)
        if bald:
            text += " bald"
        if looks:
            text += " with " + ", ".join(looks)
        text += "".join(f", {phrase}" for phrase in phrases)
    return text, tuple(ends)


def asked_attributes(prompt: str, num_subjects: int) -> list[dict[str, int]]:
    """What a prompt asks of each subject.

    Args:
        prompt: text with the markers <id:0>, <id:1>...; or without any, and then its nouns (man, woman, person) are
            the subjects in their order.
        num_subjects: how many there are.

    Returns:
        states of attributes by name for each subject; words that are not known ask nothing. A noun asks for the
        attribute Male, a marker does not.

    Raises:
        ValueError: for a marker of a subject that there is not.
    """
    text = " ".join(prompt.lower().split())
    mentions = _mentions(text, num_subjects)
    asked: list[dict[str, int]] = [{} for _ in range(num_subjects)]
    if mentions:
        _ask(asked, text[: mentions[0][1]], [mentions[0][0]], before=True)
    row: list[int] = []  # subjects in a row without a word between them
    for index, (subject, start, end) in enumerate(mentions):
        asked[subject].update({"Male": NOUNS[text[start:end]]} if text[start:end] in NOUNS else {})
        row.append(subject)
        gap = text[end : mentions[index + 1][1]] if index + 1 < len(mentions) else text[end:]
        if index + 1 < len(mentions):
            head = _BEFORE_NOUN.search(gap)
            if head is not None and (head["joint"].strip() or head["said"].strip()[:2] in ("a ", "an", "th")):
                _ask(asked, head["said"], [mentions[index + 1][0]], before=True)
                gap = gap[: head.start("said")]
            if _JOINT.match(gap):
                continue
        _ask(asked, gap, row)
        row = []
    return asked


def _mentions(text: str, num_subjects: int) -> list[tuple[int, int, int]]:
    """(subject, start, end) of each mention in the text, in order."""
    markers = [(int(m[1]), m.start(), m.end()) for m in _MARKER.finditer(text)]
    strange = [subject for subject, _, _ in markers if subject >= num_subjects]
    if strange:
        raise ValueError(f"<id:{strange[0]}> names a subject that there is not: there are {num_subjects}, from <id:0>")
    nouns = list(_NOUN.finditer(text))[:num_subjects]
    return markers or [(index, m.start(), m.end()) for index, m in enumerate(nouns)]


def _ask(asked: list[dict[str, int]], text: str, row: Sequence[int], *, before: bool = False) -> None:
    """Notes what a piece of text asks: of the last of a row, of the whole row, or of everybody."""
    everybody = _ALL.search(text)
    for pattern, states in _ASKED:
        for found in pattern.finditer(text):
            if found["no"] and len(states) > 1:
                continue  # "no red hair" leaves all other colours
            subjects: Sequence[int] = row
            if not before and (
                (everybody is not None and found.start() > everybody.start()) or _PLURAL.search(found.group())
            ):
                subjects = range(len(asked))
            elif found["one"] and not found["no"]:
                subjects = row[-1:]
            for subject in subjects:
                asked[subject].update({n: 1 - s if found["no"] else s for n, s in states.items()})


def vocabulary() -> list[str]:
    """Every word that captions can hold, sorted, with the comma."""
    words = {"a", "an", "and", "next", "to", "both", "with", "in", "young", "old", "bald", "skin", "eyes", "shirt", ","}
    words |= {*NOUNS, ANYBODY, _SERIOUS, *_SKINS, *_IRISES, *_HUES.values()}
    words |= {"black", "blond", "gray", "brown", "red", "long", "short", "bobbed", "curly", "hair", "bun"}
    words |= {word for trait in _TRAITS for word in trait.split()}
    for forms in _SHOT_PHRASES.values():
        words |= {word for form in forms for phrase in form for word in phrase.split()}
    return sorted(words)
