"""Train a text-to-image model, or point to a published one: data/scenes, autoencoder -> data/models/text-to-image.

The folder is diffusers' StableDiffusionPipeline. Where personalize.base names a model, it holds pointer.json instead;
where there are neither scenes nor such a name, text_to_image.json says so.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facegen.artifacts import read_json, write_json
from facegen.data.captions import vocabulary
from facegen.data.images import to_unit
from facegen.data.scenes import Scenes
from facegen.grids import image_grid, save_png
from facegen.models.autoencoder import factor, load_autoencoder
from facegen.models.text_to_image import (
    TextToImage,
    build_text_encoder,
    build_unet,
    draw_text_to_image,
    new_scheduler,
)
from facegen.models.word_tokenizer import build_tokenizer
from facegen.rng import torch_generator
from facegen.train.caption_pairs import CaptionPairLearner, PairRecipe
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from facegen.train.text_to_image import SceneSet, TextToImageLearner, TextToImageRecipe, encode_scenes, fit_scaling
from pipelines.stage import Stage, main

SCENES, OUT = "data/scenes", "data/models/text-to-image"
ABOUT, POINTER = "text_to_image.json", "pointer.json"
ENCODED_AT_ONCE = 64
TEXT_BATCH, TEXT_LEARNING_RATE = 128, 2e-3  # of the text encoder's training on pairs
MAX_WORDS = 8000  # of the captions' own; rarer ones are spelt
PREVIEW_COLUMNS, PREVIEW_STEPS, PREVIEW_GUIDANCE = 6, 25, 3.0
PREVIEW_PROMPTS = (
    "a woman",
    "a man with a hat",
    "a young woman with fair skin, long red hair, blue eyes, smiling",
    "an old man with dark skin, short gray hair, a beard, with eyeglasses",
    "a man and a woman",
    "a woman smiling and a man with eyeglasses",
    "a man and a man, both wearing hats",
    "a woman with pale skin, long blond hair and a man with brown skin, short black hair",
)


def run(stage: Stage) -> None:
    """Train on the train split of the scenes, or write down where the model is."""
    base = stage.params.personalize.base
    if base is not None:
        local = stage.root / base  # or where it says, if it is absolute
        source = str(local) if local.is_dir() else base
        TextToImage.open(source, device="cpu")
        with stage.output(OUT) as folder:
            write_json(folder / POINTER, {"source": source})
            write_json(folder / ABOUT, {"source": source})
        return
    about = stage.root / SCENES / "scenes.json"
    reason = read_json(about).get("absent") if about.is_file() else None
    if reason is not None:
        sys.stderr.write(f"facegen: {stage.name}: no text-to-image model: {reason}\n")
        with stage.output(OUT) as folder:
            write_json(folder / ABOUT, {"absent": reason})
        return
    scenes = Scenes.open(stage.root / SCENES, "train")
    model = trained(stage, first_model(stage, scenes), scenes)
    with stage.output(OUT) as folder:
        model.save(folder)
        if stage.is_main:
            write_log_csv(folder / "log.csv", read_log(stage.scratch))
            write_log_csv(folder / "log-text.csv", read_log(stage.scratch / "text"))
            save_png(folder / "preview.png", preview(stage, model))
            write_json(folder / ABOUT, {"source": None, "scenes": len(scenes), "words": len(model.tokenizer)})
    stage.picture(stage.root / OUT / "preview.png")
    stage.model(OUT)


def first_model(stage: Stage, scenes: Scenes) -> TextToImage:
    """Return the model that training starts from: new networks on the trained autoencoder."""
    p = stage.params.text_to_image
    vae = load_autoencoder(stage.root / "data/models/autoencoder")
    height, width = (side // factor(vae) for side in scenes.size)
    tokenizer = build_tokenizer(words_of(scenes), stage.scratch / "tokenizer", max_tokens=p.max_tokens)
    text_encoder = build_text_encoder(tokenizer, width=p.text_width, depth=p.text_depth, num_heads=p.num_heads)
    unet = build_unet(
        channels=p.channels, layers_per_block=p.layers_per_block, latent_channels=vae.config.latent_channels,
        latent_size=(height, width), text_width=p.text_width, num_heads=p.num_heads,
    )  # fmt: skip
    draw_text_to_image(text_encoder, unet, torch_generator(stage.params.base.seed, "text-to-image weights"))
    networks: tuple[torch.nn.Module, ...] = (text_encoder, unet, vae)
    for network in networks:
        network.to(stage.device).to(memory_format=torch.channels_last)
    return TextToImage(tokenizer, text_encoder, unet, vae, new_scheduler(p.prediction_type))


def words_of(scenes: Scenes) -> list[str]:
    """Return the words that become one token each: what drawn captions can hold, and these captions' commonest."""
    counts = Counter(word for text in (*scenes.captions, *scenes.descriptions) for word in text.lower().split())
    return [*vocabulary(), *sorted(word for word, _ in counts.most_common(MAX_WORDS))]


def trained(stage: Stage, model: TextToImage, scenes: Scenes) -> TextToImage:
    """Train the text encoder on pairs, then the UNet, by the recipe of params.yaml; returns the averaged weights."""
    p = stage.params.text_to_image
    accelerator = make_accelerator(stage.device, stage.dtype)
    latents = encode_scenes(model, pictures(stage, scenes), dtype=stage.dtype)
    data = SceneSet.make(model, fit_scaling(model, latents), descriptions=scenes.descriptions, captions=scenes.captions)
    pairs = CaptionPairLearner(model, data, PairRecipe(
        seed=stage.params.base.seed, total_images=p.text_pairs, learning_rate=TEXT_LEARNING_RATE,
        weight_decay=p.weight_decay, grad_clip=p.grad_clip,
    ))  # fmt: skip
    scratch = stage.scratch / "text"
    scratch.mkdir(exist_ok=True)
    train(
        pairs, total_images=p.text_pairs, batch_size=TEXT_BATCH, scratch=scratch, identity={"key": stage.key},
        log_images=p.log_images, checkpoint_images=0, checkpoint_minutes=p.checkpoint_minutes,
        accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log(
            {f"text_{key}": value for key, value in {**record, **timing}.items()}, step=int(record["images"])
        ),
    )  # fmt: skip
    recipe = TextToImageRecipe(
        seed=stage.params.base.seed, dtype=stage.dtype, total_images=p.total_images, learning_rate=p.learning_rate,
        warmup_images=p.warmup_images, decay_fraction=p.decay_fraction, weight_decay=p.weight_decay,
        grad_clip=p.grad_clip, drop_caption=p.drop_caption, ema_sigma_rel=p.ema_sigma_rel,
    )  # fmt: skip
    learner = TextToImageLearner(model, data, recipe)
    train(
        learner, total_images=p.total_images, batch_size=p.batch_size, scratch=stage.scratch,
        identity={"key": stage.key}, log_images=p.log_images, checkpoint_images=p.checkpoint_images,
        checkpoint_minutes=p.checkpoint_minutes, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log({**record, **timing}, step=int(record["images"])),
    )  # fmt: skip
    return learner.released()


def pictures(stage: Stage, scenes: Scenes) -> Iterator[Tensor]:
    """Yield all scenes in batches (B, 3, H, W) in [-1, 1]."""
    for start in stage.progress(range(0, len(scenes), ENCODED_AT_ONCE), "latents of scenes"):
        rows = np.arange(start, min(start + ENCODED_AT_ONCE, len(scenes)))
        yield to_unit(scenes.images(rows, threads=stage.params.machine.threads))


def preview(stage: Stage, model: TextToImage, prompts: Sequence[str] = PREVIEW_PROMPTS) -> Image.Image:
    """Return a grid: a row for each prompt, each column from its own noise."""
    pipeline, seed = model.pipeline("euler_ancestral"), stage.params.base.seed
    rows = []
    for prompt in prompts:
        generators = [torch_generator(seed, "text-to-image preview", column) for column in range(PREVIEW_COLUMNS)]
        with torch.autocast(model.device.type, stage.dtype, enabled=stage.dtype != torch.float32):
            latents = pipeline(
                prompt, num_images_per_prompt=PREVIEW_COLUMNS, num_inference_steps=PREVIEW_STEPS,
                guidance_scale=PREVIEW_GUIDANCE, generator=generators, output_type="latent",
            ).images  # fmt: skip
        rows.append(model.decode(latents.float()).cpu().numpy())
    words = ["\n".join(lines_of(prompt)) for prompt in prompts]
    return image_grid(np.stack(rows), row_labels=words, title="Text to image", scale=2)


def lines_of(prompt: str, *, width: int = 28) -> list[str]:
    """Return the prompt broken at spaces into lines of at most `width` characters, where words allow."""
    lines = [""]
    for word in prompt.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


if __name__ == "__main__":
    main(run)
