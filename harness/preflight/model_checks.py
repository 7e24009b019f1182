"""The doctor's checks that need the weights: BOS and EOS, parity of log-probs, that a weight sync arrives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from harness.model.language import LanguageModel, load_model
from harness.model.policy import PolicyModel
from harness.model.rows import Response, Rows
from harness.model.scorer import Scorer, score
from harness.preflight.checks import Check, evaluated
from harness.record.seeding import seed_of
from harness.sampling.engine import Engine, open_engine
from harness.suite.config import Suite
from harness.suite.plan import training_problems

PARITY = {"float32": 1e-3, "bfloat16": 5e-2}
"""Nats: the mean |log π(sampler) − log π(trainer)| of a token above which the two are not the same policy. Engines that
agree stay below 1e-5 in float32; in bfloat16 the rounding of logits alone makes about 1e-2."""


def on_the_model(suite: Suite) -> list[Check]:
    """What needs the weights: BOS and EOS, log-probs of sampler and trainer, and that a sync changes the sampler."""
    lm = load_model(suite.model)
    precision = suite.model.precision
    with open_engine(suite.rollout, suite.resources, lm.model, eos_ids=lm.eos_ids, precision=precision) as engine:
        return [*prompts(suite, lm), *agreement(suite, lm, engine)]


def prompts(suite: Suite, lm: LanguageModel) -> Iterator[Check]:
    """The rendered prompts begin with at most one BOS, and the tokenizer knows EOS and the template's stops.

    A chat template may begin every message with the BOS; two in a row are what no model was trained on.
    """
    scored = (p for b in evaluated(suite) for p in b.problems()[: suite.evaluation.limit][:50])
    problems = [*training_problems(suite.train)[:50], *scored]
    bos = lm.tokenizer.bos_token_id
    ids = lm.prompt_ids(problems)
    double = sum(bos is not None and prompt[:2] == [bos, bos] for prompt in ids)
    begins = sum(bos is not None and prompt[0] == bos for prompt in ids)
    if double:
        yield Check(
            "BOS", "fail", f"{double} of {len(ids)} prompts begin with two of {lm.tokenizer.bos_token!r}",
            f"the template {lm.template.label} and the tokenizer add more than one: choose another model.template",
        )  # fmt: skip
    elif bos is not None and 0 < begins < len(ids):
        yield Check("BOS", "fail", f"{begins} of {len(ids)} prompts begin with it", "check the tokenizer's settings")
    else:
        yield Check("BOS", "ok", "none" if begins == 0 else f"one at the start, {lm.tokenizer.bos_token!r}")
    split = [stop for stop in lm.template.stop if len(lm.tokenizer(stop, add_special_tokens=False)["input_ids"]) > 1]
    named = ", ".join(lm.tokenizer.convert_ids_to_tokens(list(lm.eos_ids)))
    yield Check("EOS", "ok", f"{named}; template {lm.template.label}")
    if split:
        yield Check(
            "stops", "warn", f"{', '.join(map(repr, split))} of {lm.template.label}: more than one token each",
            "a response ends there, but the engine computes tokens past it; another template may save them",
        )  # fmt: skip


def agreement(suite: Suite, lm: LanguageModel, engine: Engine) -> Iterator[Check]:
    """Sampler and trainer give a sample the same log-prob at the suite's temperature, before and after a sync."""
    settings, precision = suite.train, suite.model.precision
    limit = PARITY[precision]
    asked = lm.prompt_ids(training_problems(settings)[:4])
    policy = PolicyModel(lm.model)
    scorer = Scorer(policy, None, settings.temperature, precision)

    def draw() -> list[Response]:
        groups = engine.generate(
            asked,
            [4] * len(asked),
            temperature=settings.temperature,
            max_new_tokens=min(settings.max_new_tokens, 64),
            seeds=[seed_of("doctor", place) for place in range(len(asked))],
        )
        return [response for group in groups for response in group]

    def trainer(responses: Sequence[Response]) -> Tensor:
        owners = [prompt for prompt in asked for _ in range(4)]
        rows = Rows.of(owners, [response.tokens for response in responses], lm.device)
        longest = int(rows.response_length_N.max())
        logp_NT = score(scorer, rows, response_length=longest, token_budget=suite.resources.token_budget).logp_GKT
        return torch.cat([logp_NT[n, : len(response.tokens)] for n, response in enumerate(responses)]).cpu()

    def sampler(responses: Sequence[Response]) -> Tensor:
        return torch.tensor([logp for response in responses for logp in response.logp])

    engine.sync(policy)
    drawn = draw()
    apart = (sampler(drawn) - trainer(drawn)).abs()
    found = (
        f"{suite.rollout.engine} at temperature {settings.temperature:g}: {apart.mean():.2g} nats a token, at most "
        f"{apart.max():.2g}"
    )
    remedy = "the engine samples from another policy than the trained one: check its version, precision and settings"
    ok = bool(apart.mean() <= limit)
    yield Check("log-prob parity", "ok" if ok else "fail", found, "" if ok else remedy)

    # The last norm's weights scale the logits: a change that no log-prob escapes.
    weight = [parameter for parameter in lm.model.parameters() if parameter.dim() == 1][-1]
    before = weight.detach().clone()
    for factor in (1.05, 1.5, 5.0):
        with torch.no_grad():
            weight.copy_(before * factor)
        moved = (trainer(drawn) - sampler(drawn)).abs().mean()
        if moved > 10 * limit:
            break
    engine.sync(policy)
    drawn = draw()
    apart_after = (sampler(drawn) - trainer(drawn)).abs().mean()
    with torch.no_grad():
        weight.copy_(before)
    engine.sync(policy)
    ok = bool(apart_after <= limit < moved)  # what did not move the trainer says nothing of the sampler
    found = f"a change of {moved:.2g} nats in the trainer left the sampler {apart_after:.2g} away from it"
    remedy = "the sampler goes on with old weights: use another rollout.engine, or report its version"
    yield Check("weight sync", "ok" if ok else "fail", found, "" if ok else remedy)
