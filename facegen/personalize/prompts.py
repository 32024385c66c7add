"""Prompts that name chosen people: `<id:0> and <id:1> wearing hats`.

A marker `<id:k>` stands for subject k. In the token ids it becomes two placeholders, whose embeddings the injection
writes; they are the tokenizer's start token, which no word of a prompt becomes. Where a marker is, the positions tell:
nothing is searched for among the ids. A prompt that does not fit is refused and never cut.

FastComposer's captions say where each subject's noun phrase ends, as a character offset: `mark_nouns` puts markers for
the phrases, `noun_positions` finds the phrases' last tokens.
Source: Shiohara and Yamasaki, Face2Diffusion (the pair of tokens); Xiao et al., FastComposer (the noun's last token).
Shapes: L the tokenizer's length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

TOKENS_PER_SUBJECT = 2
MARKER = re.compile(r"<id:(\d+)>")
_STRAY = re.compile(r"<\s*id\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
ARTICLES = frozenset({"a", "an", "the", "one", "another", "this", "that", "his", "her", "their"})
# Words that no noun phrase runs across, to the left.
_BOUNDARIES = frozenset(
    {"and", "or", "with", "of", "in", "on", "at", "by", "to", "for", "from", "near", "beside", "is"}
)
_MOST_TOKENS = 100_000  # above, a tokenizer's length means "not told"


class Tokenizer(Protocol):
    """What is asked of a tokenizer; transformers' CLIPTokenizer is one."""

    @property
    def model_max_length(self) -> int:
        """L, start and end tokens included."""
        ...

    @property
    def bos_token_id(self) -> Any:
        """The start token."""
        ...

    @property
    def eos_token_id(self) -> Any:
        """The end token."""
        ...

    @property
    def pad_token_id(self) -> Any:
        """What fills the rest; None: the end token."""
        ...

    def encode(self, text: Any, *, add_special_tokens: bool) -> Any:
        """Return the ids of a text."""
        ...


@dataclass(frozen=True, eq=False)
class SubjectPrompt:
    """A prompt as the text model takes it."""

    input_ids: Tensor  # (L,) int64, start token first, padded
    positions: tuple[tuple[int, int], ...]  # (subject, its first position), in the order of the text

    @property
    def num_subjects(self) -> int:
        """How many subjects it names."""
        return len({subject for subject, _ in self.positions})


def build_prompt(tokenizer: Tokenizer, prompt: str, *, num_subjects: int) -> SubjectPrompt:
    """Return the ids of a prompt, two placeholders for each marker.

    Args:
        prompt: holds <id:0> to <id:num_subjects - 1>, each at least once, and no other marker.
        num_subjects: how many people are given; 0 for a prompt without markers.

    Raises:
        ValueError: if a subject is missing or one too many, a marker is malformed, or the prompt is too long.
    """
    pieces, subjects = _split(prompt)
    _check_subjects(prompt, subjects, num_subjects)
    ids: list[int] = []
    positions = []
    for i, piece in enumerate(pieces):
        ids += _encoded(tokenizer, piece)
        if i < len(subjects):
            positions.append((subjects[i], 1 + len(ids)))
            ids += [int(tokenizer.bos_token_id)] * TOKENS_PER_SUBJECT
    return SubjectPrompt(_padded(tokenizer, ids, prompt), tuple(positions))


def plain_prompt(tokenizer: Tokenizer, text: str) -> SubjectPrompt:
    """Return the ids of a text that names no chosen person: a negative prompt, a class prompt, "".

    Raises:
        ValueError: if it holds a marker or is too long.
    """
    return build_prompt(tokenizer, text, num_subjects=0)


def noun_prompt(tokenizer: Tokenizer, prompt: str, words: str | Sequence[str], *, num_subjects: int) -> SubjectPrompt:
    """Return the ids of the class prompt; the positions are the last tokens of the words that stand for the markers.

    It is what the fusion "add_output" takes.

    Args:
        prompt, num_subjects: as `build_prompt`.
        words: as `class_prompt`.

    Raises:
        ValueError: as `build_prompt` and `class_prompt`.
    """
    pieces, subjects = _split(prompt)
    _check_subjects(prompt, subjects, num_subjects)
    chosen = _words(words, subjects)
    ids: list[int] = []
    positions = []
    for i, piece in enumerate(pieces):
        ids += _encoded(tokenizer, piece)
        if i < len(subjects):
            ids += _encoded(tokenizer, chosen[i])
            positions.append((subjects[i], len(ids)))
    return SubjectPrompt(_padded(tokenizer, ids, prompt), tuple(positions))


def class_prompt(prompt: str, words: str | Sequence[str]) -> str:
    """Return the prompt with class words for its markers: "<id:0> smiling" becomes "a person smiling".

    Args:
        words: of each subject, with an article ("a man"), or one for all.

    Raises:
        ValueError: for a malformed marker, or a subject without a word.
    """
    pieces, subjects = _split(prompt)
    chosen = [*_words(words, subjects), ""]
    return "".join(piece + word for piece, word in zip(pieces, chosen, strict=True))


def mark_nouns(caption: str, ends: Sequence[int], order: Sequence[int]) -> str:
    """Return a caption with markers for its subjects' noun phrases, articles included.

    A phrase is the word before its end, and what stands before that word down to an article, if there is one before the
    next comma, preposition or conjunction: "two dogs and the tall old man" ends in "the tall old man".

    Args:
        ends: character offset where each subject's noun phrase ends, ascending.
        order: the subject's number for each end; a negative one leaves the words as they are.

    Raises:
        ValueError: if lengths disagree, an end is out of the caption, not at a word's end or not after the one before,
            or the caption holds a marker.
    """
    if len(order) != len(ends):
        raise ValueError(f"{len(ends)} ends and {len(order)} subjects; expected a subject for each end")
    if _STRAY.search(caption):
        raise ValueError(f"caption {caption!r} holds a marker already")
    _check_ends(caption, ends)
    parts, done = [], 0
    for end, subject in zip(ends, order, strict=True):
        start = _phrase_start(caption, done, end)
        parts += [caption[done:start], caption[start:end] if subject < 0 else f"<id:{subject}>"]
        done = end
    return "".join([*parts, caption[done:]])


def noun_positions(tokenizer: Tokenizer, caption: str, ends: Sequence[int]) -> tuple[int, ...]:
    """Return where in the ids of a caption the last token of each subject's noun phrase stands.

    Args:
        ends: as `mark_nouns`.

    Raises:
        ValueError: if an end is none, lies within a word, or the caption is longer than the tokenizer's length.
    """
    _check_ends(caption, ends)
    ids: list[int] = []
    positions, done = [], 0
    for end in [*ends, len(caption)]:
        ids += _encoded(tokenizer, caption[done:end])
        positions.append(len(ids))
        done = end
    _padded(tokenizer, ids, caption)
    if ids != _encoded(tokenizer, caption):
        raise ValueError(f"caption {caption!r}: one of the ends {list(ends)} lies within a word")
    return tuple(positions[:-1])


def _split(prompt: str) -> tuple[list[str], list[int]]:
    """Return the text around the markers (one piece more than there are markers) and the markers' subjects."""
    parts = MARKER.split(prompt)
    for piece in parts[::2]:
        if stray := _STRAY.search(piece):
            raise ValueError(
                f"prompt {prompt!r} holds {piece[stray.start() :][:12]!r}; a person is written <id:0>, <id:1> and so on"
            )
    return parts[::2], [int(number) for number in parts[1::2]]


def _check_subjects(prompt: str, subjects: list[int], num_subjects: int) -> None:
    missing = sorted(set(range(num_subjects)) - set(subjects))
    beyond = sorted(set(subjects) - set(range(num_subjects)))
    if missing:
        named = ", ".join(f"<id:{k}>" for k in missing)
        raise ValueError(
            f"prompt {prompt!r} does not name {named}; {num_subjects} people are given, each needs a place"
        )
    if beyond:
        named = ", ".join(f"<id:{k}>" for k in beyond)
        given = "1 person is given" if num_subjects == 1 else f"{num_subjects} people are given"
        raise ValueError(f"prompt {prompt!r} names {named}, but {given} (counted from 0)")


def _words(words: str | Sequence[str], subjects: list[int]) -> list[str]:
    """Return the class word of each marker."""
    if isinstance(words, str):
        chosen = [words] * len(subjects)
    elif subjects and max(subjects) >= len(words):
        raise ValueError(f"subject {max(subjects)} has no class word; {len(words)} are given: {', '.join(words)}")
    else:
        chosen = [words[k] for k in subjects]
    if not all(word.strip() for word in chosen):
        raise ValueError("a class word is empty; expected a noun with its article, for instance 'a person'")
    return chosen


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    return [int(i) for i in tokenizer.encode(text, add_special_tokens=False)] if text.strip() else []


def _padded(tokenizer: Tokenizer, ids: list[int], prompt: str) -> Tensor:
    """Return (L,) ids between start and end token, padded."""
    length = int(tokenizer.model_max_length)
    if length > _MOST_TOKENS:
        raise ValueError("the tokenizer does not tell its length; set model_max_length in its tokenizer_config.json")
    if len(ids) + 2 > length:
        raise ValueError(
            f"prompt {prompt!r} has {len(ids)} tokens, but there is room for {length - 2}; "
            "shorten it, nothing is cut off"
        )
    end = int(tokenizer.eos_token_id)
    fill = end if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
    whole = [int(tokenizer.bos_token_id), *ids, end]
    return torch.tensor(whole + [fill] * (length - len(whole)), dtype=torch.int64)


def _check_ends(caption: str, ends: Sequence[int]) -> None:
    before = 0
    for end in ends:
        if not before < end <= len(caption):
            raise ValueError(
                f"caption {caption!r} of {len(caption)} characters: noun phrases end at {list(ends)}; "
                "expected ascending offsets from 1 to its length"
            )
        if not caption[end - 1].isalnum() or caption[end : end + 1].isalnum():
            raise ValueError(f"caption {caption!r}: no word ends at character {end}")
        before = end


def _phrase_start(caption: str, done: int, end: int) -> int:
    """Return where the noun phrase that ends at `end` begins; not before `done`."""
    words = list(_WORD.finditer(caption, done, end))
    start = following = words[-1].start()
    for word in reversed(words[:-1]):
        if caption[word.end() : following].strip() or word.group().lower() in _BOUNDARIES:
            break
        if word.group().lower() in ARTICLES:
            return word.start()
        following = word.start()
    return start
