"""`gvpo-bench`, and `python -m harness`."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point: Ctrl-C while the commands are still imported is an interruption like any later one."""
    try:
        from harness.cli import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None  # ExitCode.INTERRUPTED, whose module may not have been imported yet


if __name__ == "__main__":
    main()
