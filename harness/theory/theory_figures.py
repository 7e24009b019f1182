"""The figures of the theory, from the frames that the claims leave behind; each as SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FLOOR = 1e-17
"""Distances that float64 cannot tell from zero are drawn here."""


def draw(frames: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Writes every figure whose frames are there; returns the paths."""
    sns.set_theme(style="whitegrid", context="paper")
    plt.rcParams["svg.hashsalt"] = "gvpo-bench"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (needed, make) in FIGURES.items():
        if not all(frame in frames for frame in needed):
            continue
        figure = make(*(frames[frame] for frame in needed))
        for suffix in ("svg", "png"):
            path = folder / f"{name}.{suffix}"
            figure.savefig(path, dpi=150, metadata={"Date": None} if suffix == "svg" else None, bbox_inches="tight")
            written.append(path)
        plt.close(figure)
    return written


def optimum(table: pd.DataFrame) -> Figure:
    """Distance from π* at the end, on-policy, by algorithm and group size."""
    table = table.assign(tv=table.tv.clip(lower=FLOOR), size="n=" + table.n.astype(str) + ", k=" + table.k.astype(str))
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    sns.stripplot(data=table, x="tv", y="algorithm", hue="size", dodge=True, jitter=0.12, size=2.5, alpha=0.6, ax=axes)
    axes.set_xscale("log")
    axes.axvline(1e-6, color="black", linewidth=0.8, linestyle="--")
    axes.text(1e-6, -0.62, "tolerance 1e-6", ha="center", va="bottom", fontsize=7)
    axes.set(xlabel="total variation from π* at the end (a point per problem and start)", ylabel="")
    axes.legend(title=None, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2, frameon=False)
    return figure


def partition(table: pd.DataFrame) -> Figure:
    """How far R̄ is from β log Z, and where the losses without Z end."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    gap, ends = table[table.algorithm == "gap"], table[table.algorithm != "gap"]
    _boxes(left, gap.assign(beta=gap.beta.astype(str)), "tv", None)
    left.set(xlabel="β", ylabel="β log Z − E$_{π'}$[R]  (reward units)", yscale="log")
    _boxes(right, ends.assign(beta=ends.beta.astype(str), tv=ends.tv.clip(lower=FLOOR)), "tv", "algorithm")
    right.set(xlabel="β", ylabel="total variation from π*", yscale="log")
    right.legend(title="π$_s$ = π', fixed", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.tight_layout()
    return figure


def _boxes(axes: Axes, table: pd.DataFrame, y: str, hue: str | None) -> None:
    sns.stripplot(data=table, x="beta", y=y, hue=hue, dodge=hue is not None, jitter=0.15, size=3, alpha=0.7, ax=axes)


def dpo(table: pd.DataFrame) -> Figure:
    """Hard labels: the margin grows with the logarithm of the steps, the loss falls towards zero, π* is passed by."""
    figure, panels = plt.subplots(1, 3, figsize=(8.5, 2.6))
    labels = {"margin": "largest margin β(ℓ$_w$ − ℓ$_l$), nats", "loss": "loss", "tv": "total variation from π*"}
    for axes, (column, label) in zip(panels, labels.items(), strict=True):
        axes.plot(table.step, table[column], marker="o")
        axes.set(xscale="log", xlabel="gradient steps", ylabel=label)
    panels[1].set_yscale("log")
    panels[2].set_ylim(0, 1)
    figure.tight_layout()
    return figure


def sampling(table: pd.DataFrame) -> Figure:
    """GVPO's distance from π* under each π_s with exact expectations, the negative control among them."""
    names = table["π_s"].str.replace("π_θ", "π$_θ$")
    table = table.assign(**{"π_s": names}, tv=table.tv.clip(lower=FLOOR), k="k=" + table.k.astype(str))
    figure, axes = plt.subplots(figsize=(6.5, 3))
    sns.scatterplot(data=table, x="tv", y="π_s", hue="k", style="k", s=45, ax=axes)
    axes.axvline(1e-6, color="black", linewidth=0.8, linestyle="--", label="tolerance 1e-6")
    axes.set(xscale="log", xlabel="largest total variation from π*", ylabel="π$_s$", xlim=(FLOOR / 2, 3))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def efficiency(table: pd.DataFrame) -> Figure:
    """Importance weights against GVPO as π_s moves away from π*."""
    figure, panels = plt.subplots(2, 2, figsize=(8.5, 5.2), sharex=True)
    titles = {
        "ess": "effective share of samples, weights π*/π$_s$",
        "noise": "tr Cov ∇ / |E ∇|² of one group",
        "cosine": "cosine of −E ∇ with ∇J",
        "distance": "total variation from π* after training, mean ± 1.96 s.e.",
    }
    order = ["GVPO", "PG + KL", "PPO + KL", "GRPO + KL"]
    colours = dict(zip(order, sns.color_palette(), strict=False)) | {"importance weights": "black"}
    for axes, (what, title) in zip(panels.flat, titles.items(), strict=True):
        part = table[table.what == what]
        sns.lineplot(
            data=part,
            x="KL(π*‖π_s)",
            y="value",
            hue="algorithm",
            palette=colours,
            marker="o",
            errorbar=("se", 1.96),
            err_style="bars",
            legend=False,
            ax=axes,
        )
        axes.set_title(title, fontsize=9)
        axes.set(ylabel="", xlabel="KL(π*‖π$_s$), nats")
        if what in ("ess", "noise"):
            axes.set_yscale("log")
    handles = [plt.Line2D([], [], color=colours[name], marker="o", label=name) for name in colours]
    figure.legend(handles=handles, loc="upper center", ncol=5, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    return figure


def estimator(bias: pd.DataFrame, mse: pd.DataFrame) -> Figure:
    """The mean of the estimate by k, and its mean squared error by the number of samples."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    k = np.geomspace(2, 16, 50)
    left.axhline(1, color="grey", linewidth=0.8)
    left.plot(k, (k - 1) / k, color="grey", linewidth=0.8, linestyle="--", label="(k−1)/k")
    left.errorbar(bias.k, bias["1/(k−1)"], yerr=1.96 * bias.error, fmt="o", label="1/(k−1)")
    left.errorbar(bias.k, bias["1/k"], yerr=1.96 * bias.error_k, fmt="s", label="1/k")
    left.set(xscale="log", xlabel="k", ylabel="mean estimate / Var$_{π_s}$(R$_θ$ − R)", xticks=bias.k, ylim=(0, 1.15))
    left.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    left.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    left.legend(loc="lower right", frameon=False)
    for (by, part), marker in zip(mse.groupby("by", sort=False), "os", strict=True):
        right.plot(part.n, part.mse, marker=marker, linestyle="none", label=by)
    first = mse[mse.by == "groups of 4"].iloc[0]
    n = np.geomspace(mse.n.min(), mse.n.max(), 20)
    right.plot(n, first.mse * first.n / n, color="grey", linewidth=0.8, linestyle="--", label="slope −1")
    right.set(xscale="log", yscale="log", xlabel="n", ylabel="mean squared error / Var²")
    right.legend(frameon=False)
    figure.tight_layout()
    return figure


def ablations(table: pd.DataFrame) -> Figure:
    """Entropy, distance from π' and reward while training without a term."""
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.8))
    labels = {"entropy": "entropy, nats", "KL(π_θ‖π')": "KL(π$_θ$‖π'), nats", "reward": "expected reward"}
    for axes, (column, label) in zip(panels, labels.items(), strict=True):
        sns.lineplot(
            data=table.assign(step=table.step + 1), x="step", y=column, hue="algorithm", style="algorithm",
            legend=axes is panels[2], ax=axes,
        )  # fmt: skip
        axes.set(xscale="log", xlabel="step + 1", ylabel=label)
    panels[2].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.tight_layout()
    return figure


def rounds(table: pd.DataFrame) -> Figure:
    """What the β/n law means: round by round further from π_0, with less entropy and more reward."""
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.8))
    labels = {"KL(π_n‖π_0)": "KL(π$_n$‖π$_0$), nats", "entropy": "entropy, nats", "reward": "expected reward"}
    for axes, (column, label) in zip(panels, labels.items(), strict=True):
        for beta, part in table.groupby("beta"):
            axes.plot(part.rounds, part[column], marker="o", label=f"β = {beta}")
        axes.set(xlabel="rounds n", ylabel=label)
    panels[0].legend(frameon=False)
    figure.tight_layout()
    return figure


def coefficients(table: pd.DataFrame) -> Figure:
    """w_i of one batch under every algorithm, coloured by their share of its largest: a learning rate absorbs scale."""
    rows = table["algorithm"].nunique()
    figure, panels = plt.subplots(1, 2, figsize=(10, 0.9 + 0.24 * rows), sharey=True)
    for axes, (where, part) in zip(panels, table.groupby("where", sort=False), strict=True):
        wide = part.pivot(index="algorithm", columns="response", values="coefficient").reindex(part.algorithm.unique())
        scaled = wide.div(wide.abs().max(axis=1), axis=0)
        first = part.drop_duplicates("response")
        scaled.columns = [f"R={r:g}\nℓ={ratio:g}" for r, ratio in zip(first.reward, first["log-ratio"], strict=True)]
        sns.heatmap(
            scaled, annot=wide.to_numpy(), fmt=".3f", cmap="vlag", center=0, vmin=-1, vmax=1,
            cbar=False, annot_kws={"size": 7}, yticklabels=True, ax=axes,
        )  # fmt: skip
        axes.set(title=str(where), xlabel="", ylabel="")
    figure.tight_layout()
    return figure


FIGURES: dict[str, tuple[tuple[str, ...], Callable[..., Figure]]] = {
    "optimum": (("optimum",), optimum),
    "partition": (("partition",), partition),
    "dpo": (("dpo",), dpo),
    "sampling": (("sampling",), sampling),
    "efficiency": (("efficiency",), efficiency),
    "estimator": (("bias", "mse"), estimator),
    "ablations": (("ablations",), ablations),
    "rounds": (("rounds",), rounds),
    "coefficients": (("coefficients",), coefficients),
}
"""Name of the file: the frames it needs, and the function that draws it."""
