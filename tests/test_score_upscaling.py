"""Upscaling in numbers, with ways to upscale whose faults are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from facegen.metrics.judge_features import JudgeFeatures
from facegen.metrics.perceptual import perceptual_distances
from facegen.metrics.reconstruction import psnr_db, ssim
from facegen.models.initialize import draw_weights
from facegen.models.judges import build_judge
from facegen.rng import torch_generator
from facegen.score_upscaling import FIGURES, MeasuredUpscaling, measure_upscaling, upscaling_figures
from facegen.train.upscaler import reduced
from facegen.upscaling import lanczos

SIDE, NUM, SCALE = 64, 20, 4


class Pictures:
    """Smooth large faces in memory."""

    resolution = SIDE

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        small = rng.integers(0, 256, (NUM, 12, 12, 3), dtype=np.uint8)
        self.pixels = np.stack(
            [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in small]
        )

    def images(self, rows: np.ndarray, *, threads: int) -> np.ndarray:
        return self.pixels[rows]


class Colour:
    """A recogniser that knows people by the mean colour of the left half."""

    def embed(self, images: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        colour = images[:, :, : images.shape[2] // 2].mean((1, 2)) - 128.0
        return (colour / np.linalg.norm(colour, axis=1, keepdims=True)).astype(np.float32)


def judge() -> JudgeFeatures:
    model = build_judge("convnext", attribute_names=["Male"], width=8)
    draw_weights(model, torch_generator(0, "judge"))
    model.register_to_config(thresholds=[0.5], temperatures=[1.0], resolution=16)
    return JudgeFeatures(model.eval(), name="b", digest="0", resolution=16, device=torch.device("cpu"))


def darker(images: np.ndarray) -> np.ndarray:
    return images - np.minimum(images, 9)


def blocks(images: np.ndarray) -> np.ndarray:
    return images.repeat(SCALE, axis=1).repeat(SCALE, axis=2)


@pytest.fixture(scope="module")
def found() -> MeasuredUpscaling:
    counted: list[int] = []
    measured = measure_upscaling(
        Pictures(), np.arange(NUM)[::-1].copy(), ours=blocks, lanczos=lambda x: lanczos(x, SCALE), round_trip=darker,
        scale=SCALE, judge=judge(), embedder=Colour(), threads=1, on_images=counted.append,
    )  # fmt: skip
    assert counted == [16, 4]
    return measured


def test_each_way_gets_each_input_and_is_compared_with_the_truth(found: MeasuredUpscaling) -> None:
    truth = Pictures().pixels[::-1]
    clean = reduced(truth, SCALE, threads=1)
    assert set(found.values) == {"ours", "lanczos", "clean_ours", "clean_lanczos"}
    for key, result, inputs in (
        ("ours", blocks(darker(clean)), darker(clean)),
        ("lanczos", lanczos(darker(clean), SCALE), darker(clean)),
        ("clean_ours", blocks(clean), clean),
        ("clean_lanczos", lanczos(clean, SCALE), clean),
    ):
        values = found.values[key]
        assert list(values) == ["psnr_db", "ssim", "perceptual", "consistency_db", "identity_cosine"]
        np.testing.assert_allclose(values["psnr_db"], psnr_db(truth, result))
        np.testing.assert_allclose(values["ssim"], ssim(truth, result))
        np.testing.assert_allclose(values["perceptual"], perceptual_distances(judge(), truth, result), rtol=1e-4)
        np.testing.assert_allclose(
            values["consistency_db"], psnr_db(inputs, reduced(result, SCALE, threads=1)), rtol=1e-9
        )
        cosine = (Colour().embed(truth, None).astype(np.float64) * Colour().embed(result, None)).sum(1)
        np.testing.assert_allclose(values["identity_cosine"], np.clip(cosine, -1, 1), atol=1e-6)
    assert (found.values["clean_lanczos"]["psnr_db"] > found.values["lanczos"]["psnr_db"]).all()
    shown = [blocks(darker(clean)), lanczos(darker(clean), SCALE), blocks(darker(clean)), truth]
    np.testing.assert_array_equal(found.shown, np.stack(shown)[:, :6])


def test_figures_stand_beside_lanczos_with_paired_differences(found: MeasuredUpscaling) -> None:
    people = np.arange(NUM) // 2
    figures = upscaling_figures(
        found, people=people, truth_resolution=SIDE, resolution=16, scale=SCALE, generator=np.random.default_rng(0)
    )
    ours, other = found.values["ours"], found.values["lanczos"]
    for name in FIGURES:
        assert figures[name]["value"] == pytest.approx(ours[name].mean()) and figures[name]["n"] == NUM
        assert figures[f"lanczos_{name}"]["value"] == pytest.approx(other[name].mean())
        difference = figures["difference"][name]
        assert difference["value"] == pytest.approx((ours[name] - other[name]).mean())
        assert difference["low"] <= difference["value"] <= difference["high"]
    width = [f["high"] - f["low"] for f in (figures["psnr_db"], figures["difference"]["psnr_db"])]
    assert width[1] < width[0]  # what the pictures share cancels
    assert figures["clean"]["psnr_db"]["value"] == pytest.approx(found.values["clean_ours"]["psnr_db"].mean())
    assert (figures["truth_resolution"], figures["scale"], figures["images"]) == (SIDE, SCALE, NUM)
    assert figures["assumption"] is None


def test_truth_below_the_size_of_use_is_said(found: MeasuredUpscaling) -> None:
    figures = upscaling_figures(
        found, people=np.arange(NUM), truth_resolution=SIDE, resolution=17, scale=SCALE,
        generator=np.random.default_rng(0),
    )  # fmt: skip
    assert "no truth at 68 px" in figures["assumption"] and "(64 px)" in figures["assumption"]


def test_without_a_recogniser_identity_is_none() -> None:
    found = measure_upscaling(
        Pictures(), np.arange(3), ours=blocks, lanczos=blocks, round_trip=darker, scale=SCALE, judge=judge(),
        embedder=None, threads=1, on_images=lambda _: None,
    )  # fmt: skip
    figures = upscaling_figures(
        found, people=np.arange(3), truth_resolution=SIDE, resolution=16, scale=SCALE,
        generator=np.random.default_rng(0),
    )  # fmt: skip
    assert figures["identity_cosine"] is None and figures["difference"]["identity_cosine"] is None
    assert figures["difference"]["ssim"]["value"] == 0 and found.shown.shape == (4, 3, SIDE, SIDE, 3)
