"""The page's files: index.html with its import map, scripts and styles, and livekit-client.

Serves files only; what the page asks about a session is `app`'s part.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.responses import FileResponse, Response

from viewer.security import page_policy

STATIC_FOLDER: Final = Path(__file__).with_name("static")
CDN_URL: Final = "https://cdn.jsdelivr.net"

# A name without a slash or a leading dot cannot leave the folder.
_FILE_NAME: Final = re.compile(r"[a-z][a-z0-9-]*(\.[a-z]+)")
_MEDIA_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class LiveKitClient:
    """Where the page loads livekit-client from: npm's folder if installed, else a CDN."""

    url: str
    integrity: str
    file: Path | None

    @classmethod
    def find(cls, static_folder: Path) -> LiveKitClient:
        """The version that package.json pins."""
        package = json.loads((static_folder / "package.json").read_text(encoding="utf-8"))
        version: str = package["dependencies"]["livekit-client"]
        integrity: str = package["livekitClientIntegrity"]
        file = static_folder / "node_modules" / "livekit-client" / "dist" / "livekit-client.esm.mjs"
        if file.is_file():
            return cls(f"/vendor/livekit-client-{version}.mjs", integrity, file)
        path = f"npm/livekit-client@{version}/dist/livekit-client.esm.mjs"
        return cls(f"{CDN_URL}/{path}", integrity, None)

    @property
    def import_map(self) -> str:
        """An import map with the file's hash, which browsers since 2024 check."""
        return json.dumps(
            {
                "imports": {"livekit-client": self.url},
                "integrity": {self.url: self.integrity},
            }
        )


class PageFiles:
    """Serves the files of one folder.

    Args:
        static_folder: where the files are.
        livekit_url: the only LiveKit server that the page may reach; see `page_policy`.
    """

    def __init__(self, static_folder: Path, livekit_url: str | None) -> None:
        self._static_folder = static_folder
        self._livekit_client = LiveKitClient.find(static_folder)
        self._policy = page_policy(
            inline_script=self._livekit_client.import_map,
            cdn_url=CDN_URL if self._livekit_client.file is None else None,
            livekit_url=livekit_url,
        )

    def index(self) -> Response:
        """The page, with its import map and its Content-Security-Policy."""
        html = (self._static_folder / "index.html").read_text(encoding="utf-8")
        head = f'<script type="importmap">{self._livekit_client.import_map}</script>'
        return Response(
            html.replace("<!-- import map -->", head),
            media_type="text/html",
            headers={"content-security-policy": self._policy},
        )

    def static(self, name: str) -> Response:
        """A script, style sheet or image; 404 for everything else in the folder."""
        match = _FILE_NAME.fullmatch(name)
        media_type = _MEDIA_TYPES.get(match[1]) if match else None
        file = self._static_folder / name
        if media_type is None or not file.is_file():
            return Response(status_code=404)
        return FileResponse(file, media_type=media_type)

    def vendor(self, path: str) -> Response:
        """livekit-client from npm's folder, under the path that the import map names."""
        client = self._livekit_client
        if client.file is None or path != client.url:
            return Response(status_code=404)
        return FileResponse(
            client.file,
            media_type=_MEDIA_TYPES[".js"],
            headers={"cache-control": "max-age=31536000, immutable"},
        )
