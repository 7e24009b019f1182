"""The embedded base model: a Qwen3 of 96,640 parameters, whose weights ship with the project.

The same recipe gives other weights on a processor with other kernels, and what is trained from them is another
experiment: so that every machine compares from the one base, the weights that the published tables start from lie in
`shipped/`, by recipe. `make embedded-base` trains them again, in half a minute. Any other recipe is trained where it is
asked for, and cached.

It can reason but mostly does not: most of its responses answer directly, few write the intermediate values, and RL is
left to find out that writing them pays. See benchmarks/arithmetic.py for the task.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from benchmarks.arithmetic import PROMPT_WIDTH, SYMBOLS, TERMS, Style, random_expression, split_of, write_response
from harness.record.files import cache_folder, hash_of, new_folder
from harness.record.seeding import seed_of
from harness.record.sums import made_anew, own_faults, write_own_sums
from harness.suite.config import ConfigError

PAD, EOS, VOCABULARY = 0, 1, 32


@dataclass(frozen=True)
class Phase:
    """A stretch of supervised training on one mixture of styles."""

    steps: int
    lr: float
    direct: float
    skip: float
    full: float
    slip: float
    """Probability that a step of the reasoning is wrong."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the base's weights: the cache is named by its hash."""

    seed: int = 0
    batch: int = 64
    warmup: int = 50
    hard_share: float = 0.15
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    ff: int = 160
    # One mixed phase never learns the skill: first the skill, then the habit of not using it.
    phases: tuple[Phase, ...] = (
        Phase(steps=550, lr=4e-3, direct=0.0, skip=0.3, full=0.7, slip=0.0),
        Phase(steps=200, lr=1e-3, direct=0.6, skip=0.25, full=0.15, slip=0.03),
    )


TEACHER = Recipe(phases=Recipe().phases[:1])
"""The skill without the habit of not using it: the base before its last phase."""


EMBEDDED = {"embedded": Recipe(), "embedded-teacher": TEACHER}
"""By the path that names it."""

SHIPPED = Path(__file__).parent / "shipped"


def embedded_base(recipe: Recipe | None = None) -> Path:
    """The folder of the base: the shipped one, or one that is trained here and cached.

    Raises ConfigError where the shipped one does not fit its checksums. A cached one that does not is trained anew.
    """
    recipe = recipe or Recipe()
    shipped, cached = (base_folder(recipe, inside) for inside in (SHIPPED, cache_folder()))
    if shipped.is_dir():
        if faults := own_faults(shipped):
            raise ConfigError(
                f"the embedded base in {shipped} is damaged ({'; '.join(faults)}): install gvpo-bench anew"
            )
        return shipped
    if not cached.is_dir() or made_anew(cached):
        train_base(recipe, cached)
    return cached


def base_folder(recipe: Recipe, inside: Path) -> Path:
    """Where the base of a recipe lies, or would."""
    return inside / f"embedded-base-{hash_of(asdict(recipe))}"


def train_base(recipe: Recipe, target: Path) -> None:
    """Trains a base into a new folder."""
    model = warm_up(recipe)
    transformers_logging.disable_progress_bar()
    with new_folder(target) as folder:
        model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        write_own_sums(folder)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    names = ["<pad>", "<eos>", *SYMBOLS]
    names += [f"<unused{i}>" for i in range(VOCABULARY - len(names))]
    tok = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unused0>"))
    tok.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tok.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", eos_token="<eos>")


def new_model(recipe: Recipe) -> Qwen3ForCausalLM:
    """The architecture with fresh weights of standard deviation 0.02·√(512/hidden)."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.hidden // recipe.heads,
        intermediate_size=recipe.ff,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        tie_word_embeddings=True,
        initializer_range=0.02 * math.sqrt(512 / recipe.hidden),
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("embedded-base", recipe.seed))
        return Qwen3ForCausalLM(config)


def warm_up(recipe: Recipe, *, progress: Callable[[int, int, float], None] | None = None) -> Qwen3ForCausalLM:
    """Supervised training on written responses, in the recipe's phases; each a warm-up and a cosine to 10%.

    On one thread: beside other work, those of a model this small would mostly wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _warm_up(recipe, progress)
    finally:
        torch.set_num_threads(threads)


def _warm_up(recipe: Recipe, progress: Callable[[int, int, float], None] | None) -> Qwen3ForCausalLM:
    model = new_model(recipe).train()
    rng = random.Random(seed_of("embedded-data", recipe.seed))
    total, done = sum(phase.steps for phase in recipe.phases), 0
    for phase in recipe.phases:
        optimizer = torch.optim.AdamW(model.parameters(), lr=phase.lr, betas=(0.9, 0.98), weight_decay=0.0)
        for step in range(phase.steps):
            for group in optimizer.param_groups:
                group["lr"] = phase.lr * _schedule(step, recipe.warmup, phase.steps)
            ids_BL, target_BL = _batch(recipe, phase, rng)
            logits_BLV = model(input_ids=ids_BL[:, :-1], use_cache=False).logits
            loss = cross_entropy(logits_BLV.flatten(0, 1), target_BL[:, 1:].flatten(), ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done += 1
            if progress is not None and (done % 10 == 0 or done == total):
                progress(done, total, loss.item())
    return model.eval()


def _schedule(step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batch(recipe: Recipe, phase: Phase, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and, on the response alone, targets, [batch, L]."""
    code = {symbol: i + 2 for i, symbol in enumerate(SYMBOLS)}
    styles: tuple[Style, ...] = ("direct", "skip", "full")
    rows: list[list[int]] = []
    while len(rows) < recipe.batch:
        expression = random_expression(rng, rng.choice(TERMS[rng.random() < recipe.hard_share]))
        if split_of(expression) != "train":
            continue
        style = rng.choices(styles, weights=(phase.direct, phase.skip, phase.full))[0]
        text = expression.ljust(PROMPT_WIDTH) + write_response(expression, style, slip=phase.slip, rng=rng)
        rows.append([code[c] for c in text] + [EOS])
    length = max(map(len, rows))
    ids_BL = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    target_BL = ids_BL.masked_fill(ids_BL == PAD, -100)
    target_BL[:, :PROMPT_WIDTH] = -100
    return ids_BL, target_BL


if __name__ == "__main__":  # make embedded-base
    for name, named_recipe in EMBEDDED.items():
        made = base_folder(named_recipe, Path("results/embedded-base"))
        train_base(named_recipe, made)
        print(f"{name}: {made}")
