"""The InceptionV3 extractor, on a file of the published layout with drawn weights; and what it refuses."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from facegen.metrics.features import extract
from facegen.metrics.inception import InceptionFeatures, downloaded_weights

published = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the published layout: the network's own state, with weights as torch draws them."""
    network_class = published.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(published, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(network_class, "load_state_dict", lambda *_: None)
        state = network_class("drawn", ["2048"]).state_dict()
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, path)
    return path


def test_features_are_the_networks_and_the_digest_is_the_files(weights: Path) -> None:
    extractor = InceptionFeatures(weights, device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 40, 3), dtype=np.uint8)
    features = extract(extractor, [images])
    assert features.shape == (2, extractor.dim) and features.dtype == np.float32 and extractor.dim == 2048
    network = published.FeatureExtractorInceptionV3("n", ["2048"], feature_extractor_weights_path=str(weights))
    (want,) = network(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    np.testing.assert_allclose(features, want.numpy(), rtol=1e-4, atol=1e-6)
    assert np.abs(features[0] - features[1]).max() > 1e-4 * np.abs(features).max() > 0
    assert extractor.digest == hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="expected uint8"):
        extractor(images.astype(np.float32))


def test_other_files_are_refused_and_nothing_in_them_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file of InceptionV3 weights"):
        InceptionFeatures(tmp_path / "none.pth", device="cpu")

    class Harmful:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "harmful.pth").write_bytes(pickle.dumps(Harmful()))
    torch.save({"a": Harmful()}, tmp_path / "harmful-zip.pth")
    (tmp_path / "page.pth").write_bytes(b"<!DOCTYPE html>")
    for name in ("harmful.pth", "harmful-zip.pth", "page.pth"):
        with pytest.raises(ValueError, match="no file of tensors"):
            InceptionFeatures(tmp_path / name, device="cpu")
    assert not (tmp_path / "ran").exists()
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold torch-fidelity's InceptionV3 weights") as error:
        InceptionFeatures(tmp_path / "other.pth", device="cpu")
    assert "\n" not in str(error.value)


def test_without_a_network_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FileNotFoundError, match=r"Name or service not known.*fetch https://github.com") as error:
        downloaded_weights()
    assert "\n" not in str(error.value)
    there = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    there.write_bytes(b"fetched before")
    assert downloaded_weights() == there
