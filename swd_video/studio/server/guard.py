"""Who may speak to the server: pages that came from it, and nobody else's.

A page of any other site may make a browser send requests to this machine, and may even let a name of its own point
here (DNS rebinding). Such requests carry the other site's name, as `Host` or `Origin`, and are refused.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# What a folder holds may be anybody's: a page among it runs by itself, with no way to the server.
FILE_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; media-src data: blob:; frame-ancestors 'none'"
)
"""For files of the folder."""

_HEADERS = {
    "Content-Security-Policy": _PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Guard:
    """Refuses requests that other sites caused, and gives every answer the headers that keep a page to itself."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        problem = self._problem(scope)
        app = self._app if problem is None else JSONResponse({"error": problem}, 403)
        await app(scope, receive, send_with_headers)

    def _problem(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not is_own_name(_name_of(f"//{hosts[0]}"), self._host):
            named = ", ".join(hosts)
            return (
                f"the host {named!r} is not this server's. Open the address that `swd-video studio` printed."
            )
        own = (f"http://{hosts[0]}", f"https://{hosts[0]}")
        if any(origin not in own for origin in headers.getlist("origin")):
            return "the request comes from another site's page."
        # Browsers tell in this header who made them ask; a link to the page itself may stand anywhere.
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and scope["path"] != "/":
            return "the request comes from another site's page."
        return None


def is_own_name(name: str | None, host: str) -> bool:
    """Whether a server that listens on `host` goes by this name.

    An address that is written as a number cannot be another site's name. One of this machine alone is the server's
    own; any other only where the server listens to other machines.
    """
    if name is None:
        return False
    if name in ("localhost", host.lower()):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return not is_loopback(host) and name == socket.gethostname().lower()
    return address.is_loopback or not is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
