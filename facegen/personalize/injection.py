"""Chosen people put into a frozen CLIP text model: vectors written over its input, or added to its output.

    replace_input   rows p and p + 1 of the embedding (token + position) become a subject's two vectors; what follows
                    sees them through the causal attention
    add_output      the first vector is added to the last hidden state at the noun's last token

The text model is not changed: a forward hook acts while the context is open. Subject k of prompt b goes to the
positions of subject k in prompt b and nowhere else, so prompts of a batch may name different numbers of people.
Source: Shiohara and Yamasaki, Face2Diffusion (replace_input). Shapes: B prompts, S subjects of all prompts
together, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from facegen.personalize.prompts import TOKENS_PER_SUBJECT, SubjectPrompt, Tokenizer, plain_prompt

REPLACE_INPUT, ADD_OUTPUT = "replace_input", "add_output"
FUSIONS = (REPLACE_INPUT, ADD_OUTPUT)


@contextmanager
def injected(text_encoder: nn.Module, vectors: Tensor, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """While open, pairs of vectors stand in the input of the text model; afterwards it is as it was.

    Args:
        text_encoder: a CLIPTextModel.
        vectors: (S, 2, D).
        rows: (S,) integers, the prompt within the batch that each pair goes to.
        positions: (S,) integers, where in it the first vector goes; the second goes to the next.

    Raises:
        ValueError: for other shapes, two pairs on one place, or, when the model runs, a place that is not there.
    """
    embeddings = embedding_module(text_encoder)
    num = len(vectors)
    if vectors.ndim != 3 or vectors.shape[1] != TOKENS_PER_SUBJECT:
        raise ValueError(f"vectors have shape {tuple(vectors.shape)}; expected (S, {TOKENS_PER_SUBJECT}, D)")
    if tuple(rows.shape) != (num,) or tuple(positions.shape) != (num,):
        raise ValueError(f"{num} pairs, rows {tuple(rows.shape)}, positions {tuple(positions.shape)}; expected (S,)")
    rows, positions = rows.long().repeat_interleave(TOKENS_PER_SUBJECT), _both(positions)
    places = torch.stack([rows, positions], dim=1)
    if len(places.unique(dim=0)) < len(places):
        raise ValueError("two vectors are to stand at one place of a prompt")

    def write(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        batch, length, width = output.shape
        if num and (int(rows.max()) >= batch or int(rows.min()) < 0):
            raise ValueError(f"vectors for prompts {sorted(set(rows.tolist()))} of a batch of {batch}")
        if num and (int(positions.max()) >= length or int(positions.min()) < 0):
            raise ValueError(f"vectors at positions {positions.tolist()} of prompts of {length} tokens")
        if vectors.shape[2] != width:
            raise ValueError(f"vectors have width {vectors.shape[2]}; the text model's is {width}")
        written = output.clone()
        written[rows.to(output.device), positions.to(output.device)] = vectors.flatten(0, 1).to(output)
        return written

    handle = embeddings.register_forward_hook(write)
    try:
        yield
    finally:
        handle.remove()


def encode_prompts(
    text_encoder: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[SubjectPrompt | str],
    vectors: Tensor | None = None,
    owners: Tensor | None = None,
    *,
    fusion: str = REPLACE_INPUT,
) -> Tensor:
    """Return the last hidden states (B, L, D) of prompts; gradients reach `vectors`.

    Args:
        text_encoder: a CLIPTextModel.
        tokenizer: its own; it made the prompts, and turns plain strings into prompts without subjects.
        prompts: B of them: from `build_prompt` for "replace_input", from `noun_prompt` or with the places of
            `noun_positions` for "add_output".
        vectors: (S, 2, D) of the subjects of all prompts; None where no prompt names one.
        owners: (S,) integers, the prompt of each pair; the k-th pair of a prompt is its subject k. None: prompt 0's.
        fusion: replace_input or add_output.

    Raises:
        ValueError: if a prompt's subjects are not those given to it, or it was made for the other fusion.
    """
    if fusion not in FUSIONS:
        raise ValueError(f"fusion is {fusion!r}; allowed: {', '.join(FUSIONS)}")
    if not prompts:
        raise ValueError("there is no prompt to encode")
    made = [plain_prompt(tokenizer, p) if isinstance(p, str) else p for p in prompts]
    _check_kind(made, int(tokenizer.bos_token_id), fusion)
    chosen, rows, positions = _scatter(made, vectors, owners)
    embeddings = embedding_module(text_encoder).token_embedding.weight
    ids = torch.stack([p.input_ids for p in made]).to(embeddings.device)
    if vectors is None or not len(chosen):
        return text_encoder(ids).last_hidden_state
    pairs = vectors[chosen.to(vectors.device)]
    if fusion == REPLACE_INPUT:
        with injected(text_encoder, pairs, rows, positions):
            return text_encoder(ids).last_hidden_state
    hidden = text_encoder(ids).last_hidden_state
    places = (rows.to(hidden.device), positions.to(hidden.device))
    return hidden.index_put(places, pairs[:, 0].to(hidden), accumulate=True)


@torch.no_grad()
def class_start(text_encoder: nn.Module, tokenizer: Tokenizer, class_word: str) -> Tensor:
    """Return the two input vectors (2, D) with which a mapper begins at a class word ("a person").

    They are the word's last two tokens (one token stands twice) where a prompt that begins with it has them: the pair
    at positions 1 and 2 then gives the class prompt itself.

    Raises:
        ValueError: for a class word of no token.
    """
    ids = [int(i) for i in tokenizer.encode(class_word, add_special_tokens=False)]
    if not ids:
        raise ValueError(f"class word {class_word!r} has no token")
    module = embedding_module(text_encoder)
    pair = torch.tensor((ids * 2 if len(ids) == 1 else ids)[-2:], device=module.token_embedding.weight.device)
    return module.token_embedding(pair) + module.position_embedding.weight[1:3]


def embedding_module(text_encoder: nn.Module) -> Any:
    """Return the module that sums token and position embeddings.

    Raises:
        ValueError: if the network does not hold exactly one.
    """
    from transformers.models.clip.modeling_clip import CLIPTextEmbeddings

    found = [module for module in text_encoder.modules() if isinstance(module, CLIPTextEmbeddings)]
    if len(found) != 1:
        raise ValueError(
            f"{type(text_encoder).__name__} holds {len(found)} CLIPTextEmbeddings; expected a CLIPTextModel"
        )
    return found[0]


def _both(positions: Tensor) -> Tensor:
    """Return (2 S,): each position and the next."""
    return torch.stack([positions.long() + i for i in range(TOKENS_PER_SUBJECT)], dim=1).flatten()


def _check_kind(prompts: Sequence[SubjectPrompt], placeholder: int, fusion: str) -> None:
    for prompt in prompts:
        for subject, position in prompt.positions:
            if (int(prompt.input_ids[position]) == placeholder) != (fusion == REPLACE_INPUT):
                maker = "build_prompt" if fusion == REPLACE_INPUT else "noun_prompt"
                raise ValueError(f"subject {subject}: fusion {fusion} takes prompts made by {maker}")


def _scatter(
    prompts: Sequence[SubjectPrompt], vectors: Tensor | None, owners: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return for every place of every subject which pair goes there, its prompt and its position; (P,) each."""
    num = 0 if vectors is None else len(vectors)
    of_prompt: list[list[int]] = [[] for _ in prompts]
    numbers = [0] * num if owners is None else owners.tolist()
    if len(numbers) != num:
        raise ValueError(f"{num} pairs of vectors and {len(numbers)} owners; expected an owner for each pair")
    for pair, owner in enumerate(numbers):
        if not 0 <= owner < len(prompts):
            raise ValueError(f"pair {pair} belongs to prompt {owner}; there are {len(prompts)} (counted from 0)")
        of_prompt[owner].append(pair)
    places = []
    for row, (prompt, pairs) in enumerate(zip(prompts, of_prompt, strict=True)):
        if {subject for subject, _ in prompt.positions} != set(range(len(pairs))):
            named = sorted({subject for subject, _ in prompt.positions})
            raise ValueError(f"prompt {row} names subjects {named}, but {len(pairs)} pairs of vectors are its own")
        places += [(pairs[subject], row, position) for subject, position in prompt.positions]
    chosen, rows, positions = torch.tensor(places, dtype=torch.int64).reshape(-1, 3).unbind(dim=1)
    return chosen, rows, positions
