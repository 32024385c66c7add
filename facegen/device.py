"""Which device and which dtype a stage computes with; chosen once, then passed in."""

from __future__ import annotations

import os

import torch


def select_device(name: str, *, threads: int) -> torch.device:
    """Return the device, with torch's CPU threads set, and exact algorithms where it is the CPU.

    Args:
        name: auto, cpu, cuda or cuda:N; under torchrun `cuda` is the process's own.
        threads: CPU threads; results on the CPU are byte-equal only at a fixed count.

    Raises:
        ValueError: if a GPU is asked for and torch sees none.
    """
    torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"machine.device is {name}, but torch {torch.__version__} sees no GPU; set auto or cpu")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if name == "cpu":
        torch.use_deterministic_algorithms(True)
    return torch.device(name)


def autocast_dtype(precision: str) -> torch.dtype:
    """Return the dtype of autocast around network calls: bfloat16 for `bf16`, float32 (no autocast) for `fp32`."""
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
