"""Building and loading a judge of either architecture.

Both map images (B, 3, H, W) in [-1, 1] to logits (B, A) and, by `embed`, to what the head sees (B, D); both carry the
attribute names, the temperatures and the thresholds in their configuration. Shapes: B batch, A attributes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facegen.artifacts import read_json
from facegen.models.convnext_judge import ConvNextJudge
from facegen.models.judge import AttributeJudge
from facegen.models.loading import load_checked

Judge = AttributeJudge | ConvNextJudge
ARCHITECTURES: dict[str, type[Judge]] = {"residual": AttributeJudge, "convnext": ConvNextJudge}
CLASSES = {made.__name__: made for made in ARCHITECTURES.values()}  # as config.json names them
WEIGHTS = "diffusion_pytorch_model.safetensors"  # of a model's folder, as diffusers names it


def build_judge(architecture: str, *, attribute_names: Sequence[str], width: int) -> Judge:
    """Return an untrained judge.

    Raises:
        ValueError: for another architecture, or if there is no attribute to judge.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"judge architecture is {architecture!r}; allowed: {', '.join(ARCHITECTURES)}")
    if not attribute_names:
        raise ValueError("a judge needs at least one attribute to judge")
    return ARCHITECTURES[architecture](attribute_names=list(attribute_names), width=width)


def load_judge(folder: str | Path) -> Judge:
    """Return the judge that a folder holds, float32, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: if the folder holds no model.
        ValueError: if it holds another kind of model, or says that there is no judge.
        DamagedArtifactError: if its weights are broken, incomplete or not finite.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        if (folder / "accuracy.json").is_file() and (reason := read_json(folder / "accuracy.json").get("absent")):
            raise ValueError(f"{folder} holds no judge: {reason}")
        raise FileNotFoundError(f"{folder} holds no config.json; run the judge stage")
    name = read_json(folder / "config.json").get("_class_name")
    if name not in CLASSES:
        raise ValueError(f"{folder} holds {name or 'no diffusers model'}; allowed: {', '.join(CLASSES)}")
    judge: Judge = load_checked(CLASSES[name], folder)
    return judge.eval().requires_grad_(False)
