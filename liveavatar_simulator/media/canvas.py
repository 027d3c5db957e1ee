"""Draws anti-aliased shapes with numpy, and composes them into I420 video frames.

Lengths are in units of the frame's height, so that a drawing scales to every size. Shapes and
letters only; what they depict is `picture`'s part.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
"""float32 in practice: half the memory traffic."""
Bytes: TypeAlias = npt.NDArray[np.uint8]
Colour: TypeAlias = tuple[float, float, float]
"""Red, green, blue: 0 to 255."""
Points: TypeAlias = tuple[tuple[float, float], ...]

# Strokes of the letters on a grid 3.6 wide and 6 high.
_LETTERS: Final[dict[str, tuple[Points, ...]]] = {
    "A": (((0, 6), (1.8, 0), (3.6, 6)), ((0.6, 4), (3, 4))),
    "D": (((0, 0), (0, 6), (1.8, 6), (3.4, 4.6), (3.4, 1.4), (1.8, 0), (0, 0)),),
    "E": (((3.2, 0), (0, 0), (0, 6), (3.2, 6)), ((0, 3), (2.6, 3))),
    "G": (
        (
            *((3.4, 1), (2.5, 0), (1, 0), (0, 1.2), (0, 4.8), (1, 6), (2.5, 6), (3.4, 5)),
            *((3.4, 3.4), (2, 3.4)),
        ),
    ),
    "I": (((0, 0), (0, 6)),),
    "K": (((0, 0), (0, 6)), ((3.3, 0), (0, 3.4)), ((1, 2.5), (3.4, 6))),
    "L": (((0, 0), (0, 6), (3, 6)),),
    "M": (((0, 6), (0, 0), (2, 3.6), (4, 0), (4, 6)),),
    "N": (((0, 6), (0, 0), (3.4, 6), (3.4, 0)),),
    "O": (
        (
            *((1.2, 0), (2.4, 0), (3.6, 1.3), (3.6, 4.7), (2.4, 6), (1.2, 6), (0, 4.7)),
            *((0, 1.3), (1.2, 0)),
        ),
    ),
    "R": (
        ((0, 6), (0, 0), (2.4, 0), (3.3, 0.9), (3.3, 2.4), (2.4, 3.3), (0, 3.3)),
        ((1.6, 3.3), (3.4, 6)),
    ),
    "S": (
        (
            *((3.3, 0.8), (2.5, 0), (1, 0), (0.2, 0.9), (0.4, 2.2), (3, 3.7), (3.4, 5)),
            *((2.6, 6), (1, 6), (0.1, 5.2)),
        ),
    ),
    "T": (((0, 0), (3.6, 0)), ((1.8, 0), (1.8, 6))),
    "U": (((0, 0), (0, 4.6), (1, 6), (2.4, 6), (3.4, 4.6), (3.4, 0)),),
}
_LETTER_HEIGHT: Final = 6.0
_LETTER_GAP: Final = 1.9


class Canvas:
    """A part of the frame to draw on: colours with their coverage.

    Args:
        box: left, top, right, bottom, in units of the frame's height.
        height_px: the frame's height.
        tilt_rad: shapes are rotated by this, clockwise, around ``pivot``.
    """

    def __init__(
        self,
        box: tuple[float, float, float, float],
        height_px: int,
        *,
        tilt_rad: float = 0.0,
        pivot: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        left, top, right, bottom = box
        self.height_px = height_px
        # Even numbers of pixels: chroma has half the resolution.
        self.width_px = max(round((right - left) * height_px / 2), 1) * 2
        self.rows_px = max(round((bottom - top) * height_px / 2), 1) * 2
        x = ((np.arange(self.width_px, dtype=np.float32) + 0.5) / height_px + left)[None, :]
        y = ((np.arange(self.rows_px, dtype=np.float32) + 0.5) / height_px + top)[:, None]
        x, y = x - pivot[0], y - pivot[1]
        cos, sin = np.float32(np.cos(tilt_rad)), np.float32(np.sin(tilt_rad))
        self.x: Floats = cos * x + sin * y + np.float32(pivot[0])
        self.y: Floats = cos * y - sin * x + np.float32(pivot[1])
        self.colours: Floats = np.zeros((self.rows_px, self.width_px, 3), np.float32)
        """Premultiplied by coverage."""
        self.coverage: Floats = np.zeros((self.rows_px, self.width_px), np.float32)

    def paint(
        self, distance: Floats, colour: Colour, *, opacity: float = 1.0, blur: float = 0.0
    ) -> None:
        """Fill where ``distance`` is negative, with an edge of a pixel, or of ``blur`` units."""
        edge = max(blur, 1.0 / self.height_px)
        mask = np.clip(0.5 - distance / np.float32(edge), 0, 1)
        rows = np.flatnonzero(mask.any(axis=1))
        columns = np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        mask = mask[part] * np.float32(opacity)
        self.colours[part] += (np.array(colour, np.float32) - self.colours[part]) * mask[..., None]
        self.coverage[part] += (1 - self.coverage[part]) * mask

    def cut_out(self, left_px: int, top_px: int, width_px: int, rows_px: int) -> Canvas:
        """A copy of a part of the canvas, to draw on separately."""
        piece = object.__new__(Canvas)
        part = np.s_[top_px : top_px + rows_px, left_px : left_px + width_px]
        piece.height_px, piece.width_px, piece.rows_px = self.height_px, width_px, rows_px
        piece.x, piece.y = self.x[part], self.y[part]
        piece.colours, piece.coverage = self.colours[part].copy(), self.coverage[part].copy()
        return piece

    # --- shapes: signed distances, accurate near the edge - --------------------------------------

    def ellipse(
        self, x: float, y: float, half_width: float, half_height: float, power: float = 2.0
    ) -> Floats:
        """An ellipse; a ``power`` above 2 makes it more rectangular."""
        across = np.abs((self.x - np.float32(x)) / np.float32(half_width))
        down = np.abs((self.y - np.float32(y)) / np.float32(half_height))
        if power == 2.0:
            radius = np.sqrt(across * across + down * down)
        else:
            radius = (across**power + down**power) ** np.float32(1 / power)
        distance: Floats = (radius - 1) * np.float32(min(half_width, half_height))
        return distance

    def box(self, x: float, y: float, half_width: float, half_height: float, r: float) -> Floats:
        """A rectangle with rounded corners of radius ``r``."""
        across = np.abs(self.x - np.float32(x)) - np.float32(half_width - r)
        down = np.abs(self.y - np.float32(y)) - np.float32(half_height - r)
        outside = np.hypot(np.maximum(across, 0), np.maximum(down, 0))
        distance: Floats = outside + np.minimum(np.maximum(across, down), 0) - np.float32(r)
        return distance

    def stroke(self, points: Points, thickness: float) -> Floats:
        """A polyline with round ends."""
        nearest = np.full(self.coverage.shape, np.inf, np.float32)
        for (x0, y0), (x1, y1) in pairwise(points):
            along_x, along_y = np.float32(x1 - x0), np.float32(y1 - y0)
            from_x, from_y = self.x - np.float32(x0), self.y - np.float32(y0)
            length_2 = max(float(along_x**2 + along_y**2), 1e-9)
            share = np.clip((from_x * along_x + from_y * along_y) / np.float32(length_2), 0, 1)
            distance = np.hypot(from_x - share * along_x, from_y - share * along_y)
            nearest = np.minimum(nearest, distance)
        return nearest - np.float32(thickness / 2)

    def text(self, words: str, x: float, y: float, height: float, thickness: float) -> Floats:
        """Capital letters, with their upper left corner at (x, y)."""
        scale = height / _LETTER_HEIGHT
        nearest = np.full(self.coverage.shape, np.inf, np.float32)
        for letter in words:
            strokes = _LETTERS[letter]
            for stroke in strokes:
                points = tuple((x + px * scale, y + py * scale) for px, py in stroke)
                nearest = np.minimum(nearest, self.stroke(points, thickness))
            x += (_letter_width(letter) + _LETTER_GAP) * scale
        return nearest


def text_width(words: str, height: float) -> float:
    """The width of `Canvas.text`."""
    widths = sum(_letter_width(letter) + _LETTER_GAP for letter in words)
    return (widths - _LETTER_GAP) * height / _LETTER_HEIGHT


def _letter_width(letter: str) -> float:
    return max(px for stroke in _LETTERS[letter] for px, _ in stroke)


@dataclass(frozen=True, slots=True)
class Planes:
    """A canvas as Y, U and V, premultiplied, and its transparency, 0 to 256.

    The transparency is None for an opaque canvas.
    """

    y: Bytes
    u: Bytes
    v: Bytes
    transparency: npt.NDArray[np.uint16] | None
    transparency_half: npt.NDArray[np.uint16] | None

    @classmethod
    def of(cls, canvas: Canvas) -> Planes:
        """Convert by BT.601, video range, as WebRTC does."""
        red, green, blue = (canvas.colours[..., each] / 255 for each in range(3))
        coverage = canvas.coverage
        y = 16 * coverage + 65.481 * red + 128.553 * green + 24.966 * blue
        u = 128 * coverage - 37.797 * red - 74.203 * green + 112.0 * blue
        v = 128 * coverage + 112.0 * red - 93.786 * green - 18.214 * blue
        noise = np.random.default_rng(7).random(y.shape, np.float32) - np.float32(0.5)
        grain = noise * (coverage > 0)  # dithering, against bands in the background
        opaque = bool(coverage.min() > 0.999)
        return cls(
            _to_bytes(y + grain),
            _to_bytes(_half(u)),
            _to_bytes(_half(v)),
            None if opaque else _transparency(coverage),
            None if opaque else _transparency(_half(coverage)),
        )

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.y.shape[0])


class Frame:
    """One I420 frame, reused for every picture."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.buffer = bytearray(width * height * 3 // 2)
        flat = np.frombuffer(self.buffer, np.uint8)
        size = width * height
        self.y: Bytes = flat[:size].reshape(height, width)
        self.u: Bytes = flat[size : size + size // 4].reshape(height // 2, width // 2)
        self.v: Bytes = flat[size + size // 4 :].reshape(height // 2, width // 2)

    def fill(self, background: Planes, left: int, top: int) -> None:
        """Cover the frame with a part of a larger background, from (left, top) on."""
        self.y[:] = background.y[top : top + self.height, left : left + self.width]
        left, top = left // 2, top // 2
        part = np.s_[top : top + self.height // 2, left : left + self.width // 2]
        self.u[:], self.v[:] = background.u[part], background.v[part]

    def tint(self, u: int, v: int) -> None:
        """Shift all colours. The background's chroma leaves room at both ends."""
        for plane, shift in ((self.u, u), (self.v, v)):
            if shift:
                plane += np.uint8(shift % 256)

    def put(self, planes: Planes, left: int, top: int) -> None:
        """Blend planes over the frame, clipped to it."""
        _blend(self.y, planes.y, planes.transparency, left, top)
        _blend(self.u, planes.u, planes.transparency_half, left // 2, top // 2)
        _blend(self.v, planes.v, planes.transparency_half, left // 2, top // 2)


def _blend(
    target: Bytes, layer: Bytes, transparency: npt.NDArray[np.uint16] | None, left: int, top: int
) -> None:
    bottom = min(top + layer.shape[0], target.shape[0])
    right = min(left + layer.shape[1], target.shape[1])
    first_row, first_column = max(-top, 0), max(-left, 0)
    top, left = max(top, 0), max(left, 0)
    if bottom <= top or right <= left:
        return
    region = target[top:bottom, left:right]
    part = np.s_[first_row : first_row + bottom - top, first_column : first_column + right - left]
    if transparency is None:
        region[:] = layer[part]
        return
    shown = np.multiply(region, transparency[part], dtype="<u2")
    # The upper bytes are the product divided by 256, without another pass over the frame.
    np.add(shown.view(np.uint8)[:, 1::2], layer[part], out=region)


def _half(plane: Floats) -> Floats:
    rows, columns = plane.shape
    halves: Floats = plane.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3))
    return halves


def _transparency(coverage: Floats) -> npt.NDArray[np.uint16]:
    return np.round(256 * (1 - coverage)).astype(np.uint16)


def _to_bytes(plane: Floats) -> Bytes:
    return np.clip(np.round(plane), 0, 255).astype(np.uint8)
