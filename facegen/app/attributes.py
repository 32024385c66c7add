"""The controls of a model's attributes: one row each, in groups; three states and, where it is asked for, a strength."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import gradio as gr

from facegen.attributes import ABSENT, PRESENT, UNKNOWN

MAX_STRENGTH = 6.0
OPEN_AT_ONCE = 16  # attributes up to which every group is open
OTHER = "More"
GROUPS = {
    "Person": ("Male", "Young", "Attractive", "Chubby", "Double_Chin", "Pale_Skin", "Rosy_Cheeks", "Oval_Face"),
    "Face": (
        "Smiling", "Mouth_Slightly_Open", "Big_Lips", "Big_Nose", "Pointy_Nose", "High_Cheekbones", "Narrow_Eyes",
        "Bags_Under_Eyes", "Arched_Eyebrows", "Bushy_Eyebrows", "Heavy_Makeup", "Wearing_Lipstick", "Blurry",
    ),
    "Hair": (
        "Bangs", "Bald", "Receding_Hairline", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Straight_Hair",
        "Wavy_Hair",
    ),
    "Beard": ("No_Beard", "Mustache", "Goatee", "Sideburns", "5_o_Clock_Shadow"),
    "Worn": ("Eyeglasses", "Wearing_Hat", "Wearing_Earrings", "Wearing_Necklace", "Wearing_Necktie"),
}  # fmt: skip


@dataclass(frozen=True)
class AttributeControls:
    """The components of A attributes, in the order of the model's names; strengths are there only if asked for."""

    names: tuple[str, ...]
    states: list[gr.Radio]
    strengths: list[gr.Slider]

    @property
    def components(self) -> list[gr.Radio | gr.Slider]:
        """All of them, states first: what an event takes as inputs."""
        return [*self.states, *self.strengths]


def shown_name(name: str) -> str:
    """Return an attribute's name as one reads it: 5_o_Clock_Shadow -> 5 o clock shadow."""
    words = name.replace("_", " ").lower()
    return words[:1].upper() + words[1:]


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names in groups, empty groups left out; names that no group lists come last."""
    groups = {title: [name for name in members if name in names] for title, members in GROUPS.items()}
    known = {name for members in groups.values() for name in members}
    groups[OTHER] = [name for name in names if name not in known]
    return {title: members for title, members in groups.items() if members}


def attribute_controls(names: Sequence[str], *, open_word: str, prefix: str, strengths: bool) -> AttributeControls:
    """Draw the controls where they are called.

    Args:
        names: the attributes, in the model's order.
        open_word: the word of the state that asks for nothing ("any", "keep").
        prefix: of the elements' ids: PREFIX-NAME, and PREFIX-NAME-strength.
        strengths: with a slider of extra guidance for each.
    """
    states: dict[str, gr.Radio] = {}
    sliders: dict[str, gr.Slider] = {}
    for title, members in grouped(names).items():
        with _group(title, folded=len(names) > OPEN_AT_ONCE, first=not states):
            for name in members:
                with gr.Row(elem_classes=["attribute"] if strengths else ["attribute", "plain"]):
                    gr.Markdown(shown_name(name), elem_classes="name", container=False)
                    states[name] = gr.Radio(
                        [(open_word, UNKNOWN), ("no", ABSENT), ("yes", PRESENT)], value=UNKNOWN, show_label=False,
                        label=shown_name(name), container=False, elem_id=f"{prefix}-{name}", elem_classes="states",
                    )  # fmt: skip
                    if strengths:
                        sliders[name] = gr.Slider(
                            0, MAX_STRENGTH, value=0, step=0.5, label=f"{shown_name(name)}: strength",
                            show_label=False, container=False, buttons=[], elem_id=f"{prefix}-{name}-strength",
                            elem_classes="strength",
                        )  # fmt: skip
    return AttributeControls(
        tuple(names), [states[name] for name in names], [sliders[name] for name in names] if strengths else []
    )


@contextmanager
def _group(title: str, *, folded: bool, first: bool) -> Iterator[None]:
    """Draw a group: a heading over its rows, or where there are many attributes an accordion."""
    if folded:
        with gr.Accordion(title, open=first), gr.Column(elem_classes="attributes"):
            yield
    else:
        with gr.Column(elem_classes="attributes"):
            gr.Markdown(title, elem_classes="heading")
            yield
