"""Pictures of the page for the documentation: python tests/browser/screenshots.py FOLDER --model data/models.

Each tab is used as one would use it, at 1280 px; the photograph that is edited is a drawn one.
"""

import argparse
import contextlib
import io
import shutil
import tempfile
from pathlib import Path

from conftest import served, wait_until
from PIL import Image

from facegen.data.face_drawing import draw_face
from facegen.data.face_parameters import FACE_ATTRIBUTES, sample_identity, sample_shot
from facegen.rng import numpy_generator

WIDTH, HEIGHT = 1280, 800
LIMIT_BYTES = 480_000
SLOW_MS = 300_000


def save(page, path):
    """Write the whole page as PNG, of a palette if it would be larger than allowed."""
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    picture.save(path, optimize=True)
    for colors in (256, 128, 64):
        if path.stat().st_size <= LIMIT_BYTES:
            return
        picture.quantize(colors, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def choose(page, tab, **states):
    """Press yes (1) or no (0) of attributes, of those that the model has."""
    for name, state in states.items():
        button = page.locator(f"#{tab}-{name} label").nth(1 + state)
        if button.count():
            button.click()


def generate(page, path):
    """Smiling women, enlarged."""
    choose(page, "generate", Male=0, Smiling=1)
    page.get_by_label("Upscale 4x").check()
    page.locator("#generate-run").click()
    page.locator("#generate-zip:not([disabled])").wait_for()
    page.wait_for_timeout(1000)
    save(page, path)


def edit(page, path):
    """A drawn photograph that is given a moustache."""
    page.get_by_role("tab", name="Edit").click()
    with tempfile.TemporaryDirectory() as folder:
        photograph = Path(folder) / "drawn.png"
        Image.fromarray(drawn_photograph()).save(photograph)
        page.locator("#edit-photo input[type=file]").set_input_files(photograph)
        page.locator("#edit-view img").wait_for()
    before = page.locator("#edit-view img").get_attribute("src")
    choose(page, "edit", Mustache=1)
    page.locator("#edit-regions label").filter(has_text="upper lip").click()
    wait_until(lambda: page.locator("#edit-view img").get_attribute("src") != before, SLOW_MS / 1000)
    page.get_by_label("Finer detail (upscaler)").check()
    page.locator("#edit-run").click()
    page.locator("#edit-download:not([disabled])").wait_for()
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(1500)
    save(page, path)


def personalize(page, path):
    """Two drawn people, of whom one smiles."""
    page.get_by_role("tab", name="Personalise").click()
    with tempfile.TemporaryDirectory() as folder:
        for k, wanted in enumerate(({}, {"Male": 0, "Black_Hair": 0, "Blond_Hair": 1})):
            photograph = Path(folder) / f"person-{k}.png"
            Image.fromarray(drawn_photograph(k, **wanted)).save(photograph)
            page.locator(f"#personalize-photo-{k} input[type=file]").set_input_files(photograph)
            page.locator(f"#personalize-view-{k} img").wait_for()
    page.locator("#personalize-examples button").filter(has_text="<id:1>").nth(1).click()
    page.locator("#personalize-run").click()
    page.locator("#personalize-zip:not([disabled])").wait_for()
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(1500)
    save(page, path)


def drawn_photograph(number=0, **changed):
    """A man without a beard, 256 px, of people who are in no data set; or another one, of other attributes."""
    wanted = {"Male": 1, "Young": 1, "Smiling": 0, "Eyeglasses": 0, "No_Beard": 1, "Black_Hair": 1, **changed}
    attributes = {name: wanted.get(name, 0) for name in FACE_ATTRIBUTES}
    identity = sample_identity(numpy_generator(number, "screenshot identity"))
    shot = sample_shot(numpy_generator(number, "screenshot shot"))
    return draw_face(identity, shot, attributes, resolution=256, supersample=1)[0]


def compare(page, path):
    """Three guidance values and the baseline."""
    page.get_by_role("tab", name="Compare").click()
    choose(page, "compare", Smiling=1, Blond_Hair=1)
    page.locator("#compare-run").click()
    page.locator("#compare-grid img").wait_for()
    page.wait_for_timeout(1000)
    save(page, path)


def main():
    """Start the app, use it, write the pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=Path("data/models"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(served(options.model.resolve(), "--params", str(options.params.resolve())))
        playwright = stack.enter_context(sync_playwright())
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.set_default_timeout(SLOW_MS)
        page.goto(address)
        page.locator("#generate-run").wait_for()
        for draw in (generate, edit, personalize, compare):
            if draw is personalize and not page.get_by_role("tab", name="Personalise").count():
                continue
            path = options.folder / f"app-{draw.__name__}.png"
            draw(page, path)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")  # noqa: T201
        browser.close()


if __name__ == "__main__":
    main()
