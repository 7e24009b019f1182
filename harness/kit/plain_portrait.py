"""A portrait in the characters of a terminal."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.kit.portraits import REACH, SAMPLES, curves, shares

WIDTH, HEIGHT = 65, 17
LIMIT = 2.0
SIGNS = {"right": "●", "wrong": "○", "tied": "·"}
MEANING = {
    "right": "a right response",
    "wrong": "a wrong one",
    "tied": "one of a group that is all wrong",
}


def plain(rows: pd.DataFrame) -> str:
    """The coefficient over the log-ratio as a chart, and over the share that is right as a table; 80 columns wide."""
    kinds = curves(rows)
    canvas = np.full((HEIGHT, WIDTH), " ")
    canvas[:, WIDTH // 2] = "│"
    canvas[HEIGHT // 2] = "─"
    canvas[HEIGHT // 2, WIDTH // 2] = "┼"
    for kind in reversed(kinds):
        part = kinds[kind]
        x = np.linspace(-REACH, REACH, WIDTH)
        y = np.interp(x, part["log_ratio"], part["coefficient"])
        row = np.rint((1 - y / LIMIT) / 2 * (HEIGHT - 1)).astype(int)
        for column, now in enumerate(row):
            before = row[column - 1] if column else now
            step = np.sign(now - before)
            for at in range(before + step, now, step) if step else ():  # a steep line has no holes
                if 0 <= at < HEIGHT:
                    canvas[at, column] = SIGNS[kind]
            if 0 <= now < HEIGHT:
                canvas[now, column] = SIGNS[kind]
    labels = {0: f"{LIMIT:g}", HEIGHT // 4: f"{LIMIT / 2:g}", HEIGHT // 2: "0"}
    labels |= {HEIGHT - 1 - at: f"−{text}" for at, text in labels.items() if text != "0"}
    lines = [f"{labels.get(i, ''):>6} {''.join(line)}".rstrip() for i, line in enumerate(canvas)]
    scale = f"{f'−{REACH:g}':<{WIDTH // 2}}0{f'{REACH:g}':>{WIDTH // 2}}"
    lines += [f"{'':>6} {scale}", f"{'':>6} {'log-ratio ℓ of the response, nats':^{WIDTH}}".rstrip()]
    lines += ["", "   ".join(f"{SIGNS[kind]} {MEANING[kind]}" for kind in kinds)]
    if found := shares(rows):
        lines += ["", "On-policy, by how many of the group are right:"]
        lines += ["       " + "".join(f"{f'{n}/{SAMPLES}':>7}" for n in range(SAMPLES + 1))]
        for kind, part in found.items():
            value = dict(zip(part["right"], part["coefficient"], strict=True))
            cells = (f"{value[n]:>7.2f}".replace("-", "−") if n in value else f"{'':>7}" for n in range(SAMPLES + 1))
            lines.append(f"{kind:<7}{''.join(cells)}".rstrip())
    return "\n".join(lines)
