"""What a suite says of LoRA. Does not import torch."""

from __future__ import annotations

from pydantic import Field, field_validator

from harness.suite.points import Section

ALL_LINEAR = "all-linear"


class LoRA(Section):
    """[model.lora]: trains an adapter of low rank and freezes the weights below it (Hu et al., arXiv 2106.09685).

    There is no dropout: the sampler would draw from another policy than the one whose log-probs the trainer takes, and
    each pass of the trainer would take those of yet another.
    """

    rank: int = Field(16, ge=1)
    """Of the product that is added to each weight."""
    alpha: float = Field(32.0, gt=0.0)
    """That product is multiplied with alpha/rank."""
    target_modules: str | list[str] = ALL_LINEAR
    """The linear layers that have an adapter, by name or the end of it ("q_proj"); "all-linear" is every one but the
    output layer."""

    @field_validator("target_modules")
    @classmethod
    def _names_some(cls, names: str | list[str]) -> str | list[str]:
        if not names or (isinstance(names, str) and names != ALL_LINEAR):
            raise ValueError(f"target_modules = {names!r}: give {ALL_LINEAR!r}, or a list of names")
        return names
