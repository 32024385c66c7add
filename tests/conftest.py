"""Shared by all tests: GPU and browser tests are skipped where there is neither."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = {name: [item for item in items if item.get_closest_marker(name)] for name in ("gpu", "browser")}
    if marked["gpu"] and not _has_gpu():
        for item in marked["gpu"]:
            item.add_marker(pytest.mark.skip(reason="no GPU"))
    if marked["browser"] and importlib.util.find_spec("playwright") is None:
        for item in marked["browser"]:
            item.add_marker(pytest.mark.skip(reason="playwright is not installed"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
