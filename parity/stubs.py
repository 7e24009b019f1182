"""Empty modules for what peers import and do not need here: Ray, vLLM, DeepSpeed and the like.

A peer's own code runs unmodified; what is stubbed is never called by it, or does nothing (a decorator, a log).
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FunctionType, ModuleType
from typing import Any


class _Anything(type):
    """A class whose every attribute is itself: enough for annotations, base classes and decorators."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        decorated = cls is Stub and len(arguments) == 1 and isinstance(arguments[0], FunctionType)
        return arguments[0] if decorated else Stub

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __or__

    def __getitem__(cls, key: Any) -> Any:
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())


class Stub(metaclass=_Anything):
    """Stands for whatever a stubbed module defines. Called with one function, as a decorator is, it returns that."""

    def __init_subclass__(cls, **options: Any) -> None:
        """A base class takes whatever its subclasses give it."""


class _StubModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub


class _Finder:
    """Finds an empty module, and empty modules within it, under each of the names."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of an empty package, where the name is one of ours."""
        parts = fullname.split(".")
        if not any(".".join(parts[: i + 1]) in self.names for i in range(len(parts))):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """An empty module."""
        return _StubModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def stub(names: Iterable[str]) -> None:
    """From now on these modules are empty ones, whether they are installed or not."""
    sys.meta_path.insert(0, _Finder(names))
