"""What a section of a suite is, and the section [ablation]: what is varied, and its points. Does not import torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Of suites and points, which are names of folders."""

Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of what there are some of: more is a slip of the finger, and could not even be planned."""

LONGEST_NAME = 200
"""Bytes of a name that becomes a folder's: file systems take 255, of which a seed and what is written beside it need
some."""


def name_that_fits(name: str) -> str:
    """The name. Raises ValueError where it is too long for a folder's."""
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"a name of {len(name.encode())} bytes is too long for a folder's; use {LONGEST_NAME} at most")
    return name


FolderName = Annotated[str, Field(pattern=NAME), AfterValidator(name_that_fits)]
"""A string that can name a folder."""


class Section(BaseModel):
    """A table of a suite's file: a key has a field of its type, an unknown one is an error, nothing changes later."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Point(Section):
    """One value of the quantity that an ablation varies."""

    label: FolderName
    """What tables call it, and its folder. On a numeric axis, the number."""
    set: list[str] = []
    """What differs from the suite, as --set takes it: "train.samples=4"; each key once."""


class Ablation(Section):
    """The whole suite once for each point; the points differ in the keys that they set and in nothing else."""

    quantity: str
    """What is varied: a column of the table and the axis of the figure."""
    axis: Literal["log", "linear", "categories"] = "categories"
    """Of the figure; "log" and "linear" read the points' labels as numbers, finite and distinct, for "log" above 0."""
    reference: str
    """The label of the point that the others are compared with."""
    note: str | None = None
    """A sentence for the report, such as what was tuned at which point."""
    points: list[Point] = Field(min_length=2)

    @model_validator(mode="after")
    def _fits(self) -> Ablation:
        labels = [point.label for point in self.points]
        if len(set(labels)) < len(labels):
            raise ValueError(f"points: two of them have one label; the labels are {', '.join(labels)}")
        if self.reference not in labels:
            raise ValueError(f"reference = {self.reference!r} is not one of the points: {', '.join(labels)}")
        if self.axis != "categories":
            numbers = [self._number(label) for label in labels]
            if len(set(numbers)) < len(numbers):
                raise ValueError(
                    f"points: two of them are one number; the labels are {', '.join(labels)}; leave one of the two out"
                )
        for point in self.points:
            for override in point.set:
                if not override.startswith(("train.", "rollout.", "resources.", "algorithms.", "model.lora.")):
                    raise ValueError(
                        f"points: {point.label} sets {override}; the points of one table share all but keys of train, "
                        "rollout, resources, algorithms and model.lora"
                    )
            keys = [override.partition("=")[0].strip() for override in point.set]
            for key in keys:
                if keys.count(key) > 1:
                    raise ValueError(f"points: {point.label} sets {key} twice; leave one of the two out")
        return self

    def _number(self, label: str) -> float:
        """A label's place on the numeric axis."""
        try:
            number = float(label)
        except ValueError:
            raise ValueError(f"points: {label!r} is no number; set axis = 'categories'") from None
        if not math.isfinite(number):
            raise ValueError(f"points: {label} has no place on a {self.axis} axis; set axis = 'categories'")
        if self.axis == "log" and number <= 0:
            raise ValueError(f"points: {label} has no place on a log axis; set axis = 'linear'")
        return number
