"""The results card of a published suite: what was compared, on what, by which protocol, and what is not claimed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.record.text import code_span, escape_markdown
from harness.report.notes import seeds_text, settings_text
from harness.report.page import PROVENANCE, Publication, distinct
from harness.report.recorded_cells import RecordedCell, RecordedSuite
from harness.statistics.intervals import MIN_SEEDS_TO_TEST

CARD = "card.md"
"""The name of its file."""


def results_card(publication: Publication, suite: RecordedSuite) -> bytes:
    """The card as Markdown, from the cells alone."""
    cells = publication.cells
    sections = {
        "What was compared": compared(publication),
        "On what": measured_on(publication),
        "By which protocol": protocol(publication),
        "What is not claimed": not_claimed(publication, suite),
        "How to check it": [
            "`gvpo-bench verify` on this folder makes every table and every figure's data anew from the raw rows in "
            "`raw/` and compares: bytes of tables, data of figures. `sums.json` has the SHA-256 of every file.",
            "`raw/` holds the manifest of each run, its evaluated samples"
            + (", " if _has_responses(cells) else " (without the responses, which are too large), ")
            + "its metrics of every step, and the traceback of each that failed.",
        ],
    }
    parts = [f"# Results card: {escape_markdown(publication.suite)}"]
    for heading, items in sections.items():
        parts += [f"## {heading}", "\n".join(f"- {item}" for item in items)]
    return ("\n\n".join(parts) + "\n").encode()


def compared(publication: Publication) -> list[str]:
    """Algorithms, seeds, and the runs that failed."""
    cells = publication.cells
    trained = [cell for cell in cells if cell.algorithm != "base"]
    names = [name for label, name in publication.names.items() if label != "base"]
    seeds = [cell.manifest["seed"] for cell in trained]
    failed = [cell for cell in cells if not cell.finished]
    items = [
        f"{len(names)} {'row' if len(names) == 1 else 'rows'} of the table, seeds {seeds_text(seeds)}: "
        f"{escape_markdown(', '.join(names))}.",
        f"Failed: {len(failed)} of {len(cells)} runs"
        + "".join(f"; {escape_markdown(f'{cell.name} ({cell.error()[:200]})')}" for cell in failed)
        + ".",
    ]
    return items


def measured_on(publication: Publication) -> list[str]:
    """The model, the problems that were trained on and those that were scored."""
    cells, scores = publication.cells, publication.scores
    trained = [cell for cell in cells if cell.algorithm != "base"]
    counts = [f"{name} ({scores.problems.get(name, 0)} problems)" for name in scores.benchmarks]
    hard = [f"{name} ({scores.problems.get(name, 0)} problems)" for name in scores.hard_benchmarks]
    return [
        f"Base model: {', '.join(sorted({_model(cell) for cell in cells}))}.",
        f"Trained on: {', '.join(sorted({code_span(str(cell.config('train', 'benchmark'))) for cell in trained}))}.",
        f"Scored on: {escape_markdown(', '.join(counts))}"
        + (f"; hard split, apart from the score: {escape_markdown(', '.join(hard))}." if hard else "."),
    ]


def _model(cell: RecordedCell) -> str:
    model, weights = cell.config("model") or {}, cell.manifest.get("weights")
    text = code_span(str(model.get("path", "not recorded")))
    return text + (f" (weights {code_span(weights)})" if weights else "")


def protocol(publication: Publication) -> Iterator[str]:
    """Budget, evaluation, tuning, versions."""
    cells = publication.cells
    trained = [cell for cell in cells if cell.algorithm != "base"]
    texts = {
        "Budget of a run": [settings_text(cell.config("train") or {}) for cell in trained],
        "Evaluation": [settings_text(cell.config("evaluation")) for cell in cells],
        "Tuning": [settings_text(cell.config("tuning") or {}) or "none, the settings are as given" for cell in trained],
    }
    for heading, values in texts.items():
        yield f"{heading}: {escape_markdown('; '.join(dict.fromkeys(values)))}."
    yield from (f"{name[0].upper()}{name[1:]}: {distinct(cells, get)}." for name, get in PROVENANCE.items())
    yield (
        "The scored checkpoint is the last one, and a collapsed seed stays in the mean. How intervals and tests are "
        "made stands below the table."
    )


def not_claimed(publication: Publication, suite: RecordedSuite) -> list[str]:
    """What does not follow from these numbers."""
    cells = publication.cells
    seeds = {cell.manifest["seed"] for cell in cells if cell.algorithm != "base"}
    longest = sorted({str(cell.config("train", "max_new_tokens")) for cell in cells if cell.algorithm != "base"})
    items = [
        "Nothing about other models, other problems, other budgets, or responses of more than "
        f"{' or '.join(longest)} tokens.",
        "No order of algorithms whose difference is not marked: one that was not found may be there. The table of what "
        "could be told apart has the smallest difference that this design would have found.",
        "Nothing about an algorithm at its best: each has the settings that stand in the table.",
        "Seconds are those of one machine, beside whatever else it did.",
    ]
    if len(seeds) < MIN_SEEDS_TO_TEST:
        items.insert(1, f"No test: {len(seeds)} seeds are fewer than the {MIN_SEEDS_TO_TEST} that one takes.")
    for label, reason in suite.left_out.items():
        items.append(f"No gradient coefficients of {escape_markdown(f'{label}: {reason}')}.")
    return items


def _has_responses(cells: Sequence[RecordedCell]) -> bool:
    finished = [cell for cell in cells if cell.finished]
    return any("response" in cell.rows.samples(["response"]) for cell in finished[:1])
