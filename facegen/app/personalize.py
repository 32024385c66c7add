"""The tab that draws given people: a photograph of each, a prompt that says where they stand, and pictures beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from facegen.app.events import (
    MODEL_EVENT,
    USER_ERRORS,
    new_folder,
    one_line,
    said,
    seed_controls,
    shown_file,
    toast,
    write_pictures,
    write_zip,
)
from facegen.app.generate import PROGRESS, solver_controls
from facegen.app.models import Models
from facegen.app.people import BY_NUMBER, PeopleFacts, Reference, chosen_method, given_people, known_steps
from facegen.app.photos import picture_view, safe_stem

METHODS = {
    BY_NUMBER: "single for one person, mf2d for more",
    "mf2d": "mf2d: told in the last steps",
    "naive": "naive: the mapper of one, in all steps",
    "single": "single: one person",
    "class_word": "class_word: nobody in particular",
}
MAX_PICTURES = 32
BATCH = 4  # pictures that are made together, and shown as soon as they are
MAX_EXAMPLES = 8
MARKED = "Each marker is a person: &lt;id:0&gt; of the first photograph, &lt;id:1&gt; of the second."
CONSENT = "Take photographs of people who agreed to it."


@dataclass(frozen=True)
class _Person:
    """The components of one person."""

    photo: gr.Image
    view: gr.Image
    read: gr.State


def personalize_tab(models: Models, files: Path, *, people: PeopleFacts, max_megapixels: float) -> None:
    """Draw the tab where it is called.

    Args:
        models: what to compute with.
        files: the folder of pictures that were made.
        people: how the model draws given people.
        max_megapixels: of an upload, at most.
    """
    numbers = range(people.max_people)
    with gr.Row(equal_height=False, elem_classes="sides"):
        with gr.Column(scale=4, min_width=340):
            gr.Markdown("1 · People", elem_classes="heading")
            with gr.Row():
                photos = [_photo(k) for k in numbers]
            gr.Markdown(CONSENT, elem_classes="hint")
            aligned = gr.Checkbox(not people.has_detector, label="The faces fill them already", container=False,
                                  visible=people.has_detector, elem_id="personalize-aligned")  # fmt: skip
            gr.Markdown("2 · Prompt", elem_classes="heading")
            prompt = _prompt(people)
            method = gr.Dropdown(
                [(METHODS[name], name) for name in (BY_NUMBER, *people.methods)], value=BY_NUMBER, label="Method",
                elem_id="personalize-method",
            )  # fmt: skip
            alpha = gr.Slider(0, 1, value=people.settings["alpha"], step=0.05, label="Identity share (alpha)", buttons=[],
                              info="Of mf2d: the share of the steps, the last ones, that know the people.",
                              elem_id="personalize-alpha")  # fmt: skip
        with gr.Column(scale=6, min_width=340):
            with gr.Row():
                seed = seed_controls("personalize")
                number = gr.Slider(1, MAX_PICTURES, value=BATCH, step=1, label="Pictures", buttons=[],
                                   elem_id="personalize-number", min_width=160)  # fmt: skip
            with gr.Accordion("Settings", open=False, elem_id="personalize-settings"):
                with gr.Row():
                    guidance, steps = solver_controls(
                        people.settings["guidance_scale"], people.settings["num_steps"], "personalize", follows="the prompt is"
                    )  # fmt: skip
                negative = gr.Textbox(people.settings["negative"], label="Negative prompt", lines=1,
                                      elem_id="personalize-negative")  # fmt: skip
            with gr.Row():
                run = gr.Button("Personalise", variant="primary", scale=3, elem_id="personalize-run")
                stop = gr.Button("Stop", min_width=70, scale=0, elem_id="personalize-stop")
            with gr.Row(equal_height=False, elem_classes="beside"):
                with gr.Column(scale=1, min_width=96):
                    views = [_view(k) for k in numbers]
                with gr.Column(scale=5, min_width=220):
                    gallery = gr.Gallery(
                        show_label=False, label="Pictures", columns=2, object_fit="contain", interactive=False, format="png",
                        buttons=["download", "fullscreen"], elem_id="personalize-gallery",
                    )  # fmt: skip
                    note = gr.Markdown("", elem_classes="hint", elem_id="personalize-note")
                    archive = gr.DownloadButton("Download all (zip)", interactive=False, size="sm",
                                                elem_id="personalize-zip")  # fmt: skip
    given = [_Person(photo, view, gr.State(None)) for photo, view in zip(photos, views, strict=True)]
    for person in given:
        gr.on(
            [person.photo.input, aligned.input], _reader(models, files, max_megapixels), [person.photo, aligned],
            [person.read, person.view], preprocess=False, show_progress_on=person.view, **MODEL_EVENT,
        )  # fmt: skip
    event = run.click(
        _drawer(models, files, people),
        [prompt, method, alpha, seed, number, guidance, steps, negative, *(person.read for person in given)],
        [gallery, note, archive], show_progress_on=gallery, **MODEL_EVENT,
    )  # fmt: skip
    stop.click(None, None, None, cancels=[event], api_visibility="private")


def _photo(k: int) -> gr.Image:
    return gr.Image(
        label=f"<id:{k}>", sources=["upload", "clipboard"], type="filepath", image_mode=None, height=190, buttons=[],
        min_width=140, elem_id=f"personalize-photo-{k}",
    )  # fmt: skip


def _view(k: int) -> gr.Image:
    return gr.Image(
        show_label=False, label=f"Face of <id:{k}>", interactive=False, format="png", height=120, buttons=[], min_width=90,
        elem_id=f"personalize-view-{k}",
    )  # fmt: skip


def _prompt(people: PeopleFacts) -> gr.Textbox:
    """Draw the prompt, and under it examples, which are put into it in the browser alone."""
    prompt = gr.Textbox(people.examples[0], show_label=False, label="Prompt", lines=2, elem_id="personalize-prompt")
    gr.Markdown(MARKED if people.max_people > 1 else MARKED.split(",")[0] + ".", elem_classes="hint")
    with gr.Row(elem_classes="examples", elem_id="personalize-examples"):
        for example in people.examples[:MAX_EXAMPLES]:
            button = gr.Button(example, size="sm", min_width=0, scale=0)
            button.click(None, None, prompt, js=f"() => {json.dumps(example)}", api_visibility="private")
    return prompt


def _reader(models: Models, files: Path, max_megapixels: float) -> Callable[..., Any]:
    @one_line
    def read(
        upload: Mapping[str, Any] | None, aligned: bool  # noqa: FBT001  (gradio calls it so)
    ) -> tuple[Reference | None, Any]:  # fmt: skip
        """Take the path of an upload, which gradio has checked; what is wrong with it is told in one line."""
        if upload is None:
            return None, None
        try:
            name = upload.get("orig_name") or "photograph"
            found = models.read_person(
                Path(upload["path"]).read_bytes(), name=f"{safe_stem(name)}{Path(name).suffix}", aligned=aligned,
                max_megapixels=max_megapixels, tell=lambda text: gr.Info(toast(text), title=""),
            )  # fmt: skip
        except USER_ERRORS as error:
            gr.Warning(toast(said(error)), title="")
            return None, None
        return found, shown_file(files, picture_view(found.view))

    return read


def _drawer(models: Models, files: Path, people: PeopleFacts) -> Callable[..., Iterator[Any]]:
    @one_line
    def draw(
        prompt: str, method: str, alpha: float, seed: float, number: float, guidance: float, steps: float, negative: str,
        *references: Reference | None, progress: gr.Progress = PROGRESS,
    ) -> Iterator[Any]:  # fmt: skip
        if not prompt.strip():
            raise ValueError("Say in the prompt what to draw, as in <id:0> smiling")
        given = given_people(references)
        method = chosen_method(method, len(given), methods=people.methods)
        asked = {
            "num_steps": int(steps),
            "guidance_scale": float(guidance),
            "alpha": float(alpha),
            "negative": negative,
        }
        seeds = list(range(int(seed), int(seed) + int(number)))
        folder, paths = new_folder(files), list[Path]()
        for start in range(0, len(seeds), BATCH):
            part = seeds[start : start + BATCH]

            def on_step(done: int, total: int, before: int = start, size: int = len(part)) -> None:
                share = (before + size * done / total) / len(seeds)
                progress(
                    share, desc=f"step {done} of {total}, pictures {before + 1} to {before + size} of {len(seeds)}"
                )

            images, about = models.draw_people(
                given, prompt, method=method, seeds=part, on_step=on_step, **{**people.settings, **asked}
            )
            paths += write_pictures(folder, images, part, about=about)
            last = len(paths) == len(seeds)
            archive = write_zip(folder / f"people-{seeds[0]:06d}.zip", paths) if last else None
            yield (
                [(str(path), f"seed {s}") for path, s in zip(paths, seeds, strict=False)], known_steps(about),
                gr.DownloadButton(value=str(archive) if archive else None, interactive=last),
            )  # fmt: skip

    return draw
