"""`facegen app` in Chromium: what comes out of each tab is what the library gives, and mistakes are one line."""

import io
import json
import socket
import time
import zipfile
from urllib.parse import urlparse
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image

from facegen.app.photos import Opened, photo_mask
from facegen.data.align import face_crops
from facegen.data.regions import region_mask
from facegen.editing import bundle_of, edit_photograph, edit_settings
from facegen.gan_sampling import generate, load_generator
from facegen.grids import image_grid
from facegen.personalize.opening import open_personalizer
from facegen.photo_face import take_face
from facegen.photograph import open_photograph
from facegen.pipeline import FacePipeline
from facegen.rng import numpy_generator
from tests.browser.conftest import (
    MAX_MEGAPIXELS,
    NAMES,
    PEOPLE_SETTINGS,
    SIDE,
    STEPS,
    served,
    wait_until,
    watched_page,
)
from tests.test_face_detector import CORNER, POINTS
from tests.test_face_detector import photograph as white_squares

pytestmark = pytest.mark.browser
ANY, NO, YES = 0, 1, 2  # the buttons of an attribute


@pytest.fixture(scope="module")
def pipe(model, one_thread):
    pipe = FacePipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def choose(page, tab, name, state):
    page.locator(f"#{tab}-{name} label").nth(state).click()


def fill(page, tab, field, value):
    """Type a number into a field or beside a slider."""
    box = page.locator(f"#{tab}-{field} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def opened_tab(page, name):
    page.get_by_role("tab", name=name).click()
    return name.lower()


def picture(data):
    """Pixels and the note of a PNG."""
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")), json.loads(image.text["facegen"])


def downloaded(page, button):
    with page.expect_download() as download:
        page.locator(button).click()
    return download.value.suggested_filename, download.value.path().read_bytes()


def test_generate(page, pipe):
    choose(page, "generate", "Male", YES)
    choose(page, "generate", "Smiling", NO)
    fill(page, "generate", "Smiling-strength", 2)
    fill(page, "generate", "seed", 5)
    fill(page, "generate", "number", 10)
    page.locator("#generate-run").click()
    page.locator("#generate-zip:not([disabled])").wait_for()

    seeds = list(range(5, 15))
    request = {"Male": 1, "Smiling": 0}
    expected = [
        image
        for part in (seeds[:8], seeds[8:])  # as many as the page makes together
        for image in pipe(request, seeds=part, attribute_scales={"Smiling": 2.0}, output_type="np").images
    ]
    plain = pipe(request, seeds=seeds[:1], output_type="np").images[0]
    assert not np.array_equal(plain, expected[0])  # the strength counts
    shown = page.locator("#generate-gallery .thumbnail-item img")
    assert shown.count() == 10
    name, archive = downloaded(page, "#generate-zip")
    assert name.endswith(".zip")
    files = zipfile.ZipFile(io.BytesIO(archive))
    assert files.namelist() == [f"face-{seed:06d}.png" for seed in seeds]
    for i, seed in enumerate(seeds):
        pixels, note = picture(files.read(f"face-{seed:06d}.png"))
        assert np.array_equal(pixels, expected[i]) and pixels.shape == (SIDE, SIDE, 3) and pixels.std() > 1
        assert note == {
            "attributes": request, "strengths": {"Smiling": 2.0}, "steps": STEPS, "guidance": 2.0, "seed": seed,
            "upscale": None,
        }  # fmt: skip
    for i in (0, 9):
        served = page.request.get(shown.nth(i).get_attribute("src")).body()
        assert served == files.read(f"face-{seeds[i]:06d}.png")
    shown.nth(3).click()
    name, single = downloaded(page, "#generate-gallery [aria-label=Download]")
    assert single == files.read("face-000008.png") and name == "face-000008.png"


def test_dice_and_clear_need_no_server(page):
    fill(page, "generate", "seed", 7)
    page.locator("#generate-dice").click()
    seed = page.locator("#generate-seed input")
    wait_until(lambda: seed.input_value() != "7")
    assert 0 <= int(seed.input_value()) < 2**31
    choose(page, "generate", "Male", YES)
    strength = page.locator("#generate-Male-strength")
    assert strength.is_visible()
    page.locator("#generate-clear").click()
    wait_until(lambda: not strength.is_visible())
    assert page.locator("#generate-Male label").nth(ANY).get_attribute("class").endswith("selected")


def test_compare(page, pipe, model):
    tab = opened_tab(page, "Compare")
    choose(page, tab, "Eyeglasses", YES)
    for value in ("2", "3"):  # chosen at first: 1, 2, 4
        page.locator("#compare-guidances label").filter(has_text=value).first.click()
    fill(page, tab, "number", 2)
    fill(page, tab, "seed", 3)
    page.locator("#compare-run").click()
    page.locator("#compare-download:not([disabled])").wait_for()
    name, data = downloaded(page, "#compare-download")
    pixels, note = picture(data)
    request, seeds, guidances = {"Eyeglasses": 1}, [3, 4], [1.0, 3.0, 4.0]
    rows = [pipe(request, seeds=seeds, guidance_scale=g, output_type="np").images for g in guidances]
    states = np.array([[-1, -1, 1]] * 2, np.int8)
    gan = load_generator(model / "gan-conditional")
    rows.append(generate(gan, states, np.array(seeds), batch_size=16, device=pipe.device))
    labels = [*(f"DiT\nguidance {g:g}" for g in guidances), "DCGAN"]
    grid = image_grid(np.stack(rows), row_labels=labels, column_labels=["seed 3", "seed 4"], scale=128 // SIDE)
    assert np.array_equal(pixels, np.asarray(grid)) and name == "compare-000003.png"
    assert note == {"attributes": request, "guidance": guidances, "gan": True, "steps": STEPS, "seeds": seeds}
    served = page.request.get(page.locator("#compare-grid img").get_attribute("src")).body()
    assert served == data


def upload(page, path):
    page.locator("#edit-photo input[type=file]").set_input_files(path)


def opened_photograph(page, path):
    tab = opened_tab(page, "Edit")
    upload(page, path)
    page.locator("#edit-view img").wait_for()
    return tab


def edited(page):
    page.locator("#edit-run").click()
    page.locator("#edit-download:not([disabled])").wait_for()
    assert page.locator("#edit-result img").count() >= 2  # before and after
    return downloaded(page, "#edit-download")


def view(page):
    data = page.request.get(page.locator("#edit-view img").get_attribute("src")).body()
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_edit_with_a_region(page, pipe, model, photograph):
    tab = opened_photograph(page, photograph)
    plain = view(page)
    choose(page, tab, "Smiling", YES)
    page.locator("#edit-regions label").filter(has_text="mouth").click()
    wait_until(lambda: not np.array_equal(view(page), plain))
    fill(page, tab, "seed", 11)
    name, data = edited(page)
    pixels, note = picture(data)

    photo = open_photograph(photograph, max_megapixels=MAX_MEGAPIXELS)
    settings, _ = edit_settings(model, params=model / "none.yaml")
    bundle = bundle_of(pipe, model, settings=settings, max_megapixels=MAX_MEGAPIXELS)
    expected = edit_photograph(bundle, photo, set={"Smiling": 1}, seeds=[11], landmarks=None, region=("mouth",))
    assert note["seed"] == 11 and note["attributes"] == {"Smiling": 1} and note["regions"] == ["mouth"]
    assert np.abs(pixels.astype(int) - expected.photos[0].pixels).max() == 0
    face = take_face(photo, None, template=bundle.editor.mean_landmarks, resolution=SIDE)
    part = region_mask(["mouth"], face.landmarks, size=SIDE)
    allowed = photo_mask(Opened("", photo, face, None), part)
    assert np.array_equal(pixels[~allowed], photo.pixels[~allowed])
    assert (pixels[allowed] != photo.pixels[allowed]).any(axis=-1).mean() > 0.5
    assert name == "drawn-face-edited.png"
    assert {key: note[key] for key in ("attributes", "regions", "painted", "seed", "method")} == {
        "attributes": {"Smiling": 1}, "regions": ["mouth"], "painted": False, "seed": 11, "method": "blend"
    }  # fmt: skip
    red = np.kron(part, np.ones((len(plain) // SIDE,) * 2, bool))
    changed = (view(page) != plain).any(axis=-1)
    assert np.array_equal(changed, red)


def test_edit_with_the_brush(page, photograph):
    tab = opened_photograph(page, photograph)
    plain = view(page)
    canvas = page.locator("#edit-canvas canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y)
    page.mouse.down()
    page.mouse.move(x + 30, y, steps=6)
    page.mouse.up()
    wait_until(lambda: not np.array_equal(view(page), plain))
    marked = (view(page) != plain).any(axis=-1)
    scale = len(plain) // SIDE
    part = marked[::scale, ::scale]
    assert np.array_equal(marked, np.kron(part, np.ones((scale, scale), bool)))
    rows, columns = np.nonzero(part)
    assert 0.02 < part.mean() < 0.4 and abs(rows.mean() - SIDE / 2) < 3 and abs(columns.mean() - SIDE / 2) < 3
    choose(page, tab, "Eyeglasses", YES)
    pixels, note = picture(edited(page)[1])
    photo = open_photograph(photograph, max_megapixels=MAX_MEGAPIXELS)
    face = take_face(photo, None, template=np.zeros((5, 2)), resolution=SIDE)
    allowed = photo_mask(Opened("", photo, face, None), part)
    assert np.array_equal(pixels[~allowed], photo.pixels[~allowed])
    assert (pixels[allowed] != photo.pixels[allowed]).any()
    assert note["painted"] and note["regions"] == [] and note["attributes"] == {"Eyeglasses": 1}


def test_a_generated_picture_is_edited(page, pipe):
    fill(page, "generate", "number", 2)
    page.locator("#generate-run").click()
    page.locator("#generate-zip:not([disabled])").wait_for()
    page.locator("#generate-gallery .thumbnail-item").nth(1).click()
    page.locator("#generate-edit").click()
    page.locator("#edit-view img").wait_for()
    choose(page, "edit", "Eyeglasses", YES)
    name, data = edited(page)
    pixels, _ = picture(data)
    original = pipe({}, seeds=[0, 1], output_type="np").images[1]
    same = (pixels == original).all(axis=-1)
    assert name == "face-000001-edited.png" and pixels.shape == original.shape
    assert same[0].all() and same[-1].all() and not same.all()  # glasses are in the middle


@pytest.fixture
def people(tmp_path):
    """Photographs as the detector of the model sees them: a face each at white squares, without one in the last."""
    squares = {"a": [(9, 5)], "b": [(10, 6)], "two": [(9, 5), (3, 9)], "nobody": []}
    for number, (name, cells) in enumerate(squares.items()):
        pixels = white_squares(*cells)
        grain = numpy_generator(number, "grain").integers(0, 60, pixels.shape).astype(np.uint8)
        Image.fromarray(np.where(pixels == 255, pixels, pixels + grain)).save(tmp_path / f"{name}.png")
    return tmp_path


def given(page, k, path):
    page.locator(f"#personalize-photo-{k} input[type=file]").set_input_files(path)


def crop(path, cell):
    corner = CORNER + 8 * np.subtract(cell, (9, 5))
    return face_crops(np.asarray(Image.open(path))[None], (POINTS + corner)[None].astype(np.float64), size=112)


def test_personalise(page, model, people, one_thread):
    opened_tab(page, "Personalise")
    drawer = open_personalizer(
        model / "text-to-image", msid=model / "msid", mapper=model / "mapper" / "mf2d", device="cpu"
    )
    faces = [crop(people / "a.png", (9, 5)), crop(people / "b.png", (10, 6))]
    for k, name in enumerate(("a.png", "b.png")):
        given(page, k, people / name)
        page.locator(f"#personalize-view-{k} img").wait_for()
    shown = page.request.get(page.locator("#personalize-view-1 img").get_attribute("src")).body()
    read = np.asarray(Image.open(io.BytesIO(shown)).convert("RGB").resize((112, 112))).astype(float)
    found = (faces[1][0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.abs(read - found).mean() < 0.25 * np.abs(found - found.mean()).mean()
    page.locator("#personalize-examples button").filter(has_text="wearing hats").click()
    fill(page, "personalize", "seed", 5)
    fill(page, "personalize", "number", 5)  # two calls
    page.locator("#personalize-run").click()
    page.locator("#personalize-zip:not([disabled])").wait_for()
    assert "mf2d: the people are known in the last 2 of 4 steps" in page.locator("#personalize-note").inner_text()
    assert page.locator("#personalize-gallery .thumbnail-item img").count() == 5

    prompt, solver = "<id:0> and <id:1> wearing hats", dict(PEOPLE_SETTINGS)
    del solver["prompts_one"], solver["prompts_two"]
    features = torch.stack([drawer.features([face]) for face in faces])
    expected = [
        image
        for seeds in ([5, 6, 7, 8], [9])  # as many as the page makes together
        for image in drawer.generate(features, prompt, seeds=seeds, **solver)
    ]
    swapped = drawer.generate(features.flip(0), prompt, seeds=[9], **solver)[0]
    name, archive = downloaded(page, "#personalize-zip")
    files = zipfile.ZipFile(io.BytesIO(archive))
    assert name == "people-000005.zip" and len(files.namelist()) == 5
    for i, file in enumerate(files.namelist()):
        pixels, note = picture(files.read(file))
        assert np.array_equal(pixels, expected[i]) and pixels.std() > 1
        assert note == {
            "prompt": prompt, "method": "mf2d", "references": [["a.png"], ["b.png"]], "fusion": "replace_input",
            "class_word": "a person", "seed": 5 + i, **solver,
        }  # fmt: skip
    assert not np.array_equal(swapped, expected[4])  # who is who counts


def test_mistakes_with_people_are_one_line(page, people):
    opened_tab(page, "Personalise")
    page.locator("#personalize-run").click()
    assert "Choose a photograph of each person first" in message(page)
    given(page, 0, people / "nobody.png")
    assert "nobody.png: no face found" in message(page)
    assert page.locator("#personalize-view-0 img").count() == 0
    given(page, 1, people / "a.png")
    page.locator("#personalize-view-1 img").wait_for()
    page.locator("#personalize-run").click()
    assert "The photograph of <id:0> is missing" in message(page)
    page.get_by_label("The faces fill them already").check()  # nobody.png is still there
    page.locator("#personalize-view-0 img").wait_for()
    page.locator("#personalize-run").click()  # the prompt at first is of one person
    assert "does not name <id:1>" in message(page)
    page.get_by_label("The faces fill them already").uncheck()
    assert "no face found" in message(page)
    given(page, 0, people / "two.png")
    assert "two.png: 2 faces found; the largest one is taken" in message(page)
    page.locator("#personalize-view-0 img").wait_for()
    page.get_by_label("Remove Image").last.click()
    wait_until(lambda: page.locator("#personalize-view-1 img").count() == 0)
    page.locator("#personalize-prompt textarea").fill(" ")
    page.locator("#personalize-run").click()
    assert "Say in the prompt what to draw" in message(page)
    page.locator("#personalize-prompt textarea").fill("<id:0> smiling and <id:3>")
    page.locator("#personalize-run").click()
    assert "names <id:3>, but 1 person is given" in message(page)


def message(page):
    """The one line that the page tells, and that it is no traceback."""
    toast = page.locator(".toast-body").first
    toast.wait_for()
    text = toast.inner_text().strip()
    assert "Traceback" not in text and len(text.splitlines()) <= 3, text  # title, cross, line
    page.locator(".toast-close").first.click()
    toast.wait_for(state="detached")
    return text.splitlines()[-1]


def test_mistakes_are_one_line(page, tmp_path):
    opened_tab(page, "Edit")
    page.locator("#edit-run").click()
    assert "Choose a photograph first" in message(page)
    (tmp_path / "no.png").write_bytes(b"this is no picture")
    upload(page, tmp_path / "no.png")
    assert "picture" in message(page) or "image" in message(page)
    Image.new("RGB", (2000, 1000)).save(tmp_path / "large.png")
    upload(page, tmp_path / "large.png")
    assert "megapixel" in message(page).lower()
    assert page.locator("#edit-view img").count() == 0


def test_a_file_that_is_too_large(page, tmp_path):
    opened_tab(page, "Edit")
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(33 * 2**20))
    upload(page, tmp_path / "huge.png")
    assert "size" in message(page).lower()


def test_a_page_that_is_closed_during_an_upload_is_no_error(model):
    """`served` finds tracebacks in what the server printed."""
    begun = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    with served(model) as address:
        where = urlparse(address)
        with socket.create_connection((where.hostname, where.port)) as connection:
            connection.sendall(
                b"POST /gradio_api/upload HTTP/1.1\r\nHost: %b\r\nContent-Length: 1000000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n%b" % (where.netloc.encode(), begun)
            )
            time.sleep(0.5)  # until the server reads
        time.sleep(0.5)  # until it has noticed
        assert urlopen(address).status == 200


def test_nothing_to_compare(page):
    tab = opened_tab(page, "Compare")
    for value in ("1", "2", "4"):
        page.locator(f"#{tab}-guidances label").get_by_text(value, exact=True).click()
    page.locator("#compare-gan input").uncheck()
    page.locator("#compare-run").click()
    assert "nothing to compare" in message(page)


def test_it_fits_a_phone(chromium, address):
    with watched_page(chromium, address, 390, 844) as page:
        opened_tab(page, "Personalise")
        page.locator("#personalize-run").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for tab in ("Generate", "Edit", "Compare"):
            opened_tab(page, tab)
            page.locator(f"#{tab.lower()}-run").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            for name in NAMES:
                box = page.locator(f"#{tab.lower()}-{name} label").nth(YES).bounding_box()
                assert box["x"] + box["width"] <= 390
