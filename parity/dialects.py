"""What each peer computes by default under a name that several share, as coefficients on one batch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fed import Fed, coefficients, fed, our_loss
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.record.files import write

OURS = {
    "GRPO": "grpo",
    "Dr.GRPO": "dr_grpo",
    "DAPO": "dapo",
    "GSPO": "gspo",
    "CISPO": "cispo",
    "SAPO": "sapo",
    "GMPO": "gmpo",
    "VESPO": "vespo",
    "DPPO-TV": "dppo",
    "RLOO": "rloo",
    "REINFORCE++": "reinforce_pp",
    "REINFORCE++ baseline": "reinforce_pp_baseline",
    "PPO": "ppo",
    "GPG": "gpg",
    "MaxRL": "maxrl",
    "OPMD": "opmd",
    "TOPR": "topr",
    "Kimi k1.5": "kimi",
    "DPO": "offline_dpo",
    "IPO": "ipo",
}
"""Names in the order of the figure, with the algorithm of ours that bears each."""
PAIRS = ("DPO", "IPO")
NAMES = {
    "trl": "TRL",
    "openrlhf": "OpenRLHF",
    "skyrl": "SkyRL",
    "areal": "AReaL",
    "trinity-rft": "Trinity-RFT",
}
"""How peers write themselves, where their distribution is named otherwise."""
LIBRARY = "gvpo-bench"


def by_token(C_BT: Any, case: Fed) -> list[list[float]]:
    """The coefficients of each response."""
    return [c[m].tolist() for c, m in zip(C_BT, case.bool_BT, strict=True)]


def ours(algorithm: str, settings: Mapping[str, Any], name: str) -> list[list[float]]:
    """The coefficients of a loss of ours on the batch of that name."""
    case = fed("pairs" if name in PAIRS else "dialect", 0)
    C = coefficients(our_loss(algorithm, settings, case), case.logp_BT)
    return by_token(C.view_as(case.logp_BT), case)


def dialect_rows(found: Mapping[str, Any], read: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a token: name, peer, settings, how it was had, response, token, coefficient."""
    theirs: dict[str, list[tuple[str, str, str, list[list[float]]]]] = {name: [] for name in OURS}
    for peer, one in found.items():
        for row in one["rows"]:
            if row["dialect"] and row["dialect"]["name"] in theirs:
                entry = (peer, row["peer_settings"], "run", row["dialect"]["coefficients"])
                theirs[row["dialect"]["name"]].append(entry)
    for row in read:
        if "dialect" in row:
            C = ours(row["algorithm"], row.get("settings", {}), row["dialect"])
            theirs[row["dialect"]].append((row["peer"], row["peer_settings"], "read", C))
    rows = []
    for name, algorithm in OURS.items():
        if not theirs[name]:
            continue
        for peer, settings, how, C in [(LIBRARY, "defaults", "run", ours(algorithm, {}, name)), *theirs[name]]:
            rows += [
                {
                    "name": name,
                    "peer": peer,
                    "settings": settings,
                    "how": how,
                    "response": i,
                    "token": t,
                    "coefficient": c,
                }
                for i, response in enumerate(C)
                for t, c in enumerate(response)
            ]
    return pd.DataFrame(rows)


def draw(dialects: pd.DataFrame, out: Path) -> None:
    """dialects.svg and dialects.png: a panel a name, a line a peer, a bar a token."""
    names = list(dict.fromkeys(dialects.name))
    lines = {name: list(dict.fromkeys(dialects[dialects.name == name].peer)) for name in names}
    columns = 2
    heights = [max(len(lines[name]) for name in names[i : i + columns]) + 1.2 for i in range(0, len(names), columns)]
    figure = Figure(figsize=(12, 0.34 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(heights), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        panel(axes, name, lines[name], dialects[dialects.name == name])
    figure.supxlabel(
        "One batch of responses, a column each (shaded in turn), with its reward above. A bar is a token's coefficient "
        "C = −∂L/∂log π,\nin units of the row's largest, which stands on the right. Hatched: read in public code, not "
        "run.",
        fontsize=9,
    )
    for suffix in ("svg", "png"):
        buffer = io.BytesIO()
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(buffer, format=suffix, dpi=130, metadata=metadata)
        write(out / f"dialects.{suffix}", buffer.getvalue())


def panel(axes: Any, name: str, peers: Sequence[str], tokens: pd.DataFrame) -> None:
    """One name: bars of every peer under each other, responses apart, their rewards above."""
    case = fed("pairs" if name in PAIRS else "dialect", 0)
    lengths = case.bool_BT.sum(-1).tolist()
    starts = np.concatenate([[0], np.cumsum(np.array(lengths) + 1)])
    for response, start in enumerate(starts[:-1]):
        if response % 2 == 0:
            axes.axvspan(start - 0.75, start + lengths[response] - 0.25, color="0.93", lw=0)
        middle = start + (lengths[response] - 1) / 2
        axes.text(middle, -0.75, f"{float(case.rewards_B[response]):g}", ha="center", va="center", fontsize=7)
    for line, peer in enumerate(peers):
        one = tokens[tokens.peer == peer]
        x = starts[one.response.to_numpy()] + one.token.to_numpy()
        largest = one.coefficient.abs().max()
        read = bool((one.how == "read").all())
        axes.hlines(line, -1, starts[-1] - 1, color="0.6", lw=0.5, zorder=1)
        axes.bar(
            x,
            -0.44 * one.coefficient / largest,
            width=0.8,
            bottom=line,
            color="white" if read else "0.15",
            edgecolor="0.15",
            hatch="//////" if read else None,
            lw=0.4,
            zorder=2,
        )
        axes.text(starts[-1] + 0.2, line, f"{largest:.3g}", va="center", fontsize=7)
    axes.set_yticks(range(len(peers)), [NAMES.get(peer, peer) for peer in peers], fontsize=8)
    axes.set_ylim(len(peers) - 0.4, -1.1)
    axes.set_xlim(-1.2, starts[-1] + 3)
    axes.set_xticks([])
    axes.set_title(name, fontsize=9, loc="left", fontweight="bold")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
