"""Decodes a spool block by block, in memory that does not grow with the clip's length.

WAV, FLAC, Ogg and MP3 in; LITE's PCM or a typed error out. Every call blocks, so a decoder runs in
a thread of its own. Decoding begins while bytes still arrive, where the format allows it: an Ogg
states its length at its end, so the decoder waits for all of it.
"""

from __future__ import annotations

import contextlib
import enum
import os
from typing import Any, Final

import numpy as np
import soundfile

from avatar_sessions.contract.messages import MAX_CLIP_S
from liveavatar_lite import FIRST_CHUNK_S, BadAudio, PcmConverter
from owner.clips.errors import ClipNotAudio, ClipTooLong
from owner.clips.spool import Spool

MAX_CLIP_BYTES: Final = 160 * 1024 * 1024
"""Ten minutes of 48 kHz stereo 16-bit are 115 MB."""
BLOCK_S: Final = 1.0
MAX_BLOCK_SAMPLES: Final = 262_144
"""One block, all channels: a megabyte as float32. Shortens the blocks of rare formats only."""
HEAD_BYTES: Final = 4_096
"""The beginning of a file by which its format is recognised: more than enough."""
ID3_HEADER_BYTES: Final = 10
ID3V1_BYTES: Final = 128
_UNKNOWN_FRAMES: Final = 2**40
"""libsndfile's count of frames is at least this where a FLAC header leaves it open."""
_DECODER_ERRORS: Final = (soundfile.SoundFileError, RuntimeError, ValueError, TypeError)


class AudioFormat(enum.Enum):
    """The formats that are read; libsndfile's rarer decoders never get a stranger's bytes."""

    WAV = "WAV"
    FLAC = "FLAC"
    OGG = "Ogg"
    MP3 = "MP3"
    MP3_UNCOUNTED = "MP3 whose first frame does not count the frames"


class Decoder:
    """Turns a spool into PCM: 16-bit little-endian mono at 24 kHz.

    Opening waits for as much of the file as its header needs.

    Attributes:
        duration_s: seconds according to the header; None where it does not say.

    Raises:
        ClipNotAudio: the bytes are not audio that can be decoded, or of no usual rate.
        ClipTooLong: the header states more than ten minutes.
        ClipError: the rest of the bytes never arrives.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        begin = _after_id3(spool)
        format_ = _format_of(spool, begin)
        if format_ is AudioFormat.OGG or (
            format_ is AudioFormat.MP3 and spool.promised_bytes is None
        ):
            spool.wait_for(None)
        promised = _all_bytes(spool)
        length_unknown = format_ is AudioFormat.MP3_UNCOUNTED or promised is None
        # An uncounted MP3 would be cut where its first frame's bit rate puts the end.
        end = begin + MAX_CLIP_BYTES if promised is None or length_unknown else promised
        self._file = _File(spool, format_, begin, max(begin, end))
        self._sound = self._open()
        try:
            self._read_header(length_unknown)
        except BaseException:
            self._sound.close()
            raise

    def _read_header(self, length_unknown: bool) -> None:
        rate_hz, channels = self._sound.samplerate, self._sound.channels
        frames = (
            None if length_unknown or self._sound.frames >= _UNKNOWN_FRAMES else self._sound.frames
        )
        self.duration_s = None if frames is None else frames / rate_hz
        if self.duration_s is not None and self.duration_s > MAX_CLIP_S:
            raise ClipTooLong(_too_long(self.duration_s))
        try:
            self._converter = PcmConverter(rate_hz, channels)
        except ValueError as error:
            raise ClipNotAudio(
                f"{channels} channels at {rate_hz} Hz cannot be converted: {error}"
            ) from error
        self._counted = frames is not None
        self._frames = 0
        self._over = False
        # The first block is short, so that speech begins early on a slow line.
        self._next_s = FIRST_CHUNK_S
        self._block = np.empty(
            (min(int(rate_hz * BLOCK_S), MAX_BLOCK_SAMPLES // channels), channels), np.float32
        )

    def read(self) -> bytes:
        """Return the next second or so of PCM, the first time less; ``b""`` at the end.

        Raises:
            ClipNotAudio: the audio is damaged here, or there is none.
            ClipTooLong: it lasts more than ten minutes, whatever the header states.
            ClipError: the rest of the bytes never arrives.
        """
        while not self._over:
            block = self._next_block()
            if not len(block):
                if self._spool.failure is not None:
                    raise self._spool.failure
                if not self._frames:
                    raise ClipNotAudio("the audio is empty")
                self._over = True
                return self._converter.finish()
            frames = self._frames + len(block)
            if frames > MAX_CLIP_S * self._sound.samplerate:  # the header may be wrong
                raise ClipTooLong(_too_long(frames / self._sound.samplerate))
            try:
                pcm = self._converter.convert(block)
            except BadAudio as error:
                raise ClipNotAudio(f"{self._position()}: {error}") from error
            self._frames = frames
            if pcm:
                return pcm
        return b""

    def close(self) -> None:
        """Release the decoder's memory. Does not close the spool."""
        with contextlib.suppress(soundfile.SoundFileError):  # it was only read
            self._sound.close()

    def _open(self) -> Any:
        """Open the file without waiting inside soundfile, which has one lock for all opens.

        When bytes are missing, wait for twice as many and open the file again.
        """
        while True:
            failure: Exception | None = None
            sound = None
            try:
                sound = soundfile.SoundFile(self._file)
            except _DECODER_ERRORS as error:
                failure = error
            missing = self._file.rewind()
            if missing is None and sound is not None:
                self._file.waits = True
                return sound
            if sound is not None:
                sound.close()
            if missing is None:
                raise self._spool.failure or ClipNotAudio(
                    "this is not audio in a format that can be read"
                ) from failure
            self._spool.wait_for(max(missing, 2 * self._spool.arrived_bytes))

    def _next_block(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        want = min(len(self._block), int(self._next_s * self._sound.samplerate))
        self._next_s = BLOCK_S
        block = self._block[:want]
        block.fill(np.nan)
        try:
            return block[: self._sound.buffer_read_into(block, "float32")]
        except _DECODER_ERRORS as error:
            if self._spool.failure is not None:
                raise self._spool.failure from error
            if not self._counted and self._file.at_end:
                # Only its end is damaged: soundfile does not say how much came before it.
                return block[: np.count_nonzero(~np.isnan(block[:, 0]))]
            raise ClipNotAudio(f"the audio breaks {self._position()}") from error

    def _position(self) -> str:
        return f"after {self._frames / self._sound.samplerate:.1f} s"


class _File:
    """The spool as the file that soundfile reads. Raises nothing, because C code calls it.

    Attributes:
        waits: whether reading waits for bytes that have not arrived; if not, `rewind` says which.
    """

    def __init__(self, spool: Spool, format_: AudioFormat, begin: int, end: int) -> None:
        self.waits = False
        self._spool = spool
        self._is_mp3 = format_ in (AudioFormat.MP3, AudioFormat.MP3_UNCOUNTED)
        self._begin = begin
        self._end = end
        self._at = begin
        self._missing: int | None = None

    def rewind(self) -> int | None:
        """Go back to the beginning; how many bytes a read was missing, None if none did."""
        missing, self._missing = self._missing, None
        if missing is not None:
            self._at = self._begin
        return missing

    @property
    def at_end(self) -> bool:
        """Whether all bytes were read."""
        return self._at >= min(self._end, self._spool.arrived_bytes)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._begin, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = max(self._begin, base + offset)
        return self.tell()

    def tell(self) -> int:
        return self._at - self._begin

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        if self._is_mp3 and size == ID3V1_BYTES and self._at == self._end - size:
            # Perhaps a title (ID3v1), which is not used: reading it would mean to wait for the
            # whole file before the first sound.
            piece = bytes(size)
        else:
            piece = self._piece(size)
        buffer[0 : len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _piece(self, size: int) -> bytes:
        size = max(0, min(size, self._end - self._at))
        if self._spool.lacks(self._at, size):
            if not self.waits:
                self._missing = max(self._missing or 0, self._at + size)
                return b""
            self._spool.wait_for(self._at + size)
        try:
            return self._spool.read_at(self._at, size)
        except OSError:  # a broken disk: as if the file ended here
            return b""


def _all_bytes(spool: Spool) -> int | None:
    """The spool's whole length, if it is known by now."""
    if spool.promised_bytes is not None:
        return spool.promised_bytes
    return None if spool.lacks(0, MAX_CLIP_BYTES + 1) else spool.arrived_bytes


def _after_id3(spool: Spool) -> int:
    """Where the audio begins, after titles and pictures (ID3v2) of perhaps megabytes."""
    begin = 0
    while begin <= MAX_CLIP_BYTES:
        spool.wait_for(begin + ID3_HEADER_BYTES)
        header = spool.read_at(begin, ID3_HEADER_BYTES)
        if len(header) < ID3_HEADER_BYTES or header[:3] != b"ID3":
            return begin
        size = 0
        for byte in header[6:]:  # seven bits each
            size = size << 7 | byte & 0x7F
        begin += ID3_HEADER_BYTES + size
    return begin


def _format_of(spool: Spool, begin: int) -> AudioFormat:
    spool.wait_for(begin + HEAD_BYTES)
    head = spool.read_at(begin, HEAD_BYTES)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return AudioFormat.WAV
    if head[:4] == b"fLaC":
        return AudioFormat.FLAC
    if head[:4] == b"OggS":
        return AudioFormat.OGG
    # Eleven bits of synchronisation, and a layer: without one it is AAC.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
        counted = any(mark in head[:256] for mark in (b"Xing", b"Info", b"VBRI"))
        return AudioFormat.MP3 if counted else AudioFormat.MP3_UNCOUNTED
    if spool.failure is not None:
        raise spool.failure
    raise ClipNotAudio("this is not WAV, FLAC, Ogg or MP3; no other format can be read")


def _too_long(seconds: float) -> str:
    return f"the clip lasts {seconds:.0f} s or more; {MAX_CLIP_S:.0f} s are allowed"
