"""What an algorithm's needs ask for beyond a loss, worked out by hand, and resumed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny import tiny_lm, token_logp
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from training_runs import (
    PROBLEMS,
    Interrupted,
    Spy,
    assert_same_run,
    is_correct,
    run,
)
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from algorithms import Algorithm, LossOutput, Needs
from algorithms.base import Data
from benchmarks import Problem
from benchmarks.arithmetic import SYMBOLS
from harness.model.rows import Response
from harness.model.teacher import Teacher
from harness.record.ledger import Tokens
from harness.record.seeding import seed_of
from harness.sampling.local import CachedEngine
from harness.suite.config import ConfigError, Model, Resources
from harness.training.schedule import further_prompts, prompts_of_step

PROMPT = 13
"""Tokens of every prompt."""


def mixed(rewards_K: torch.Tensor) -> bool:
    """DAPO's dynamic sampling: a group whose rewards are all equal teaches nothing."""
    return bool(rewards_K.min() < rewards_K.max())


def hopeless(rewards_K: torch.Tensor) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Asks(Algorithm):
    """−Σ (R − 1/2) log π over all tokens, whatever it is supplied with."""

    data: Data = "policy"
    extras: tuple[str, ...] = ()
    reference_samples: int = 0
    refill: Callable[[torch.Tensor], bool] | None = None
    reference: bool = False
    smallest: int = 1

    @property
    def needs(self):
        return Needs(
            data=self.data,
            extras=self.extras,
            reference_samples=self.reference_samples,
            refill=self.refill,
            reference=self.reference,
            coupling="sequence",
            min_group_size=self.smallest,
        )

    def loss(self, policy, batch):
        return LossOutput(loss=-((batch.rewards_GK - 0.5) * policy.logp_GKT.mul(batch.mask_GKT).sum(-1)).sum())


def spying(**asked) -> Spy:
    return Spy(Asks(**asked))


def chosen(step: int, prompts: int = 2, problems=PROBLEMS) -> list[Problem]:
    return prompts_of_step(problems, 0, step, prompts)


def drawn(problem: Problem, count: int, seed: int, temperature: float = 1.0) -> list[Response]:
    """What the base answers."""
    lm = tiny_lm()
    engine = CachedEngine(lm.model, eos_ids=lm.eos_ids, batch=64)
    (ids,) = lm.prompt_ids([problem])
    return engine.generate([ids], [count], temperature=temperature, max_new_tokens=6, seeds=[seed])[0]


def rewards(responses: list[Response]) -> list[float]:
    return [float(is_correct(tiny_lm().text(response.tokens))) for response in responses]


@pytest.mark.parametrize(("data", "size"), [("demonstrations", 1), ("pairs", 2)])
def test_given_responses_are_trained_on_as_they_are_and_nothing_is_drawn(data, size, tmp_path):
    spy = spying(data=data)
    found = run(tmp_path, spy, steps=1, max_new_tokens=12)
    (batch,) = spy.prepared
    lm = tiny_lm()
    # `:0,2,7=2` is a response in full; each group has the solution first, and then the mistake.
    texts = [[str(p.solution), str(p.mistake)][:size] for p in chosen(0)]
    assert batch.rewards_GK.tolist() == [[1.0, 0.0][:size]] * 2
    assert batch.mask_GKT.sum(-1).tolist() == [[len(text) + 1 for text in group] for group in texts]  # and EOS
    for g, problem in enumerate(chosen(0)):
        for k, text in enumerate(texts[g]):
            ids = [*lm.tokenizer(text)["input_ids"], lm.tokenizer.eos_token_id]
            expected_T = token_logp(lm.model, lm.prompt_ids([problem])[0], ids)
            for logp_GKT in (batch.old_logp_GKT, batch.behaviour_logp_GKT, batch.sampler_logp_GKT):
                torch.testing.assert_close(logp_GKT[g, k, : len(ids)], expected_T)
    assert found.judge.shown == []
    tokens = sum(PROMPT + len(text) + 1 for group in texts for text in group)
    spent = found.spent.tokens()
    assert (spent["generated"], spent["trained"], spent["scored"], spent["reference"]) == (0, tokens, tokens, 0)
    (row,) = found.rows
    assert row["generated_tokens"] == 0
    assert {"reward", "length", "correct", "sampled_entropy"}.isdisjoint(row)


def test_given_responses_have_the_old_policy_for_their_sampler_at_every_step(tmp_path):
    # 3 steps of 4 of 6 problems: some are met twice, under other weights.
    spy = spying(data="pairs", reference=True)
    run(tmp_path, spy, steps=3, prompts=4, max_new_tokens=12, refresh_every=2)
    for batch in spy.prepared:
        assert torch.equal(batch.behaviour_logp_GKT, batch.old_logp_GKT)
        assert torch.equal(batch.sampler_logp_GKT, batch.old_logp_GKT)
    assert not torch.allclose(spy.prepared[-1].old_logp_GKT, spy.prepared[-1].ref_logp_GKT)


def test_a_given_response_beyond_the_limit_is_refused_before_training(tmp_path):
    longest = max(len(str(problem.solution)) for problem in PROBLEMS) + 1
    with pytest.raises(ConfigError, match=rf"max_new_tokens = 5: .* of 6 of 6 problems .* raise .* to {longest}"):
        run(tmp_path, Asks(data="demonstrations"), steps=1, max_new_tokens=5)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("reference", [False, True])
def test_samples_of_the_base_are_drawn_from_it_at_every_step_and_scored_by_it_once(reference, tmp_path):
    spy = spying(data="base", reference=reference)
    found = run(tmp_path, spy, steps=3, max_new_tokens=6, refresh_every=2)
    base = tiny_lm()
    expected = 0
    for step, batch in enumerate(spy.prepared):
        for g, problem in enumerate(chosen(step)):
            responses = drawn(problem, 4, seed_of("rollout", 0, step, g))
            assert batch.mask_GKT.sum(-1)[g].tolist() == [len(r.tokens) for r in responses]
            assert batch.rewards_GK[g].tolist() == rewards(responses)
            for k, response in enumerate(responses):
                logp_T = token_logp(base.model, base.prompt_ids([problem])[0], response.tokens)
                torch.testing.assert_close(batch.behaviour_logp_GKT[g, k, : len(logp_T)], logp_T)
            expected += sum(len(r.tokens) for r in responses)
        assert (batch.ref_logp_GKT is None) is not reference
        if reference:
            assert torch.equal(batch.ref_logp_GKT, batch.behaviour_logp_GKT)
    assert not torch.allclose(spy.prepared[-1].old_logp_GKT, spy.prepared[-1].behaviour_logp_GKT, atol=1e-3)
    spent = found.spent
    rows = expected + 3 * 8 * PROMPT  # one forward pass of the policy and one of the base, with or without a reference
    assert (spent.generated, spent.trained, spent.scored, spent.reference) == (expected, rows, rows, rows)


def test_the_greedy_response_and_those_of_the_base_are_graded_and_charged(tmp_path):
    spy = spying(extras=("greedy_reward_G", "reference_reward_GN", "length_limit_G"), reference_samples=3)
    plain = run(tmp_path / "plain", Asks(), steps=1)
    found = run(tmp_path / "asks", spy, steps=1)
    (batch,) = spy.prepared
    greedy = [drawn(p, 1, 0, temperature=0.0) for p in chosen(0)]
    reference = [drawn(p, 3, seed_of("reference", 0, 0, g)) for g, p in enumerate(chosen(0))]
    assert batch.extras["greedy_reward_G"].tolist() == [rewards(group)[0] for group in greedy]
    assert batch.extras["reference_reward_GN"].tolist() == [rewards(group) for group in reference]
    assert batch.extras["length_limit_G"].tolist() == [6.0, 6.0]
    more = sum(len(response.tokens) for group in (*greedy, *reference) for response in group)
    assert found.spent.generated == plain.spent.generated + more
    # What is drawn beside changes nothing of the batch, nor of the training reward.
    assert found.rows[0]["reward"] == plain.rows[0]["reward"]
    assert found.rows[0]["loss"] == plain.rows[0]["loss"]


def test_the_greedy_response_is_the_sampling_policys_and_the_references_the_bases(tmp_path):
    """After large steps the two answer differently, and the next rollouts are the policy's again."""
    spy = spying(extras=("greedy_reward_G", "reference_reward_GN"), reference_samples=3)
    found = run(tmp_path / "asks", spy, steps=4, lr=0.1)
    plain = run(tmp_path / "plain", Asks(), steps=4, lr=0.1)
    for row, other in zip(found.rows, plain.rows, strict=True):
        assert (row["reward"], row["length"]) == (other["reward"], other["length"])
    for step, batch in enumerate(spy.prepared):
        expected = [rewards(drawn(p, 3, seed_of("reference", 0, step, g))) for g, p in enumerate(chosen(step))]
        assert batch.extras["reference_reward_GN"].tolist() == expected
    shown = [text for call in found.judge.shown for _, text in call]
    assert len(shown) == 4 * 2 * (4 + 1 + 3)


def test_groups_that_teach_nothing_are_replaced_by_those_of_further_prompts(tmp_path):
    spy = spying(refill=mixed)
    found = run(tmp_path, spy, steps=1, samples=2, refill_rounds=2)
    own, further = chosen(0), list(further_prompts(PROBLEMS, chosen(0), 0, 0))
    assert sorted(p.id for p in (*own, *further)) == sorted(p.id for p in PROBLEMS)
    groups = [rewards(drawn(p, 2, seed_of("rollout", 0, 0, g))) for g, p in enumerate(own)]
    spare = [rewards(drawn(p, 2, seed_of("refill", 0, 0, place))) for place, p in enumerate(further)]
    first, asked = [*groups], 0
    unfit = [g for g in range(2) if len(set(groups[g])) == 1]
    assert unfit  # or there were nothing to see
    for _ in range(2):
        round_, asked = spare[asked : asked + len(unfit)], asked + len(unfit)
        for fit in [group for group in round_ if len(set(group)) > 1]:
            groups[unfit.pop(0)] = fit
    assert spy.prepared[0].rewards_GK.tolist() == groups
    (row,) = found.rows
    assert row["unfit_groups"] == len(unfit)
    assert row["reward"] == sum(map(sum, first)) / 4
    assert found.spent.generated == sum(
        len(response.tokens)
        for purpose, problems in (("rollout", own), ("refill", further[: sum(map(len, found.judge.shown[1:])) // 2]))
        for place, p in enumerate(problems)
        for response in drawn(p, 2, seed_of(purpose, 0, 0, place))
    )


def test_a_batch_keeps_its_size_where_no_further_prompt_is_worth_training_on(tmp_path):
    spy = spying(refill=hopeless)
    plain = run(tmp_path / "plain", Asks(), steps=2)
    found = run(tmp_path / "asks", spy, steps=2, refill_rounds=1)
    # one round: two further prompts a step, which are no better; the step's own stay
    assert [len(call) for call in found.judge.shown] == [8, 8, 8, 8]
    assert [row["unfit_groups"] for row in found.rows] == [2.0, 2.0]
    for row, other in zip(found.rows, plain.rows, strict=True):
        assert (row["reward"], row["loss"]) == (other["reward"], other["loss"])
    # Rounds end where the problems do: 4 of 6 are not the step's own.
    found = run(tmp_path / "all", spying(refill=hopeless), steps=1, refill_rounds=9)
    assert [len(call) for call in found.judge.shown] == [8, 8, 8]


def other_tokenizer() -> PreTrainedTokenizerFast:
    """Pairs of characters where there are some: about half as many tokens, under other numbers."""
    pairs = [a + b for a in "0123456789" for b in "0123456789,;:=+-* "]
    names = ["<eos>", "<pad>", *reversed(pairs), *reversed(SYMBOLS), "<unk>"]
    tok = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Split(Regex(f"[0-9][{re.escape(SYMBOLS)}]|."), "isolated")
    tok.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A random model over other tokens than the policy's."""
    tok = other_tokenizer()
    config = GPT2Config(
        vocab_size=len(tok),
        n_positions=128,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = GPT2LMHeadModel(config).eval()
    path = tmp_path_factory.mktemp("teacher")
    model.save_pretrained(path)
    tok.save_pretrained(path)
    return path


def test_a_teacher_with_another_tokenizer_scores_the_text_of_a_response_after_its_own_prompt(teacher, tmp_path):
    spy = spying(extras=("teacher_logp_GK",))
    asked = {"teacher": str(teacher), "teacher_template": "plain", "temperature": 0.8, "token_budget": 60}
    found = run(tmp_path, spy, steps=2, refresh_every=2, eos_ids=(1, 5, 9, 14, 20, 27), **asked)
    model, tok = GPT2LMHeadModel.from_pretrained(teacher), other_tokenizer()
    assert len(tok("7+3*5-8")["input_ids"]) == 4  # 7+ 3* 5- 8: the policy's tokenizer has seven
    tokens = 0
    shown = iter([text for call in found.judge.shown for _, text in call])
    ended = []
    for step, batch in enumerate(spy.prepared):
        for g, problem in enumerate(chosen(step)):
            prompt = tok(f"Question: {problem.prompt}\nAnswer:")["input_ids"]
            for k in range(4):
                response = tok(next(shown))["input_ids"]
                ended.append(not batch.truncated_GK[g, k])
                response += [0] if ended[-1] else []
                logp_T = token_logp(model, prompt, response, temperature=0.8) if response else torch.zeros(0)
                assert batch.extras["teacher_logp_GK"][g, k].item() == pytest.approx(logp_T.sum().item(), abs=1e-4)
                tokens += len(prompt) + len(response)
    assert len(set(ended)) == 2  # some hit the limit, and get no EOS
    assert found.spent.teacher == tokens
    assert Tokens(**found.spent.tokens()).extra == found.spent.scored + tokens


def test_a_response_without_text_costs_the_teacher_its_eos_alone(teacher):
    problems = PROBLEMS[:2]
    found = Teacher.load(Model(teacher=str(teacher)), problems, 1.0, Resources())
    assert found.logp(found.rows(problems, ["", ""], [False, False])).tolist() == [0.0, 0.0]
    rows = found.rows(problems, ["", "=2"], [True, False])
    assert rows.response_length_N.tolist() == [1, 2]
    model, tok = GPT2LMHeadModel.from_pretrained(teacher), other_tokenizer()
    expected = [
        token_logp(model, tok(problem.prompt)["input_ids"], response).sum().item()
        for problem, response in zip(problems, [[0], tok("=2")["input_ids"]], strict=True)
    ]
    assert found.logp(rows).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_response_too_long_for_the_teacher_is_refused(teacher):
    found = Teacher.load(Model(teacher=str(teacher)), [Problem(id="a", prompt="=" * 10, answer="")], 1.0, Resources())
    with pytest.raises(ConfigError, match=r"has 128 positions; a response to problem .* has 131 of its tokens"):
        found.rows([Problem(id="a", prompt="=" * 10, answer="")], ["=" * 120], [True])


def test_without_a_teacher_the_algorithm_that_needs_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.teacher is not set"):
        run(tmp_path, Asks(extras=("teacher_logp_GK",)), steps=1)


KINDS = {
    "demonstrations": Asks(data="demonstrations"),
    "pairs": Asks(data="pairs"),
    "base": Asks(data="base"),
    "extras": Asks(extras=("greedy_reward_G", "reference_reward_GN"), reference_samples=2),
    "refill": Asks(refill=mixed),
    "teacher": Asks(extras=("teacher_logp_GK",)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_ends_with_the_numbers_of_an_undisturbed_one(kind, teacher, tmp_path):
    settings = {
        "teacher": str(teacher),
        "steps": 6,
        "max_new_tokens": 12,
        "refresh_every": 3,
        "mini_batches": 2,
        "checkpoint_every": 2,
    }
    undisturbed = run(tmp_path / "a", KINDS[kind], **settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", KINDS[kind], interrupt_at=5, **settings)
    resumed = run(tmp_path / "b", KINDS[kind], **settings)
    assert_same_run(undisturbed, resumed)
    assert resumed.spent.tokens() == undisturbed.spent.tokens()
