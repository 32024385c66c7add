"""The hook's contract, the scatter of ragged batches, both fusions, and where a mapper begins."""

from __future__ import annotations

import pytest
import torch

from facegen.personalize.injection import class_start, embedding_module, encode_prompts, injected
from facegen.personalize.prompts import SubjectPrompt, build_prompt, noun_positions, noun_prompt, plain_prompt
from tests.personalize.made_networks import WIDTH, WordTokenizer, made, text_model

MODEL, TOKENIZER = text_model(), WordTokenizer()
ROWS, PLACES = torch.tensor([1]), torch.tensor([4])
PAIR = made(1, 2, WIDTH)


def ids(*texts):
    return torch.stack([plain_prompt(TOKENIZER, text).input_ids for text in texts])


TWO = ids("a man and a man smiling", "a happy woman with a hat")


def hidden(given=TWO):
    return MODEL(given).last_hidden_state


def test_what_stands_before_is_unchanged_and_what_follows_is_not():
    plain = hidden()
    with injected(MODEL, PAIR, ROWS, PLACES):
        changed = hidden()
    assert torch.equal(changed[0], plain[0])  # another prompt
    assert torch.equal(changed[1, :4], plain[1, :4])
    assert (changed[1, 4:] - plain[1, 4:]).abs().amax(dim=1).min() > 1e-4
    assert torch.equal(hidden(), plain)  # bit for bit, once it is closed


def test_both_rows_are_the_vectors_and_nothing_else_is_written():
    seen = []
    module = embedding_module(MODEL)
    before = module(TWO)
    kept = module.register_forward_hook(lambda module, args, output: seen.append(output))
    with injected(MODEL, PAIR, ROWS, PLACES):
        handle = module.register_forward_hook(lambda module, args, output: seen.append(output))
        hidden()
        handle.remove()
    kept.remove()
    assert torch.equal(seen.pop(0), before)  # what another hook holds is not written to
    expected = before.clone()
    expected[1, 4:6] = PAIR[0]  # without a position embedding
    assert torch.equal(seen[0], expected)


def test_the_hook_goes_even_if_the_body_fails():
    plain = hidden()
    with pytest.raises(KeyError), injected(MODEL, PAIR, ROWS, PLACES):
        raise KeyError
    assert torch.equal(hidden(), plain)
    assert not embedding_module(MODEL)._forward_hooks


def test_gradients_reach_the_vectors_through_the_frozen_model():
    vectors = made(2, 2, WIDTH).requires_grad_(True)
    with injected(MODEL, vectors, torch.tensor([0, 1]), torch.tensor([3, 4])):
        out = hidden()
    out[0, 5:].square().sum().backward()  # tokens after the pair of prompt 0
    assert vectors.grad[0].abs().amax(dim=1).min() > 1e-5  # both tokens of the pair
    assert vectors.grad[1].abs().max() == 0  # of another prompt
    assert all(p.grad is None for p in MODEL.parameters())


@pytest.mark.parametrize(
    ("vectors", "rows", "positions", "message"),
    [
        (made(1, 3, WIDTH), [0], [1], r"vectors have shape \(1, 3, 32\)"),
        (made(2, 2, WIDTH), [0], [1], r"2 pairs, rows \(1,\)"),
        (made(2, 2, WIDTH), [0, 0], [1, 2], "two vectors are to stand at one place"),
        (made(1, 2, WIDTH), [2], [1], "vectors for prompts .* of a batch of 2"),
        (made(1, 2, WIDTH), [0], [15], r"vectors at positions \[15, 16\] of prompts of 16 tokens"),
        (made(1, 2, WIDTH + 1), [0], [1], "width 33; the text model's is 32"),
    ],
)
def test_places_that_are_not_there_are_refused(vectors, rows, positions, message):
    with (
        pytest.raises(ValueError, match=message),
        injected(MODEL, vectors, torch.tensor(rows), torch.tensor(positions)),
    ):
        hidden()


def test_a_network_that_is_no_text_model_is_refused():
    with pytest.raises(ValueError, match="Linear holds 0 CLIPTextEmbeddings"):
        embedding_module(torch.nn.Linear(1, 1))


RAGGED = ["<id:1> and <id:0> smiling", "a man and a hat", "happy <id:0>", "<id:0>, <id:1> with <id:2> and <id:1>"]
COUNTS = [2, 0, 1, 3]


def built(maker=build_prompt, **more):
    return [maker(TOKENIZER, text, num_subjects=n, **more) for text, n in zip(RAGGED, COUNTS, strict=True)]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 0, 4, 2, 1, 5]])
def test_a_ragged_batch_is_what_each_prompt_gives_alone(order):
    """Owners in any order: the k-th pair of a prompt is its subject k."""
    vectors, owners = made(6, 2, WIDTH), torch.tensor([0, 0, 2, 3, 3, 3])[order]
    together = encode_prompts(MODEL, TOKENIZER, built(), vectors, owners)
    for b, prompt in enumerate(built()):
        own = vectors[owners == b]
        alone = encode_prompts(MODEL, TOKENIZER, [prompt], own, torch.zeros(len(own), dtype=torch.int64))
        torch.testing.assert_close(together[b : b + 1], alone)
    by_hand = plain_prompt(TOKENIZER, "").input_ids.new_tensor(built()[0].input_ids.tolist())[None]
    mine = vectors[owners == 0]
    with injected(MODEL, mine, torch.tensor([0, 0]), torch.tensor([4, 1])):  # subject 1 comes first in the text
        torch.testing.assert_close(together[:1], MODEL(by_hand).last_hidden_state)


def test_a_persons_vectors_reach_their_own_prompt_alone():
    vectors, owners = made(6, 2, WIDTH).requires_grad_(True), torch.tensor([0, 0, 2, 3, 3, 3])
    out = encode_prompts(MODEL, TOKENIZER, built(), vectors, owners)
    out[2].square().sum().backward()
    assert (vectors.grad.abs().sum(dim=(1, 2)) > 0).tolist() == [False, False, True, False, False, False]


def test_strings_are_prompts_without_subjects():
    assert torch.equal(
        encode_prompts(MODEL, TOKENIZER, ["a man and a man smiling", "a happy woman with a hat"]), hidden()
    )


def test_the_output_fusion_adds_the_first_vector_at_the_noun_and_nothing_else():
    words = ["a man", "a woman", "a person"]
    prompts, vectors = built(noun_prompt, words=words), made(6, 2, WIDTH).requires_grad_(True)
    owners = torch.tensor([0, 0, 2, 3, 3, 3])
    out = encode_prompts(MODEL, TOKENIZER, prompts, vectors, owners, fusion="add_output")
    difference = (out - MODEL(torch.stack([p.input_ids for p in prompts])).last_hidden_state).detach()
    expected = torch.zeros_like(difference)
    starts = {0: 0, 1: 2, 2: 2, 3: 3}
    for b, prompt in enumerate(prompts):
        for subject, position in prompt.positions:
            expected[b, position] = vectors[starts[b] + subject, 0]
    torch.testing.assert_close(difference, expected, atol=1e-6, rtol=0)
    out.square().sum().backward()
    assert vectors.grad[:, 0].abs().sum(dim=1).min() > 0 and vectors.grad[:, 1].abs().max() == 0


def test_a_captions_nouns_are_places_of_the_output_fusion():
    caption = "a man and a woman smiling"
    places = noun_positions(TOKENIZER, caption, [5, 17])
    prompt = SubjectPrompt(plain_prompt(TOKENIZER, caption).input_ids, tuple(enumerate(places)))
    vectors = made(2, 2, WIDTH)
    out = encode_prompts(MODEL, TOKENIZER, [prompt], vectors, fusion="add_output")
    same = noun_prompt(TOKENIZER, "<id:0> and <id:1> smiling", ["a man", "a woman"], num_subjects=2)
    assert torch.equal(out, encode_prompts(MODEL, TOKENIZER, [same], vectors, fusion="add_output"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(vectors=None, owners=None), r"prompt 0 names subjects \[0, 1\], but 0 pairs"),
        (dict(owners=torch.tensor([0, 0, 2, 3, 3, 1])), r"prompt 1 names subjects \[\], but 1 pairs"),
        (dict(owners=torch.tensor([0, 0, 2])), "6 pairs of vectors and 3 owners"),
        (dict(owners=torch.tensor([0, 0, 2, 3, 3, 4])), "pair 5 belongs to prompt 4; there are 4"),
        (dict(fusion="postfuse"), "fusion is 'postfuse'; allowed: replace_input, add_output"),
        (dict(fusion="add_output"), "fusion add_output takes prompts made by noun_prompt"),
        (dict(prompts=built(noun_prompt, words="a man")), "fusion replace_input takes prompts made by build_prompt"),
        (dict(prompts=[]), "no prompt to encode"),
    ],
)
def test_subjects_and_vectors_that_disagree_are_refused(change, message):
    given = dict(prompts=built(), vectors=made(6, 2, WIDTH), owners=torch.tensor([0, 0, 2, 3, 3, 3])) | change
    with pytest.raises(ValueError, match=message):
        encode_prompts(MODEL, TOKENIZER, **given)


@pytest.mark.parametrize(("word", "pair"), [("a person", "a person"), ("people", "people people")])
def test_a_mapper_begins_at_the_class_prompt_itself(word, pair):
    start = class_start(MODEL, TOKENIZER, word)
    assert start.shape == (2, WIDTH) and not start.requires_grad
    prompt = build_prompt(TOKENIZER, "<id:0> with a hat", num_subjects=1)
    ours = encode_prompts(MODEL, TOKENIZER, [prompt], start[None])
    torch.testing.assert_close(ours, encode_prompts(MODEL, TOKENIZER, [f"{pair} with a hat"]))
    with pytest.raises(ValueError, match="has no token"):
        class_start(MODEL, TOKENIZER, " ")
