"""The tab that edits one's own photograph: which part, which attributes, and a slider between before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from facegen.app.attributes import AttributeControls, attribute_controls, shown_name
from facegen.app.events import (
    LIGHT_EVENT,
    MODEL_EVENT,
    USER_ERRORS,
    new_folder,
    one_line,
    said,
    seed_controls,
    shown_file,
    toast,
)
from facegen.app.generate import PROGRESS, GenerateTab, clear_button, solver_controls
from facegen.app.models import EditFacts, Models, asked_states
from facegen.app.photos import (
    CANVAS_PX,
    Opened,
    canvas_of,
    mask_view,
    painted_mask,
    picture_view,
    repainted_part,
    safe_stem,
)
from facegen.photograph import save_photograph

METHODS = {
    "blend": "blend: the generator, around what is kept",
    "guided": "guided: blend, guided to what you changed",
    "resample": "resample: guided, each step several times",
    "conditioned": "conditioned: the inpainting model",
    "zoom": "zoom: small parts enlarged",
    "sdedit": "sdedit: starts from the photograph",
    "invert": "invert: the photograph's own noise",
}
BRUSH, BRUSH_PX = ("#dc2626", 0.6), 36
UNMASKED = "invert"  # the method that takes the whole face where no part is named


@dataclass(frozen=True)
class _Place:
    """The components that say where to repaint."""

    photo: gr.Image
    regions: gr.CheckboxGroup
    canvas: gr.ImageEditor
    view: gr.Image
    take: gr.Button
    aligned: gr.Checkbox


def edit_tab(
    models: Models, files: Path, generated: GenerateTab, tabs: gr.Tabs, *, edit: EditFacts, max_megapixels: float
) -> None:
    """Draw the tab where it is called.

    Args:
        models: what to compute with.
        files: the folder of pictures that were made.
        generated: the tab whose pictures may be taken.
        tabs: the tabs, of which this one is "edit".
        edit: how the model edits.
        max_megapixels: of an upload, at most.
    """
    facts, defaults, opened = models.facts, edit.settings, gr.State(None)
    with gr.Row(equal_height=False, elem_classes="sides"):
        with gr.Column(scale=5, min_width=320):
            place = _place(models)
        with gr.Column(scale=4, min_width=300):
            gr.Markdown("3 · Change", elem_classes="heading")
            controls = attribute_controls(facts.attribute_names, open_word="keep", prefix="edit", strengths=False)
            clear_button(controls, "edit")
        with gr.Column(scale=5, min_width=320):
            seed = seed_controls("edit")
            methods = [name for name in METHODS if edit.has_inpainter or name != "conditioned"]
            method = gr.Dropdown(
                [(METHODS[name], name) for name in methods], label="Method",
                value=defaults["method"] if defaults["method"] in methods else methods[0],
                elem_id="edit-method",
            )  # fmt: skip
            with gr.Accordion("Settings", open=False, elem_id="edit-settings"):
                guidance, steps = solver_controls(defaults["guidance_scale"], defaults["num_steps"], "edit")
                extra = gr.Slider(0, 6, value=defaults["attribute_scale"], step=0.25, label="Attribute strength", buttons=[],
                                  info="Extra guidance on what is changed.", elem_id="edit-extra")  # fmt: skip
                strength = gr.Slider(0.1, 1, value=defaults["strength"], step=0.05, label="Freedom", buttons=[],
                                     info="Of sdedit: 1 forgets what was there.", elem_id="edit-strength")  # fmt: skip
            upscale = gr.Checkbox(False, label="Finer detail (upscaler)", visible=facts.has_upscaler, container=False,
                                  elem_id="edit-upscale")  # fmt: skip
            with gr.Row():
                run = gr.Button("Edit", variant="primary", scale=3, elem_id="edit-run")
                stop = gr.Button("Stop", min_width=70, scale=0, elem_id="edit-stop")
            result = gr.ImageSlider(show_label=False, label="Before and after", format="png", interactive=False,
                                    buttons=["fullscreen"], max_height=460, elem_id="edit-result")  # fmt: skip
            note = gr.Markdown("", elem_classes="hint", elem_id="edit-note")
            download = gr.DownloadButton("Download (PNG)", interactive=False, size="sm", elem_id="edit-download")

    watched: list[Any] = [opened, place.canvas, place.regions, method, *controls.states]
    opening: dict[str, Any] = {
        "fn": _opener(models, files, max_megapixels), "inputs": [place.photo, place.aligned],
        "outputs": [opened, place.canvas, place.view], "preprocess": False, "show_progress_on": place.canvas, **MODEL_EVENT,
    }  # fmt: skip
    place.photo.input(**opening)
    place.aligned.input(**opening)
    gr.on(
        [component.change for component in watched],
        _viewer(controls, files), watched, place.view, trigger_mode="always_last", **LIGHT_EVENT,
    )  # fmt: skip
    event = run.click(
        _editor(models, controls, defaults, files), [*watched, seed, guidance, steps, extra, strength, upscale],
        [result, note, download], show_progress_on=result, **MODEL_EVENT,
    )  # fmt: skip
    stop.click(None, None, None, cancels=[event], api_visibility="private")
    for button in (place.take, generated.edit):
        taking = button.click(_taken, [generated.pictures, generated.selected], [place.photo, tabs], **LIGHT_EVENT)
        taking.then(**opening)


def _place(models: Models) -> _Place:
    gr.Markdown("1 · Photograph", elem_classes="heading")
    with gr.Row(equal_height=True):
        photo = gr.Image(
            show_label=False, label="Photograph", sources=["upload", "clipboard"], type="filepath", image_mode=None,
            height=190, buttons=[], scale=3, min_width=150, elem_id="edit-photo",
        )  # fmt: skip
        view = gr.Image(show_label=False, label="What is repainted", interactive=False, format="png", buttons=[],
                        height=190, scale=2, min_width=110, elem_id="edit-view")  # fmt: skip
    with gr.Row():
        take = gr.Button("Take the generated one", size="sm", elem_id="edit-take")
        aligned = gr.Checkbox(not models.facts.has_detector, label="The face fills it already", container=False,
                              visible=models.facts.has_detector, elem_id="edit-aligned")  # fmt: skip
    gr.Markdown("2 · Part to repaint", elem_classes="heading")
    regions = gr.CheckboxGroup(
        [(shown_name(name).lower(), name) for name in models.facts.regions], show_label=False, label="Parts",
        container=False, elem_id="edit-regions", elem_classes="chips",
    )  # fmt: skip
    gr.Markdown("Choose, or paint below. Neither: the parts of what is changed.", elem_classes="hint")
    canvas = gr.ImageEditor(
        show_label=False, label="Canvas", type="numpy", image_mode="RGBA", format="png", sources=(), transforms=(),
        layers=False, buttons=[], brush=gr.Brush(BRUSH_PX, colors=[BRUSH], color_mode="fixed"),
        eraser=gr.Eraser(BRUSH_PX), canvas_size=(CANVAS_PX, CANVAS_PX), height=360, elem_id="edit-canvas",
    )  # fmt: skip
    return _Place(photo, regions, canvas, view, take, aligned)


def _taken(pictures: Sequence[str], selected: int) -> tuple[Any, gr.Tabs]:
    if not pictures:
        gr.Info("Generate a picture first", title="")
        return None, gr.Tabs(selected="generate")
    return pictures[min(selected, len(pictures) - 1)], gr.Tabs(selected="edit")


def _opener(models: Models, files: Path, max_megapixels: float) -> Callable[..., Any]:
    def open_upload(
        upload: Mapping[str, Any] | None, aligned: bool  # noqa: FBT001  (gradio calls it so)
    ) -> tuple[Opened | None, Any, Any]:  # fmt: skip
        """Take the path of an upload, which gradio has checked; what is wrong with it is told in one line."""
        if upload is None:
            return None, None, None
        try:
            name = safe_stem(upload.get("orig_name") or "photograph")
            found = models.open_photograph(
                Path(upload["path"]).read_bytes(), name=name, aligned=aligned, max_megapixels=max_megapixels
            )
        except USER_ERRORS as error:
            gr.Warning(toast(said(error)), title="")
            return None, None, None
        canvas = shown_file(files, canvas_of(found.face.image))
        return found, {"background": canvas, "layers": [], "composite": canvas}, canvas

    return open_upload


def _strokes(opened: Opened, canvas: Mapping[str, Any] | None) -> np.ndarray | None:
    return None if canvas is None else painted_mask(canvas["layers"], len(opened.face.image))


def _viewer(controls: AttributeControls, files: Path) -> Callable[..., Any]:
    @one_line
    def view(
        opened: Opened | None, canvas: Mapping[str, Any] | None, regions: Sequence[str], method: str, *states: int
    ) -> str | None:
        if opened is None:
            return None
        part = repainted_part(
            opened.face, painted=_strokes(opened, canvas), regions=regions,
            changed=list(asked_states(controls.names, states)), whole=method == UNMASKED,
        )  # fmt: skip
        return shown_file(files, mask_view(opened.face.image, part))

    return view


def _editor(
    models: Models, controls: AttributeControls, defaults: Mapping[str, Any], files: Path
) -> Callable[..., Any]:
    num = len(controls.names)

    @one_line
    def edit(
        opened: Opened | None, canvas: Mapping[str, Any] | None, regions: Sequence[str], method: str, *values: Any,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, str, gr.DownloadButton]:  # fmt: skip
        if opened is None:
            raise ValueError("Choose a photograph first")
        states, (seed, guidance, steps, extra, strength, upscale) = values[:num], values[num:]
        asked, strokes = asked_states(controls.names, states), _strokes(opened, canvas)
        if strokes is None and not regions and not asked:
            raise ValueError("Say what to change: an attribute, a part, or a stroke on the canvas")
        painted = strokes
        if strokes is not None:
            painted = repainted_part(opened.face, painted=strokes, regions=regions, changed=[], whole=False)
        shown = {"num_steps": int(steps), "guidance_scale": guidance, "attribute_scale": extra, "strength": strength}
        moved = {
            name: value for name, value in shown.items() if value != defaults[name]
        }  # the rest is the method's own
        settings = {"method": method, "upscale": bool(upscale), **moved}
        edited, share = models.edit(
            opened, asked, regions=list(regions) or ["auto"], painted=painted, seed=int(seed),
            on_step=lambda done, total: progress(done / total, desc=f"step {done} of {total}"), **settings,
        )  # fmt: skip
        path = new_folder(files) / f"{opened.name}-edited.png"
        about = {"attributes": asked, "regions": list(regions), "painted": strokes is not None, "seed": int(seed)}
        save_photograph(path, edited, metadata={**about, **settings, "upscale": models.upscale_factor(wanted=upscale)})
        views = tuple(shown_file(files, picture_view(photo.seen)) for photo in (opened.photo, edited))
        text = f"{share:.0%} of the face may differ; every other pixel is as it was."
        return views, text, gr.DownloadButton(value=str(path), interactive=True)

    return edit
