"""How a process ends with the one that started it. Below everything, so that graders and cells alike may use it."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2)."""


def end_with_parent() -> bool:
    """Has the kernel kill this process as soon as the one that started it has ended, whatever this one does then: in a
    loop of C, or deaf to every other signal.

    It is the thread that started this process whose end counts. Returns whether the kernel can: Linux alone does.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0)
