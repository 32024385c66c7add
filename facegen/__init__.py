"""facegen: faces from attributes with a latent diffusion transformer.

The names below are the public interface. They are imported when they are first used, so that `import facegen` and
the command line start quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facegen.config import Params as Params
    from facegen.config import load_params as load_params
    from facegen.data.latents import Latents as Latents
    from facegen.data.shards import Faces as Faces
    from facegen.errors import FacegenError as FacegenError
    from facegen.models.dit import LatentDiT as LatentDiT
    from facegen.pipeline import FacePipeline as FacePipeline

__version__ = "0.1.0"

_HOMES = {
    "FacePipeline": "facegen.pipeline",
    "FacegenError": "facegen.errors",
    "Faces": "facegen.data.shards",
    "LatentDiT": "facegen.models.dit",
    "Latents": "facegen.data.latents",
    "Params": "facegen.config",
    "load_params": "facegen.config",
}

__all__ = ["FacePipeline", "FacegenError", "Faces", "LatentDiT", "Latents", "Params", "__version__", "load_params"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'facegen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
