"""Converts PCM of any usual format to LITE's: signed 16-bit little-endian, mono, 24 kHz.

Converts a stream piece by piece, without clicks between pieces. Decodes no files; chunks and
pacing are in `audio`. numpy and soxr are imported when first needed, because their import takes
longer than this package's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .audio import SAMPLE_BYTES, SAMPLE_RATE_HZ
from .errors import BadAudio

if TYPE_CHECKING:
    import numpy as np
    import soxr
    from numpy.typing import NDArray

PcmInput: TypeAlias = "bytes | bytearray | memoryview | np.ndarray[Any, Any]"
"""Audio that `PcmConverter` accepts."""

MIN_SAMPLE_RATE_HZ: Final = 8_000
MAX_SAMPLE_RATE_HZ: Final = 192_000
MAX_CHANNELS: Final = 8
_FULL_SCALE: Final = 32_768.0
"""1.0 in 16 bits, so that 16-bit samples pass unchanged; 1.0 itself becomes 32,767."""


class PcmConverter:
    """Converts a stream of audio to LITE's PCM: signed 16-bit little-endian, mono, 24 kHz.

    Pass pieces of any size to `convert`, and get the last milliseconds from `finish`. It can be
    used for one stream after another, by one thread at a time.

    Args:
        sample_rate_hz: of the input, 8,000 to 192,000.
        channels: of the input, 1 to 8; they are averaged.

    Raises:
        ValueError: the rate or the number of channels is outside these.
    """

    def __init__(self, sample_rate_hz: int = SAMPLE_RATE_HZ, channels: int = 1) -> None:
        if not MIN_SAMPLE_RATE_HZ <= sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
            raise ValueError(
                f"sample_rate_hz must be {MIN_SAMPLE_RATE_HZ:,} to {MAX_SAMPLE_RATE_HZ:,},"
                f" not {sample_rate_hz}"
            )
        if not 1 <= channels <= MAX_CHANNELS:
            raise ValueError(f"channels must be 1 to {MAX_CHANNELS}, not {channels}")
        self._sample_rate_hz = sample_rate_hz
        self._channels = channels
        self._frame_bytes = channels * SAMPLE_BYTES
        self._needs_no_conversion = sample_rate_hz == SAMPLE_RATE_HZ and channels == 1
        # The beginning of an incomplete frame.
        self._part = b""
        # Created with a stream's first samples; None between streams, and at 24 kHz.
        self._resampler: soxr.ResampleStream | None = None

    def convert(self, pcm: PcmInput) -> bytes:
        """Add a piece, and return the samples that are ready, maybe none.

        When resampling, the last 40 to 100 ms are returned later, or by `finish`.

        Args:
            pcm: bytes, bytearray and memoryview (of any format) are taken as signed 16-bit
                little-endian, channels interleaved; they may end within a sample or frame. An
                array is int16 or floating (float32, float64; full scale 1.0, clipped beyond) in
                either byte order, of shape (frames, channels), or (samples,) interleaved.

        Raises:
            BadAudio: samples are NaN or infinite, or an array is not whole frames. Nothing of the
                piece was taken, and the stream can go on.
            TypeError: it is none of these types.
        """
        if isinstance(pcm, bytes | bytearray | memoryview):
            return self._convert_bytes(pcm)
        return self._convert_array(pcm)

    def finish(self) -> bytes:
        """Return the rest of the stream; the next piece begins another stream.

        An incomplete frame is dropped. To abandon a stream, ignore the result.
        """
        resampler, self._resampler, self._part = self._resampler, None, b""
        if resampler is None:
            return b""
        import numpy as np

        return _to_bytes(resampler.resample_chunk(np.empty(0, np.float32), last=True))

    def _convert_bytes(self, pcm: bytes | bytearray | memoryview) -> bytes:
        whole = pcm if isinstance(pcm, bytes) else bytes(pcm)
        if self._part:
            whole = self._part + whole
        if rest := len(whole) % self._frame_bytes:
            whole, self._part = whole[:-rest], whole[-rest:]
        else:
            self._part = b""
        if self._needs_no_conversion or not whole:
            return whole
        import numpy as np

        samples = np.frombuffer(whole, dtype="<i2").reshape(-1, self._channels)
        return self._convert_frames(_mono(samples) / np.float32(_FULL_SCALE))

    def _convert_array(self, samples: np.ndarray[Any, Any]) -> bytes:
        import numpy as np

        if not isinstance(samples, np.ndarray):
            raise TypeError(
                "audio is bytes, bytearray, memoryview or a numpy array,"
                f" not {type(samples).__name__}"
            )
        if not (samples.dtype.kind == "f" and samples.itemsize in (4, 8)) and not (
            samples.dtype.kind == "i" and samples.itemsize == SAMPLE_BYTES
        ):
            raise TypeError(f"arrays are int16, float32 or float64, not {samples.dtype}")
        frames = self._whole_frames(samples)
        if samples.dtype.kind == "i":
            return self._convert_bytes(frames.astype("<i2", copy=False).tobytes())
        if bad := frames.size - int(np.count_nonzero(np.isfinite(frames))):
            raise BadAudio(f"{bad:,} of {frames.size:,} samples are NaN or infinite")
        clipped = np.clip(frames, -1.0, 1.0).astype(np.float32, copy=False)
        return self._convert_frames(_mono(clipped))

    def _whole_frames(self, samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self._part:
            raise BadAudio(
                f"an array came after {len(self._part)} bytes of a frame that was not completed"
            )
        one_row = samples.ndim == 1 and samples.size % self._channels == 0
        if not one_row and not (samples.ndim == 2 and samples.shape[1] == self._channels):
            raise BadAudio(
                f"an array of shape {samples.shape} is not whole frames"
                f" of {self._channels} channels"
            )
        return samples.reshape(-1, self._channels)

    def _convert_frames(self, mono: NDArray[np.float32]) -> bytes:
        if self._sample_rate_hz == SAMPLE_RATE_HZ or not mono.size:
            return _to_bytes(mono)
        if self._resampler is None:
            import soxr

            self._resampler = soxr.ResampleStream(
                self._sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ"
            )
        return _to_bytes(self._resampler.resample_chunk(mono))


def _mono(frames: np.ndarray[Any, Any]) -> NDArray[np.float32]:
    """Average the channels of frames of shape (n, channels)."""
    import numpy as np

    if frames.shape[1] == 1:
        return frames[:, 0].astype(np.float32)
    mean: NDArray[np.float32] = frames.mean(axis=1, dtype=np.float32)
    return mean


def _to_bytes(mono: NDArray[np.float32]) -> bytes:
    import numpy as np

    scaled = np.rint(mono * np.float32(_FULL_SCALE))
    pcm: NDArray[np.int16] = np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype("<i2")
    return pcm.tobytes()
