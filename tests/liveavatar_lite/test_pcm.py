"""Conversion to LITE's PCM: every usual format, no clicks, no lost or added samples."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from liveavatar_lite import SAMPLE_RATE_HZ, BadAudio, PcmConverter

RATES_HZ = (8_000, 16_000, 22_050, 44_100, 48_000)


def speech(rate_hz: int, seconds: float = 1.0) -> NDArray[np.float32]:
    """Low and high tones without symmetry, peak 0.8."""
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    wave = np.sin(2 * np.pi * 211 * t) + 0.6 * np.sin(2 * np.pi * 3_301 * t + 1) * (t % 0.1 < 0.05)
    return (0.5 * wave).astype(np.float32)


def as_int16(wave: NDArray[Any]) -> NDArray[np.int16]:
    samples: NDArray[np.int16] = np.rint(np.clip(wave * 32_768, -32_768, 32_767)).astype("<i2")
    return samples


def samples_of(pcm: bytes) -> NDArray[np.int64]:
    return np.frombuffer(pcm, dtype="<i2").astype(np.int64)


def cut(pcm: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    begin = 0
    while begin < len(pcm):
        end = begin + int(rng.choice([1, 2, 3, 7, 640, 4_001]))
        yield pcm[begin:end]
        begin = end


def converted(converter: PcmConverter, pieces: Iterator[bytes] | list[bytes]) -> bytes:
    return b"".join(converter.convert(piece) for piece in pieces) + converter.finish()


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("seed", range(3))
def test_pieces_of_any_size_convert_as_the_whole(rate_hz: int, seed: int) -> None:
    """A resampler that restarts with each piece clicks between pieces."""
    source = as_int16(speech(rate_hz))
    whole = soxr.resample(source.astype(np.float32) / 32_768, rate_hz, SAMPLE_RATE_HZ)
    pieces = cut(source.tobytes(), np.random.default_rng(seed))
    converted_samples = samples_of(converted(PcmConverter(rate_hz), pieces))
    assert len(converted_samples) == len(whole) == SAMPLE_RATE_HZ
    assert np.abs(converted_samples - whole * 32_768).max() <= 1


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_single_samples_convert_as_the_whole(rate_hz: int) -> None:
    source = speech(rate_hz, 0.2)
    whole = soxr.resample(source, rate_hz, SAMPLE_RATE_HZ)
    converter = PcmConverter(rate_hz)
    pcm = b"".join(converter.convert(source[i : i + 1]) for i in range(len(source)))
    converted_samples = samples_of(pcm + converter.finish())
    assert len(converted_samples) == len(whole)
    assert np.abs(converted_samples - whole * 32_768).max() <= 1


@pytest.mark.parametrize("rate_hz", [11_025, 32_000, 96_000, 192_000])
def test_other_rates_keep_length_and_pitch(rate_hz: int) -> None:
    t = np.arange(rate_hz) / rate_hz
    pcm = converted(PcmConverter(rate_hz), [as_int16(0.5 * np.sin(2 * np.pi * 440 * t)).tobytes()])
    spectrum = np.abs(np.fft.rfft(samples_of(pcm)))
    assert len(pcm) == 2 * SAMPLE_RATE_HZ
    assert spectrum.argmax() == 440


def test_pcm_in_lites_format_is_returned_unchanged() -> None:
    pcm = as_int16(speech(SAMPLE_RATE_HZ)).tobytes()
    converter = PcmConverter()
    assert converter.convert(pcm) is pcm
    assert converter.finish() == b""


def test_the_result_does_not_share_the_callers_buffer() -> None:
    buffer = bytearray(b"\1\2\3\4")
    pcm = PcmConverter().convert(buffer)
    buffer[0] = 9
    assert pcm == b"\1\2\3\4"


def test_every_16_bit_value_survives() -> None:
    every = np.arange(-32_768, 32_768).astype("<i2")
    assert PcmConverter().convert(every) == every.tobytes()
    assert PcmConverter().convert(every.astype(np.float64) / 32_768) == every.tobytes()
    twice = np.stack([every, every], axis=1)
    assert PcmConverter(channels=2).convert(twice) == every.tobytes()


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_a_frame_split_anywhere_is_joined(channels: int) -> None:
    frames = np.random.default_rng(1).integers(-9_999, 9_999, (500, channels)).astype("<i2")
    whole = PcmConverter(channels=channels).convert(frames)
    pieces = cut(frames.tobytes(), np.random.default_rng(2))
    assert len(whole) == 1_000
    assert converted(PcmConverter(channels=channels), pieces) == whole


def test_channels_are_averaged() -> None:
    frames = np.array([[100, 300], [-7, 7], [32_767, 32_767]], dtype=np.int16)
    assert samples_of(PcmConverter(channels=2).convert(frames)).tolist() == [200, 0, 32_767]


@pytest.mark.parametrize("rate_hz", [16_000, 24_000])
def test_each_type_of_input_converts_the_same(rate_hz: int) -> None:
    ints = as_int16(np.stack([speech(rate_hz), 0.3 * speech(rate_hz)], axis=1))
    little = ints.tobytes()
    inputs: list[Any] = [
        little,
        bytearray(little),
        memoryview(little),
        memoryview(little).cast("h"),
        memoryview(little).cast("f"),
        ints,
        ints.astype(">i2"),
        ints.reshape(-1),
        np.asfortranarray(ints),
        (ints / 32_768).astype(np.float32),
        (ints / 32_768).astype(">f4"),
        ints / 32_768,
        (ints / 32_768).astype(">f8"),
    ]
    outputs = set()
    for one in inputs:
        converter = PcmConverter(rate_hz, 2)
        outputs.add(converter.convert(one) + converter.finish())
    assert len(outputs) == 1
    assert len(outputs.pop()) == 2 * SAMPLE_RATE_HZ


def test_a_strided_memoryview_is_converted_by_its_elements() -> None:
    every_other = memoryview(b"\1\0\2\0\3\0\4\0").cast("h")[::2]
    assert PcmConverter().convert(every_other) == b"\1\0\3\0"


def test_floats_beyond_full_scale_are_clipped_not_wrapped() -> None:
    loud = np.array([1.0, 1.5, 1e300, -1.0, -1.5, -1e300])
    assert samples_of(PcmConverter().convert(loud)).tolist() == [32_767] * 3 + [-32_768] * 3


def test_a_loud_square_does_not_wrap_when_resampled() -> None:
    """The resampler overshoots at edges: wrapped in 16 bits, that was a loud crack."""
    square = np.where(np.arange(16_000) % 160 < 80, 32_767, -32_768).astype("<i2")
    converted_samples = samples_of(converted(PcmConverter(16_000), [square.tobytes()]))
    middle = (np.arange(len(converted_samples)) * 2 // 3) % 80  # position in the half wave
    steady = (middle > 20) & (middle < 60)
    high = (np.arange(len(converted_samples)) * 2 // 3) % 160 < 80
    assert (converted_samples[steady & high] > 30_000).all()
    assert (converted_samples[steady & ~high] < -30_000).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_and_the_stream_can_continue(bad: float) -> None:
    source = speech(16_000)
    poisoned = source[:1_000].copy()
    poisoned[[3, 70]] = bad
    converter = PcmConverter(16_000)
    pcm = converter.convert(source[:8_000])
    with pytest.raises(BadAudio, match="2 of 1,000 samples are NaN or infinite"):
        converter.convert(poisoned)
    pcm += converter.convert(source[8_000:]) + converter.finish()
    untroubled = PcmConverter(16_000)
    assert pcm == untroubled.convert(source) + untroubled.finish()


def test_after_finish_another_stream_can_be_converted() -> None:
    converter = PcmConverter(44_100, 2)
    pcm = as_int16(np.stack([speech(44_100)] * 2, axis=1)).tobytes()
    first = converted(converter, [pcm, b"\1\2\3"])  # the last three bytes are an incomplete frame
    assert len(first) == 2 * SAMPLE_RATE_HZ
    assert converted(converter, [pcm]) == first


def test_empty_input_gives_empty_output() -> None:
    for converter in (PcmConverter(), PcmConverter(16_000, 2)):
        assert converter.convert(b"") == b""
        assert converter.convert(np.empty(0)) == b""
        assert converter.finish() == b""


@pytest.mark.parametrize("rate_hz", [0, -1, 7_999, 192_001])
def test_a_rate_outside_the_range_is_refused(rate_hz: int) -> None:
    with pytest.raises(ValueError, match="sample_rate_hz"):
        PcmConverter(rate_hz)


@pytest.mark.parametrize("channels", [0, -1, 9])
def test_a_number_of_channels_outside_the_range_is_refused(channels: int) -> None:
    with pytest.raises(ValueError, match="channels"):
        PcmConverter(channels=channels)


@pytest.mark.parametrize("dtype", ["u2", "i4", "u1", "i8", "f2", "c8", "?", "U1"])
def test_other_arrays_are_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match="int16, float32 or float64"):
        PcmConverter().convert(np.zeros(4, dtype=dtype))


@pytest.mark.parametrize("other", [None, "text", [1, 2], 5])
def test_other_types_are_refused(other: Any) -> None:
    with pytest.raises(TypeError, match="numpy array"):
        PcmConverter().convert(other)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 3), (2, 2, 2), ()])
def test_an_array_that_is_not_whole_frames_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadAudio, match="2 channels"):
        PcmConverter(channels=2).convert(np.zeros(shape, dtype=np.int16))


def test_an_array_within_a_frame_is_refused_and_the_frame_can_be_completed() -> None:
    converter = PcmConverter(channels=2)
    assert converter.convert(b"\1\0\1") == b""
    with pytest.raises(BadAudio, match="3 bytes of a frame"):
        converter.convert(np.zeros(2, dtype=np.int16))
    assert converter.convert(b"\0") == b"\1\0"


def test_importing_the_package_does_not_import_numpy() -> None:
    """numpy and soxr take longer to import than everything else that a REST call needs."""
    code = "import sys, liveavatar_lite; print({'numpy', 'soxr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
