"""One face, drawn from its full set of numbers: a pure function, the same bytes each time.

Shape legend: H W picture or canvas size in px; H = W = resolution for a face alone.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from facegen.data import face_accessories, face_features, face_hair
from facegen.data.canvas import Canvas, Frame, mask
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
    side = resolution * supersample
    head, pixels = paint_person(backdrop(side, side, shot), Frame.square(side), identity, shot, attributes)
    picture = Image.fromarray(pixels)
    if supersample > 1:
        picture = picture.reduce(supersample)
    return light_scene(np.asarray(picture), shot), (head.landmarks() + 1.0) * (0.5 * resolution)


def paint_person(
    pixels: np.ndarray, frame: Frame, identity: Identity, shot: Shot, attributes: Mapping[str, int]
) -> tuple[Head, np.ndarray]:
    """Paints one person over a picture, whatever its size.

    Args:
        pixels: uint8 (H, W, 3), or (H, W, 4) where the alpha channel is to gather what is painted over.
        frame: where the person goes.
        identity: who it is.
        shot: pose, light, expression and clothes.
        attributes: 0 or 1 for each of FACE_ATTRIBUTES, in any combination.

    Returns:
        the head, whose coordinates are those of `frame`, and the painted picture, of the shape of `pixels`.

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

    canvas = Canvas(pixels, frame)
    lit = _draw_behind(canvas, identity, shot, attributes, head, palette, cut)
    canvas = Canvas(lit, frame)
    _draw_front(canvas, identity, shot, attributes, head, palette, cut)
    return head, canvas.pixels()


def _draw_behind(
    canvas: Canvas,
    identity: Identity,
    shot: Shot,
    attributes: Mapping[str, int],
    head: Head,
    palette: Palette,
    cut: face_hair.HairCut,
) -> np.ndarray:
    """Everything up to the bare, lit skin; uint8, of the canvas's shape."""
    if not attributes["Bald"]:
        face_hair.draw_back(canvas, cut, head, palette)
    face_accessories.draw_neck(canvas, head, palette)
    face_accessories.draw_clothes(canvas, shot, head, palette)
    ears = face_features.ears(identity, head)
    face_features.draw_ears(canvas, palette, ears)
    face = head.face_outline()
    canvas.fill(face, palette.skin)
    face_features.draw_skin_marks(canvas, identity, head, palette)
    coverage = mask(canvas.shape[:2], canvas.frame, [face, *ears])
    drawn = canvas.pixels()
    lit = shade_skin(drawn[..., :3], coverage, canvas.frame, identity, shot, head)
    return np.concatenate([lit, drawn[..., 3:]], axis=-1) if drawn.shape[-1] > 3 else lit


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
