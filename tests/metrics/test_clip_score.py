"""CLIP and dCLIP on a tiny random model: against transformers' own path, and in their limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from facegen.metrics.clip_score import MEAN, PLAIN, STD, ClipScore
from facegen.models.initialize import draw_weights
from facegen.rng import torch_generator

SIDE = 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipScore:
    folder = tmp_path_factory.mktemp("clip")
    letters = list("abcdefghijklmnopqrstuvwxyz")
    vocabulary = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, merges=[], model_max_length=16)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "eos_token_id": 53,
            "bos_token_id": 52, "pad_token_id": 53}  # fmt: skip
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**small, "image_size": SIDE, "patch_size": 8}, projection_dim=8)
    )
    draw_weights(model, torch_generator(0, "clip"))
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, generator=torch_generator(1, "clip"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ClipScore.open(folder, device=torch.device("cpu"))


def pixels(num: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(num).integers(0, 256, (num, height, width, 3), dtype=np.uint8)


def test_the_cosine_is_that_of_the_model(clip: ClipScore) -> None:
    images, prompts = pixels(3), ["a cat", "a dog on a mat", "a cat"]
    found = clip.scores(images, prompts, [pixels(1)] * 3)[0]
    values = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        STD
    ).view(3, 1, 1)
    for i, prompt in enumerate(prompts):
        tokens = clip._tokenizer([prompt], return_tensors="pt")
        with torch.no_grad():
            out = clip._model(input_ids=tokens["input_ids"], pixel_values=values[i : i + 1])
        cosine = float(out.logits_per_image / clip._model.logit_scale.exp())
        assert found[i] == pytest.approx(cosine, abs=1e-5)
    assert found[0] != pytest.approx(found[1], abs=1e-3)


def test_directions(clip: ClipScore) -> None:
    images, references = pixels(2), [pixels(1), pixels(3)]
    found = clip.scores(images, ["a hat", "glasses"], references)[1]
    seen, words, plain = clip.pictures(images), clip.texts(["a hat", "glasses"]), clip.texts([PLAIN])
    for i, own in enumerate(references):
        step, wanted = seen[i] - clip.pictures(own).mean(0), words[i] - plain[0]
        assert found[i] == pytest.approx(float(step @ wanted / step.norm() / wanted.norm()), abs=1e-9)
    copies = clip.scores(images, ["a hat", "a hat"], [images[:1], images[1:]])[1]
    assert (copies == 0).all()  # a copy of the reference departs in no direction


def test_pictures_are_cut_in_the_middle(clip: ClipScore) -> None:
    wide = pixels(1, SIDE, 3 * SIDE)
    assert torch.allclose(clip.pictures(wide), clip.pictures(np.ascontiguousarray(wide[:, :, SIDE : 2 * SIDE])))
    alone = torch.cat([clip.pictures(image[None]) for image in pixels(3, 48, 50)])
    assert torch.allclose(clip.pictures(pixels(3, 48, 50)), alone, atol=1e-5)


def test_mistakes(clip: ClipScore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 pictures, 1 prompts"):
        clip.scores(pixels(2), ["a"], [pixels(1)])
    with pytest.raises(ValueError, match="no usable CLIP model"):
        ClipScore.open(tmp_path, device=torch.device("cpu"))
