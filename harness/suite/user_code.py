"""Users' code: a process of its own for what a sweep has to know before it starts.

What a module does when it is imported, or a class when it is made, it may do to the whole process: change torch's
defaults, replace functions, end it. So the process that plans a sweep and writes its report imports no user's file. A
fork of it does, which costs milliseconds since torch is loaded already, and tells what the class declares.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import pydantic
import torch
from torch import Tensor

from algorithms import Algorithm, LoadError, Needs, load_algorithm
from algorithms.spaces import Choice, LogUniform, require_space
from harness.suite.config import ConfigError
from harness.suite.user_errors import described, reported

LOAD_SECONDS = 120.0
"""How long a user's file may take to be imported and its class to be made."""


def load_class(spec: str) -> type[Algorithm]:
    """`load_algorithm`, in this process. Raises ConfigError for whatever a user's file raises."""
    with reported(lambda text: ConfigError(f"algorithm {spec!r} cannot be loaded: {text}")):
        try:
            return load_algorithm(spec)
        except LoadError as error:
            refusal = str(error)
    raise ConfigError(refusal)


def needs_of(algorithm: Algorithm) -> Needs:
    """`algorithm.needs`, asked once, without what a subclass of Needs adds.

    Raises ConfigError that says what is wrong with it, and how to mend it.
    """
    with reported(lambda text: ConfigError(f"needs raises {text}")):
        needs: object = algorithm.needs
        if isinstance(needs, Needs):
            return Needs(**{f.name: getattr(needs, f.name) for f in dataclasses.fields(Needs)})
    raise ConfigError(f"needs is a {type(needs).__name__}; it must be a property that returns Needs(...)")


def parameters_of(algorithm: Algorithm) -> dict[str, Any]:
    """All hyper-parameters, by name.

    Raises ConfigError for one that no manifest could hold, or that the class refuses when it is read from there, such
    as a default that is not of its annotated type.
    """
    with reported(lambda text: ConfigError(f"parameters cannot be read: {text}")):
        parameters: dict[str, Any] = dataclasses.asdict(algorithm)  # type: ignore[call-overload]
    for name, value in parameters.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ConfigError(
                f"parameters.{name} = {value!r}: a hyper-parameter is a finite number, a string, true or false, None, "
                "or a list or table of those"
            ) from None
    refusal = None
    with reported(lambda text: ConfigError(f"parameters cannot be checked: {text}")):
        try:
            pydantic.TypeAdapter(type(algorithm)).validate_json(json.dumps(parameters), strict=True)
        except pydantic.ValidationError as error:
            name = str((error.errors()[0]["loc"] or ("",))[0])
            refusal = f"{refusal_of(error)}; it is {parameters.get(name)!r}: mend its default or its annotation"
    if refusal is not None:
        raise ConfigError(refusal)
    return parameters


def refusal_of(error: pydantic.ValidationError) -> str:
    """The first refusal of a hyper-parameter, by its key."""
    first = error.errors()[0]
    return f"{'.'.join(['parameters', *map(str, first['loc'])])}: {first['msg'].removeprefix('Value error, ')}"


def declared(build: Callable[[], Algorithm], where: str) -> Algorithm:
    """What an algorithm that `build` makes in a fork of this process declares: its class's name, its hyper-parameters,
    their search spaces and its needs, of which `refill` only says whether there is one. It has no loss.

    Raises ConfigError as `build` does, and where the process ends without an answer or has none after LOAD_SECONDS.
    """

    def ask() -> dict[str, Any]:
        algorithm = build()
        try:
            needs = vars(needs_of(algorithm))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        searches = {}
        for field in dataclasses.fields(algorithm):  # type: ignore[arg-type]
            space = field.metadata.get("search")
            require_space(space)
            searches[field.name] = None if space is None else [type(space).__name__, *vars(space).values()]
        return {
            "name": type(algorithm).__name__,
            "parameters": parameters_of(algorithm),
            "searches": searches,
            "needs": {**needs, "refill": needs["refill"] is not None},
        }

    told = _answer_of_fork(ask, where)
    asked = told["needs"]
    with reported(lambda text: ConfigError(f"{where}: needs cannot be told: {text}")):
        refill = _some_refill if asked["refill"] else None
        needs = Needs(**{**asked, "extras": tuple(asked["extras"]), "refill": refill})
    fields = []
    for name, value in told["parameters"].items():
        metadata = {"search": _space(told["searches"][name])}
        fields.append(
            (name, Any, dataclasses.field(default_factory=functools.partial(_same, value), metadata=metadata))
        )
    cls = dataclasses.make_dataclass(told["name"], fields, bases=(Algorithm,), namespace={"needs": needs}, frozen=True)
    made: Algorithm = cls()
    return made


def _same(value: Any) -> Any:
    return value


def _space(told: list[Any] | None) -> Choice | LogUniform | None:
    if told is None:
        return None
    kind, *values = told
    return Choice(tuple(values[0])) if kind == Choice.__name__ else LogUniform(*values)


def _some_refill(rewards_K: Tensor) -> NoReturn:
    raise RuntimeError("this only says that the algorithm refills its groups")


def _answer_of_fork(ask: Callable[[], Mapping[str, Any]], where: str) -> dict[str, Any]:
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    leave, send, as_text = os._exit, os.write, json.dumps  # as they are before a user's file may change them
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nobody answers what it asks
            torch.set_num_threads(1)  # the pool of threads stayed behind
            try:
                content = as_text({"declares": ask()})
            except ConfigError as error:
                content = as_text({"refused": str(error)})
            except BaseException as error:
                content = as_text({"refused": f"{where}: {described(error)}"})
            left = content.encode() + b"\n"
            while left:
                left = left[send(writer, left) :]
        finally:
            leave(0)
    os.close(writer)
    try:
        line = _line_of(reader, child)
    except TimeoutError:
        raise ConfigError(
            f"{where}: its file has not been loaded after {LOAD_SECONDS:g} s; a module that is imported defines its "
            "class, and does no work"
        ) from None
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        raise ConfigError(
            f"{where}: the process that loaded its file ended before it could say what it needs; a module that is "
            "imported must not end its process (os._exit, os.kill)"
        ) from None
    if "refused" in answer:
        raise ConfigError(answer["refused"])
    declares: dict[str, Any] = answer["declares"]
    return declares


def _line_of(pipe: int, child: int) -> bytes:
    """What the child writes up to the end of a line; less where it ends before, though others may hold the pipe.

    Raises TimeoutError where it has not done so after LOAD_SECONDS.
    """
    found, over, deadline = b"", False, time.monotonic() + LOAD_SECONDS
    while not found.endswith(b"\n"):
        if time.monotonic() > deadline:
            raise TimeoutError
        ready, _, _ = select.select([pipe], [], [], 0 if over else 0.2)
        if ready and (part := os.read(pipe, 1 << 16)):
            found += part
        elif ready or over:
            break
        else:
            over = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return found
