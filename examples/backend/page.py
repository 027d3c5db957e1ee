"""Serves the page. In production a web server or a bundler does this."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from examples.backend.caller import set_cookie

STATIC: Final = Path(__file__).with_name("static")
VIEWER_STATIC: Final = Path(__file__).resolve().parents[2] / "viewer" / "static"
LIVEKIT_CLIENT: Final = "node_modules/livekit-client/dist/livekit-client.esm.mjs"
CDN_URL: Final = "https://cdn.jsdelivr.net/npm"

FILES: Final = {
    "page.js": STATIC / "page.js",
    "style.css": STATIC / "style.css",
    "avatar-room.js": VIEWER_STATIC / "avatar-room.js",  # joins the room and plays the avatar
    "avatars.js": VIEWER_STATIC / "avatars.js",  # imported by avatar-room.js
    "state.js": VIEWER_STATIC / "state.js",
    "livekit-client.js": VIEWER_STATIC / LIVEKIT_CLIENT,  # after `make web`; otherwise from a CDN
}
"""The files below /static/; no others are served."""
MEDIA_TYPES: Final = {".js": "text/javascript", ".css": "text/css"}

routes = APIRouter(include_in_schema=False)


@routes.get("/")
async def index(request: Request) -> Response:
    """The page with its import map, and a cookie for a browser that has none."""
    imports = _import_map()
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    response = HTMLResponse(
        html.replace("<!-- import map -->", f'<script type="importmap">{imports}</script>'),
        headers={
            "cache-control": "no-store",
            "content-security-policy": _policy(imports),
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        },
    )
    set_cookie(request, response)
    return response


@routes.get("/static/{name}")
async def static(name: str) -> Response:
    """One of `FILES`."""
    file = FILES.get(name)
    if file is None or not file.is_file():
        raise HTTPException(404, "There is no such file")
    headers = {"cache-control": "no-cache", "x-content-type-options": "nosniff"}
    return FileResponse(file, media_type=MEDIA_TYPES[Path(name).suffix], headers=headers)


def _import_map() -> str:
    """Where livekit-client comes from, and its hash, so that a changed file is not run."""
    package = json.loads((VIEWER_STATIC / "package.json").read_text(encoding="utf-8"))
    version: str = package["dependencies"]["livekit-client"]
    url = "/static/livekit-client.js"
    if not FILES["livekit-client.js"].is_file():
        url = f"{CDN_URL}/livekit-client@{version}/dist/livekit-client.esm.mjs"
    integrity = {url: package["livekitClientIntegrity"]}
    return json.dumps({"imports": {"livekit-client": url}, "integrity": integrity})


def _policy(imports: str) -> str:
    """Content-Security-Policy: the page's own files, livekit-client, and any LiveKit server."""
    digest = base64.b64encode(hashlib.sha256(imports.encode()).digest()).decode()
    loopback = "ws://127.0.0.1:* http://127.0.0.1:* ws://localhost:* http://localhost:*"
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' 'sha256-{digest}' {CDN_URL}/",
            "style-src 'self'",
            "img-src 'self' data:",
            "media-src 'self' blob: mediastream:",
            f"connect-src 'self' wss: https: {loopback}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
