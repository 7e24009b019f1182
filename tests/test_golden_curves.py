"""Five steps of each algorithm give the committed numbers: to the last digit on the machine that made them."""

from __future__ import annotations

import pytest
from golden_curves import machine, recorded, run

from algorithms import ALGORITHMS


def test_every_registered_algorithm_has_a_golden_curve():
    assert sorted(recorded()["curves"]) == sorted(ALGORITHMS), "run python tests/golden_curves.py"


@pytest.mark.parametrize("label", ALGORITHMS)
def test_five_steps_give_the_committed_numbers(label):
    golden, found = recorded()["curves"][label], run(label)
    exact = recorded()["machine"] == machine()
    for part, values in golden.items():
        for name, value in values.items():
            expected = value if exact else pytest.approx(value, rel=1e-5, abs=1e-5)
            assert found[part][name] == expected, f"{label}: {part} {name}"
