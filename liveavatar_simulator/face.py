"""placeholder"""

from __future__ import annotations

import numpy as np
from livekit import rtc

from liveavatar_lite.messages import AgentState


class Face:
    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._buffer = bytearray(width * height * 3 // 2)

    @classmethod
    def of_height(cls, height: int) -> Face:
        return cls(height * 16 // 9 // 2 * 2, height // 2 * 2)

    async def prepare(self) -> None:
        pass

    async def draw(self, elapsed_s: float, mouth: float, pose: AgentState) -> rtc.VideoFrame:
        y = np.frombuffer(self._buffer, np.uint8)
        y[:] = 128
        y[: self.width * self.height] = int(60 + 100 * mouth + 20 * np.sin(elapsed_s))
        return rtc.VideoFrame(self.width, self.height, rtc.VideoBufferType.I420, self._buffer)
