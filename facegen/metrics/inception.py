"""Features of the InceptionV3 network that published FIDs are taken in, where its weights are at hand.

The network and its weights are torch-fidelity's conversion of the original graph (2015-12-05); it resizes to 299 px
itself, by that graph's rule. Only in this space is a Fréchet distance called FID.

Shapes: B images in a batch, H W size.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch

from facegen.artifacts import sha256_file

DOWNLOAD = "download"
LAYER = "2048"
BATCH = 32
_REMEDY = "fetch {url} where there is a network, and name the file in place of `download`"


class InceptionFeatures:
    """The 2048 pooled features of InceptionV3, float32."""

    name = "inception-v3-2048"
    dim = 2048

    def __init__(self, weights: str | Path, device: str | torch.device) -> None:
        """Load the network.

        Args:
            weights: torch-fidelity's weights file, or `download`: fetched once into torch's hub folder.
            device: where it runs.

        Raises:
            FileNotFoundError: if the file is not there, or cannot be fetched.
            ValueError: if it does not hold this network's weights.
        """
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = downloaded_weights() if str(weights) == DOWNLOAD else Path(weights)
        _require_weights(path)
        self.digest = sha256_file(path)
        try:
            network = FeatureExtractorInceptionV3(self.name, [LAYER], feature_extractor_weights_path=str(path))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} does not hold torch-fidelity's InceptionV3 weights: {reason}") from error
        self._device = torch.device(device)
        self._network = network.to(self._device)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (B, 2048) of uint8 (B, H, W, 3) of any size.

        Raises:
            ValueError: for another rank, channel count or dtype, or no image.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape:
            raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (B, H, W, 3)")
        with torch.inference_mode():
            parts = [self._batch(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return np.concatenate(parts)

    def _batch(self, images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        (features,) = self._network(pixels.to(self._device))
        return features.float().cpu().numpy()


def downloaded_weights() -> Path:
    """Return the published weights file in torch's hub folder, fetched (about 90 MB) if it is not there yet.

    Raises:
        FileNotFoundError: if it cannot be fetched, with the address.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as URL

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(URL).name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The name ends in the first digits of the file's sha256.
        torch.hub.download_url_to_file(URL, str(path), hash_prefix=path.stem.rsplit("-", 1)[1])
    except (OSError, RuntimeError) as error:  # no network, a full disk; other bytes than the published ones
        reason = " ".join(str(error).split())
        raise FileNotFoundError(f"cannot download InceptionV3 ({reason}); {_REMEDY.format(url=URL)}") from error
    return path


def _require_weights(path: Path) -> None:
    """Check that a file is a pickle of tensors only: torch-fidelity's own loader would run whatever is in it.

    Raises:
        FileNotFoundError, ValueError: if it is not there, or is not that.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of InceptionV3 weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no file of tensors that torch can load safely") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} does not hold a state dict of tensors")
