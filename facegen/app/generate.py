"""The tab that makes faces: attributes and a seed on the left, pictures on the right, with progress over solver steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from facegen.app.attributes import AttributeControls, attribute_controls
from facegen.app.events import (
    LIGHT_EVENT,
    MODEL_EVENT,
    new_folder,
    one_line,
    seed_controls,
    write_pictures,
    write_zip,
)
from facegen.app.models import Models, make_request
from facegen.attributes import UNKNOWN

MAX_PICTURES = 48
BATCH = 8  # pictures that are made together, and shown as soon as they are
PROGRESS = gr.Progress()


@dataclass(frozen=True)
class GenerateTab:
    """What other tabs take from this one."""

    pictures: gr.State
    selected: gr.State
    edit: gr.Button


def solver_controls(
    guidance_scale: float, num_steps: int, prefix: str, *, follows: str = "all attributes are"
) -> tuple[gr.Slider, gr.Slider]:
    """Draw guidance and solver steps where it is called, set to the model's own; guidance follows what `follows` says."""
    guidance = gr.Slider(
        1, 10, value=guidance_scale, step=0.25, label="Guidance", buttons=[], elem_id=f"{prefix}-guidance",
        info=f"How strictly {follows} followed; 1 is none.",
    )  # fmt: skip
    steps = gr.Slider(
        1, 100, value=num_steps, step=1, label="Steps", buttons=[], elem_id=f"{prefix}-steps",
        info="Of the solver; more are slower and finer.",
    )  # fmt: skip
    return guidance, steps


def clear_button(controls: AttributeControls, prefix: str) -> gr.Button:
    """Draw a button that opens every attribute again, in the browser alone."""
    button = gr.Button("Clear", size="sm", min_width=64, scale=0, elem_id=f"{prefix}-clear")
    values = [UNKNOWN] * len(controls.states) + [0] * len(controls.strengths)
    button.click(None, None, controls.components, js=f"() => {values}", api_visibility="private")
    return button


def generate_tab(models: Models, files: Path) -> GenerateTab:
    """Draw the tab where it is called.

    Args:
        models: what to compute with.
        files: the folder of pictures that were made.
    """
    facts = models.facts
    with gr.Row(equal_height=False, elem_classes="sides"):
        with gr.Column(scale=4, min_width=340):
            gr.Markdown("Ask for an attribute with **yes** or **no**; its slider asks more strongly.",
                        elem_classes="hint")  # fmt: skip
            controls = attribute_controls(facts.attribute_names, open_word="any", prefix="generate", strengths=True)
            clear_button(controls, "generate")
        with gr.Column(scale=6, min_width=340):
            with gr.Row():
                seed = seed_controls("generate")
                number = gr.Slider(1, MAX_PICTURES, value=8, step=1, label="Pictures", buttons=[],
                                   elem_id="generate-number", min_width=160)  # fmt: skip
            with gr.Accordion("Settings", open=False, elem_id="generate-settings"), gr.Row():
                guidance, steps = solver_controls(facts.guidance_scale, facts.num_steps, "generate")
            upscale = gr.Checkbox(False, label="Upscale 4x", visible=facts.has_upscaler, elem_id="generate-upscale")
            with gr.Row():
                run = gr.Button("Generate", variant="primary", scale=3, elem_id="generate-run")
                stop = gr.Button("Stop", min_width=70, scale=0, elem_id="generate-stop")
            gallery = gr.Gallery(
                show_label=False, columns=4, object_fit="contain", interactive=False, format="png",
                buttons=["download", "fullscreen"], elem_id="generate-gallery",
            )  # fmt: skip
            with gr.Row():
                archive = gr.DownloadButton("Download all (zip)", interactive=False, size="sm", elem_id="generate-zip")
                edit = gr.Button("Edit this picture", interactive=False, size="sm", elem_id="generate-edit")
    pictures, selected = gr.State([]), gr.State(0)
    inputs: list[Any] = [seed, number, guidance, steps, upscale, *controls.components]
    event = run.click(
        _generator(models, files), inputs, [gallery, pictures, selected, archive, edit], show_progress_on=gallery,
        **MODEL_EVENT,
    )  # fmt: skip
    stop.click(None, None, None, cancels=[event], api_visibility="private")
    gallery.select(_selected_index, None, selected, **LIGHT_EVENT)
    return GenerateTab(pictures, selected, edit)


def _selected_index(event: gr.SelectData) -> int:
    return int(event.index)


def _generator(models: Models, files: Path) -> Callable[..., Iterator[Any]]:
    names = models.facts.attribute_names

    @one_line
    def generate(
        seed: float, number: float, guidance: float, steps: float, upscale: bool, *values: float,  # noqa: FBT001
        progress: gr.Progress = PROGRESS,
    ) -> Iterator[Sequence[Any]]:  # fmt: skip
        request = make_request(names, values[: len(names)], values[len(names) :], steps=steps, guidance=guidance)
        about = {**request.about(), "upscale": models.upscale_factor(wanted=upscale)}
        seeds = list(range(int(seed), int(seed) + int(number)))
        folder, paths = new_folder(files), []
        for start in range(0, len(seeds), BATCH):
            part = seeds[start : start + BATCH]

            def on_step(done: int, total: int, before: int = start, size: int = len(part)) -> None:
                share = (before + size * done / total) / len(seeds)
                progress(
                    share, desc=f"step {done} of {total}, pictures {before + 1} to {before + size} of {len(seeds)}"
                )

            images = models.generate(request, part, on_step=on_step)
            paths += write_pictures(folder, models.upscale(images) if upscale else images, part, about=about)
            last = len(paths) == len(seeds)
            archive = write_zip(folder / f"faces-{seeds[0]:06d}.zip", paths) if last else None
            yield (
                [(str(path), f"seed {s}") for path, s in zip(paths, seeds, strict=False)], [str(p) for p in paths], 0,
                gr.DownloadButton(value=str(archive) if archive else None, interactive=last),
                gr.Button(interactive=True),
            )  # fmt: skip

    return generate
