"""What stands between the network and the page: who may ask, and for what.

A plain ASGI application around another one. It lets through only the addresses that the page needs, so that whatever
else the web framework offers (reading files, uploads, proxies, its programming interface) is not there at all.
"""

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_READ = re.compile(
    r"/"
    r"|/config/?"
    r"|/theme\.css|/gradio_api/theme\.css"
    r"|/(assets|static|svelte)/[\w./-]+"
    r"|/favicon\.ico"
    r"|/gradio_api/(heartbeat/\w+|queue/(data|status)|startup-events|info)"
    r"|/gallery/[\w./-]{1,200}"  # numbers of thousands of digits are none to Python
)
_WRITE = re.compile(r"/gradio_api/(queue/join|component_server/?|cancel|reset/?)")
_MOST_BYTES = 16 * 1024 * 1024

# Inline scripts and evaluation are how gradio starts; everything else must come from this server.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """Refuses what comes from elsewhere, without the password, or for anything that the page does not need."""

    def __init__(self, application: Application, *, host: str, password: str | None) -> None:
        self._application = application
        self._only_local = is_loopback(host)
        self._password = password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self.refusal(scope)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        await self._application(scope, _limited(receive), _with_headers(send))

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and sentence with which a request is turned away; None where it may pass."""
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = headers.get("host", "")
        if self._only_local and not is_loopback(_without_port(host)):
            return 403, "this gallery answers to this machine alone"  # a name that was made to point here
        if self._password is not None and not _knows(headers.get("authorization", ""), self._password):
            return 401, "this gallery asks for its password"
        if scope["method"] not in ("GET", "HEAD") and not _same_origin(headers, host):
            return 403, "another page may not act in this one's name"
        path = str(scope["path"])
        allowed = (
            _READ if scope["method"] in ("GET", "HEAD") else _WRITE if scope["method"] == "POST" else None
        )
        if allowed is None or not allowed.fullmatch(path) or ".." in path.split("/"):
            return 404, "there is nothing here"
        return None


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own and is reached by nobody else."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    return re.sub(r":\d+$", "", host)


def _same_origin(headers: MutableMapping[str, str], host: str) -> bool:
    origin = headers.get("origin")
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    return origin is None or re.sub(r"^https?://", "", origin) == host


def _knows(authorization: str, password: str) -> bool:
    kind, _, encoded = authorization.partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        said = base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(said, password.encode())


async def _refuse(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"), *_HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="stablerep gallery", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})


def _with_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own: Iterable[tuple[bytes, bytes]] = message.get("headers", [])
            names = {name for name, _ in _HEADERS}
            message["headers"] = [
                *((name, value) for name, value in own if name.lower() not in names),
                *_HEADERS,
            ]
        await send(message)

    return with_headers


def _limited(receive: Receive) -> Receive:
    """A body that is too large ends as if the sender had gone away."""
    num_bytes = 0

    async def limited() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        return {"type": "http.disconnect"} if num_bytes > _MOST_BYTES else message

    return limited
