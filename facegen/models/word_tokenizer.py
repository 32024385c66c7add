"""A CLIP tokenizer to which given words are one token each.

Source: Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, for the byte-pair encoding.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"  # CLIP's; END also pads, and stands for what is unknown
WORD_END = "</w>"


def build_tokenizer(words: Sequence[str], folder: str | Path, *, max_tokens: int) -> CLIPTokenizer:
    """Write a CLIP tokenizer to which each of `words` is one token, and return it as it loads.

    Other words fall apart into known pieces, in the end into bytes, so that every text has tokens.

    Args:
        words: lower-case words and punctuation; what CLIP would split (white space, digits) is split here too.
        folder: where vocab.json, merges.txt and the configuration go.
        max_tokens: length of a prompt with its start and its end.

    Raises:
        ValueError: if there is no room for a word between start and end.
    """
    if max_tokens < 3:
        raise ValueError(f"max_tokens is {max_tokens}; a prompt needs room for its start, a word and its end")
    letters = sorted(_byte_letters().values())
    vocabulary = letters + [letter + WORD_END for letter in letters]
    ranks: dict[tuple[str, str], int] = {}
    plain = CLIPTokenizer(vocab={END: 0, START: 1}, merges=[]).backend_tokenizer
    for word in words:
        for piece, _ in plain.pre_tokenizer.pre_tokenize_str(plain.normalizer.normalize_str(word)):
            pieces = _merged([*piece[:-1], piece[-1] + WORD_END], ranks)
            while len(pieces) > 1:  # later merges never come before earlier ones, so earlier words stay whole
                ranks[pieces[0], pieces[1]] = len(ranks)
                pieces[:2] = [pieces[0] + pieces[1]]
                vocabulary.append(pieces[0])
    names = [*dict.fromkeys(vocabulary), START, END]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = CLIPTokenizer(
        vocab={name: number for number, name in enumerate(names)},
        merges=list(ranks),  # type: ignore[arg-type]
        model_max_length=max_tokens,
    )
    made.save_pretrained(folder)
    (folder / "vocab.json").write_text(
        json.dumps({name: number for number, name in enumerate(names)}, ensure_ascii=False), encoding="utf-8"
    )
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in ranks)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _byte_letters() -> dict[int, str]:
    """Return the printable letter that stands for each byte in byte-level pair encoding (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


def _merged(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Return the pieces after byte-pair encoding: the pair of the lowest rank first, wherever it stands."""
    while True:
        pairs = [pair for pair in itertools.pairwise(pieces) if pair in ranks]
        if not pairs:
            return pieces
        left, right = min(pairs, key=ranks.__getitem__)
        joined: list[str] = []
        for piece in pieces:
            if joined and joined[-1] == left and piece == right:
                joined[-1] = left + right
            else:
                joined.append(piece)
        pieces = joined
