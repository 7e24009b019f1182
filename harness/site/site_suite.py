"""From what a report published of a suite to what the page shows of it: data, no file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.colors
import numpy as np
import pandas as pd

from harness.record.kept_samples import KEPT
from harness.record.text import to_csv
from harness.report.columns import SIGNIFICANT, TextTable, plain, tokens, with_interval
from harness.report.comparison import difference
from harness.report.drawing import Style, styles
from harness.report.page import PROVENANCE, Publication, commit, shorten
from harness.report.recorded_cells import RecordedCell
from harness.site.site_curves import AXES, curve_frame, metrics_of, series
from harness.site.site_problems import COUNTED, MOST_TEXT, gather
from harness.site.site_tables import escapes, table_json, texts_of
from harness.site.site_training import gather_training
from harness.statistics.intervals import MIN_SEEDS_TO_TEST, critical_t, smallest_p
from harness.statistics.pairs import Pair, pairwise

SYMBOLS = {
    **{"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"},
    **{"X": "x", "<": "triangle-left", ">": "triangle-right", "p": "pentagon", "h": "hexagon"},
}
TEXTS = slice(4, 6)
"""Of the parts of a pair (`_pair`), what the matrix shows."""
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}


@dataclass(frozen=True)
class SuitePages:
    """All that the page shows of a suite."""

    suite: str
    data: Mapping[str, Any]
    """JSON by the name under which the page asks for it: "overview" first, all else when it is looked at."""
    summary: Mapping[str, Any]
    """The suite's part of the index page."""
    files: Callable[[], Mapping[str, bytes]]
    """What the button for all data gives, by name; made when it is called, since it takes a while."""


@dataclass(frozen=True)
class Compared:
    """The part of a suite's pages that only cells which are over have a part in."""

    publication: Publication
    overview: Mapping[str, Any]
    data: Mapping[str, Any]
    pairs: pd.DataFrame
    """The pairwise differences in full precision."""
    samples: pd.DataFrame
    """A row an evaluated sample."""


def suite_pages(publication: Publication, *, most_text: int = MOST_TEXT) -> SuitePages:
    """The pages of a suite.

    Args:
        publication: what `write_report` or `write_ablation` published.
        most_text: characters of responses after which those of no further seed are held; see `gather`.
    """
    return pages_of(compared(publication, most_text=most_text))


def compared(publication: Publication, *, most_text: int = MOST_TEXT) -> Compared:
    """Tables, pairs, problems and manifests: see `suite_pages`."""
    cells = list(publication.cells)
    finished = [(place, cell) for place, cell in enumerate(cells) if cell.finished]
    labels = [label for label in publication.names if any(cell.algorithm == label for _, cell in finished)]
    tables = [table_json(what, table) for what, table in publication.shown.items()]
    runs = table_json("runs", run_table(publication))
    pairs, pair_rows = pair_data(publication, [label for label in labels if label != "base"])
    problems = gather([cell for _, cell in finished], labels, most=most_text)
    listed = problems.listed
    listed["cells"] = [place for place, _ in finished]
    listed["escaped"] = problem_escapes(listed)
    overview = {
        "tables": tables,
        "runs": runs,
        "notes": publication.notes,
        "provenance": [[name, counted(cells, name)] for name in PROVENANCE],
        "counted": COUNTED,
    }
    data = {
        "pairs": pairs,
        "problems": listed,
        "manifests": [manifest_json(cell) for cell in cells],
        **{f"responses-{number}": shard for number, shard in enumerate(problems.shards)},
    }
    return Compared(publication, overview, data, pair_rows, problems.samples)


def pages_of(compared: Compared, running: Sequence[RecordedCell] = ()) -> SuitePages:
    """The pages of a suite, with the curves and kept samples of cells that run, which come after all others."""
    publication, cells = compared.publication, [*compared.publication.cells, *running]
    names = {cell.algorithm: cell.algorithm.replace("/", " ") for cell in running} | dict(publication.names)
    drawn = [(place, cell) for place, cell in enumerate(cells) if cell.manifest["status"] != "failed"]
    curves = curve_frame([cell for _, cell in drawn])
    curves["place"] = [drawn[int(place)][0] for place in curves["place"]]
    metrics = metrics_of(curves)
    training = gather_training(cells)
    tables = (*compared.overview["tables"], compared.overview["runs"])
    differences = (text for pair in compared.data["pairs"]["pairs"] for text in pair[TEXTS])
    overview: dict[str, Any] = {
        "suite": publication.suite,
        "algorithms": algorithms(publication, names),
        "cells": [[cell.name, cell.algorithm, cell.manifest["seed"], cell.manifest["status"]] for cell in cells],
        **compared.overview,
        "axes": {name: text for name, text in AXES.items() if name in curves and curves[name].notna().any()},
        "metrics": metrics,
        "kept": training is not None,
        "critical_t": [critical_t(df) for df in range(1, max(2, len(seeds_of(cells))))],
        "escaped": escapes(text for table in tables for text in texts_of(table))
        | escapes([publication.suite, *names.values(), *differences]),
    }
    data = {
        "overview": overview,
        **compared.data,
        **{f"curves-{number}": series(curves, name) for number, name in enumerate(metrics)},
        **{f"axis-{name}": series(curves, name) for name in overview["axes"]},
    }
    if training is not None:
        data["training"] = training.listed | {"escaped": problem_escapes(training.listed)}
        data |= {f"training-{number}": shard for number, shard in enumerate(training.shards)}

    def files() -> dict[str, bytes]:
        found = dict(publication.tables)
        frames = {"pairs": compared.pairs, "curves": curves.drop(columns="place")}
        found |= {f"{name}.csv": to_csv(frame).encode() for name, frame in frames.items()}
        found["samples.parquet"] = compared.samples.to_parquet(index=False, compression="zstd")
        found["manifests.json"] = json.dumps(data["manifests"], indent=1).encode()
        for cell in cells:
            kept = cell.rows.kept
            found |= {f"{KEPT}/{cell.name}/{step}.parquet": kept.content(step) for step in kept.steps()}
        return found

    return SuitePages(publication.suite, data, summary(publication, len(data["problems"]["problems"])), files)


def problem_escapes(listed: Mapping[str, Any]) -> dict[str, list[str]]:
    """`escapes` of what stands in a list of problems."""
    shown = ("benchmark", "id", "question", "gold")
    return escapes(row[name] for row in listed["problems"] for name in shown if row[name])


def seeds_of(cells: Sequence[RecordedCell]) -> list[int]:
    """The seeds of the trained cells."""
    return sorted({cell.manifest["seed"] for cell in cells if cell.manifest["seed"] is not None})


def counted(cells: Sequence[RecordedCell], name: str) -> list[tuple[str, int]]:
    """Each value of PROVENANCE, and how many cells have it."""
    return list(Counter(PROVENANCE[name](cell.manifest) for cell in cells).items())


def summary(publication: Publication, problems: int) -> dict[str, Any]:
    """What the index page says of the suite."""
    cells = publication.cells
    return {
        "suite": publication.suite,
        "algorithms": len(publication.names) - 1,
        "seeds": len(seeds_of(cells)),
        "runs": len(cells),
        "failed": sum(not cell.finished for cell in cells),
        "problems": problems,
        "benchmarks": [*publication.scores.benchmarks, *publication.scores.hard_benchmarks],
        "date": max((str(cell.manifest.get("date", ""))[:10] for cell in cells), default=""),
    }


def algorithms(publication: Publication, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Names and families, and how each is drawn: as in the figures."""
    table = publication.csv["table"]
    family = dict(zip(table["algorithm"], table["family"], strict=True)) if "family" in table else {}
    look = styles(label for label in names if label != "base")
    ordered = [*publication.names, *(label for label in names if label not in publication.names)]
    return [
        {
            "label": label,
            "name": names[label],
            "family": family.get(label.partition("@")[0]) or "",
            **_style(look.get(label)),
        }
        for label in ordered
    ]


def _style(style: Style | None) -> dict[str, str]:
    if style is None:
        return {}
    dashes = style.dashes
    lengths = DASHES[dashes] if isinstance(dashes, str) else ",".join(f"{3 * part}px" for part in dashes[1])
    return {"color": matplotlib.colors.to_hex(style.color), "symbol": SYMBOLS[style.marker], "dash": lengths}


def pair_data(publication: Publication, labels: Sequence[str]) -> tuple[dict[str, Any], pd.DataFrame]:
    """The matrix of pairwise differences, and its rows in full precision."""
    pairs = pairwise(labels, lambda first, second: difference(publication.scores, first, second))
    tested = [pair for pair in pairs if pair.p_holm is not None]
    seeds = max((int(pair.difference["matched_seeds"]) for pair in tested), default=0)
    least = smallest_p(seeds)
    notes = ["Row less column, paired on the same seeds and problems; ± is half of a 95% interval."]
    if least is not None:
        corrected = min(1.0, len(tested) * least)
        notes += [
            "Bold where the sign-flip test over seeds, Holm-corrected over all "
            f"{len(tested)} pairs, gives p below {SIGNIFICANT}.",
            f"With {seeds} seeds the smallest p that one test can give is {least:.2g}, hence {corrected:.2g} corrected "
            f"over {len(tested)} pairs"
            + (": no pair can be significant, however far apart." if corrected >= SIGNIFICANT else "."),
        ]
    else:
        notes.append(f"With fewer than {MIN_SEEDS_TO_TEST} matched seeds nothing is tested.")
    rows = pd.DataFrame(
        [
            {"first": pair.first, "second": pair.second, **pair.difference, "p_holm": pair.p_holm}
            for pair in pairs
            if pair.difference["matched_seeds"]
        ]
    )
    shown = [_pair(labels, pair) for pair in pairs if pair.difference["matched_seeds"]]
    return {"labels": list(labels), "pairs": shown, "notes": notes}, rows


def _pair(labels: Sequence[str], pair: Pair) -> list[Any]:
    """[row, column, matched seeds, Δ, the text of Δ ±, that of the opposite, p, p corrected, whether it is bold]."""
    found = pair.difference
    value, low, high = found["diff"], found["diff_ci_low"], found["diff_ci_high"]
    p = found["p_value"]
    return [
        labels.index(pair.first),
        labels.index(pair.second),
        found["matched_seeds"],
        value,
        with_interval(value, low, high, 3, "+"),
        with_interval(-value, -high, -low, 3, "+"),
        None if p is None else f"{p:.2g}",
        None if pair.p_holm is None else f"{pair.p_holm:.2g}",
        pair.p_holm is not None and pair.p_holm < SIGNIFICANT,
    ]


def run_table(publication: Publication) -> TextTable:
    """A row a cell."""
    scores, cells = publication.scores, publication.cells

    def mean(cell: RecordedCell, column: str, spec: str, benchmarks: Sequence[str]) -> str:
        return plain(scores.mean(cell, column, benchmarks), spec) if cell.finished else ""

    columns = {
        "run": [cell.name for cell in cells],
        "algorithm": [publication.names[cell.algorithm] for cell in cells],
        "seed": [plain(cell.manifest["seed"], "d") for cell in cells],
        "status": [str(cell.manifest["status"]) for cell in cells],
        "score": [mean(cell, "score", ".3f", scores.benchmarks) for cell in cells],
        "hard score": [mean(cell, "score", ".3f", scores.hard_benchmarks) for cell in cells],
        "KL (nats)": [mean(cell, "kl", ".2f", scores.benchmarks) for cell in cells],
        "length (tokens)": [mean(cell, "tokens", ".1f", scores.benchmarks) for cell in cells],
        "seconds": [plain(cell.manifest["seconds"].get("wall"), ".1f") for cell in cells],
        "generated tokens": [tokens(cell.manifest.get("tokens", {}).get("generated", np.nan)) for cell in cells],
        "date": [str(cell.manifest.get("date", ""))[:16].replace("T", " ") for cell in cells],
        "commit": [commit(cell.manifest)[:8] for cell in cells],
        "error": ["" if cell.finished else cell.error() for cell in cells],
    }
    return TextTable({name: texts for name, texts in columns.items() if any(texts)})


def manifest_json(cell: RecordedCell) -> dict[str, Any]:
    """A manifest, and the traceback of a cell that failed; the program's folder, one machine's own, is left out."""
    traceback = None if cell.finished else cell.rows.traceback()
    manifest = cell.manifest | {"command": shorten(cell.manifest["command"])}
    return {"run": cell.name, "manifest": manifest, "traceback": traceback}
