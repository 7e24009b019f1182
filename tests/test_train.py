"""The training loop: the same numbers for the same seed, undisturbed or resumed, and just what the settings say."""

from __future__ import annotations

import contextlib
import gc
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_lm, tiny_model, token_logp
from torch._subclasses import FakeTensor
from training_runs import (
    PROBLEMS,
    Interrupted,
    Judge,
    Run,
    Spy,
    assert_same_run,
    config_of,
    engine_of,
    is_correct,
    run,
    without_times,
)

from algorithms import ALGORITHMS, Algorithm, Batch, LossOutput
from algorithms.dpo import DPO
from algorithms.grpo import GRPO
from algorithms.gvpo import GVPO
from algorithms.kimi import Kimi
from algorithms.pg import PolicyGradient
from algorithms.ppo import PPO
from benchmarks.arithmetic import PROMPT_WIDTH
from harness.model.language import frozen_base
from harness.record.cell_folder import CellFolder
from harness.sampling.engine import ENGINES
from harness.suite.config import ConfigError
from harness.suite.rewards import RewardRecipe
from harness.training.batch import Sample, rollout_metrics
from harness.training.learner import Learner
from harness.training.schedule import mini_batches, prompts_of_step
from harness.training.train import train

SETTINGS: dict[str, tuple[Algorithm, dict[str, Any]]] = {
    "gvpo": (GVPO(), {"mini_batches": 2}),
    "ppo-with-critic-and-stale-sampler": (PPO(entropy_coefficient=0.01), {"refresh_every": 3, "steps": 6}),
    "kimi-with-history": (Kimi(), {"history_share": 0.5, "prompts": 3, "steps": 6}),
    "dpo-with-reference-from-both": (DPO(), {"history_share": 0.25, "prompts": 3, "refresh_every": 3, "steps": 6}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_seed_gives_the_same_run_bit_for_bit(name, tmp_path):
    algorithm, train_settings = SETTINGS[name]
    first = run(tmp_path / "a", algorithm, **train_settings)
    assert_same_run(first, run(tmp_path / "b", algorithm, **train_settings))
    start = tiny_model().state_dict()
    assert any(not torch.equal(weight, start[name]) for name, weight in first.weights.items())
    other = run(tmp_path / "c", algorithm, seed=1, **train_settings)
    assert without_times(other.rows) != without_times(first.rows)


@pytest.mark.parametrize(
    ("name", "interrupt_at", "from_step"),
    [
        ("gvpo", 1, 0),  # before the first checkpoint, which is that of step 2
        ("gvpo", 3, 2),
        # A stale sampler is by now neither the base nor the policy.
        ("ppo-with-critic-and-stale-sampler", 5, 4),
        ("kimi-with-history", 5, 4),
        ("dpo-with-reference-from-both", 5, 4),
    ],
)
def test_an_interrupted_run_continues_with_the_numbers_of_an_undisturbed_one(name, interrupt_at, from_step, tmp_path):
    algorithm, train_settings = SETTINGS[name]
    undisturbed = run(tmp_path / "a", algorithm, checkpoint_every=2, **train_settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", algorithm, checkpoint_every=2, interrupt_at=interrupt_at, **train_settings)
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rew')  # a kill in the middle of a line
    resumed = run(tmp_path / "b", algorithm, checkpoint_every=2, **train_settings)
    assert_same_run(undisturbed, resumed)
    assert len(resumed.judge.shown) == len(undisturbed.rows) - from_step
    for count in ("generated", "trained", "scored", "reference", "critic"):
        assert getattr(resumed.spent, count) == getattr(undisturbed.spent, count)


def test_all_algorithms_see_the_same_prompts_and_begin_with_the_same_rollouts(tmp_path):
    runs = {}
    for name, algorithm in ALGORITHMS.items():
        needs = algorithm().needs
        # What is given, drawn from the base or drawn besides is in test_supply.py.
        if needs.data == "policy" and needs.refill is None and set(needs.extras) <= {"length_limit_G"}:
            runs[name] = run(tmp_path / name, algorithm(), steps=3)
    assert len(runs) > 20
    gvpo = runs["gvpo"]
    assert len({tuple(r) for _, r in gvpo.judge.shown[0]}) > 2
    for other in runs.values():
        assert other.judge.shown[0] == gvpo.judge.shown[0]
        prompts = [[problem for problem, _ in step] for step in other.judge.shown]
        assert prompts == [[problem for problem, _ in step] for step in gvpo.judge.shown]
        for column in ("reward", "length", "sampled_entropy", "generated_tokens"):
            assert other.rows[0][column] == gvpo.rows[0][column]
    # Afterwards they go their own ways.
    assert len({str(other.judge.shown[2]) for other in runs.values()}) > 1


def test_a_reward_is_the_verdict_on_the_text_and_the_row_of_a_step_says_so(tmp_path):
    spy = Spy(GRPO())
    found = run(tmp_path, spy, steps=1)
    batch, shown = spy.prepared[0], found.judge.shown[0]
    expected = [[float(is_correct(response)) for _, response in shown[4 * g : 4 * g + 4]] for g in (0, 1)]
    assert batch.rewards_GK.tolist() == expected
    assert found.rows[0]["reward"] == sum(map(sum, expected)) / 8
    assert found.rows[0]["length"] == float(batch.mask_GKT.sum()) / 8
    assert found.rows[0]["truncated"] == float(batch.truncated_GK.float().mean())
    mask = batch.mask_GKT
    assert found.rows[0]["sampled_entropy"] == pytest.approx(-float(batch.sampler_logp_GKT[mask].mean()), abs=1e-6)


def test_verdicts_that_the_grader_failed_to_reach_are_counted(tmp_path):
    class Failing(Judge):
        def __call__(self, problems, responses, truncated):
            return ["timeout", "error", "correct", "no_answer"] * (len(responses) // 4)

    spy = Spy(GRPO())
    tmp_path.mkdir(exist_ok=True)
    folder = CellFolder(tmp_path)
    config, lm = config_of(steps=1), tiny_lm()
    base = frozen_base(lm, config.resources)
    train(config, spy, lm, base, engine_of(config, lm), PROBLEMS, Failing(), folder, lambda step, row: None)
    row = folder.metrics()[0]
    assert (row["grader_failures"], row["correct"], row["no_answer"], row["reward"]) == (0.5, 0.25, 0.25, 0.25)
    assert spy.prepared[0].rewards_GK.tolist() == [[0.0, 0.0, 1.0, 0.0]] * 2


def test_the_reward_is_the_suites_recipe_of_it(tmp_path):
    spy = Spy(GRPO())
    found = run(tmp_path, spy, steps=1, reward="dapo-v1")
    batch = spy.prepared[0]
    # ±1 for the verdict; of at most 6 tokens the last 1.2 are punished: −(n − 4.8)/1.2 where n > 4.8.
    length_GK = batch.mask_GKT.sum(-1)
    verdict_GK = torch.tensor([[is_correct(text) for _, text in found.judge.shown[0]]]).reshape(length_GK.shape) * 2 - 1
    expected_GK = verdict_GK - ((length_GK - 4.8) / 1.2).clamp(0, 1)
    torch.testing.assert_close(batch.rewards_GK, expected_GK.float(), atol=1e-6, rtol=0)


def test_a_reward_that_is_not_a_number_is_refused_before_any_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(RewardRecipe, "reward", lambda *_, **__: float("nan"))
    with pytest.raises(ValueError, match=r"train\.reward = 'correct-v1' gave a reward that is NaN or infinite"):
        run(tmp_path, GRPO(), steps=1)


@pytest.mark.parametrize("engine", ["cached", "transformers"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_on_policy_the_old_the_behaviour_and_the_samplers_log_probs_are_one(engine, temperature, tmp_path):
    spy = Spy(GRPO())
    found = run(tmp_path, spy, steps=2, engine=engine, temperature=temperature)
    for batch, row in zip(spy.prepared, found.rows, strict=True):
        assert torch.equal(batch.behaviour_logp_GKT, batch.old_logp_GKT)
        torch.testing.assert_close(batch.sampler_logp_GKT, batch.old_logp_GKT, atol=1e-5, rtol=0)
        assert row["behaviour_kl"] == 0
        assert 0 <= row["sampler_mismatch_mean"] <= row["sampler_mismatch_max"] < 1e-5


def test_a_stale_sampler_draws_from_the_snapshot_and_the_batch_says_so(tmp_path):
    spy = Spy(GRPO())
    found = run(tmp_path, spy, steps=4, refresh_every=2)
    base = tiny_model()
    for step, (batch, row) in enumerate(zip(spy.prepared, found.rows, strict=True)):
        # Whoever drew them, the trainer's log-probs under its weights are the sampler's.
        torch.testing.assert_close(batch.sampler_logp_GKT, batch.behaviour_logp_GKT, atol=1e-5, rtol=0)
        assert row["sampler_mismatch_max"] < 1e-5
        if step % 2 == 0:
            assert torch.equal(batch.behaviour_logp_GKT, batch.old_logp_GKT)
            assert row["behaviour_kl"] == 0
        else:
            stale_GK = (batch.behaviour_logp_GKT - batch.old_logp_GKT).sum(-1)
            assert float(stale_GK.abs().max()) > 1e-3
            assert row["behaviour_kl"] == pytest.approx(float(stale_GK.mean()), abs=1e-6)
    # In step 1 the snapshot is the base.
    for n, (prompt, tokens) in enumerate(responses_of(found, 1)):
        expected = token_logp(base, prompt, tokens).tolist()
        found_logp = spy.prepared[1].behaviour_logp_GKT.flatten(0, 1)[n][: len(tokens)].tolist()
        assert found_logp == pytest.approx(expected, abs=1e-5)


def responses_of(found: Run, step: int):
    """Prompts and responses of a step as token ids, EOS left out."""
    lm = tiny_lm()
    by_id = {problem.id: problem for problem in PROBLEMS}
    code = re.compile("<unused[0-9]+>|.")
    return [
        (lm.prompt_ids([by_id[problem]])[0], lm.tokenizer.convert_tokens_to_ids(code.findall(text)))
        for problem, text in found.judge.shown[step]
    ]


def test_the_reference_stays_the_base_while_the_policy_moves(tmp_path):
    spy = Spy(GVPO(anchor="reference"))
    run(tmp_path, spy, steps=3)
    assert torch.allclose(spy.prepared[0].ref_logp_GKT, spy.prepared[0].old_logp_GKT, atol=1e-6)
    assert float((spy.prepared[2].ref_logp_GKT - spy.prepared[2].old_logp_GKT).abs().max()) > 1e-3


def test_the_base_of_the_evaluation_is_the_reference_itself_and_not_a_copy_of_it():
    config, lm = config_of(temperature=0.7), tiny_lm()
    base = frozen_base(lm, config.resources)
    reference = Learner(lm, base, DPO(), config).reference_scorer
    assert reference is not None
    assert (reference.model, reference.temperature) == (base, 0.7)
    assert not any(weight.requires_grad for weight in base.parameters())
    assert Learner(lm, base, GVPO(), config).reference_scorer is None


def live_bytes() -> int:
    """Of all tensors that Python holds. Those that a compiler thinks with, if it ran here, have no memory."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and not issubclass(type(x), FakeTensor)]
    held = [x.untyped_storage() for x in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in held}.values())


def test_a_resumed_run_holds_no_more_than_an_undisturbed_one(tmp_path):
    def held_at_step_3(path, interrupt_at):
        found = []
        with contextlib.suppress(Interrupted):
            run(path, GRPO(), checkpoint_every=2, interrupt_at=interrupt_at)
        run(path, GRPO(), checkpoint_every=2, watch=lambda step: found.append(live_bytes()) if step == 3 else None)
        return found[0]

    before = live_bytes()
    # Weights, their gradients' place, Adam's moments and the base: a copy more of three of them would be half as much.
    undisturbed, resumed = (held_at_step_3(tmp_path / str(at), at) - before for at in (1, 3))
    assert resumed < 1.1 * undisturbed


def test_history_fills_its_share_of_a_group_with_the_most_recent_samples(tmp_path):
    spy = Spy(GRPO())
    found = run(tmp_path, spy, problems=PROBLEMS[:1], prompts=1, steps=4, history_share=0.5)
    # The first visit has no history: 4 fresh samples. From then on 2 fresh and the last 2 of the latest 4.
    assert [len(step) for step in found.judge.shown] == [4, 2, 2, 2]
    assert [row["history_share"] for row in found.rows] == [0.0, 0.5, 0.5, 0.5]
    for before, now in zip(spy.prepared, spy.prepared[1:], strict=False):
        assert now.valid_GK.tolist() == [[True] * 4]
        # Step 1 takes samples 2 and 3 of step 0; later steps the two fresh ones, 0 and 1, of the step before.
        kept = slice(2, 4) if before is spy.prepared[0] else slice(0, 2)
        T = min(before.mask_GKT.shape[-1], now.mask_GKT.shape[-1])
        for name in ("mask_GKT", "behaviour_logp_GKT", "sampler_logp_GKT"):
            assert torch.equal(getattr(now, name)[0, 2:, :T], getattr(before, name)[0, kept, :T])
        assert torch.equal(now.rewards_GK[0, 2:], before.rewards_GK[0, kept])
        # The weights have moved since they were drawn, and old log-probs are those of now.
        moved = (now.old_logp_GKT - now.behaviour_logp_GKT)[0].abs().amax(-1)
        assert (moved[:2] == 0).all()
        assert float(moved[2:].max()) > 1e-4
    # Rewards of the row are those of fresh samples alone.
    assert found.rows[1]["reward"] == float(spy.prepared[1].rewards_GK[0, :2].mean())


def test_each_epoch_makes_as_many_updates_as_mini_batches_and_the_old_log_probs_stay(tmp_path, monkeypatch):
    updates = list[int]()
    update = Learner.update

    def counted(self):
        updates.append(1)
        return update(self)

    monkeypatch.setattr(Learner, "update", counted)
    spy = Spy(GRPO())
    found = run(tmp_path, spy, steps=1, prompts=4, mini_batches=2, epochs=3)
    assert len(updates) == len(spy.updates) == 2 * 3
    rewards = spy.prepared[0].rewards_GK
    for i, (logp_GKT, mini) in enumerate(spy.updates):
        assert mini.mask_GKT.shape[0] == 2
        # The old log-probs are those of the batch, whichever update it is; only the policy moves away from them.
        difference = float((logp_GKT - mini.old_logp_GKT).abs().max())
        assert difference < 1e-5 if i == 0 else difference > 1e-4
    for epoch in range(3):
        seen = torch.cat([mini.rewards_GK for _, mini in spy.updates[2 * epoch : 2 * epoch + 2]])
        assert sorted(seen.tolist()) == sorted(rewards.tolist())
    assert len(found.rows) == 1


def test_metrics_of_a_step_are_means_over_its_updates(tmp_path):
    losses: list[float] = []

    @dataclass(frozen=True)
    class Counting(Algorithm):
        def loss(self, policy, batch):
            losses.append(float(len(losses)))
            return LossOutput(loss=policy.logp_GKT.sum(), metrics={"count": torch.tensor(losses[-1])})

    found = run(tmp_path, Counting(), steps=2, mini_batches=2)
    assert [row["algorithm/count"] for row in found.rows] == [0.5, 2.5]


@given(prompts_per=st.integers(1, 4), mini=st.integers(1, 5), epochs=st.integers(1, 3), step=st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_mini_batches_hold_each_group_once_an_epoch(prompts_per, mini, epochs, step):
    config = config_of(prompts=prompts_per * mini, mini_batches=mini, epochs=epochs)
    found = list(mini_batches(config, step))
    assert [len(index) for index in found] == [prompts_per] * (mini * epochs)
    for epoch in range(epochs):
        seen = torch.cat(found[mini * epoch : mini * (epoch + 1)])
        assert sorted(seen.tolist()) == list(range(prompts_per * mini))
    assert all(torch.equal(a, b) for a, b in zip(found, mini_batches(config, step), strict=True))


def test_the_order_of_mini_batches_changes_with_seed_step_and_epoch():
    def order(seed, step):
        return [
            index.tolist() for index in mini_batches(config_of(seed=seed, prompts=8, mini_batches=8, epochs=2), step)
        ]

    first = order(0, 0)
    assert first[:8] != first[8:]
    assert order(0, 1) != first
    assert order(1, 0) != first


@given(problems=st.integers(1, 30), count=st.integers(1, 12), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_each_pass_over_the_problems_meets_every_one_once(problems, count, seed):
    names = [replace(PROBLEMS[0], id=str(i)) for i in range(problems)]
    steps = -(-3 * problems // count)  # three passes
    met = [p.id for step in range(steps) for p in prompts_of_step(names, seed, step, count)]
    for i in range(3):
        assert sorted(met[i * problems : (i + 1) * problems]) == sorted(p.id for p in names)


def test_the_order_of_prompts_differs_from_pass_to_pass_and_from_seed_to_seed():
    names = [replace(PROBLEMS[0], id=str(i)) for i in range(12)]
    orders = [[p.id for p in prompts_of_step(names, seed, step, 12)] for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


NEVER = (99,)
"""An EOS outside of the vocabulary: every response has max_new_tokens tokens."""


@pytest.mark.parametrize(
    ("algorithm", "train_settings", "expected"),
    [
        # 2 steps of 2 × 4 responses of 3 tokens: 48 generated. A row is 13 + 3 tokens, a step's eight 128.
        # Two epochs a step are trained on: 2 × 2 × 128. The old log-probs are one pass a step: 2 × 128.
        (GRPO(), {}, {"generated": 48, "trained": 512, "scored": 256, "reference": 0, "critic": 0}),
        (GRPO(beta=0.1), {}, {"generated": 48, "trained": 512, "scored": 256, "reference": 256, "critic": 0}),
        # The critic: one pass for the old values and two epochs, 3 × 128 a step.
        (PPO(), {}, {"generated": 48, "trained": 512, "scored": 256, "reference": 0, "critic": 768}),
        # Groups of 4 × 16 = 64 tokens do not fit into 40: the second epoch of each step has an extra pass, while in the
        # first update the old log-probs are the first pass. 256 + 2 × 128.
        (GVPO(), {"token_budget": 40}, {"generated": 48, "trained": 512, "scored": 512, "reference": 0, "critic": 0}),
        (GVPO(), {"token_budget": 64}, {"generated": 48, "trained": 512, "scored": 256, "reference": 0, "critic": 0}),
        # The second step's samples are stale: one more pass, through the snapshot.
        (GRPO(), {"refresh_every": 2}, {"generated": 48, "trained": 512, "scored": 384, "reference": 0, "critic": 0}),
    ],
)
def test_tokens_are_counted_as_in_the_worked_example(algorithm, train_settings, expected, tmp_path):
    shape = {"steps": 2, "epochs": 2, "max_new_tokens": 3}
    found = run(tmp_path, algorithm, eos_ids=NEVER, **shape, **train_settings)
    assert {name: getattr(found.spent, name) for name in expected} == expected
    assert [row["generated_tokens"] for row in found.rows] == [24, 48]
    assert [row["trained_tokens"] for row in found.rows] == [256, 512]
    assert all(row["truncated"] == 1 and row["length"] == 3 for row in found.rows)


@pytest.mark.parametrize("algorithm", [GVPO(), PPO(), PolicyGradient()])
def test_the_token_budget_changes_memory_and_not_the_result(algorithm, tmp_path):
    a = run(tmp_path / "a", algorithm, steps=2, epochs=2)
    b = run(tmp_path / "b", algorithm, steps=2, epochs=2, token_budget=20)
    assert a.judge.shown == b.judge.shown
    for name, weight in a.weights.items():
        torch.testing.assert_close(weight, b.weights[name], atol=1e-4, rtol=0)


def test_gradients_are_clipped_to_the_norm_and_their_full_norm_is_recorded(tmp_path):
    @dataclass(frozen=True)
    class Steep(Algorithm):
        def loss(self, policy, batch):
            return LossOutput(loss=1e4 * policy.logp_GKT.sum())

    found = run(tmp_path, Steep(), steps=1, lr=1e-3)
    assert found.rows[0]["grad_norm"] > 100
    # AdamW's first step moves a weight by at most lr.
    start = tiny_model().state_dict()
    assert max(float((w - start[name]).abs().max()) for name, w in found.weights.items()) <= 1.001e-3


def test_a_loss_of_nan_stops_the_run_and_the_steps_before_it_are_kept(tmp_path):
    calls = []

    @dataclass(frozen=True)
    class Breaking(Algorithm):
        def loss(self, policy, batch):
            calls.append(1)
            return LossOutput(loss=policy.logp_GKT.sum() * (float("nan") if len(calls) == 3 else 1.0))

    with pytest.raises(FloatingPointError, match="Breaking"):
        run(tmp_path, Breaking(), steps=5)
    assert [row["step"] for row in CellFolder(tmp_path).metrics()] == [1, 2]


def test_a_response_longer_than_the_positions_is_refused_before_any_rollout(tmp_path):
    judge = Judge()
    config, lm = config_of(max_new_tokens=64 - PROMPT_WIDTH + 1), tiny_lm()
    base, folder, engine = frozen_base(lm, config.resources), CellFolder(tmp_path), engine_of(config, lm)
    with pytest.raises(ConfigError, match="at most 51 are left for the response"):
        train(config, GRPO(), lm, base, engine, PROBLEMS, judge, folder, lambda step, row: None)
    assert judge.shown == []


def test_training_raises_the_reward_that_the_judge_gives(tmp_path):
    found = run(tmp_path, GRPO(), steps=12, prompts=4, samples=8, lr=1e-2)
    assert found.rows[0]["reward"] < 0.8
    assert sum(row["reward"] for row in found.rows[-3:]) / 3 > 0.9


def test_the_samplers_log_probs_are_compared_with_the_trainers_of_the_same_weights():
    # log w of the samples: (−1.0 − −1.5) + (−2.0 − −2.0) = .5; −1.0 − −1.0 = 0; the padding of the second is nothing.
    behaviour = torch.tensor([[[-1.0, -2.0], [-1.0, 9.0]]])
    sampler = torch.tensor([[[-1.5, -2.0], [-1.0, 5.0]]])
    batch = Batch(
        mask_GKT=torch.tensor([[[True, True], [True, False]]]),
        valid_GK=torch.tensor([[True, True]]),
        rewards_GK=torch.zeros(1, 2),
        old_logp_GKT=behaviour - 3.0,  # the policy has moved on; that is another metric
        behaviour_logp_GKT=behaviour,
        sampler_logp_GKT=sampler,
    )
    group = [Sample([2], [3, 1], [-1.5, -2.0], 1.0, False, "correct"), Sample([2], [1], [-1.0], 0.0, False, "wrong")]
    found = rollout_metrics([group], [group], batch)
    assert found["sampler_mismatch_mean"] == pytest.approx(0.5 / 3)
    assert found["sampler_mismatch_max"] == pytest.approx(0.5)
    # w = e^.5 = 1.6487 and 1: (2.6487)²/(2 · (2.7183 + 1)) = 7.0157/7.4366
    assert found["sampler_effective_share"] == pytest.approx(0.94341, abs=1e-5)


def test_one_sample_that_outweighs_all_leaves_an_effective_share_of_one_over_n():
    behaviour = torch.zeros(1, 4, 1)
    sampler = torch.tensor([-2000.0, 0.0, 0.0, 0.0]).view(1, 4, 1)  # its weight overflows every float
    batch = Batch(
        mask_GKT=torch.ones(1, 4, 1, dtype=torch.bool),
        valid_GK=torch.ones(1, 4, dtype=torch.bool),
        rewards_GK=torch.zeros(1, 4),
        old_logp_GKT=behaviour,
        behaviour_logp_GKT=behaviour,
        sampler_logp_GKT=sampler,
    )
    group = [Sample([2], [1], [0.0], 0.0, False, "wrong")] * 4
    assert rollout_metrics([group], [group], batch)["sampler_effective_share"] == pytest.approx(1 / 4)


def test_a_ratio_cap_puts_the_correction_into_the_batch_and_changes_nothing_where_sampler_and_trainer_agree(tmp_path):
    spy = Spy(GRPO())
    capped = run(tmp_path / "a", spy, steps=2, sampler_ratio_cap=2.0)
    batch = spy.prepared[0]
    ratio = (batch.behaviour_logp_GKT - batch.sampler_logp_GKT).exp()[batch.mask_GKT]
    torch.testing.assert_close(batch.correction_GKT[batch.mask_GKT], ratio)
    plain = Spy(GRPO())
    off = run(tmp_path / "b", plain, steps=2)
    assert plain.prepared[0].correction_GKT is None
    for name, weight in capped.weights.items():
        torch.testing.assert_close(weight, off.weights[name], atol=1e-4, rtol=0)


def test_the_engine_is_told_when_the_trainer_needs_the_memory(tmp_path, monkeypatch):
    calls = []
    cached = ENGINES["cached"]

    def noted(method):
        def call(self, *arguments, **more):
            calls.append(method.__name__)
            return method(self, *arguments, **more)

        return call

    for name in ("sync", "generate", "release_memory"):
        monkeypatch.setattr(cached, name, noted(getattr(cached, name)))
    run(tmp_path, GRPO(), steps=4, refresh_every=2)
    once = ["generate", "release_memory"]
    # Before all else too: the models that it makes must fit.
    assert calls == ["release_memory", "sync", *once, *once, "sync", *once, *once]
