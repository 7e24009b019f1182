"""Our engines as a model of lm-eval, and `gvpo-bench eval --task`.

Token ids, stops and scores are made by what evaluates in a sweep: `tokenise`, an engine, and a `Scorer`. Prompts are
never cut: one that does not fit is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, handle_non_serializable, make_disjoint_window
from rich.table import Table

from benchmarks.lm_eval_tasks import PREFIX
from benchmarks.templates import Template
from harness.evaluation.eval_settings import EvalSettings, Output
from harness.evaluation.evaluation_run import ResultFolder, engine_settings
from harness.evaluation.task_folder import own_tasks
from harness.model.language import CHAT_DATE, LanguageModel, chat_template_of, load_model, without_second_bos
from harness.model.policy import PolicyModel, logprob_chunk
from harness.model.rows import Rows, micro_batches
from harness.model.scorer import Scorer
from harness.record.files import write_json
from harness.record.seeding import seed_of
from harness.record.text import terminal
from harness.sampling.engine import Engine, open_engine
from harness.suite.config import ConfigError, Model

DEFAULT_MAX_NEW_TOKENS = 256
"""Limit of a response where a task sets none: lm-eval's own default for transformers models."""

TOKEN_BUDGET = 16384
"""Tokens of a forward pass, as in a sweep."""

NEUTRAL = {"top_p": (1, None), "top_k": (0, -1, None), "min_p": (0, None), "repetition_penalty": (1, None)}
"""Sampling settings that our engines do not have, with the values that mean nothing."""


class EngineLM(TemplateLM):
    """A checkpoint as lm-eval sees it: text in, text or log-likelihoods (nats) out."""

    def __init__(
        self,
        lm: LanguageModel,
        engine: Engine,
        scorer: Scorer,
        *,
        batch: int,
        token_budget: int = TOKEN_BUDGET,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.lm, self.engine, self.scorer = lm, engine, scorer
        self.batch, self.token_budget, self.seed = batch, token_budget, seed
        self.tokenizer = lm.tokenizer
        self._device = lm.device

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's EOS."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What a text is conditioned on that stands alone: BOS, or EOS where the tokenizer has no BOS."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        """Tokens of context that a log-likelihood can have: one position is the scored token's own."""
        positions = getattr(self.lm.model.config.get_text_config(), "max_position_embeddings", None)
        return int(positions or 2048) - 1

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's cache of requests."""
        return self.lm.source.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text, with one BOS at most."""
        ids = self.tokenizer(string, add_special_tokens=add_special_tokens is not False)["input_ids"]
        return without_second_bos(ids, self.tokenizer)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the text of a prompt."""
        chat_template_of(self.tokenizer)
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            date_string=CHAT_DATE,
        )
        return text

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """A response to each request; equal requests are the samples of one prompt.

        Raises ConfigError where a task asks for sampling settings that our engines do not have, or a prompt does not
        fit.
        """
        places: dict[str, list[int]] = defaultdict(list)
        for place, instance in enumerate(requests):
            places[json.dumps(instance.args)].append(place)
        work: dict[tuple[tuple[str, ...], int, float], list[tuple[str, list[int]]]] = defaultdict(list)
        for arguments, group in places.items():
            context, settings = json.loads(arguments)
            work[_decoding(settings)].append((context, group))

        responses = [""] * len(requests)
        for (until, max_new_tokens, temperature), asked in work.items():
            template = Template(name="lm-eval", version=1, text="{problem}", stop=until)
            lm = dataclasses.replace(self.lm, template=template)
            prompts = [self.tok_encode(context) for context, _ in asked]
            lm.check_length(prompts, max_new_tokens)
            size = max(1, self.batch // max(len(group) for _, group in asked))
            for start in range(0, len(asked), size):
                part = asked[start : start + size]
                drawn = self.engine.generate(
                    prompts[start : start + size],
                    [len(group) for _, group in part],
                    temperature=temperature,
                    max_new_tokens=max_new_tokens,
                    seeds=[seed_of("lm-eval", self.seed, context) for context, _ in part],
                )
                for (_, group), samples in zip(part, drawn, strict=True):
                    for place, response in zip(group, samples, strict=True):
                        responses[place] = lm.text(response.tokens)
        return responses

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log π of each whole text in nats, in windows where it is longer than the model's context."""
        windows: list[tuple[tuple[str, str], list[int], list[int]]] = []
        owners: list[int] = []
        for owner, instance in enumerate(requests):
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(instance.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                context, continuation = make_disjoint_window(window)
                windows.append((("", ""), context, continuation))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (logp, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += logp
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """log π of each continuation given its context, in nats, and whether greedy decoding would give it."""
        for (_context, text), context, continuation in requests:
            if len(context) + len(continuation) > self.max_length + 1:
                raise ConfigError(
                    f"{len(context) + len(continuation)} tokens of context and continuation (…{text[-40:]!r}) do not "
                    f"fit into the {self.max_length + 1} positions of {self.lm.source}; take fewer shots"
                )
        if not requests:
            return []
        rows = Rows.of([context for _, context, _ in requests], [c for _, _, c in requests], self.lm.device)
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for index in micro_batches(rows.length_N, self.token_budget):
            logp_N, greedy_N = self.scorer.loglikelihood(rows.pick(index))
            for n, logp, greedy in zip(index.tolist(), logp_N.tolist(), greedy_N.tolist(), strict=True):
                found[n] = (logp, greedy)
        return found


def _decoding(settings: Mapping[str, Any]) -> tuple[tuple[str, ...], int, float]:
    """Stops, limit in tokens, and temperature of a task's generation settings.

    Raises ConfigError for a setting that would change the samples and that our engines do not have.
    """
    rest = dict(normalize_gen_kwargs(dict(settings), DEFAULT_MAX_NEW_TOKENS))
    until, max_new_tokens = rest.pop("until"), rest.pop("max_gen_toks")
    sampled, temperature = rest.pop("do_sample"), float(rest.pop("temperature", 0.0))
    if sampled and temperature == 0:
        raise ConfigError("the task sets do_sample and no temperature above 0; say which: --temperature 1")
    for name, value in rest.items():
        shapes = name in ("top_p", "top_k", "min_p")
        if name not in NEUTRAL or (value not in NEUTRAL[name] and (sampled or not shapes)):
            raise ConfigError(
                f"the task sets {name} = {value!r}, and our engines sample by temperature alone; override the task's "
                "settings with --temperature, or run it with lm_eval's own models"
            )
    return tuple(stop for stop in until if stop), max_new_tokens, temperature if sampled else 0.0


def run_tasks(
    model: Model,
    tasks: Sequence[str],
    settings: EvalSettings,
    *,
    include_path: Path | None,
    engine: str,
    batch: int,
    output: Output,
) -> dict[str, Any]:
    """Runs tasks of lm-eval on a checkpoint, prints its table, and returns its results by task.

    A prompt is the task's own, to which the template "chat" is applied where that is the model's. With a folder for the
    output, leaves manifest.json there, and tasks/<task>.json with results and samples as soon as a task is finished.
    Tasks that are finished there are not run again.

    Raises ConfigError for an unknown task or settings that our engines do not have, RecordError where the folder holds
    something else.
    """
    out, chat, temperature = output.folder, model.template == "chat", settings.temperature
    rollout, resources = engine_settings(engine, batch)
    override: dict[str, Any] = {}
    if settings.max_new_tokens is not None:
        override["max_gen_toks"] = settings.max_new_tokens
    if temperature is not None:
        override |= {"do_sample": temperature > 0, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    recorded = {
        "model": model.path,
        "revision": model.revision,
        "template": "chat" if chat else "the task's",
        "generation": override,
        "limit": settings.limit,
        "seed": settings.seed,
        "engine": engine,
        "lm_eval": lm_eval.__version__,
    }
    folder = None if out is None else ResultFolder(out, recorded)
    if folder is not None:
        folder.check()
    paths = [str(folder) for folder in (own_tasks(), include_path) if folder is not None]
    manager = TaskManager(include_path=paths, include_defaults=False)
    if any(task not in manager.all_tasks for task in tasks):  # lm-eval's own 14,000 take a while to list
        manager = TaskManager(include_path=paths)
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        own = ", ".join(name for name in manager.all_tasks if name.startswith(PREFIX))
        raise ConfigError(
            f"--task: lm-eval knows no task called {', '.join(unknown)}; `lm_eval ls tasks` lists its own, "
            f"--include-path adds a folder of yours, and gvpo-bench has {own}"
        )
    results: dict[str, Any] = {}
    for name in tasks:
        found = None if out is None else out / "tasks" / f"{name}.json"
        if found is not None and found.is_file():
            results[name] = json.loads(found.read_text(encoding="utf-8"))
    missing = [name for name in dict.fromkeys(tasks) if name not in results]
    if missing:
        lm = load_model(model.model_copy(update={"template": "none"}))
        with open_engine(rollout, resources, lm.model, eos_ids=lm.eos_ids, precision=model.precision) as sampler:
            policy = PolicyModel(lm.model, logprob_chunk(lm.model, 0, TOKEN_BUDGET))
            adapter = EngineLM(lm, sampler, Scorer(policy), batch=batch, seed=settings.seed)
            for name in missing:
                result = lm_eval.simple_evaluate(
                    model=adapter,
                    tasks=[name],
                    task_manager=manager,
                    limit=settings.limit,
                    gen_kwargs=override or None,
                    apply_chat_template=chat,
                )
                text = json.dumps(result, default=handle_non_serializable)
                results[name] = json.loads(text, parse_constant=lambda _: None)  # JSON has no NaN
                if out is not None and folder is not None:
                    folder.begin(output.command)
                    write_json(out / "tasks" / f"{name}.json", results[name])
    output.console.print(render(results))
    return results


def render(results: Mapping[str, Any]) -> Table:
    """lm-eval's results for a terminal: every metric of every task, and of the tasks of a group."""
    shown = Table("task", "filter", "metric", "value", "standard error")
    for result in results.values():
        for task, metrics in result["results"].items():
            for key, value in metrics.items():
                metric, comma, name = key.partition(",")
                if not comma or metric.endswith("_stderr"):
                    continue
                error = metrics.get(f"{metric}_stderr,{name}")
                texts = [f"{x:.4f}" if isinstance(x, int | float) else "" for x in (value, error)]
                shown.add_row(*map(terminal, (task, name, metric, *texts)))
    return shown
