"""Watching a sweep in progress: the page, live, on this machine alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from harness.site.live_pages import LivePages
from harness.site.local_server import serving
from harness.site.vendored import SiteError, require_libraries

POLL_SECONDS = 1.0


def watch(runs: Path, *, port: int, say: Callable[[str], None]) -> None:
    """Serves the page of a folder of runs until Ctrl-C.

    Raises SiteError where there is no such folder, a library is not installed, or the port cannot be had.
    """
    require_libraries()
    if not runs.is_dir():
        raise SiteError(
            f"{runs} is not a folder; give the one of a sweep that has begun, such as my-results/runs/<suite>"
        )
    try:
        pages = LivePages(runs)
        pages.refresh()
        with serving(pages.find, port) as address:
            say(f"watching {runs} at {address} (Ctrl-C ends it)")
            while True:
                time.sleep(POLL_SECONDS)
                pages.refresh()
    except KeyboardInterrupt:
        say("ended; the runs go on")
