"""A slice of the campaign (chaos/): mutated configurations are planned or refused, and the mutations are mutations."""

from __future__ import annotations

import itertools

from configurations import Mutation, campaign, judged, mutations, prepare_folder
from hostile import HOSTILE
from mutation_material import ABLATION, SMALL


def test_no_mutated_configuration_ends_in_a_traceback_or_is_planned_wrongly():
    tally = campaign([SMALL, ABLATION], 300, seed=0)
    assert [(fault.mutation, fault.said) for fault in tally.faults] == []
    assert tally.endings["planned"] > 20
    assert tally.endings["refused"] > 200


def test_a_seed_gives_the_same_mutations_each_time():
    first, again, other = (list(itertools.islice(mutations(SMALL, seed), 20)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_what_is_valid_is_planned(tmp_path):
    prepare_folder(tmp_path)
    for text in (SMALL, ABLATION):
        judgement = judged(Mutation("none", text, algorithms=(f"{tmp_path}/mine.py:Mine",)), tmp_path)
        assert judgement.ending == "planned", judgement.said


def test_hostile_algorithms_have_names_of_their_own_and_are_python_but_for_one():
    assert len({hostile.label for hostile in HOSTILE}) == len(HOSTILE) >= 40
    for hostile in HOSTILE:
        if hostile.name != "NoPython":
            compile(hostile.source, hostile.name, "exec")
