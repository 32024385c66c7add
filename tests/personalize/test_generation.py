"""Pictures of given people by a tiny Stable Diffusion: against diffusers' own call, over alpha, and one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facegen.artifacts import write_json
from facegen.models.initialize import draw_weights
from facegen.models.msid import MSID
from facegen.models.text_to_image import TextToImage
from facegen.personalize.generation import METHODS, Method, Personalizer, Request, Settings
from facegen.personalize.injection import class_start
from facegen.personalize.mapping import Mapper
from facegen.personalize.opening import absence, base_source, open_personalizer
from facegen.rng import torch_generator
from tests.made_personalize import TEXT_WIDTH, make_sd_folder

DIM = 6
WORD = "a person"
ONE, TWO = "<id:0> smiling", "<id:0> and <id:1> wearing hats"
SETTINGS = Settings(num_steps=4, guidance_scale=3.0, alpha=0.5, negative="", scheduler="dpm++")


@pytest.fixture(scope="module", params=["1.x", "2.x"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sd_folder(tmp_path_factory.mktemp("sd"), kind=request.param)


@pytest.fixture(scope="module")
def base(folder: Path) -> TextToImage:
    return TextToImage.open(folder, device="cpu")


def made_mapper() -> Mapper:
    mapper = Mapper(identity_dim=DIM, expression_dim=2, hidden_size=8, out_dim=TEXT_WIDTH, dropout=0.0)
    draw_weights(mapper, torch_generator(0, "mapper"))
    for network in (mapper.i2t_first, mapper.i2t_last):
        network.fc_out.weight.data.mul_(3)
    return mapper


@pytest.fixture(scope="module")
def drawer(base: TextToImage) -> Personalizer:
    return Personalizer(base, None, made_mapper(), class_word=WORD, fusion="replace_input")


def features(num: int, seed: int = 0) -> Tensor:
    return torch.randn(num, DIM, generator=torch_generator(seed, "features"))


def close(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether pictures are equal but for the rounding of sums in another order."""
    return first.shape == second.shape and int(np.abs(first.astype(int) - second).max()) <= 1


def test_without_people_it_is_the_pipeline_itself(base: TextToImage, drawer: Personalizer) -> None:
    pipe = base.pipeline("dpm++")
    expected = pipe(
        prompt=["a person smiling"] * 2, negative_prompt=["a hat"] * 2, num_inference_steps=4, guidance_scale=3.0,
        generator=[torch_generator(seed, "personalize") for seed in (5, 6)], output_type="np",
    ).images  # fmt: skip
    found = drawer.generate(
        None, ONE, seeds=[5, 6], num_steps=4, guidance_scale=3.0, alpha=1.0, negative="a hat", scheduler="dpm++"
    )
    assert found.dtype == np.uint8
    assert close(found, (expected * 255).round().astype(np.uint8))
    assert found[0].std() > 5
    assert not close(found[:1], found[1:])


def test_alpha_0_is_the_class_word_and_more_of_it_changes_more(drawer: Personalizer) -> None:
    def draw(alpha: float, own: Tensor | None) -> np.ndarray:
        return drawer.generate_many([Request(ONE, own, 1)], replace(SETTINGS, alpha=alpha))

    plain = draw(1.0, None)
    assert (draw(0.0, features(1)) == plain).all()
    changed = [np.abs(draw(alpha, features(1)).astype(int) - plain).sum() for alpha in (0.25, 1.0)]
    assert 0 < changed[0] < changed[1]
    assert (draw(1.0, features(1)) != draw(1.0, features(1, seed=1))).any()


def test_a_mapper_that_says_the_class_word_changes_nothing(base: TextToImage) -> None:
    mapper = Mapper(identity_dim=DIM, expression_dim=2, hidden_size=8, out_dim=TEXT_WIDTH, dropout=0.0)
    mapper.initialize(torch_generator(0, "mapper"), class_start(base.text_encoder, base.tokenizer, WORD))
    for network in (mapper.i2t_first, mapper.i2t_last):
        network.fc_out.weight.data.zero_()
    same = Personalizer(base, None, mapper, class_word=WORD, fusion="replace_input")
    settings = replace(SETTINGS, alpha=0.5)
    assert close(
        same.generate_many([Request(ONE, features(1), 2)], settings),
        same.generate_many([Request(ONE, None, 2)], settings),
    )


@pytest.mark.parametrize(("alpha", "told"), [(0.0, 0), (0.3, 3), (0.7, 7), (1.0, 10)])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_last_steps_are_told(drawer: Personalizer, alpha: float, told: int, guidance: float) -> None:
    seen: list[Tensor] = []
    done: list[tuple[int, int]] = []
    hook = drawer.base.unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    drawer.generate(
        features(2), TWO, seeds=[3], num_steps=10, guidance_scale=guidance, alpha=alpha, negative="a man",
        scheduler="euler", on_step=lambda *step: done.append(step),
    )  # fmt: skip
    hook.remove()
    assert done == [(i + 1, 10) for i in range(10)]
    plain = drawer.base.hidden(drawer.base.tokens(["a person and a person wearing hats"]))[0]
    negative = drawer.base.hidden(drawer.base.tokens(["a man"]))[0]
    assert len(seen) == 10
    for hidden in seen:
        assert len(hidden) == (2 if guidance > 1 else 1)
        assert guidance == 1 or torch.allclose(hidden[0], negative, atol=1e-5)
    knows = [not torch.allclose(hidden[-1], plain, atol=1e-5) for hidden in seen]
    assert knows == [False] * (10 - told) + [True] * told


def test_a_picture_is_a_function_of_its_own_request(drawer: Personalizer) -> None:
    requests = [
        Request(ONE, features(1), 1), Request(TWO, features(2, 1), 2), Request(ONE, None, 3),
        Request("<id:1> and <id:0>", features(2, 2), 2**50), Request("<id:0> and <id:0>", features(1, 3), 1),
    ]  # fmt: skip
    for scheduler in ("dpm++", "euler_ancestral"):
        settings = replace(SETTINGS, scheduler=scheduler, batch_size=3, num_steps=2)
        together = drawer.generate_many(requests, settings)
        assert close(drawer.generate_many(requests[::-1], settings)[::-1], together)
        for request, picture in zip(requests, together, strict=True):
            assert close(drawer.generate_many([request], settings), picture[None])
    told = replace(SETTINGS, alpha=1.0)
    swapped = Request(TWO, requests[1].features.flip(0), 2)  # type: ignore[union-attr]
    assert (drawer.generate_many([swapped], told) != drawer.generate_many([requests[1]], told)).any()


def test_fusions_and_the_negative_prompt(base: TextToImage, drawer: Personalizer) -> None:
    added = Personalizer(base, None, made_mapper(), class_word=WORD, fusion="add_output")
    request, told = [Request(TWO, features(2), 4)], replace(SETTINGS, alpha=1.0)
    assert (added.generate_many(request, told) != drawer.generate_many(request, told)).any()
    assert close(
        added.generate_many(request, replace(told, alpha=0)), drawer.generate_many(request, replace(told, alpha=0))
    )
    other = replace(told, negative="a hat")
    assert (drawer.generate_many(request, other) != drawer.generate_many(request, told)).any()
    unguided = [drawer.generate_many(request, replace(s, guidance_scale=1.0)) for s in (told, other)]
    assert (unguided[0] == unguided[1]).all()


def test_sizes_and_another_precision(drawer: Personalizer) -> None:
    request = [Request(ONE, features(1), 4)]
    assert drawer.generate_many(request, replace(SETTINGS, height=48, width=64)).shape == (1, 48, 64, 3)
    hooks = len(drawer.base.unet._forward_hooks)
    kinds: list[torch.dtype] = []
    watch = drawer.base.unet.register_forward_pre_hook(
        lambda _, args, __: kinds.append(args[0].dtype), with_kwargs=True
    )
    rough = drawer.generate_many(request, replace(SETTINGS, dtype=torch.bfloat16)).astype(int)
    watch.remove()
    assert set(kinds) == {torch.float32}  # what is sampled keeps its precision
    exact = drawer.generate_many(request, SETTINGS)
    assert 0 < np.abs(rough - exact).mean() < 8
    assert len(drawer.base.unet._forward_hooks) == hooks


def test_mistakes(base: TextToImage, drawer: Personalizer) -> None:
    def draw(request: Request, **changes: Any) -> None:
        drawer.generate_many([request], replace(SETTINGS, **changes))

    with pytest.raises(ValueError, match="does not name <id:1>"):
        draw(Request(ONE, features(2), 0))
    with pytest.raises(ValueError, match="names <id:1>, but 1 person"):
        draw(Request(TWO, features(1), 0))
    with pytest.raises(ValueError, match="nothing is cut off"):
        draw(Request(ONE + " and a man" * 9, features(1), 0))
    with pytest.raises(ValueError, match=r"shape \(1, 5\); expected \(people, 6\)"):
        draw(Request(ONE, torch.zeros(1, 5), 0))
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        draw(Request(ONE, features(1), 0), alpha=1.5)
    with pytest.raises(ValueError, match="no picture is asked for"):
        drawer.generate_many([], SETTINGS)
    with pytest.raises(ValueError, match="no identity encoder"):
        drawer.features([torch.zeros(1, 3, 112, 112)])
    nobody = Personalizer(base, None, None, class_word=WORD, fusion="replace_input")
    with pytest.raises(ValueError, match="there is no mapper"):
        nobody.generate_many([Request(ONE, features(1), 0)], SETTINGS)
    with pytest.raises(ValueError, match="fusion is 'postfuse'"):
        Personalizer(base, None, None, class_word=WORD, fusion="postfuse")
    narrow = Mapper(identity_dim=DIM, expression_dim=2, hidden_size=8, out_dim=8, dropout=0.0)
    with pytest.raises(ValueError, match="makes words of 8; the text encoder reads 32"):
        Personalizer(base, None, narrow, class_word=WORD, fusion="replace_input")
    msid = MSID(patch_size=56, width=8, depth=1, num_heads=2, depths=[0])
    with pytest.raises(ValueError, match="reads 6 identity features; the encoder has 8"):
        Personalizer(base, msid, made_mapper(), class_word=WORD, fusion="replace_input")


def test_nothing_of_the_base_has_gradients_or_hooks(drawer: Personalizer) -> None:
    drawer.generate_many([Request(ONE, features(1), 0)], SETTINGS)
    for network in (drawer.base.unet, drawer.base.text_encoder, drawer.base.vae, drawer.mapper):
        assert network is not None
        assert not network.training
        assert not any(weights.requires_grad for weights in network.parameters())
        assert not any(module._forward_hooks for module in network.modules())


def test_opening_from_folders(base: TextToImage, folder: Path, tmp_path: Path) -> None:
    mapper = tmp_path / "mapper"
    made_mapper().save(mapper)
    write_json(tmp_path / "t2i/pointer.json", {"source": str(folder)})
    assert base_source(tmp_path / "t2i") == str(folder)
    assert base_source(folder) == str(folder)
    with pytest.raises(ValueError, match=r"has no mapper\.json: name the class word and the fusion"):
        open_personalizer(base, msid=None, mapper=mapper, device="cpu")
    write_json(mapper / "mapper.json", {"class_word": "a man", "fusion": "add_output"})
    opened = open_personalizer(tmp_path / "t2i", msid=None, mapper=mapper, device="cpu")
    assert (opened.class_word, opened.fusion) == ("a man", "add_output")
    given = open_personalizer(base, msid=None, mapper=mapper, class_word=WORD, fusion="replace_input", device="cpu")
    fresh = Personalizer(base, None, made_mapper(), class_word=WORD, fusion="replace_input")
    request = [Request(ONE, features(1), 0)]
    assert (given.generate_many(request, SETTINGS) == fresh.generate_many(request, SETTINGS)).all()
    write_json(mapper / "mapper.json", {"absent": "no scenes"})
    assert absence([tmp_path / "none.json", mapper / "mapper.json"]) == "no scenes"
    with pytest.raises(ValueError, match="holds no mapper: no scenes"):
        open_personalizer(base, msid=None, mapper=mapper, device="cpu")


def test_alpha_of_the_methods() -> None:
    assert METHODS["class_word"] == Method(None, (1, 2), 0.0)
    assert [METHODS[name].alpha(0.6) for name in ("class_word", "single", "naive", "mf2d")] == [0.0, 1.0, 1.0, 0.6]
