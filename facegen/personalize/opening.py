"""From folders and files to a `Personalizer`: the text-to-image model, the identity encoder and a mapper.

A folder of the text-to-image stage holds the model itself, or pointer.json, which names another one by path or hub id
(`personalize.base`). A mapper's folder holds mapper.json beside its weights: the class word and the fusion that it was
trained with. A published mapping.pt has no such file, and both have to be named.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from facegen.artifacts import read_json, sha256_file
from facegen.models.msid import load_msid
from facegen.models.text_to_image import TextToImage
from facegen.personalize.generation import Personalizer
from facegen.personalize.mapping import load_mapper

POINTER, MAPPER_ABOUT, ABSENT = "pointer.json", "mapper.json", "absent"


def base_source(folder: str | Path) -> str:
    """Return where the text-to-image model is: what the folder's pointer.json names, else the folder or hub id itself."""
    pointer = Path(folder) / POINTER
    return str(read_json(pointer)["source"]) if pointer.is_file() else str(folder)


def absence(files: Iterable[Path]) -> str | None:
    """Return why something is not there, as the first of these files says that there is nothing; None: all is there."""
    for file in files:
        if file.is_file() and (reason := read_json(file).get(ABSENT)):
            return str(reason)
    return None


def trained_with(mapper: str | Path) -> dict[str, Any]:
    """Return what a mapper's folder says of its training; empty for what has no mapper.json.

    Raises:
        ValueError: if it says that there is no mapper.
    """
    about = Path(mapper) / MAPPER_ABOUT
    found: dict[str, Any] = read_json(about) if about.is_file() else {}
    if ABSENT in found:
        raise ValueError(f"{mapper} holds no mapper: {found[ABSENT]}")
    return found


def open_personalizer(
    base: TextToImage | str | Path,
    *,
    msid: str | Path | None,
    mapper: str | Path | None,
    class_word: str | None = None,
    fusion: str | None = None,
    device: torch.device | str,
) -> Personalizer:
    """Return what draws pictures of given people.

    Args:
        base: an open text-to-image model, or its folder or hub id.
        msid: folder, .pt or hub id of the identity encoder; None: features will be given.
        mapper: folder, .pt or hub id of the mapper; None: nobody in particular is drawn.
        class_word, fusion: None: as the mapper was trained.
        device: where everything computes.

    Raises:
        ValueError: if the mapper says nothing of its class word or fusion and neither is given, the folder says that
            there is no mapper, it was trained with another identity encoder, or parts do not fit each other.
        FileNotFoundError, DamagedArtifactError: if something is missing or does not load.
    """
    known = trained_with(mapper) if mapper is not None else {}
    class_word, fusion = class_word or known.get("class_word"), fusion or known.get("fusion")
    if class_word is None or fusion is None:
        raise ValueError(f"{mapper} has no {MAPPER_ABOUT}: name the class word and the fusion that it was trained with")
    if msid is not None:
        _check_encoder(msid, known, mapper=mapper)
    opened = base if isinstance(base, TextToImage) else TextToImage.open(base_source(base), device=device)
    return Personalizer(
        opened, None if msid is None else load_msid(msid).to(opened.device).eval(),
        None if mapper is None else load_mapper(mapper), class_word=class_word, fusion=fusion,
    )  # fmt: skip


def _check_encoder(msid: str | Path, known: dict[str, Any], *, mapper: str | Path | None) -> None:
    """Require the weights that the mapper was trained with, where both can be told: others speak another language."""
    for name, digest in known.get("msid", {}).items():
        file = Path(msid) / name
        if file.is_file() and sha256_file(file) != digest:
            raise ValueError(f"{mapper} was trained with another identity encoder than {msid}; name that one (--msid)")
