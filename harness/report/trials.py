"""The trials behind a suite's hyper-parameters, as `gvpo-bench tune` records them: read, and held to equal budgets.

trials.csv has a row a trial:

    algorithm, trial       the label of the suite's entry, and its number from 0
    lr, max_norm, critic_lr, parameters.<name>     what was tried
    score, failed          avg@k on the tuning problems, the mean over seeds; runs that failed, which count as 0
    sampler, seeds, token_budget    of the points; runs of the trial, and response tokens that they may draw: the same
                           for every algorithm
    generated_tokens, trained_tokens, extra_tokens     what they took, as their ledgers say; none where a run failed

Files written before budgets were recorded lack the last three lines. Does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.record.files import RecordError

TRIALS = "trials.csv"
PARAMETER = "parameters."
"""What the columns of an algorithm's own hyper-parameters begin with."""
BUDGET = ("sampler", "seeds", "token_budget")
"""What a search is given."""
SPENT = ("generated_tokens", "trained_tokens", "extra_tokens")


def trials_of_suite(runs: Path) -> Path:
    """Where the trials of the suite with these runs lie: OUT/tuning/<suite> beside OUT/runs/<suite>."""
    return runs.parent.parent / "tuning" / runs.name / TRIALS


def read_trials(path: Path) -> pd.DataFrame:
    """The trials of a suite.

    Raises RecordError where the file is no such table, as where a trial is there twice or has no score from 0 to 1 or
    no learning rate above 0, or gives one algorithm more trials, seeds or tokens than another.
    """
    if path.is_dir():
        raise RecordError(f"{path} is a folder, where there should be a file: move it away")
    try:
        trials = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is no table of trials ({error}); gvpo-bench tune writes it anew") from None
    wrong = [name for name in ("algorithm", "trial", "lr", "max_norm", "score", "failed") if name not in trials]
    wrong += ["algorithm"] if "algorithm" in trials and trials["algorithm"].isna().any() else []
    wrong += [name for name in ("lr", "score") if name in trials and not _finite(trials[name])]
    wrong += [name for name in ("trial", "failed") if name in trials and not _counts(trials[name])]
    if not wrong:
        wrong += ["lr"] if (trials["lr"] <= 0).any() else []
        wrong += ["score"] if not trials["score"].between(0, 1).all() else []
        wrong += ["trial"] if trials.duplicated(["algorithm", "trial"]).any() else []
    if wrong or trials.empty:
        raise RecordError(
            f"{path} is no table of trials (wrong or missing: {', '.join(wrong) or 'every row'}); gvpo-bench tune "
            "writes it anew"
        )
    require_equal_budgets(trials, str(path))
    return trials.reindex(columns=[*trials, *(name for name in (*BUDGET, *SPENT) if name not in trials)])


def require_equal_budgets(trials: pd.DataFrame, where: str) -> None:
    """Raises RecordError, which names `where`, unless every algorithm has as many trials, of one sampler, on as many
    seeds, with the same budget of tokens. What is not recorded is not compared."""
    counts = trials.groupby("algorithm")["trial"].nunique()
    found: dict[str, dict[str, Any]] = {"trials": {str(label): n for label, n in counts.items()}}
    for name in BUDGET:
        if name in trials:
            known = trials.dropna(subset=[name])
            found[name] = {str(label): given for label, given in zip(known["algorithm"], known[name], strict=True)}
            if (known.groupby("algorithm")[name].nunique() > 1).any():
                raise RecordError(f"{where}: {name} differs between the trials of one algorithm; tune it again")
    for name, by_label in found.items():
        if len(set(by_label.values())) > 1:
            least, most = min(by_label, key=by_label.__getitem__), max(by_label, key=by_label.__getitem__)
            raise RecordError(
                f"{where}: {most} has {name} {_shown(by_label[most])} and {least} {_shown(by_label[least])}, which is "
                "no fair search: tune all algorithms of the suite in one run, or these elsewhere (--out)"
            )


def _finite(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and bool(np.isfinite(column).all())


def _counts(column: pd.Series[Any]) -> bool:
    return _finite(column) and bool(((column >= 0) & (column % 1 == 0)).all())


def _shown(given: Any) -> str:
    return given if isinstance(given, str) else f"{given:,.0f}"
