"""Types and bounds of params.yaml, and its one loader. The values themselves stand in params.yaml alone.

The sections: facegen/config_sections.py and facegen/config_personalize.py. Rules between values:
facegen/config_rules.py. Words for what is wrong: facegen/config_faults.py.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from facegen.config_faults import Document, Fault, Keys, dotted, keys_of, read_yaml, type_faults
from facegen.config_personalize import Detector, DitMapper, Mapper, Msid, Personalize, Scenes, TextToImage
from facegen.config_rules import Unusable, broken_rules
from facegen.config_sections import (
    Autoencoder,
    Base,
    Data,
    Dit,
    Edit,
    Flow,
    Gan,
    Identities,
    Inpainter,
    Judge,
    Latents,
    Machine,
    Preprocess,
    Recognizer,
    Render,
    Sample,
    Score,
    Section,
    Upscaler,
    Verify,
)


class Params(Section):
    """The whole of params.yaml; an object of this class breaks no rule."""

    machine: Machine
    base: Base
    data: Data
    render: Render
    preprocess: Preprocess
    judge: Judge
    recognizer: Recognizer
    autoencoder: Autoencoder
    latents: Latents
    flow: Flow
    dit: Dit
    inpainter: Inpainter
    gan: Gan
    upscaler: Upscaler
    sample: Sample
    edit: Edit
    identities: Identities
    verify: Verify
    scenes: Scenes
    detector: Detector
    msid: Msid
    text_to_image: TextToImage
    mapper: Mapper
    personalize: Personalize
    dit_mapper: DitMapper
    score: Score

    @model_validator(mode="after")
    def _keeps_the_rules(self) -> Self:
        values = self.model_dump()
        findings = broken_rules(lambda path: _at(values, tuple(path.split("."))))
        if findings:
            raise ValueError("; ".join(f"{path}: {message}" for path, message in findings))
        return self


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check a parameter file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one message that lists every fault with its line, path, value and what is allowed.
    """
    document = read_yaml(path)
    faults = find_faults(document)
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        raise ValueError(f"{path} has {count}:\n" + "\n".join(f"  {fault}" for fault in faults))
    return Params.model_validate(document.data)


def find_faults(document: Document) -> list[Fault]:
    """Everything that is wrong with a parsed parameter file, in the order of its lines."""
    if not isinstance(document.data, Mapping):
        return document.faults or [Fault(0, "", "must hold the sections " + ", ".join(Params.model_fields))]
    found: dict[Keys, str] = {}
    try:
        Params.model_validate(document.data)
    except ValidationError as error:
        found = type_faults(error, document.data, _schema())

    def value(path: str) -> Any:
        keys = tuple(path.split("."))
        if any(bad[: len(keys)] == keys or keys[: len(bad)] == bad for bad in found):
            raise Unusable(path)
        return _at(document.data, keys)

    faults = [Fault(document.line(keys), dotted(keys), message) for keys, message in found.items()]
    for path, message in broken_rules(value):
        faults.append(Fault(document.line(keys_of(path)), path, message))
    return sorted({*document.faults, *faults})


def _at(values: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    node: Any = values
    for key in keys:
        if not isinstance(node, Mapping) or key not in node:
            raise Unusable(dotted(keys))
        node = node[key]
    return node


@cache
def _schema() -> dict[str, Any]:
    return Params.model_json_schema()
