"""The algorithms under comparison. Costs torch and nothing more to import.

To add one without touching the project, pass `path/to/mine.py:Mine` where a name is asked for, or publish an entry
point in the group `gvpo_bench.algorithms`.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import get_args

from algorithms.a_star_po import AStarPO
from algorithms.base import Algorithm, Batch, Family, LossOutput, Needs, PolicyOutput
from algorithms.cispo import CISPO
from algorithms.dapo import DAPO
from algorithms.dpo import DPO
from algorithms.dppo import DPPO
from algorithms.dr_grpo import DrGRPO
from algorithms.gmpo import GMPO
from algorithms.gpg import GPG
from algorithms.grpo import GRPO
from algorithms.gspo import GSPO
from algorithms.gvpd import GVPD
from algorithms.gvpo import GVPO
from algorithms.ipo import IPO
from algorithms.kimi import Kimi
from algorithms.maxrl import MaxRL
from algorithms.offline_dpo import OfflineDPO
from algorithms.online_rft import OnlineRFT
from algorithms.opmd import OPMD
from algorithms.opo import OPO
from algorithms.pg import PolicyGradient
from algorithms.ppo import PPO
from algorithms.rebel import REBEL
from algorithms.reinforce_pp import ReinforcePP
from algorithms.reinforce_pp_baseline import ReinforcePPBaseline
from algorithms.remax import ReMax
from algorithms.rft import RFT
from algorithms.rloo import RLOO
from algorithms.sapo import SAPO
from algorithms.sft import SFT
from algorithms.tba import TBA
from algorithms.topr import TOPR
from algorithms.vespo import VESPO

__all__ = ["ALGORITHMS", "Algorithm", "Batch", "LoadError", "LossOutput", "Needs", "PolicyOutput", "load_algorithm"]

ALGORITHMS: dict[str, type[Algorithm]] = {
    "gvpo": GVPO,
    "grpo": GRPO,
    "ppo": PPO,
    "dpo": DPO,
    "kimi": Kimi,
    "pg": PolicyGradient,
    "sft": SFT,
    "rft": RFT,
    "online_rft": OnlineRFT,
    "rloo": RLOO,
    "remax": ReMax,
    "reinforce_pp": ReinforcePP,
    "reinforce_pp_baseline": ReinforcePPBaseline,
    "gpg": GPG,
    "opo": OPO,
    "maxrl": MaxRL,
    "opmd": OPMD,
    "dr_grpo": DrGRPO,
    "dapo": DAPO,
    "gspo": GSPO,
    "gmpo": GMPO,
    "cispo": CISPO,
    "sapo": SAPO,
    "vespo": VESPO,
    "dppo": DPPO,
    "topr": TOPR,
    "tba": TBA,
    "a_star_po": AStarPO,
    "rebel": REBEL,
    "ipo": IPO,
    "offline_dpo": OfflineDPO,
    "gvpd": GVPD,
}

ENTRY_POINT_GROUP = "gvpo_bench.algorithms"


class LoadError(ValueError):
    """There is no such algorithm, or what was found is none. The message says what would be right."""


def load_algorithm(spec: str) -> type[Algorithm]:
    """The class behind a name of ALGORITHMS, `path/to/file.py:Class`, or an entry point's name.

    Raises LoadError that says what was looked for and what would be right, and whatever a user's file raises.
    """
    if spec in ALGORITHMS:
        return ALGORITHMS[spec]
    if ":" in spec:
        return _load_file(spec)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == spec:
            return _checked(entry.load(), spec)
    raise LoadError(
        f"unknown algorithm {spec!r}: use one of {', '.join(ALGORITHMS)}, path/to/file.py:Class, "
        f"or the name of an entry point in the group {ENTRY_POINT_GROUP}"
    )


def _load_file(spec: str) -> type[Algorithm]:
    path_text, _, class_name = spec.rpartition(":")
    try:
        path = Path(path_text).expanduser().resolve()
        found = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, ~nobody, a null byte
        raise LoadError(f"algorithm {spec!r}: {path_text} cannot be a file here: {error}") from None
    if not found:
        raise LoadError(f"algorithm {spec!r}: there is no file {path}")
    module_name = f"gvpo_bench_user_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise LoadError(f"algorithm {spec!r}: {path} is not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # dataclasses look their annotations up there
    module_spec.loader.exec_module(module)
    if not hasattr(module, class_name):
        raise LoadError(f"algorithm {spec!r}: {path} defines no {class_name!r}")
    return _checked(getattr(module, class_name), spec)


def _checked(found: object, spec: str) -> type[Algorithm]:
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise LoadError(f"algorithm {spec!r} is {found!r}; it must be a subclass of algorithms.Algorithm")
    if "__dataclass_fields__" not in vars(found):  # is_dataclass() is also true of an undecorated subclass of one
        raise LoadError(f"algorithm {spec!r}: decorate the class with @dataclass(frozen=True, kw_only=True)")
    if not isinstance(getattr(found, "name", None), str):
        raise LoadError(
            f"algorithm {spec!r}: give the class `name: ClassVar[str] = ...`, its label in tables and figures"
        )
    for f in fields(found):  # type: ignore[arg-type]
        if f.name in ("name", "family", "needs", "prepare", "loss"):
            raise LoadError(
                f"algorithm {spec!r}: {f.name} is declared as a hyper-parameter; annotate it as ClassVar[...], or "
                "leave the annotation out"
            )
    if found.family not in get_args(Family):
        raise LoadError(f"algorithm {spec!r}: family is {found.family!r}; use one of {', '.join(get_args(Family))}")
    for method in ("prepare", "loss"):
        if not callable(getattr(found, method)):
            raise LoadError(f"algorithm {spec!r}: {method} is {getattr(found, method)!r}; it must be a method")
    return found
