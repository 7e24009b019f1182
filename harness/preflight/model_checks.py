"""The doctor's checks that need the weights: BOS and EOS, parity of log-probs, that a weight sync arrives.

They are made in one process. Where the whole policy does not fit its device, since cells load it into shards, they are
made on its first layers, and say so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from harness.model.language import LanguageModel, device_of, load_model
from harness.model.policy import PolicyModel
from harness.model.rows import Response, Rows
from harness.model.scorer import Scorer, score
from harness.preflight.checks import Check, Say, evaluated, quiet
from harness.preflight.model_size import model_size
from harness.record.seeding import seed_of
from harness.sampling.engine import Engine, open_engine
from harness.suite.config import Suite
from harness.suite.plan import training_problems

Round = list[tuple[list[int], Response]]
"""Responses, each with its prompt."""

PARITY = {"float32": 1e-3, "bfloat16": 5e-2}
"""Nats: the mean |log π(sampler) − log π(trainer)| of a token above which the two are not the same policy. Engines that
agree stay below 1e-5 in float32; in bfloat16 the rounding of logits alone makes about 1e-2."""


PROMPTS = 50
"""Of each benchmark, the first, that are looked at; what is drawn and scored answers the shortest of them."""

ROUND_PROMPTS, ROUND_SAMPLES, ROUND_TOKENS = 2, 2, 16
"""Of one round of drawing and scoring: prompts, responses to each, and tokens of a response at most."""

TOKENS, SECONDS = 256, 5.0
"""The budget of the comparison: rounds are added until they have so many response tokens, or one more would take longer
than that. The first one, which a large model on a CPU has to be content with, is dozens of tokens: where the two are
not the same policy, their mean is further from PARITY than its own error by far."""


SPARE = 2e9
"""Bytes of a GPU for what the passes of the checks make: logits, keys and values."""


def on_the_model(suite: Suite, say: Say = quiet) -> list[Check]:
    """What needs the weights: BOS and EOS, log-probs of sampler and trainer, and that a sync changes the sampler."""
    say("model: loading it")
    layers, checks = what_fits(suite, room_for_policy(suite))
    lm = load_model(suite.model, layers=layers)
    precision = suite.model.precision
    say(f"model: starting {suite.rollout.engine}")
    with open_engine(suite.rollout, suite.resources, lm.model, eos_ids=lm.eos_ids, precision=precision) as engine:
        return [*checks, *prompts(suite, lm), *agreement(suite, lm, engine, say)]


def room_for_policy(suite: Suite) -> float:
    """Bytes that the policy may take here: of a GPU what is free, without its sampler's share and SPARE. Without limit
    on the CPU."""
    if device_of(suite.model).type == "cpu":
        return math.inf
    free, whole = torch.cuda.mem_get_info()
    return suite.resources.room_on_gpu(free) - suite.rollout.share_of_gpu * whole - SPARE


def what_fits(suite: Suite, room: float) -> tuple[int | None, list[Check]]:
    """How many of the policy's first layers fit into so many bytes, with what is then to be said; None for all."""
    if room == math.inf:
        return None, []
    size, settings = model_size(suite.model), suite.model
    held = 2 if settings.weights == "bfloat16" else 4
    needed = held + (2 if settings.precision == "bfloat16" and held == 4 else 0)  # with autocast's copies
    if needed * size.parameters <= room:
        return None, []
    layers = size.layers_within(room / needed)
    found = (
        f"all {size.layers} layers take {needed * size.parameters / 1e9:.3g} GB of one device, which has "
        f"{room / 1e9:.3g} for them: looked at are the first {layers}"
    )
    remedy = "log-prob parity and weight sync are of these alone; a cell is the first to load the others" + (
        ", and compares a probe through all of them at every sync" if suite.rollout.engine == "vllm" else ""
    )
    return layers, [Check("model", "warn", found, remedy)]


def prompts(suite: Suite, lm: LanguageModel) -> Iterator[Check]:
    """The rendered prompts begin with at most one BOS, and the tokenizer knows EOS and the template's stops.

    A chat template may begin every message with the BOS; two in a row are what no model was trained on.
    """
    scored = (p for b in evaluated(suite) for p in b.problems()[: suite.evaluation.limit][:PROMPTS])
    problems = [*training_problems(suite.train)[:PROMPTS], *scored]
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


def agreement(suite: Suite, lm: LanguageModel, engine: Engine, say: Say = quiet) -> Iterator[Check]:
    """Sampler and trainer give a sample the same log-prob at the suite's temperature, before and after a sync."""
    settings, precision = suite.train, suite.model.precision
    limit = PARITY[precision]
    asked = sorted(lm.prompt_ids(training_problems(settings)[:PROMPTS]), key=len)
    policy = PolicyModel(lm.model)
    scorer = Scorer(policy, None, settings.temperature, precision)

    def draw(number: int) -> Round:
        places = range(number * ROUND_PROMPTS, (number + 1) * ROUND_PROMPTS)
        prompts = [asked[place % len(asked)] for place in places]
        groups = engine.generate(
            prompts,
            [ROUND_SAMPLES] * len(prompts),
            temperature=settings.temperature,
            max_new_tokens=min(settings.max_new_tokens, ROUND_TOKENS),
            seeds=[seed_of("doctor", place) for place in places],
        )
        return [(prompt, response) for prompt, group in zip(prompts, groups, strict=True) for response in group]

    def apart(drawn: Round) -> Tensor:
        """|log π(sampler) − log π(trainer)| of each token, the trainer's as of now."""
        rows = Rows.of([prompt for prompt, _ in drawn], [response.tokens for _, response in drawn], lm.device)
        budget = suite.resources.token_budget
        trainer_NT = score(scorer, rows, response_length=rows.T, token_budget=budget).logp_NT.cpu()
        sampler_M = torch.tensor([logp for _, response in drawn for logp in response.logp])
        return (sampler_M - trainer_NT[rows.response_mask_NT.cpu()]).abs()

    say("log-prob parity")
    engine.sync(policy)
    started = time.monotonic()
    rounds = [draw(0)]
    found_M = apart(rounds[0])
    while len(found_M) < TOKENS and (time.monotonic() - started) * (len(rounds) + 1) / len(rounds) < SECONDS:
        rounds.append(draw(len(rounds)))
        found_M = torch.cat([found_M, apart(rounds[-1])])
    found = (
        f"{suite.rollout.engine} at temperature {settings.temperature:g}: {found_M.mean():.2g} nats a token, at most "
        f"{found_M.max():.2g}; {len(found_M)} tokens (budget: {TOKENS} or {SECONDS:g} s)"
    )
    remedy = "the engine samples from another policy than the trained one: check its version, precision and settings"
    ok = bool(found_M.mean() <= limit)
    yield Check("log-prob parity", "ok" if ok else "fail", found, "" if ok else remedy)

    say("weight sync")
    # The round with the most to see is drawn again after the change, and no other.
    number = max(range(len(rounds)), key=lambda n: sum(len(response.tokens) for _, response in rounds[n]))
    # The last norm's weights scale the logits: a change that no log-prob escapes.
    weight = [parameter for parameter in lm.model.parameters() if parameter.dim() == 1][-1]
    before = weight.detach().clone()
    for factor in (1.05, 1.5, 5.0):
        with torch.no_grad():
            weight.copy_(before * factor)
        moved = apart(rounds[number]).mean()
        if moved > 10 * limit:
            break
    engine.sync(policy)
    apart_after = apart(draw(number)).mean()
    with torch.no_grad():
        weight.copy_(before)
    engine.sync(policy)
    ok = bool(apart_after <= limit < moved)  # what did not move the trainer says nothing of the sampler
    found = f"a change of {moved:.2g} nats in the trainer left the sampler {apart_after:.2g} away from it"
    remedy = "the sampler goes on with old weights: use another rollout.engine, or report its version"
    yield Check("weight sync", "ok" if ok else "fail", found, "" if ok else remedy)
