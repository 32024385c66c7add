"""Markers to placeholders, class words, and FastComposer's noun ends, each with what is refused."""

from __future__ import annotations

import pytest

from facegen.models.text_to_image import build_tokenizer
from facegen.personalize.prompts import (
    build_prompt,
    class_prompt,
    mark_nouns,
    noun_positions,
    noun_prompt,
    plain_prompt,
)
from tests.personalize.made_networks import END, LENGTH, START, WORDS, WordTokenizer, ids_of

TOKENIZER = WordTokenizer()


def padded(ids):
    return [START, *ids, END] + [END] * (LENGTH - 2 - len(ids))


def test_a_marker_becomes_two_placeholders_where_it_stands():
    prompt = build_prompt(TOKENIZER, "happy <id:0> and <id:1> wearing hats", num_subjects=2)
    gap = [START, START]
    assert prompt.input_ids.tolist() == padded(ids_of("happy") + gap + ids_of("and") + gap + ids_of("wearing hats"))
    assert prompt.positions == ((0, 2), (1, 5)) and prompt.num_subjects == 2


def test_subjects_may_come_in_any_order_and_more_than_once():
    prompt = build_prompt(TOKENIZER, "<id:1>,<id:0> and <id:1>", num_subjects=2)
    assert prompt.positions == ((1, 1), (0, 4), (1, 7)) and prompt.num_subjects == 2


def test_a_plain_text_is_the_tokenizers_own_ids():
    assert plain_prompt(TOKENIZER, "a man smiling").input_ids.tolist() == padded(ids_of("a man smiling"))
    assert plain_prompt(TOKENIZER, "").input_ids.tolist() == padded([])


@pytest.mark.parametrize(
    ("prompt", "num", "message"),
    [
        ("<id:0> smiling", 2, "does not name <id:1>; 2 people are given"),
        ("<id:1> smiling", 1, "does not name <id:0>"),
        ("<id:0> and <id:2>", 2, "does not name <id:1>"),
        ("<id:0> and <id:1>", 1, "names <id:1>, but 1 person is given"),
        ("a man smiling <id:0>", 0, "names <id:0>, but 0 people"),
        ("<id:0> and <id:1", 1, "holds '<id:1'; a person is written <id:0>"),
        ("<id:0> and < id:1>", 1, "holds '< id:1>'"),
        ("<id:0> and <ID:1>", 1, "holds '<ID:1>'"),
        ("<id:zero>", 1, "holds '<id:zero>'"),
    ],
)
def test_markers_that_do_not_fit_the_people_are_refused(prompt, num, message):
    with pytest.raises(ValueError, match=message):
        build_prompt(TOKENIZER, prompt, num_subjects=num)
    with pytest.raises(ValueError, match=message):
        noun_prompt(TOKENIZER, prompt, "a man", num_subjects=num)


def test_what_fits_to_the_last_token_is_taken_and_one_more_is_refused():
    words = " ".join(["happy"] * (LENGTH - 4))  # with start, end and a pair: exactly LENGTH
    whole = build_prompt(TOKENIZER, words + " <id:0>", num_subjects=1)
    assert whole.positions == ((0, LENGTH - 3),) and whole.input_ids.tolist()[-3:] == [START, START, END]
    with pytest.raises(ValueError, match="has 15 tokens, but there is room for 14; shorten it, nothing is cut off"):
        build_prompt(TOKENIZER, words + " happy <id:0>", num_subjects=1)
    with pytest.raises(ValueError, match="set model_max_length"):
        plain_prompt(WordTokenizer(model_max_length=10**30), "a man")


def test_class_words_stand_for_markers():
    prompt = "<id:1> and <id:0>, <id:1> smiling"
    assert class_prompt(prompt, ["a man", "a woman"]) == "a woman and a man, a woman smiling"
    assert class_prompt(prompt, "a person") == "a person and a person, a person smiling"
    assert class_prompt("a beach", []) == "a beach"
    with pytest.raises(ValueError, match="subject 1 has no class word; 1 are given: a man"):
        class_prompt(prompt, ["a man"])
    with pytest.raises(ValueError, match="class word is empty"):
        class_prompt(prompt, " ")
    with pytest.raises(ValueError, match="holds '<id:1'"):
        class_prompt("<id:1", "a man")


def test_a_noun_prompt_is_the_class_prompt_with_the_places_of_its_nouns():
    prompt = "happy <id:1> and <id:0> smiling"
    words = ["a man", "a woman"]  # two tokens: wo, man
    found = noun_prompt(TOKENIZER, prompt, words, num_subjects=2)
    assert found.input_ids.tolist() == padded(ids_of("happy a woman and a man smiling"))
    assert found.positions == ((1, 4), (0, 7))
    assert [int(found.input_ids[p]) for _, p in found.positions] == [ids_of("man")[-1]] * 2


@pytest.mark.parametrize(
    ("caption", "nouns", "order", "marked"),
    [
        ("a man and a woman smiling", ["man", "woman"], [1, 0], "<id:1> and <id:0> smiling"),
        ("a young, tall man on a beach", ["man"], [0], "a young, tall <id:0> on a beach"),
        ("the happy old man with a hat", ["man"], [0], "<id:0> with a hat"),
        ("a beach with men", ["men"], [0], "a beach with <id:0>"),
        ("A woman, an old man", ["woman", "man"], [-1, 0], "A woman, <id:0>"),
        ("a man and a man", ["a man", "and a man"], [0, 1], "<id:0> and <id:1>"),
        ("a man woman", ["man", "woman"], [0, 1], "<id:0> <id:1>"),  # never across the end before
        ("a woman's man smiling", ["man"], [0], "<id:0> smiling"),
    ],
)
def test_noun_phrases_become_markers_with_their_articles(caption, nouns, order, marked):
    ends, at = [], 0
    for noun in nouns:
        at = caption.index(" " + noun, at) + 1 + len(noun) if not caption.startswith(noun, at) else at + len(noun)
        ends.append(at)
    assert mark_nouns(caption, ends, order) == marked


def test_marking_and_the_class_word_undo_each_other():
    caption = "a man with a hat and a woman smiling"
    marked = mark_nouns(caption, [5, 28], [0, 1])
    assert marked == "<id:0> with a hat and <id:1> smiling"
    assert class_prompt(marked, ["a man", "a woman"]) == caption


@pytest.mark.parametrize(
    ("ends", "order", "message"),
    [
        ([5, 17], [0], "2 ends and 1 subjects"),
        ([17, 5], [0, 1], "ascending"),
        ([5, 5], [0, 1], "ascending"),
        ([0], [0], "ascending"),
        ([26], [0], "of 25 characters"),
        ([6], [0], "no word ends at character 6"),
        ([4], [0], "no word ends at character 4"),
    ],
)
def test_ends_that_are_none_are_refused(ends, order, message):
    with pytest.raises(ValueError, match=message):
        mark_nouns("a man and a woman smiling", ends, order)
    if len(ends) == len(order):
        with pytest.raises(ValueError, match=message):
            noun_positions(TOKENIZER, "a man and a woman smiling", ends)


def test_a_caption_with_a_marker_is_not_marked_again():
    with pytest.raises(ValueError, match="holds a marker already"):
        mark_nouns("<id:0> and a man", [16], [1])


def test_noun_positions_are_those_of_the_last_noun_tokens():
    caption = "a man and a woman smiling"
    assert noun_positions(TOKENIZER, caption, [5, 17]) == (2, 6)  # a man and a wo man: start token first
    assert noun_positions(TOKENIZER, caption, []) == ()
    long = caption + " and" * 8
    with pytest.raises(ValueError, match="has 15 tokens, but there is room for 14"):
        noun_positions(TOKENIZER, long, [5])


def test_a_real_clip_tokenizer_is_one(tmp_path):
    tokenizer = build_tokenizer(WORDS, tmp_path, max_tokens=LENGTH)
    text = "a man and zyx smiling"  # a word that falls to letters
    own = tokenizer(text, padding="max_length", max_length=LENGTH)["input_ids"]
    assert plain_prompt(tokenizer, text).input_ids.tolist() == own
    marked = mark_nouns(text, [5, 13], [0, 1])
    assert marked == "<id:0> and <id:1> smiling"
    pairs = build_prompt(tokenizer, marked, num_subjects=2)
    assert pairs.positions == ((0, 1), (1, 4)) and pairs.input_ids[:7].tolist()[3] == own[3]
    nouns = noun_prompt(tokenizer, marked, ["a man", "zyx"], num_subjects=2)
    assert nouns.input_ids.tolist() == own
    assert tuple(p for _, p in nouns.positions) == noun_positions(tokenizer, text, [5, 13])
    assert tokenizer.decode(own[: nouns.positions[1][1] + 1]).endswith("zyx")
    for word in WORDS:
        assert tokenizer.bos_token_id not in tokenizer.encode(word, add_special_tokens=False)
