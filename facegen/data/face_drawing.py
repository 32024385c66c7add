"""One face, drawn from its full set of numbers: a pure function, the same bytes each time.

Shape legend: H = W resolution in px; S canvas side in px (resolution times supersample).
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from facegen.data import face_accessories, face_features, face_hair
from facegen.data.canvas import Canvas, mask
from facegen.data.face_geometry import Head
from facegen.data.face_light import backdrop, light_direction, light_scene, shade_skin
from facegen.data.face_palette import Palette
from facegen.data.face_parameters import FACE_ATTRIBUTES, Identity, Shot


def draw_face(
    identity: Identity, shot: Shot, attributes: Mapping[str, int], *, resolution: int, supersample: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one picture of one person.

    Args:
        identity: who it is.
        shot: pose, light, expression, clothes and background.
        attributes: 0 or 1 for each of FACE_ATTRIBUTES, in any combination.
        resolution: picture side in px.
        supersample: canvas pixels per picture pixel and side.

    Returns:
        the picture, uint8 (H, W, 3), and its landmarks, float64 (5, 2): x and y in px of the left eye, right eye, nose
        tip, left and right mouth corner, as seen in the picture; a pixel's centre is at half-integers.

    Raises:
        ValueError: an attribute is missing, unknown, or neither 0 nor 1.
    """
    faults = [name for name in FACE_ATTRIBUTES if attributes.get(name) not in (0, 1)]
    faults += [name for name in attributes if name not in FACE_ATTRIBUTES]
    if faults:
        raise ValueError(
            f"cannot draw attributes {faults}: each of {', '.join(FACE_ATTRIBUTES)} must be 0 or 1, and no other"
        )
    head = Head(identity, shot, attributes)
    palette = Palette(identity, attributes)
    cut = face_hair.HairCut(identity, shot, head)

    canvas = Canvas(backdrop(resolution * supersample, shot))
    pixels = _draw_behind(canvas, identity, shot, attributes, head, palette, cut)
    canvas = Canvas(pixels)
    _draw_front(canvas, identity, shot, attributes, head, palette, cut)
    picture = Image.fromarray(canvas.pixels())
    if supersample > 1:
        picture = picture.reduce(supersample)
    return light_scene(np.asarray(picture), shot), (head.landmarks() + 1.0) * (0.5 * resolution)


def _draw_behind(
    canvas: Canvas,
    identity: Identity,
    shot: Shot,
    attributes: Mapping[str, int],
    head: Head,
    palette: Palette,
    cut: face_hair.HairCut,
) -> np.ndarray:
    """Everything up to the bare, lit skin; uint8 (S, S, 3)."""
    if not attributes["Bald"]:
        face_hair.draw_back(canvas, cut, head, palette)
    face_accessories.draw_neck(canvas, head, palette)
    face_accessories.draw_clothes(canvas, shot, head, palette)
    ears = face_features.ears(identity, head)
    face_features.draw_ears(canvas, palette, ears)
    face = head.face_outline()
    canvas.fill(face, palette.skin)
    face_features.draw_skin_marks(canvas, identity, head, palette)
    coverage = mask(canvas.size, [face, *ears])
    return shade_skin(canvas.pixels(), coverage, identity, shot, head)


def _draw_front(
    canvas: Canvas,
    identity: Identity,
    shot: Shot,
    attributes: Mapping[str, int],
    head: Head,
    palette: Palette,
    cut: face_hair.HairCut,
) -> None:
    """Features, hair and accessories over the lit skin."""
    if head.old:
        face_features.draw_age(canvas, head, palette)
    if not attributes["No_Beard"]:
        face_hair.draw_beard(canvas, identity, head, palette)
    face_features.draw_mouth(canvas, identity, head, palette)
    face_features.draw_nose(canvas, identity, head, palette, light_direction(shot)[0])
    if attributes["Mustache"]:
        face_hair.draw_mustache(canvas, identity, head, palette)
    face_features.draw_eyes(canvas, shot, head, palette)
    face_features.draw_brows(canvas, identity, shot, head, palette)
    if attributes["Bald"]:
        face_hair.draw_scalp(canvas, head, palette)
    else:
        face_hair.draw_top(canvas, cut, head, palette)
        face_hair.draw_locks(canvas, cut, head, palette)
        if attributes["Bangs"]:
            face_hair.draw_bangs(canvas, cut, head, palette)
    if attributes["Wearing_Hat"]:
        face_accessories.draw_hat(canvas, shot, head, palette, 0.0 if attributes["Bald"] else cut.top)
    if attributes["Eyeglasses"]:
        face_accessories.draw_glasses(canvas, identity, head)
