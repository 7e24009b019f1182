"""Forward passes: log-probs, entropies, values and KL against independent computations, and nothing from padding."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PROMPTS, full_logits, gradients, tiny_model, token_logp

from harness.model.language import new_critic
from harness.model.rows import Rows, fits, micro_batches
from harness.model.scorer import Scorer, score

RESPONSES = [[8, 3, 1], [22], [17, 17, 4, 9, 1], [6, 12]]
T = 5


def rows_of(prompts=PROMPTS, responses=RESPONSES) -> Rows:
    return Rows.of(prompts, responses, "cpu")


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def test_rows_are_prompt_and_response_padded_on_the_right():
    rows = Rows.of([[5, 6], [7]], [[8, 1], [9, 2, 1]], "cpu")
    assert rows.input_ids_NL.tolist() == [[5, 6, 8, 1], [7, 9, 2, 1]]
    assert rows.prompt_length_N.tolist() == [2, 1]
    assert rows.response_length_N.tolist() == [2, 3]
    assert rows.length_N.tolist() == [4, 4]
    assert Rows.of([[5], [7]], [[8, 2, 1], [9]], "cpu").pick(torch.tensor([1])).input_ids_NL.tolist() == [[7, 9]]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_log_probs_are_those_of_transformers_full_logits(model64, temperature):
    logp_NT = score(Scorer(model64, None, temperature), rows_of(), response_length=T, token_budget=10**6).logp_NT
    for n, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        close(logp_NT[n, : len(response)], token_logp(model64, prompt, response, temperature).detach())
        assert (logp_NT[n, len(response) :] == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_entropy_is_the_sum_over_the_vocabulary(model64, temperature):
    scorer = Scorer(model64, None, temperature)
    entropy_NT: Any = score(scorer, rows_of(), response_length=T, token_budget=10**6, entropy=True).entropy_NT
    for n, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        p_TV = (full_logits(model64, prompt, response) / temperature).softmax(-1).detach()
        for t in range(len(response)):
            by_hand = -sum(float(p) * float(p.log()) for p in p_TV[t])
            assert float(entropy_NT[n, t]) == pytest.approx(by_hand, abs=1e-10)
        assert (entropy_NT[n, len(response) :] == 0).all()


@torch.no_grad()
def test_kl_is_the_sum_over_vocabulary_and_response(model64):
    base = tiny_model(torch.float64)
    for weight in base.parameters():
        weight *= 0.9
    kl_N, logp_N = Scorer(model64).kl_from(Scorer(base), rows_of())
    for n, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        p_TV = full_logits(model64, prompt, response).softmax(-1)
        q_TV = full_logits(base, prompt, response).softmax(-1)
        by_hand = float((p_TV * (p_TV / q_TV).log()).sum())
        assert by_hand > 0.01
        assert float(kl_N[n]) == pytest.approx(by_hand, abs=1e-10)
        assert float(logp_N[n]) == pytest.approx(float(token_logp(model64, prompt, response).sum()), abs=1e-10)


def test_kl_from_itself_is_zero(model64):
    close(Scorer(model64).kl_from(Scorer(model64), rows_of())[0], torch.zeros(4, dtype=torch.float64), atol=0)


@torch.no_grad()
def test_a_value_belongs_to_the_state_before_its_token_and_the_final_one_to_the_state_after_the_last(model64, critic64):
    scorer = Scorer(model64, critic64)
    token_budget = 2 * int(rows_of().length_N.max())  # several micro-batches
    found = score(scorer, rows_of(), response_length=T, token_budget=token_budget)
    assert found.value_NT is not None
    assert found.final_value_N is not None
    for n, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        for t in range(len(response) + 1):
            # The state before token t is the prompt with the tokens before it: a row of its own here.
            hidden_1LH = critic64.body(input_ids=torch.tensor([[*prompt, *response[:t]]])).last_hidden_state
            state = float(hidden_1LH[0, -1] @ critic64.head.weight[0] + critic64.head.bias[0])
            value = found.value_NT[n, t] if t < len(response) else found.final_value_N[n]
            assert float(value) == pytest.approx(state, abs=1e-10)
        assert (found.value_NT[n, len(response) :] == 0).all()


def test_a_new_critic_starts_at_zero_with_a_body_of_its_own(model32):
    critic = new_critic(model32)
    assert (critic(torch.tensor([[5, 6, 7]])) == 0).all()
    shared = {id(p) for p in model32.parameters()} & {id(p) for p in critic.parameters()}
    assert not shared
    for name, weight in model32.base_model.state_dict().items():
        assert torch.equal(weight, critic.body.state_dict()[name])


def outputs(model, critic, rows) -> list[torch.Tensor]:
    """Everything that a scorer puts out, with the gradients of a weighted sum of it."""
    output = Scorer(model, critic, 0.8)(rows, response_length=T, entropy=True)
    found: list[Any] = [output.logp_NT, output.entropy_NT, output.value_NT]
    weight_NT = torch.arange(1.0, 1 + len(rows) * T, dtype=torch.float64).view(len(rows), T)
    torch.stack([(x * weight_NT).sum() for x in found]).sum().backward()
    return [x.detach() for x in found] + list(gradients(model, critic).values())


def test_other_padding_changes_neither_outputs_nor_gradients(model64, critic64):
    rows = rows_of()
    padding_NL = torch.arange(rows.input_ids_NL.shape[1]) >= rows.length_N[:, None]
    other_ids = replace(rows, input_ids_NL=rows.input_ids_NL.masked_fill(padding_NL, 31))
    more_columns = replace(rows, input_ids_NL=torch.nn.functional.pad(rows.input_ids_NL, (0, 4), value=9))
    expected = outputs(model64, critic64, rows)
    for changed in (other_ids, more_columns):
        for a, b in zip(outputs(model64, critic64, changed), expected, strict=True):
            close(a, b)


def test_rows_of_different_lengths_in_one_batch_are_as_each_alone(model64, critic64):
    together = Scorer(model64, critic64, 0.8)(rows_of(), response_length=T, entropy=True)
    for n in range(4):
        alone_rows = rows_of(PROMPTS[n : n + 1], RESPONSES[n : n + 1])
        alone = Scorer(model64, critic64, 0.8)(alone_rows, response_length=T, entropy=True)
        for name in ("logp_NT", "entropy_NT", "value_NT"):
            close(getattr(together, name)[n].detach(), getattr(alone, name)[0].detach())


def test_other_rows_change_nothing_of_a_row_nor_of_its_gradient(model64):
    def one_row(rows: Rows):
        Scorer(model64)(rows, response_length=T).logp_NT[0].sum().backward()
        return gradients(model64)

    expected = one_row(rows_of())
    others = one_row(rows_of([PROMPTS[0], [30] * 11], [RESPONSES[0], [2, 2, 2, 2]]))
    assert expected.keys() == others.keys()
    for name, gradient in expected.items():
        close(gradient, others[name])


@pytest.mark.parametrize("token_budget", [1, 12, 20, 10**6])
def test_scoring_in_micro_batches_keeps_the_order_of_rows(model64, critic64, token_budget):
    scorer = Scorer(model64, critic64)
    whole: Any = scorer(rows_of(), response_length=7, entropy=True)
    parts = score(scorer, rows_of(), response_length=7, token_budget=token_budget, entropy=True)
    for name in ("logp_NT", "entropy_NT", "value_NT"):
        assert getattr(parts, name).shape == (4, 7)
        assert not getattr(parts, name).requires_grad
        close(getattr(parts, name), getattr(whole, name).detach())
    close(parts.final_value_N, whole.final_value_N.detach())


def test_bfloat16_passes_give_float32_log_probs_near_the_exact_ones(model32):
    exact = score(Scorer(model32), rows_of(), response_length=T, token_budget=10**6).logp_NT
    half = score(Scorer(model32, precision="bfloat16"), rows_of(), response_length=T, token_budget=10**6).logp_NT
    assert half.dtype == torch.float32
    close(half, exact, atol=0.2)
    assert not torch.equal(half, exact)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    units=st.integers(1, 6),
    budget=st.integers(1, 200),
    data=st.data(),
)
@settings(deadline=None, max_examples=100)
def test_micro_batches_hold_each_row_once_and_keep_units_and_the_budget(lengths, units, budget, data):
    length_N = torch.tensor(lengths)
    unit_N = torch.tensor(data.draw(st.lists(st.integers(0, units), min_size=len(lengths), max_size=len(lengths))))
    split = micro_batches(length_N, budget, unit_N)
    assert sorted(torch.cat(split).tolist()) == list(range(len(lengths)))
    home: dict[str, Any] = {}
    for i, part in enumerate(split):
        held = set(unit_N[part].tolist())
        assert len(held) == 1 or len(part) * int(length_N[part].max()) <= budget
        assert all(home.setdefault(unit, i) == i for unit in held)


@given(
    rows=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), min_size=1, max_size=20),
    budget=st.integers(1, 120),
    ranks=st.integers(1, 4),
)
@settings(deadline=None)
def test_units_fit_where_every_micro_batch_is_within_the_budget_or_a_row_on_each_rank(rows, budget, ranks):
    lengths, units = (torch.tensor(column) for column in zip(*rows, strict=True))
    parts = micro_batches(lengths, budget, units, ranks)
    shares = [(-(-len(part) // ranks), int(lengths[part].max())) for part in parts]
    assert fits(lengths, budget, units, ranks) == all(n == 1 or n * longest <= budget for n, longest in shares)


def test_micro_batches_worked_example():
    # By length: 2, 3 | 5, 5 | 9. Two of 3 are 6 tokens of 10, three of 5 would be 15; two of 5 are 10; 9 stands alone.
    split = micro_batches(torch.tensor([5, 9, 3, 5, 2]), 10)
    assert [part.tolist() for part in split] == [[4, 2], [0, 3], [1]]
