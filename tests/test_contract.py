"""The conformance check finds what it is for, names it, and leaves alone what is sound."""

import dataclasses

import pytest
import torch
from planted_defects import DEFECTS, Sound
from sound_losses import SOUND

from harness.kit.calls import GLOBALS, RANDOM, read, same
from harness.kit.check import ORDERED, Subject, contradiction_of, examine
from harness.kit.random_batches import random_batch, random_case
from harness.kit.shrinking import shrunk

BY_NAME = {found.name: found for found in ORDERED}


def contradiction(cls, name):
    algorithm = cls()
    return contradiction_of(BY_NAME[name], Subject(algorithm, lambda: dataclasses.replace(algorithm), algorithm.needs))


@pytest.mark.parametrize(("faulty", "name"), DEFECTS.items(), ids=lambda x: getattr(x, "__name__", x))
def test_a_planted_defect_contradicts_its_property(faulty, name):
    fault = contradiction(faulty, name)
    assert fault is not None
    assert len(fault.text) > 20


def test_every_property_but_for_advice_finds_a_planted_defect():
    assert {found.name for found in ORDERED if not found.advice} == set(DEFECTS.values())


@pytest.mark.parametrize("cls", SOUND, ids=lambda cls: cls.__name__)
def test_an_unusual_loss_that_is_sound_is_not_refused(cls):
    assert examine(cls()).faults == {}


def test_an_undeclared_constant_is_told_how_to_declare_itself():
    name = "gradient_is_that_of_the_loss"
    (faulty,) = [cls for cls in DEFECTS if cls.__name__ == "DetachesAWeight"]
    fault = contradiction(faulty, name)
    assert "stop_gradient() of algorithms.base" in fault.text
    assert "by autograd" in fault.text


@pytest.mark.parametrize("name", ["CountsInvalidSamples", "DividesByThePaddedLength", "ReadsPadding"])
def test_the_counterexample_is_as_small_as_can_be(name):
    (faulty,) = [cls for cls in DEFECTS if cls.__name__ == name]
    case = contradiction(faulty, DEFECTS[faulty]).case
    assert case.batch.valid_GK.shape[0] == 1  # one prompt
    assert case.batch.valid_GK.sum() == 1  # of one response
    assert case.batch.mask_GKT.sum() == 1  # of one token


def test_a_batch_is_shrunk_to_what_still_contradicts():
    case = random_case(Sound().needs, 0, signal=True)
    small = shrunk(case, lambda x: bool(x.batch.valid_GK.sum() >= 3))
    assert small.batch.mask_GKT.sum() == 3  # three responses of one token


def test_a_loss_that_fails_everywhere_leaves_the_rest_untold():
    (faulty,) = [cls for cls in DEFECTS if cls.__name__ == "Raises"]
    examination = examine(faulty())
    assert list(examination.faults) == ["loss_is_a_finite_scalar"]
    assert "planted_defects.py, line" in examination.faults["loss_is_a_finite_scalar"]
    assert sum(not finding.told for finding in examination.findings) > 20


def test_a_wasteful_coupling_is_advice_and_no_fault():
    class DeclaresTooMuch(Sound):
        coupling = "batch"

    examination = examine(dataclasses.dataclass(frozen=True, kw_only=True)(DeclaresTooMuch)())
    assert examination.faults == {}
    assert "'sequence' is true as well" in examination.advice["coupling_is_no_larger_than_it_has_to_be"]


@pytest.mark.parametrize("name", ["SetsTheDefaultDtype", "TurnsGradientsOff", "Guesses", "DrawsAndDrops"])
def test_the_process_is_left_as_it_was(name):
    (faulty,) = [cls for cls in DEFECTS if cls.__name__ == name]
    before = read(GLOBALS | RANDOM)
    examine(faulty())
    after = read(GLOBALS | RANDOM)
    assert [key for key in before if not same(before[key], after[key])] == []


def test_a_wrong_sign_is_a_fact_and_no_fault():
    class PushesTheBetterDown(Sound):
        def advantage_GK(self, batch):
            return -super().advantage_GK(batch)

    examination = examine(dataclasses.dataclass(frozen=True, kw_only=True)(PushesTheBetterDown)())
    assert examination.faults == {}
    assert any(fact.startswith("Surprising: on-policy the better") for fact in examination.facts)


def test_facts_of_gvpo_are_those_of_its_equations():
    from algorithms.gvpo import GVPO

    facts = " ".join(examine(GVPO()).facts)
    assert "sum to zero, on-policy and off" in facts
    assert "A constant added to all rewards changes nothing" in facts
    assert "reads rewards, π_old." in facts


def test_a_batch_with_signal_has_no_tie_no_single_sample_and_no_binary_fraction():
    for seed in range(20):
        _, batch = random_batch(seed, signal=True)
        assert (batch.valid_GK.sum(-1) >= 2).all()
        for rewards_K, valid_K in zip(batch.rewards_GK, batch.valid_GK, strict=True):
            rewards = rewards_K[valid_K].tolist()
            assert len(set(rewards)) == len(rewards)
            assert all(reward * 2**20 % 1 for reward in rewards)


def test_given_pairs_have_a_better_and_a_worse_and_demonstrations_one_right_response():
    from algorithms import Needs

    pairs = random_case(Needs(data="pairs"), 0, signal=True).batch
    assert pairs.rewards_GK.sum(-1).tolist() == [1.0, 1.0, 1.0]
    assert pairs.rewards_GK.shape == (3, 2)
    assert torch.equal(pairs.behaviour_logp_GKT, pairs.old_logp_GKT)
    assert random_case(Needs(data="demonstrations"), 0).batch.rewards_GK.tolist() == [[1.0], [1.0], [1.0]]
