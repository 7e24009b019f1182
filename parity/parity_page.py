"""results/parity/: the table of comparisons, the table and the figure of dialects, and the page that explains them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from dialects import LIBRARY, NAMES, dialect_rows, draw
from fed import KINDS, SEEDS

from algorithms import ALGORITHMS
from harness.record.files import write
from harness.record.markdown import markdown_table
from harness.record.text import escape_markdown

TOLERANCE = 1e-5
READ = "read, not run"


def settings_text(settings: Mapping[str, Any]) -> str:
    """As they are written in a suite."""
    return ", ".join(f"{name}={value!r}" for name, value in settings.items()) or "defaults"


def verdict(row: Mapping[str, Any]) -> str:
    """'agrees', or 'differs', by what was measured; raises where a row claims the one and shows the other."""
    off = max(row["coefficients"], row["loss"] or 0.0)
    agrees = off <= TOLERANCE
    where = f"{row['algorithm']} against {row['function']} ({row['peer_settings']}, {', '.join(row['kinds'])})"
    if agrees and row["differs"]:
        raise ValueError(f"{where} agrees to {off:.1e}, and its row says that it differs: {row['differs']}")
    if not agrees and not row["differs"]:
        raise ValueError(f"{where} differs by {off:.1e}; say in `differs` which convention it is, with both formulas")
    if row["explained"] is not None and row["explained"] > TOLERANCE:
        raise ValueError(f"{where}: with its difference restated it still differs by {row['explained']:.1e}")
    return "agrees" if agrees else "differs"


def table(found: Mapping[str, Any], read: Mapping[str, Any]) -> pd.DataFrame:
    """One row a comparison, ordered as the library is."""
    rows = [
        {
            "algorithm": row["algorithm"],
            "peer": row["peer"],
            "version": row["version"],
            "function": row["function"],
            "our_settings": settings_text(row["our_settings"]),
            "peer_settings": row["peer_settings"],
            "batches": ", ".join(row["kinds"]),
            "factor": row["factor"],
            "loss": row["loss"],
            "coefficients": row["coefficients"],
            "verdict": verdict(row),
            "differs": row["differs"],
            "explained": row["explained"],
            "note": row["note"],
        }
        for peer in found.values()
        for row in peer["rows"]
    ]
    rows += [
        {
            "algorithm": row["algorithm"],
            "peer": row["peer"],
            "version": row["version"],
            "function": f"{row['repository']}: {row['file']}, {row['function']}",
            "our_settings": settings_text(row.get("settings", {})),
            "peer_settings": row["peer_settings"],
            "verdict": READ,
            "differs": row.get("differs", ""),
            "note": row.get("note", ""),
        }
        for row in read["read"]
    ]
    order = list(ALGORITHMS)
    rows.sort(key=lambda row: (order.index(row["algorithm"]), row["verdict"] == READ, row["peer"]))
    return pd.DataFrame(rows)


def number(x: Any) -> str:
    """To two digits; empty where there is none."""
    return "" if x is None or pd.isna(x) else "0" if x == 0 else f"{x:.1e}"


def comparison_table(rows: pd.DataFrame) -> str:
    """The rows that were run."""
    headings = ("algorithm", "peer", "ours", "theirs", "batches", "loss", "coefficients", "which convention differs")
    found: list[Any] = list(rows.itertuples())
    lines = [
        (
            f"`{row.algorithm}`",
            f"{NAMES.get(row.peer, row.peer)} {row.version}",
            escape_markdown(row.our_settings),
            f"`{row.function}`<br>{escape_markdown(row.peer_settings)}",
            row.batches,
            number(row.loss),
            number(row.coefficients),
            "<br>".join(
                filter(
                    None,
                    (
                        escape_markdown(row.differs),
                        f"*restated so: {number(row.explained)}*" if number(row.explained) else "",
                        escape_markdown(row.note),
                    ),
                )
            ),
        )
        for row in found
    ]
    return markdown_table(headings, lines, left=5)


def read_table(rows: pd.DataFrame) -> str:
    """The rows that were read."""
    headings = ("algorithm", "peer", "where", "theirs", "ours", "which convention differs")
    found: list[Any] = list(rows.itertuples())
    lines = [
        (
            f"`{row.algorithm}`",
            f"{row.peer}, {row.version}",
            f"`{row.function}`",
            escape_markdown(row.peer_settings),
            escape_markdown(row.our_settings),
            escape_markdown(". ".join(filter(None, (row.differs, row.note)))),
        )
        for row in found
    ]
    return markdown_table(headings, lines, left=6)


PAGE = """# Parity with the field

Made by `make parity` on {date}, with {versions}. [table.csv](table.csv) holds every row, [dialects.csv](dialects.csv)
every coefficient of the figure.

Each row feeds the same random batches to a loss of this library and to a peer's own functions, unmodified, and compares
the loss and the gradient coefficients C = −∂L/∂log π of every token (and of every value of a critic). *loss* and
*coefficients* are the largest differences over {seeds} seeds of each kind of batch, relative to the peer's largest
coefficient (the loss to its own size where that is larger); in float64, but where a peer computes in float32 itself.

**{agree} of {run} agree** to {tolerance:.0e}. The other {differ} are the finding: each names the convention that
differs and gives both formulas, and none is left out. *Restated so*: our loss computed again with that convention alone
changed to theirs; the number is what remains. Nothing in a row says that the one or the other is right.

The batches: {kinds}.

*theirs* names each function that ran. A trainer's method ran on a light stand-in for `self`, with the trainer's config
for defaults; log-probs, rewards and generations were given to it, and in TRL's modules what gathers over processes, or
asks a model for its checkpoints and adapters, gives back what it is given. AReaL's losses ran on our
advantages. Modules
that a peer imports and these functions do not need were empty ones: {stubbed}.

## Dialects: one name, many losses

What each peer computes by default under a name, on one batch, beside what this library computes by default. A cosine of
1 is the same direction: then only the scale differs.

{dialects}

![Coefficients of each dialect](dialects.png)

*The batch: {dialect_batch}. A bar a token, up where the token is made likelier; every line is scaled to its own
largest coefficient, which stands at its right; rewards stand above. Hatched: peers that were read and not run,
computed by
this library with the settings that reproduce their formula.*

## Run

{table}

## Read, not run

Formulas read in public code, as settings of ours or as documented differences.

{read}

## No peer

{reasons}
"""


def publish(found: Mapping[str, Any], read: Mapping[str, Any], out: Path) -> None:
    """Writes all of results/parity/."""
    rows = table(found, read)
    ran = rows[rows.verdict != READ]
    dialects = dialect_rows(found, read["read"])
    out.mkdir(parents=True, exist_ok=True)
    write(out / "table.csv", rows.to_csv(index=False))
    write(out / "dialects.csv", dialects.to_csv(index=False))
    draw(dialects, out)
    versions = ran.drop_duplicates("peer")[["peer", "version"]].itertuples(index=False)
    missing = read["reason"]
    page = PAGE.format(
        date=datetime.date.today().isoformat(),
        versions=", ".join(f"{NAMES.get(peer, peer)} {version}" for peer, version in versions),
        seeds=len(SEEDS),
        tolerance=TOLERANCE,
        agree=int((ran.verdict == "agrees").sum()),
        differ=int((ran.verdict == "differs").sum()),
        run=len(ran),
        kinds="; ".join(f"*{kind}*: {text}" for kind, text in KINDS.items()),
        stubbed="; ".join(
            f"{NAMES.get(peer, peer)}: {', '.join(f'`{name}`' for name in one['stubbed'])}"
            for peer, one in found.items()
            if one["stubbed"]
        ),
        dialects=dialect_table(dialects),
        dialect_batch=KINDS["dialect"] + "; DPO's and IPO's on pairs",
        table=comparison_table(ran),
        read=read_table(rows[rows.verdict == READ]),
        reasons="\n".join(f"- `{name}`: {text}" for name, text in missing.items()),
    )
    write(out / "README.md", page)


def dialect_table(dialects: pd.DataFrame) -> str:
    """For each name, how far each peer's coefficients are from ours: direction and size."""
    lines: list[Sequence[str]] = []
    for name, group in dialects.groupby("name", sort=False):
        ours = group[group.peer == LIBRARY].coefficient.to_numpy()
        for peer, one in group.groupby("peer", sort=False):
            C = one.coefficient.to_numpy()
            cosine = float(ours @ C / ((ours @ ours) ** 0.5 * (C @ C) ** 0.5))
            lines.append(
                (
                    str(name),
                    NAMES.get(str(peer), str(peer)),
                    escape_markdown(one.settings.iloc[0]),
                    f"{abs(C).max():.3g}",
                    f"{cosine:.3f}",
                    str(int((C != 0).sum())),
                )
            )
    headings = ("name", "peer", "its defaults", "largest coefficient", "cosine with ours", "tokens with a gradient")
    return markdown_table(headings, lines, left=3)
