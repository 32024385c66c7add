"""The numbers that describe one drawn face: who it is (`Identity`), and how it was taken (`Shot`).

Every number is uniform in [-1, 1]; the drawing gives it its unit and its range. An identity stays fixed over
all pictures of a person; a shot is drawn anew for each picture.

Shape legend: F fields.
"""

from dataclasses import dataclass, fields

import numpy as np

# The attributes that a drawn face has, in CelebA's spelling and in the order of the attribute file.
FACE_ATTRIBUTES = (
    "Male",
    "Young",
    "Smiling",
    "Eyeglasses",
    "No_Beard",
    "Mustache",
    "Bangs",
    "Bald",
    "Black_Hair",
    "Blond_Hair",
    "Gray_Hair",
    "Wearing_Hat",
)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What stays the same over a person's pictures; each field uniform in [-1, 1]."""

    face_width: float
    face_length: float
    jaw: float  # narrow .. square
    chin: float  # pointed .. broad
    cheek: float  # hollow .. full
    eye_spacing: float
    eye_size: float
    eye_open: float
    eye_tilt: float  # outer corner low .. high
    eye_height: float
    iris: float  # brown, hazel, green, blue, grey
    brow_thickness: float
    brow_height: float
    brow_arch: float
    brow_tilt: float
    nose_length: float
    nose_width: float
    nose_tip: float  # fine .. bulbous
    nose_bridge: float  # flat .. prominent
    mouth_width: float
    mouth_height: float
    lip_upper: float
    lip_lower: float
    ear_size: float
    ear_out: float
    skin_tone: float  # light .. dark
    skin_hue: float  # rosy .. olive
    freckles: float  # above 0.5 they show
    mole_x: float
    mole_y: float
    mole_size: float  # above 0 it shows
    hair_style: float
    hair_length: float
    hair_volume: float
    hair_curl: float
    hair_part: float  # parting left .. right
    hair_line: float  # low .. high forehead
    hair_shade: float
    hair_other: float  # which colour, where no hair attribute names one: brown .. red
    beard_style: float
    beard_length: float
    glasses_shape: float
    glasses_colour: float
    makeup: float

    def vector(self) -> np.ndarray:
        """The identity as float64 (F,)."""
        return np.array([getattr(self, field.name) for field in fields(self)])


@dataclass(frozen=True, kw_only=True)
class Shot:
    """What varies between two pictures of one person; each field uniform in [-1, 1] unless said otherwise."""

    yaw: float
    pitch: float
    roll: float
    shift_x: float
    shift_y: float
    scale: float
    light_x: float  # from the left .. from the right
    light_y: float  # from above .. from the front
    light_power: float
    light_warmth: float
    gaze_x: float
    gaze_y: float
    eye_open: float
    brow_raise: float
    smile: float
    mouth_open: float
    backdrop: tuple[float, ...]  # 12 numbers: two colours, direction, three soft spots
    clothes_hue: float
    clothes_light: float
    clothes_cut: float
    hat_shape: float
    hat_hue: float
    hat_light: float
    hair_fall: float  # strands and fringe fall differently


BACKDROP_NUMBERS = 12


def sample_identity(generator: np.random.Generator) -> Identity:
    """Draws a person."""
    names = [field.name for field in fields(Identity)]
    return Identity(**dict(zip(names, generator.uniform(-1.0, 1.0, len(names)).tolist(), strict=True)))


def sample_shot(generator: np.random.Generator) -> Shot:
    """Draws the circumstances of one picture; strong poses are rarer than slight ones."""
    names = [field.name for field in fields(Shot) if field.name != "backdrop"]
    values = dict(zip(names, generator.uniform(-1.0, 1.0, len(names)).tolist(), strict=True))
    backdrop = tuple(generator.uniform(-1.0, 1.0, BACKDROP_NUMBERS).tolist())
    for name in ("yaw", "pitch", "roll"):
        values[name] *= abs(values[name]) ** 0.3
    return Shot(**values, backdrop=backdrop)
