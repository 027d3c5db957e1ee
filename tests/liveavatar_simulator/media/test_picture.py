"""The drawn avatar: its frames are I420 of the wanted size, and show pose and loudness."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from liveavatar_lite.messages import AgentState
from liveavatar_simulator.media.picture import AvatarPicture

HEIGHT = 180


def frame_of(
    picture: AvatarPicture, pose: AgentState, loudness: float = 0.0, elapsed_s: float = 1.0
) -> npt.NDArray[np.uint8]:
    """The frame after the picture has had time to take the pose."""
    frames = [picture.draw(elapsed_s + step / 10, loudness, pose) for step in range(20)]
    return np.frombuffer(bytes(frames[-1].buffer), np.uint8)


def test_a_frame_is_i420_of_the_wanted_height() -> None:
    picture = AvatarPicture(HEIGHT)

    frame = picture.draw(0.0, 0.0, AgentState.IDLE)

    assert (frame.width, frame.height) == (320, HEIGHT)
    assert len(frame.buffer) == 320 * HEIGHT * 3 // 2


@pytest.mark.parametrize("height", [90, 181, 359])
def test_every_size_has_even_dimensions_at_16_to_9(height: int) -> None:
    picture = AvatarPicture(height)

    assert (picture.width % 4, picture.height % 4) == (0, 0)
    assert picture.width / picture.height == pytest.approx(16 / 9, rel=0.03)


def test_each_pose_looks_different() -> None:
    frames = [frame_of(AvatarPicture(HEIGHT), pose) for pose in AgentState]

    for index, frame in enumerate(frames):
        for other in frames[index + 1 :]:
            assert np.count_nonzero(frame != other) > 0.05 * len(frame)


def test_speech_opens_the_mouth() -> None:
    closed = frame_of(AvatarPicture(HEIGHT), AgentState.TALKING, loudness=0.0)
    open_ = frame_of(AvatarPicture(HEIGHT), AgentState.TALKING, loudness=1.0)

    def mouth(frame: npt.NDArray[np.uint8]) -> float:
        luma = frame[: 320 * HEIGHT].reshape(HEIGHT, 320)
        return float(luma[102:114, 153:167].mean())

    assert mouth(closed) - mouth(open_) > 15, "an open mouth is darker than skin"


def test_the_avatar_moves_while_idle() -> None:
    picture = AvatarPicture(HEIGHT)
    frames = {bytes(picture.draw(1.0 + step / 25, 0.0, AgentState.IDLE).y) for step in range(75)}

    assert len(frames) >= 10, "it breathes, sways and blinks"
