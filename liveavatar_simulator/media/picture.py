"""The avatar's picture: a drawn face that breathes, blinks, listens and talks.

Everything static is drawn once per size and cached; a frame is then a few copies (1 to 3 ms at 720p
on one core). Knows the loudness of the speech, not its content.
"""

from __future__ import annotations

import asyncio
import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from liveavatar_lite.messages import AgentState

from .canvas import Canvas, Colour, Frame, Planes, text_width

ASPECT: Final = 16 / 9
CENTRE_Y: Final = 0.455
"""The vertical centre of the head, in units of the frame's height."""
MOUTHS: Final = 9
BLINKS: Final = 4
TILTS: Final = 4
MAX_TILT_RAD: Final = math.radians(5.5)
"""The attentive pose: the head leans."""
TILT_STEP_S: Final = 0.04
BLINK_EVERY_S: Final = 3.7
BLINK_S: Final = 0.2
BACKGROUND_MARGIN: Final = 0.06
"""How much larger than the frame the background is, so that it can drift."""
BADGE_HEIGHT: Final = 0.066
BADGE_LEVELS: Final = 6
MOUTH_FALL_PER_FRAME: Final = 0.35
"""The mouth opens within one frame, and closes by this share per frame."""

SKIN: Final[Colour] = (244, 200, 170)
SKIN_SHADE: Final[Colour] = (222, 164, 134)
NECK_SHADOW: Final[Colour] = (190, 128, 104)
HAIR: Final[Colour] = (62, 44, 62)
HAIR_LIGHT: Final[Colour] = (96, 66, 88)
SWEATER: Final[Colour] = (232, 112, 92)
SWEATER_SHADE: Final[Colour] = (204, 88, 74)
SHIRT: Final[Colour] = (250, 244, 236)
IRIS: Final[Colour] = (52, 128, 132)
INK: Final[Colour] = (44, 30, 44)
WHITE: Final[Colour] = (255, 255, 255)
ROSE: Final[Colour] = (196, 84, 86)
CHEEK: Final[Colour] = (240, 130, 116)
NIGHT: Final[Colour] = (20, 27, 48)

_HEAD_BOX: Final = (-0.29, -0.36, 0.29, 0.3)
_BODY_BOX: Final = (-0.56, 0.16, 0.56, 0.6)
_EYES_BOX: Final = (-0.13, -0.115, 0.13, 0.06)
_MOUTH_BOX: Final = (-0.085, 0.075, 0.085, 0.215)
_PIVOT: Final = (0.0, 0.27)
_EYE_X: Final = 0.076


@dataclass(frozen=True, slots=True)
class PoseLook:
    """How a pose changes the picture."""

    label: str
    colour: Colour
    tint_u: int
    tint_v: int
    tilt: int
    """The tilt of the head to reach, in steps."""


LOOKS: Final = {
    AgentState.IDLE: PoseLook("IDLE", (150, 168, 200), 0, 0, 0),
    AgentState.LISTENING: PoseLook("LISTENING", (94, 214, 164), -7, -8, TILTS - 1),
    AgentState.TALKING: PoseLook("TALKING", (255, 176, 92), -4, 7, 0),
}


# --- drawn once per size -------------------------------------------------------------------------


def _background(height_px: int) -> Planes:
    margin = BACKGROUND_MARGIN
    box = (-margin, -margin, ASPECT + margin, 1 + margin)
    canvas = Canvas(box, height_px)
    top, bottom = np.array((52, 74, 128), np.float32), np.array(NIGHT, np.float32)
    share = np.clip(canvas.y, 0, 1)[..., None]
    canvas.colours[:] = top * (1 - share) + bottom * share
    canvas.coverage[:] = 1
    middle = ASPECT / 2
    canvas.paint(canvas.ellipse(middle, 0.42, 0.42, 0.42), (112, 142, 196), opacity=0.5, blur=0.7)
    lights: tuple[tuple[float, float, float, Colour], ...] = (
        (0.18, 0.24, 0.11, (120, 170, 220)),
        (0.40, 0.74, 0.07, (150, 130, 220)),
        (1.52, 0.20, 0.09, (230, 150, 160)),
        (1.62, 0.66, 0.14, (110, 150, 220)),
        (1.30, 0.86, 0.05, (240, 190, 140)),
        (0.10, 0.90, 0.10, (100, 190, 190)),
        (1.22, 0.10, 0.04, (150, 200, 230)),
    )
    for x, y, radius, colour in lights:
        light = canvas.ellipse(x, y, radius, radius)
        canvas.paint(light, colour, opacity=0.16, blur=radius * 0.35)
    return Planes.of(canvas)


def _body(height_px: int) -> Planes:
    canvas = Canvas(_BODY_BOX, height_px)
    shoulders = canvas.ellipse(0, 0.66, 0.46, 0.33, 2.5)
    canvas.paint(shoulders, SWEATER)
    shade = np.maximum(shoulders, -canvas.ellipse(-0.03, 0.68, 0.43, 0.32, 2.5))
    canvas.paint(shade, SWEATER_SHADE, opacity=0.8, blur=0.02)
    canvas.paint(canvas.ellipse(0, 0.335, 0.128, 0.072), SWEATER_SHADE)
    canvas.paint(canvas.ellipse(0, 0.328, 0.118, 0.062), SHIRT)
    neck = canvas.box(0, 0.27, 0.072, 0.1, 0.07)
    canvas.paint(neck, SKIN_SHADE)
    canvas.paint(canvas.ellipse(0, 0.335, 0.08, 0.046), SKIN_SHADE)
    shadow = np.maximum(canvas.ellipse(0, 0.258, 0.1, 0.046), neck + 0.004)
    canvas.paint(shadow, NECK_SHADOW, opacity=0.75, blur=0.008)
    return Planes.of(canvas)


def _head(height_px: int, tilt_rad: float) -> Canvas:
    canvas = Canvas(_HEAD_BOX, height_px, tilt_rad=tilt_rad, pivot=_PIVOT)
    canvas.paint(canvas.ellipse(0, -0.052, 0.232, 0.258, 2.3), HAIR)
    canvas.paint(canvas.ellipse(0, 0.09, 0.222, 0.16, 2.8), HAIR)
    for side in (-1, 1):
        canvas.paint(canvas.ellipse(side * 0.186, 0.02, 0.03, 0.046), SKIN_SHADE)
        canvas.paint(canvas.ellipse(side * 0.188, 0.02, 0.018, 0.03), SKIN)
    face = canvas.ellipse(0, 0.005, 0.186, 0.238, 2.5)
    canvas.paint(face, SKIN)
    shade = np.maximum(face, -canvas.ellipse(-0.012, -0.012, 0.184, 0.236, 2.5))
    canvas.paint(shade, SKIN_SHADE, opacity=0.55, blur=0.02)
    for side in (-1, 1):
        cheek = canvas.ellipse(side * 0.112, 0.082, 0.036, 0.026)
        canvas.paint(cheek, CHEEK, opacity=0.42, blur=0.035)
    fringe = np.maximum(
        canvas.ellipse(0, -0.07, 0.214, 0.2, 2.3), -canvas.ellipse(0.075, 0.085, 0.225, 0.2, 2.2)
    )
    canvas.paint(fringe, HAIR)
    shine = np.maximum(
        canvas.ellipse(-0.02, -0.13, 0.17, 0.14), -canvas.ellipse(-0.01, -0.105, 0.18, 0.14)
    )
    canvas.paint(shine, HAIR_LIGHT, opacity=0.75, blur=0.014)
    nose = tuple((0.02 * math.sin(a), 0.05 + 0.02 * math.cos(a)) for a in np.linspace(-0.7, 0.9, 7))
    canvas.paint(canvas.stroke(nose, 0.0085), SKIN_SHADE)
    return canvas


def _draw_eyes(canvas: Canvas, openness: float, raised: float) -> None:
    for side in (-1, 1):
        x = side * _EYE_X
        lift = 0.014 * raised
        points = tuple(
            (x + 0.036 * each, -0.085 - lift + 0.009 * each**2 + 0.003 * side * each)
            for each in np.linspace(-1, 1, 7)
        )
        canvas.paint(canvas.stroke(points, 0.0125), HAIR)
        if openness < 0.15:
            lid = ((x - 0.034, 0.004), (x - 0.012, 0.013), (x + 0.012, 0.013), (x + 0.034, 0.004))
            canvas.paint(canvas.stroke(lid, 0.009), INK)
            continue
        half_height = 0.0425 * openness
        white = canvas.ellipse(x, 0.0, 0.037, half_height)
        canvas.paint(canvas.ellipse(x, -0.0045, 0.0405, half_height + 0.0035), INK)
        canvas.paint(white, WHITE)
        canvas.paint(np.maximum(white, canvas.ellipse(x, 0.002, 0.0275, 0.0275)), IRIS)
        canvas.paint(np.maximum(white, canvas.ellipse(x, 0.002, 0.0155, 0.0155)), INK)
        canvas.paint(np.maximum(white, canvas.ellipse(x + 0.009, -0.011, 0.0085, 0.0085)), WHITE)
        glint = np.maximum(white, canvas.ellipse(x - 0.009, 0.013, 0.004, 0.004))
        canvas.paint(glint, WHITE, opacity=0.8)


def _draw_mouth(canvas: Canvas, openness: float) -> None:
    y = 0.128
    if openness < 0.05:
        smile = tuple(
            (x, y + 0.015 * (1 - (x / 0.052) ** 2)) for x in np.linspace(-0.052, 0.052, 9)
        )
        canvas.paint(canvas.stroke(smile, 0.0095), ROSE)
        return
    # An open smile: a bowl under a slightly curved lip.
    half_width = 0.05 + 0.006 * math.sin(openness * math.pi)
    depth = 0.016 + 0.056 * openness
    curve = 0.007 * (1 - np.square(canvas.x / half_width))
    bowl = canvas.ellipse(0, y, half_width, depth, 2.2)
    inside = np.maximum(bowl, y + curve - canvas.y)
    canvas.paint(inside - 0.007, ROSE)
    canvas.paint(inside, (96, 26, 42))
    tongue = canvas.ellipse(0, y + depth * 1.02, half_width * 0.62, depth * 0.46)
    canvas.paint(np.maximum(inside, tongue), (226, 104, 108))
    teeth = canvas.y - (y + curve + 0.004 + depth * 0.16)
    canvas.paint(np.maximum(inside + 0.0015, teeth), WHITE)


@dataclass(frozen=True, slots=True)
class Head:
    """The head at one tilt, and the variants of its eyes and mouth, as opaque patches."""

    whole: Planes
    eyes: tuple[Planes, ...]
    mouths: tuple[Planes, ...]


def _patch(head: Canvas, box: tuple[float, float, float, float]) -> tuple[Canvas, int, int]:
    """A copy of a part of the head, and its position in the head in pixels."""
    left, top = (round((box[each] - _HEAD_BOX[each]) * head.height_px / 2) * 2 for each in range(2))
    width = round((box[2] - box[0]) * head.height_px / 2) * 2
    height = round((box[3] - box[1]) * head.height_px / 2) * 2
    return head.cut_out(left, top, width, height), left, top


def _tilted_box(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """A box large enough for the given one at every tilt."""
    reach_x = math.sin(MAX_TILT_RAD) * (_PIVOT[1] - box[1])
    return box[0], box[1] - 0.01, box[2] + reach_x, box[3] + 0.02


class Sprites:
    """Everything that is drawn once for one size."""

    def __init__(self, height_px: int) -> None:
        self.background = _background(height_px)
        self.body = _body(height_px)
        self.eyes_at = (0, 0)
        self.mouth_at = (0, 0)
        self.heads = tuple(self._head_at(height_px, step / (TILTS - 1)) for step in range(TILTS))
        self.badges = {
            (pose, level): _badge(height_px, look, level, pose is AgentState.TALKING)
            for pose, look in LOOKS.items()
            for level in range(BADGE_LEVELS)
        }
        self.watermark = _watermark(height_px)

    def _head_at(self, height_px: int, share: float) -> Head:
        head = _head(height_px, MAX_TILT_RAD * share)
        eyes, mouths = [], []
        for step in range(BLINKS):
            piece, *self_at = _patch(head, _tilted_box(_EYES_BOX))
            self.eyes_at = (self_at[0], self_at[1])
            _draw_eyes(piece, 1 - step / (BLINKS - 1), share)
            eyes.append(Planes.of(piece))
        for step in range(MOUTHS):
            piece, *self_at = _patch(head, _tilted_box(_MOUTH_BOX))
            self.mouth_at = (self_at[0], self_at[1])
            _draw_mouth(piece, step / (MOUTHS - 1))
            mouths.append(Planes.of(piece))
        return Head(Planes.of(head), tuple(eyes), tuple(mouths))


def _badge(height_px: int, look: PoseLook, level: int, talking: bool) -> Planes:
    """The badge that names the pose, with bars that follow the audio, or a pulsing lamp."""
    size = 0.021
    words = text_width(look.label, size)
    height = BADGE_HEIGHT
    width = words + height * 1.55
    canvas = Canvas((0, 0, width, height), height_px)
    middle = height / 2
    canvas.paint(canvas.box(width / 2, middle, width / 2, middle, middle), NIGHT, opacity=0.66)
    share = level / (BADGE_LEVELS - 1)
    lamp_x = height * 0.56
    if talking:
        for index, weight in enumerate((0.55, 1.0, 0.7)):
            bar = canvas.box(
                lamp_x + (index - 1) * 0.0095, middle, 0.003, 0.005 + 0.014 * share * weight, 0.003
            )
            canvas.paint(bar, look.colour)
    else:
        radius = 0.008
        canvas.paint(canvas.ellipse(lamp_x, middle, radius, radius), look.colour)
        halo = radius + 0.012 * share
        ring = np.abs(canvas.ellipse(lamp_x, middle, halo, halo)) - 0.0012
        canvas.paint(ring, look.colour, opacity=0.7 * (1 - share))
    letters = canvas.text(look.label, height * 1.0, middle - size / 2, size, 0.0036)
    canvas.paint(letters, (236, 240, 248))
    return Planes.of(canvas)


def _watermark(height_px: int) -> Planes:
    """The watermark SIMULATOR."""
    size = 0.016
    canvas = Canvas((0, 0, text_width("SIMULATOR", size) + 0.02, size + 0.02), height_px)
    letters = canvas.text("SIMULATOR", 0.01, 0.01, size, 0.0028)
    canvas.paint(letters, WHITE, opacity=0.4)
    return Planes.of(canvas)


@functools.lru_cache(maxsize=4)
def sprites(height_px: int) -> Sprites:
    """The sprites of one size; drawing them takes about a second at 720p."""
    return Sprites(height_px)


# --- drawn for every frame -------------------------------------------------------------------


class AvatarPicture:
    """One avatar's picture. Frames share a buffer: use one before drawing the next."""

    def __init__(self, height: int) -> None:
        self.height = height // 4 * 4
        self.width = round(self.height * ASPECT / 4) * 4
        self._frame = Frame(self.width, self.height)
        self._mouth = 0.0
        self._tilt = 0
        self._tilted_at_s = 0.0
        self._tint_u = self._tint_v = 0

    async def prepare(self) -> None:
        """Draw the sprites of this size in a thread, so that the event loop is not blocked."""
        await asyncio.to_thread(sprites, self.height)

    def draw(self, elapsed_s: float, loudness: float, pose: AgentState) -> Frame:
        """Draw the frame of this moment.

        Args:
            elapsed_s: seconds since the avatar was created.
            loudness: of the audio that plays with this frame, 0 to 1.
            pose: the avatar's pose.
        """
        drawn = sprites(self.height)
        look = LOOKS[pose]
        self._move(elapsed_s, loudness, look)
        frame, h = self._frame, self.height
        margin = BACKGROUND_MARGIN * h
        frame.fill(
            drawn.background,
            int(margin + margin * 0.95 * math.sin(elapsed_s * 0.31)),
            int(margin + margin * 0.95 * math.cos(elapsed_s * 0.23)),
        )
        frame.tint(self._tint_u, self._tint_v)
        breath = math.sin(elapsed_s * 1.5)
        middle_x, middle_y = self.width / 2, CENTRE_Y * h
        frame.put(
            drawn.body,
            round(middle_x + _BODY_BOX[0] * h),
            round(middle_y + (_BODY_BOX[1] + 0.004 * breath) * h),
        )
        sway_x = 0.007 * math.sin(elapsed_s * 0.9) + 0.004 * math.sin(elapsed_s * 2.1)
        sway_y = 0.004 * breath - 0.006 * self._mouth
        left = round(middle_x + (_HEAD_BOX[0] + sway_x) * h)
        top = round(middle_y + (_HEAD_BOX[1] + sway_y) * h)
        head = drawn.heads[self._tilt]
        frame.put(head.whole, left, top)
        eyes = head.eyes[_blink(elapsed_s)]
        frame.put(eyes, left + drawn.eyes_at[0], top + drawn.eyes_at[1])
        mouth = head.mouths[round(self._mouth * (MOUTHS - 1))]
        frame.put(mouth, left + drawn.mouth_at[0], top + drawn.mouth_at[1])
        self._put_badges(drawn, elapsed_s, pose)
        return frame

    def _put_badges(self, drawn: Sprites, elapsed_s: float, pose: AgentState) -> None:
        gap = round(0.035 * self.height)
        share = self._mouth if pose is AgentState.TALKING else (elapsed_s * 0.6) % 1
        badge = drawn.badges[pose, round(share * (BADGE_LEVELS - 1))]
        self._frame.put(badge, gap, self.height - gap - badge.height)
        mark = drawn.watermark
        self._frame.put(
            mark,
            self.width - gap - mark.width,
            self.height - gap - (badge.height + mark.height) // 2,
        )

    def _move(self, elapsed_s: float, loudness: float, look: PoseLook) -> None:
        fallen = self._mouth * (1 - MOUTH_FALL_PER_FRAME)
        self._mouth = loudness if loudness > fallen else max(fallen, loudness)
        if self._mouth < 0.5 / MOUTHS and loudness == 0:
            self._mouth = 0.0
        if elapsed_s - self._tilted_at_s >= TILT_STEP_S and self._tilt != look.tilt:
            self._tilt += 1 if look.tilt > self._tilt else -1
            self._tilted_at_s = elapsed_s
        self._tint_u += _towards(self._tint_u, look.tint_u)
        self._tint_v += _towards(self._tint_v, look.tint_v)


def _towards(now: int, aim: int) -> int:
    return (aim > now) - (aim < now)


def _blink(elapsed_s: float) -> int:
    """Index of the eyes' variant: 0 is open."""
    since_s = elapsed_s % BLINK_EVERY_S
    if since_s >= BLINK_S:
        return 0
    return round(math.sin(since_s / BLINK_S * math.pi) * (BLINKS - 1))
