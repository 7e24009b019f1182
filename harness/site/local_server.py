"""Serves files from memory to the browser of this machine and to nobody else.

It listens on 127.0.0.1 alone. A page of another site that has its own name lead here (DNS rebinding) names itself in
the Host header, and one that loads a script from here in Sec-Fetch-Site: both are refused. A path is a file's name.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from harness.site.vendored import SiteError

ADDRESS = "127.0.0.1"
KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
    "zip": "application/zip",
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # which index.html cannot say of itself; it says the rest
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Find = Callable[[str, str], bytes | None]
"""The file at a path, "" being the root, and of a version, "" where none is asked for; None where there is none."""


@contextlib.contextmanager
def serving(find: Find, port: int = 0) -> Iterator[str]:
    """Serves for as long as the block lasts, at the address that it gives; port 0 takes one that is free.

    Raises SiteError where the port cannot be had.
    """
    try:
        server = ThreadingHTTPServer((ADDRESS, port), _handler(find))
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "is in use" if taken else f"cannot be had ({error})"
        raise SiteError(f"port {port} {why}: give another --port, or none to take a free one") from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{ADDRESS}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def _handler(find: Find) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version, sys_version = "gvpo-bench", ""

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            if (refusal := self._refusal()) is not None:
                self.send_error(refusal)
                return
            address = urlsplit(self.path)
            path = unquote(address.path).removeprefix("/")
            content = find(path, parse_qs(address.query).get("v", [""])[0])
            if content is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", KINDS[path.rpartition(".")[2] if path else "html"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                with contextlib.suppress(ConnectionError):  # the reader has gone on
                    self.wfile.write(content)

        def _refusal(self) -> HTTPStatus | None:
            port = self.server.server_address[1]  # type: ignore[index]
            if self.headers.get("Host") not in {f"{name}:{port}" for name in (ADDRESS, "localhost")}:
                return HTTPStatus.MISDIRECTED_REQUEST
            is_visit = self.headers.get("Sec-Fetch-Mode") == "navigate"  # of somebody who follows a link
            if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not is_visit:
                return HTTPStatus.FORBIDDEN
            return None

        def end_headers(self) -> None:
            for name, value in HEADERS.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the terminal is the user's."""

    return Handler
