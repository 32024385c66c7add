"""The colours of a drawn face. Each hair colour that an attribute names is kept well apart from the others."""

import colorsys
from collections.abc import Mapping

from facegen.data.canvas import Colour, mix, scaled
from facegen.data.face_parameters import Identity

_SKIN: tuple[Colour, ...] = ((252, 222, 198), (240, 198, 164), (214, 162, 122), (168, 116, 82), (124, 82, 58))
_IRIS: tuple[Colour, ...] = ((62, 36, 22), (104, 66, 30), (86, 110, 54), (58, 118, 170), (112, 134, 148))
_BLACK: tuple[Colour, Colour] = ((20, 18, 22), (38, 32, 34))
_BLOND: tuple[Colour, Colour] = ((214, 170, 84), (246, 218, 138))
_GRAY: tuple[Colour, Colour] = ((158, 158, 162), (214, 214, 216))
_OTHER: tuple[Colour, ...] = ((84, 56, 40), (112, 76, 50), (128, 82, 50), (150, 72, 38))

_CONTRAST = 230  # between the sums of red, green and blue of skin and beard


def ramp(colours: tuple[Colour, ...], position: float) -> Colour:
    """The colour at `position` in [-1, 1] of an evenly spaced row."""
    at = (position + 1.0) / 2.0 * (len(colours) - 1)
    index = min(int(at), len(colours) - 2)
    return mix(colours[index], colours[index + 1], at - index)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour from hue, saturation and value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return (255 * red, 255 * green, 255 * blue)


class Palette:
    """The colours of one person."""

    def __init__(self, identity: Identity, attributes: Mapping[str, int]) -> None:
        skin = ramp(_SKIN, identity.skin_tone)
        tint: Colour = (236, 168, 150) if identity.skin_hue < 0 else (206, 172, 110)
        skin = mix(skin, scaled(tint, sum(skin) / sum(tint)), 0.30 * abs(identity.skin_hue))
        if not attributes["Young"]:
            skin = mix(skin, (196, 170, 150), 0.12)
        self.skin = skin
        self.skin_dark = mix(scaled(skin, 0.62), (96, 34, 24), 0.22)
        self.skin_light = mix(skin, (255, 246, 236), 0.45)
        self.iris = ramp(_IRIS, max(-1.0, min(identity.iris, 0.7 - 1.4 * identity.skin_tone)))

        shade = identity.hair_shade
        if attributes["Gray_Hair"]:
            self.hair = ramp(_GRAY, shade)
        elif attributes["Blond_Hair"]:
            self.hair = ramp(_BLOND, shade)
        elif attributes["Black_Hair"]:
            self.hair = ramp(_BLACK, shade)
        else:
            self.hair = scaled(ramp(_OTHER, identity.hair_other), 1.0 + 0.12 * shade)
        self.hair_dark = scaled(self.hair, 0.60 if sum(self.hair) < 400 else 0.70)
        self.hair_light = mix(scaled(self.hair, 1.12), (255, 244, 224), 0.16 if sum(self.hair) < 130 else 0.30)
        self.brow = mix(scaled(self.hair, 0.66), (60, 44, 36), 0.35)
        if attributes["Gray_Hair"]:
            self.brow = mix(scaled(self.hair, 0.78), skin, 0.10)
        self.beard = scaled(self.hair, 0.80)
        if attributes["Bald"]:
            self.beard = mix(self.beard, (40, 30, 26), 0.35)
        if abs(sum(self.beard) - sum(skin)) < _CONTRAST:  # a beard must stand out from the skin
            self.beard = scaled(self.beard, max(54.0, sum(skin) - _CONTRAST) / sum(self.beard))
        self.beard_dark = scaled(self.beard, 0.62)
        self.beard_light = mix(self.beard, (255, 244, 224), 0.18)

        rosy: Colour = (196, 84, 84) if sum(skin) > 480 else (132, 58, 56)
        natural = mix(scaled(skin, 0.86), rosy, 0.34)
        painted = mix(mix(skin, rosy, 0.62), (184, 30, 60), 0.22 + 0.34 * max(0.0, identity.makeup))
        self.lips = natural if attributes["Male"] else painted
        if not attributes["Young"]:
            self.lips = mix(self.lips, skin, 0.22)
