"""Loading a network of a diffusers folder, or an exact reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facegen.errors import DamagedArtifactError


def load_checked(kind: Any, source: str | Path, *, subfolder: str = "") -> Any:
    """Return the network at `source`, on the CPU; safetensors weights only.

    Args:
        kind: its class, a diffusers model.
        source: a folder that diffusers wrote, or a hub id.
        subfolder: of the source, where the network lies.

    Raises:
        DamagedArtifactError: if the weights do not load, do not fit the configuration, or are not finite.
    """
    try:
        loaded, report = kind.from_pretrained(
            str(source), subfolder=subfolder, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:
        raise DamagedArtifactError(f"{source}: the weights do not load ({first_line(error)})") from error
    faults = {k: report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys") if report.get(k)}
    if faults:
        raise DamagedArtifactError(f"{source}: the weights do not fit its config.json ({first_line(faults)})")
    for key, value in loaded.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise DamagedArtifactError(f"{source}: weight {key} holds NaN or infinity; run its stage again")
    return loaded


def first_line(error: object) -> str:
    """Return what an error says, in one line of at most 200 characters."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
