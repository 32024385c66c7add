"""Pictures of the page for the documentation: python tests/browser/screenshots.py FOLDER --model data/models.

Each tab is used as one would use it, at 1280 px; the photograph that is edited is one that the model has generated.
"""

import argparse
import contextlib
import io
import shutil
from pathlib import Path

from conftest import served, wait_until
from PIL import Image

WIDTH, HEIGHT = 1280, 800
LIMIT_BYTES = 300_000
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
    """Men with glasses, one of them opened."""
    choose(page, "generate", Male=1, Eyeglasses=1)
    page.locator("#generate-run").click()
    page.locator("#generate-zip:not([disabled])").wait_for()
    page.wait_for_timeout(1000)
    save(page, path)


def edit(page, path):
    """A generated face without its glasses, the part painted by hand."""
    first = page.locator("#generate-gallery .thumbnail-item img").first
    before = first.get_attribute("src")
    choose(page, "generate", Eyeglasses=0)
    page.locator("#generate-run").click()
    wait_until(lambda: first.get_attribute("src") != before, SLOW_MS / 1000)
    page.locator("#generate-gallery .thumbnail-item").nth(6).click()
    page.locator("#generate-edit").click()
    page.locator("#edit-view img").wait_for()
    before = page.locator("#edit-view img").get_attribute("src")
    choose(page, "edit", Eyeglasses=1)
    page.locator("#edit-regions label").filter(has_text="glasses").click()
    wait_until(lambda: page.locator("#edit-view img").get_attribute("src") != before, SLOW_MS / 1000)
    page.locator("#edit-run").click()
    page.locator("#edit-download:not([disabled])").wait_for()
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(1500)
    save(page, path)


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
        for draw in (generate, edit, compare):
            path = options.folder / f"app-{draw.__name__}.png"
            draw(page, path)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")  # noqa: T201
        browser.close()


if __name__ == "__main__":
    main()
