"""A small model, `facegen app` that serves it, and a page in Chromium that must behave: no other host, no error."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from facegen.artifacts import write_json
from facegen.models.autoencoder import build_autoencoder
from facegen.models.dcgan import DCGANGenerator, draw_dcgan_weights
from facegen.models.dit import LatentDiT, inpainting_model
from facegen.models.judges import build_judge
from facegen.pipeline import FacePipeline, make_scheduler
from facegen.rng import numpy_generator, torch_generator

NAMES = ["Male", "Smiling", "Eyeglasses"]
SIDE = 32
STEPS = 3
MAX_MEGAPIXELS = 1.0
PATIENCE_MS = 30_000
EDIT_SETTINGS = {
    "method": "blend", "num_steps": STEPS, "guidance_scale": 2.0, "attribute_scale": 1.0, "strength": 0.7,
    "resamples": 2, "dilation_cells": 1, "feather": 0.02, "zoom_side": 0.5, "zoom_below": 0.15,
}  # fmt: skip

PEOPLE_SETTINGS = {
    "num_steps": 4, "guidance_scale": 2.0, "alpha": 0.5, "negative": "a hat", "scheduler": "euler",
    "prompts_one": ["<id:0> smiling"], "prompts_two": ["<id:0> and <id:1> wearing hats"],
}  # fmt: skip


def drawn(network, purpose, std=0.15):
    """The network with random weights, also where a fresh one has zeros."""
    for i, parameter in enumerate(network.parameters()):
        torch.nn.init.normal_(parameter, std=std, generator=torch_generator(0, purpose, i))
    return network


@pytest.fixture(scope="session")
def model(tmp_path_factory, root):
    """What `facegen export` writes, small and random, with all that an edit uses, a DCGAN, and what draws given people."""
    from tests.made_mappers import write_personalizer  # not found by a script, which takes `served` from here
    from tests.test_face_detector import write_scrfd

    folder = tmp_path_factory.mktemp("model")
    vae = drawn(build_autoencoder(architecture="tiny", channels=[16, 16], layers_per_block=1, latent_channels=4), "vae")
    dit = LatentDiT(
        sample_size=SIDE // 2, in_channels=4, patch_size=4, hidden_size=32, depth=1, num_heads=2, mlp_ratio=2.0,
        attribute_names=NAMES, latent_mean=[0.0] * 4, latent_std=[1.0] * 4,
    )  # fmt: skip
    scheduler = make_scheduler("euler", shift=1.0)
    FacePipeline(
        drawn(dit, "dit"), vae, scheduler, num_inference_steps=STEPS, guidance_scale=2.0, guidance_interval=[0, 1]
    ).save_pretrained(folder)
    drawn(inpainting_model(dit), "inpainter").save_pretrained(folder / "inpainter")
    build_judge("residual", attribute_names=NAMES, width=8).save_pretrained(folder / "judge-a")
    gan = DCGANGenerator(resolution=SIDE, width=8, noise_dim=8, attribute_names=NAMES)
    draw_dcgan_weights(gan, torch_generator(0, "gan"))
    gan.save_pretrained(folder / "gan-conditional" / "generator")
    write_json(folder / "edit.json", {"settings": EDIT_SETTINGS, "max_megapixels": MAX_MEGAPIXELS})
    write_personalizer(folder, variants=("single", "mf2d"))
    (folder / "detector").mkdir()
    write_scrfd(folder / "detector" / "detector.onnx", size=128)
    yaml = YAML()
    values = yaml.load(root / "params.yaml")
    values["personalize"] |= PEOPLE_SETTINGS
    yaml.dump(values, folder / "params.yaml")
    return folder


@pytest.fixture(scope="session")
def one_thread():
    """As the server: equal threads, equal bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def served(model, *options):
    """Start `facegen app` on a free port; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "facegen.cli", "app", "--model", str(model), "--port", str(port), *options]
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=model
    )
    lines = []
    try:
        for line in server.stderr:
            lines.append(line)
            if "the model is open" in line:
                break
        else:
            pytest.fail("".join(lines))
        yield re.search(r"http://127\.0\.0\.1:\d+/", "".join(lines)).group()
    finally:
        server.terminate()
        rest = server.communicate(timeout=20)[1]
        assert "Traceback" not in "".join(lines) + rest, rest


@pytest.fixture(scope="session")
def address(model):
    with served(model) as address:
        yield address


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip("no Chromium; install one: apt-get install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page, and what it did that it must not."""

    def __init__(self, context, address):
        self.address, self.faults = address, []
        host = urlparse(address).netloc
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        context.on("request", lambda r: self.note(r.url, urlparse(r.url).scheme in ("data", "blob"), host))
        self.page.on("websocket", lambda s: self.faults.append(f"websocket {s.url}"))
        self.page.on("pageerror", lambda e: self.faults.append(f"error {e}"))
        self.page.on("console", lambda m: m.type == "error" and self.faults.append(f"console {m.text}"))

    def note(self, url, inside, host):
        if not inside and urlparse(url).netloc != host:
            self.faults.append(f"request to {url}")


@contextmanager
def watched_page(browser, address, width=1280, height=800):
    with browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce") as context:
        watched = Watched(context, address)
        watched.page.goto(address)
        watched.page.locator("#generate-run").wait_for()
        yield watched.page
        assert watched.faults == []


@pytest.fixture
def page(chromium, address):
    with watched_page(chromium, address) as page:
        yield page


@pytest.fixture
def photograph(tmp_path):
    """A drawn photograph, 96 x 72 px: not square, and with grain, so that a pixel that moves is seen."""
    y, x = np.mgrid[:72, :96].astype(float)
    pixels = np.stack([90 + x, 120 + y / 2, 150 - x / 2], axis=-1)
    pixels[((x - 48) / 24) ** 2 + ((y - 36) / 30) ** 2 < 1] = (205, 160, 135)
    pixels += numpy_generator(0, "grain").integers(-8, 9, pixels.shape)
    path = tmp_path / "drawn face.png"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def wait_until(true, seconds=PATIENCE_MS / 1000):
    """Poll what the browser cannot be asked to wait for."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this took too long"
        time.sleep(0.1)
