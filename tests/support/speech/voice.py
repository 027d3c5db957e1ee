"""Stand-ins for espeak-ng, which is not on every machine, and cannot be made to fail."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent
from typing import Final

HUMS: Final = """
    assert "--stdin" in sys.argv and "--stdout" in sys.argv
    text = sys.stdin.buffer.read().decode()
    (folder / "arguments").write_text(repr(sys.argv[1:]))
    (folder / "text").write_text(text)
    frames = b"".join(
        int(9000 * math.sin(n * 0.05) * (n // 3000 % 2)).to_bytes(2, "little", signed=True)
        for n in range(22050 * len(text) // 15)
    )
    # As espeak-ng does: the length is not known when the header is written.
    sys.stdout.buffer.write(b"RIFF\\x24\\xf0\\xff\\x7fWAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, 1, 22050, 44100, 2, 16) + b"data\\x00\\xf0\\xff\\x7f" + frames)
"""
FAILS: Final = "sys.exit(3)"
HANGS: Final = "import time; time.sleep(60)"
BABBLES: Final = "sys.stdout.write('no sound at all')"
NEVER_ENDS: Final = """
    while True:
        sys.stdout.buffer.write(bytes(100_000))
"""


def voice_in(folder: Path, does: str = HUMS) -> Path:
    """A program with espeak-ng's interface and this behaviour."""
    program = folder / "espeak-ng"
    opening = f"#!{sys.executable}\nimport math, pathlib, struct, sys\n"
    where = "folder = pathlib.Path(__file__).parent\n"
    program.write_text(opening + where + dedent(does))
    program.chmod(0o755)
    return program
