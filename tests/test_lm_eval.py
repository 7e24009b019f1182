"""lm-eval both ways: its tasks on our engines, our benchmarks as its tasks, with the same responses and scores."""

import json
import math
import shutil
from typing import Any

import pandas as pd
import pytest
import torch
from small import command
from transformers import AutoConfig, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

lm_eval = pytest.importorskip("lm_eval", reason="needs the extra lm-eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from benchmarks import load_benchmark  # noqa: E402
from harness.evaluation.lm_eval_model import EngineLM, _decoding  # noqa: E402
from harness.evaluation.task_folder import own_tasks  # noqa: E402
from harness.model.language import load_model  # noqa: E402
from harness.model.scorer import Scorer  # noqa: E402
from harness.sampling.engine import open_engine  # noqa: E402
from harness.suite.config import ConfigError, Model, Resources  # noqa: E402
from harness.suite.load import load_suite  # noqa: E402
from harness.suite.plan import plan  # noqa: E402
from harness.suite.rollout_settings import Rollout  # noqa: E402
from harness.sweep.cell import run_cell  # noqa: E402

pytest_plugins = ["small_fixtures"]

PROBLEMS, TOKENS = 5, 24


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GVPO_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def parrot(reader, target, successors):
    """A model whose next character depends on the last one alone, with the given probabilities."""
    tok = AutoTokenizer.from_pretrained(reader)
    config = Qwen3Config(
        vocab_size=len(tok),
        hidden_size=(hidden := 104),
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=8,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    layer = model.model.layers[0]
    for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight, model.lm_head.weight):
        weight.data.zero_()  # the last token's embedding goes through unchanged
    model.model.embed_tokens.weight.data = torch.eye(len(tok), hidden)
    for last, following in successors.items():
        for token, probability in following.items():
            place = tok.convert_tokens_to_ids(token), tok.convert_tokens_to_ids(last)
            # RMSNorm makes a one-hot of length √hidden; every other token has the logit 0 and e⁻³⁰ of the probability.
            model.lm_head.weight.data[place] = (30 + math.log(probability)) / math.sqrt(hidden)
    model.save_pretrained(target)
    tok.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def rambler(reader, tmp_path_factory):
    """Random weights so large that it says something else after every prompt."""
    config = AutoConfig.from_pretrained(reader)
    config.initializer_range, config.tie_word_embeddings = 0.5, False
    target = tmp_path_factory.mktemp("models") / "rambler"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(target)
    AutoTokenizer.from_pretrained(reader).save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def asker(reader, tmp_path_factory):
    """It answers 18, which is right for the first problem of GSM8K, and then asks the next question, for ever."""
    text = ": 18\nQuestion: "
    return parrot(reader, tmp_path_factory.mktemp("models") / "asker", {a: {b: 1} for a, b in zip(text, text[1:])})  # noqa: B905, RUF007


@pytest.fixture(scope="module")
def guesser(reader, tmp_path_factory):
    """It answers 18 with probability 0.6, and 19 otherwise."""
    successors = {":": {" ": 1}, " ": {"1": 1}, "1": {"8": 0.6, "9": 0.4}, "8": {"<eos>": 1}, "9": {"<eos>": 1}}
    return parrot(reader, tmp_path_factory.mktemp("models") / "guesser", successors)


def by_validation_in_training(model, folder):
    """Responses and scores as a cell of a sweep gets them."""
    suite = folder / "suite.toml"
    suite.write_text(
        f"""
        name = "parity"
        seeds = 1
        [model]
        path = "{model}"
        template = "plain"
        [train]
        benchmark = "gsm8k-train"
        steps = 1
        prompts = 1
        samples = 2
        max_new_tokens = {TOKENS}
        [evaluation]
        benchmarks = ["gsm8k"]
        samples = 1
        temperature = 0.0
        limit = {PROBLEMS}
        [report]
        baseline = "gvpo"
        [algorithms.gvpo]
        optimizer = {{ lr = 1e-3, max_norm = 1.0 }}
        """,
        encoding="utf-8",
    )
    base, *_ = plan(load_suite(str(suite)))
    assert run_cell(base, folder / "runs", [], lambda *_: None) == "finished"
    table = pd.read_parquet(folder / "runs" / "base" / "samples.parquet")
    return table["response"].tolist(), table["score"].tolist()


def by_benchmark(model, folder, *options):
    options = options or ("--limit", PROBLEMS, "--max-new-tokens", TOKENS)
    assert command("eval", model, "--benchmark", "gsm8k", *options, "--out", folder / "benchmark") == 0
    table = pd.read_parquet(folder / "benchmark" / "samples" / "gsm8k.parquet")
    return table["response"].tolist(), table["score"].tolist()


def by_task(model, folder, *options, task="gvpo_gsm8k"):
    options = options or ("--limit", PROBLEMS, "--max-new-tokens", TOKENS)
    assert command("eval", model, "--task", task, *options, "--out", folder / "task") == 0
    return logged(json.loads((folder / "task" / "tasks" / f"{task}.json").read_text(encoding="utf-8")))


def by_plain_lm_eval(model, limit=PROBLEMS, task="gvpo_gsm8k", apply_chat_template=False, **settings):
    result = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=[task],
        task_manager=TaskManager(include_path=str(own_tasks(**settings)), include_defaults=False),
        limit=limit,
        apply_chat_template=apply_chat_template,
        device="cpu",
        batch_size=2,
    )
    return logged(result)


def logged(result):
    (samples,) = result["samples"].values()
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    return [text for sample in samples for text in sample["filtered_resps"][0]], [sample["acc"] for sample in samples]


@pytest.mark.parametrize("model", ["rambler", "asker"])
def test_greedy_responses_and_scores_are_the_same_by_every_road(model, request, tmp_path, one_thread):
    path = request.getfixturevalue(model)
    responses, scores = by_validation_in_training(path, tmp_path)
    assert len(responses) == PROBLEMS
    assert (responses, scores) == by_benchmark(path, tmp_path)
    assert (responses, scores) == by_task(path, tmp_path)
    assert (responses, scores) == by_plain_lm_eval(path, max_new_tokens=TOKENS)
    if model == "asker":
        # The stop of several tokens cuts every response, and the first problem's answer is 18.
        assert responses == [" 18"] * PROBLEMS
        assert scores == [float(problem.answer == "18") for problem in load_benchmark("gsm8k").problems()[:PROBLEMS]]
        assert sum(scores) >= 1
    else:
        assert len(set(responses)) == PROBLEMS


def test_sampled_scores_agree_within_their_intervals(guesser, tmp_path, one_thread):
    n = 64
    settings: dict[str, Any] = {"samples": n, "temperature": 1.0, "max_new_tokens": 8}
    folder = own_tasks(**settings)
    _, scores = by_benchmark(guesser, tmp_path, *("--limit", 1, "--samples", n, "--temperature", 1))
    found = [
        sum(scores) / n,
        *by_task(guesser, tmp_path, "--limit", 1, "--include-path", folder)[1],
        *by_plain_lm_eval(guesser, limit=1, **settings)[1],
    ]
    # 99.9% of means of 64 draws with p = 0.6 lie within 3.3·√(0.6·0.4/64) = 0.2 of it.
    assert found == pytest.approx([0.6] * 3, abs=0.2)
    assert all(0 < mean < 1 for mean in found)


def test_chat_prompts_are_the_same_by_every_road(rambler, tmp_path, one_thread):
    lm = load_model(Model(path=str(rambler)))
    lm.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<unk>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    path = tmp_path / "chatty"
    lm.model.save_pretrained(path)
    lm.tokenizer.save_pretrained(path)
    options = ("--template", "chat", "--limit", 2, "--max-new-tokens", TOKENS)
    responses, scores = by_benchmark(path, tmp_path, *options)
    assert (responses, scores) == by_task(path, tmp_path, *options, task="gvpo_gsm8k_none")
    assert (responses, scores) == by_plain_lm_eval(
        path, limit=2, task="gvpo_gsm8k_none", apply_chat_template=True, max_new_tokens=TOKENS
    )
    plain, _ = by_benchmark(path, tmp_path / "plain", "--template", "none", *options[2:])
    assert plain != responses


def test_a_multiple_choice_task_of_a_user_gives_what_lm_evals_own_model_gives(rambler, tmp_path):
    rows = [
        {"question": f"What comes after {n}?", "choices": [str(n + i) for i in (0, 1, 2)], "gold": 1} for n in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(task), encoding="utf-8")
    assert command("eval", rambler, "--task", "mine", "--include-path", tmp_path, "--out", tmp_path / "out") == 0
    ours = json.loads((tmp_path / "out" / "tasks" / "mine.json").read_text(encoding="utf-8"))
    theirs = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(rambler), "dtype": "float32"},
        tasks=["mine"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        device="cpu",
    )
    for mine, other in zip(ours["samples"]["mine"], theirs["samples"]["mine"], strict=True):
        found, expected = ([float(logp) for ((logp, _),) in sample["resps"]] for sample in (mine, other))
        assert found == pytest.approx(expected, rel=1e-4)
    assert ours["results"]["mine"]["acc,none"] == theirs["results"]["mine"]["acc,none"]


def test_a_finished_task_is_not_run_again(asker, tmp_path, monkeypatch):
    first = by_task(asker, tmp_path)
    monkeypatch.setattr(EngineLM, "generate_until", lambda *_, **__: pytest.fail("sampled again"))
    assert by_task(asker, tmp_path) == first
    assert command("eval", asker, "--task", "gvpo_gsm8k", "--limit", 1, "--out", tmp_path / "task") == 3


def requests(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=args, idx=i) for i, args in enumerate(arguments)]


@pytest.fixture(scope="module")
def both(reader):
    """Ours and lm-eval's own model of the same checkpoint, ours with its micro-batches small."""
    lm = load_model(Model(path=str(reader)))
    with open_engine(Rollout(), Resources(), lm.model, eos_ids=lm.eos_ids, precision="float32") as engine:
        ours = EngineLM(lm, engine, Scorer(lm.model), batch=4, token_budget=64)
        yield ours, HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=1, max_length=ours.max_length)


def test_log_likelihoods_are_lm_evals_own(both):
    ours, theirs = both
    pairs = [
        ("The sky is", " blue"),
        ("", "alone"),
        ("ends with a space ", "x"),
        ("a", "b" * 40),
        ("Q: 1+1?\nA:", " 2"),
    ]
    greedy = ours.generate_until(requests("generate_until", ("Once", {"until": [], "max_gen_toks": 3})))[0]
    pairs.append(("Once", greedy))
    found = ours.loglikelihood(requests("loglikelihood", *pairs))
    expected = theirs.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    assert [logp for logp, _ in found] == pytest.approx([logp for logp, _ in expected], rel=1e-5)
    assert [best for _, best in found] == [best for _, best in expected]
    assert found[-1][1]


def test_rolling_log_likelihoods_are_lm_evals_own_in_one_window_and_in_several(both, monkeypatch):
    ours, theirs = both
    for length in (ours.max_length, 16):
        monkeypatch.setattr(EngineLM, "max_length", length)
        monkeypatch.setattr(theirs, "_max_length", length)
        texts = [("short",), ("longer than sixteen characters by far, and then some more",)]
        found = ours.loglikelihood_rolling(requests("loglikelihood_rolling", *texts))
        expected = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", *texts), disable_tqdm=True)
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_context_that_does_not_fit_is_refused_and_not_cut(both):
    ours, _ = both
    with pytest.raises(
        ConfigError, match=r"9001 tokens of context and continuation .* do not fit into the 8192 positions"
    ):
        ours.loglikelihood(requests("loglikelihood", ("a" * 9000, "b")))
    with pytest.raises(ConfigError, match="max_new_tokens = 10 does not fit: the longest prompt has 8190 tokens"):
        ours.generate_until(requests("generate_until", ("a" * 8190, {"max_gen_toks": 10})))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"until": "\n", "do_sample": False, "temperature": 0.0}, (("\n",), 256, 0.0)),
        ({"until": ["a", ""], "max_gen_toks": 7, "do_sample": True, "temperature": 0.5, "top_k": 0}, (("a",), 7, 0.5)),
        ({"do_sample": False, "top_p": 0.9}, ((), 256, 0.0)),  # means nothing in greedy decoding
    ],
)
def test_decoding_of_a_task(settings, expected):
    assert _decoding(settings) == expected


@pytest.mark.parametrize(
    "setting", [{"top_p": 0.9}, {"top_k": 50}, {"repetition_penalty": 1.1}, {"num_beams": 4}, {"min_p": 0.1}]
)
def test_sampling_settings_that_our_engines_lack_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(
        ConfigError, match=f"the task sets {name} = {value}, and our engines sample by temperature alone"
    ):
        _decoding({"do_sample": True, "temperature": 1.0, **setting})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --benchmark (ours) or --task (lm-eval's), and not both"),
        (["--task", "gvpo_gsm8k", "--benchmark", "gsm8k"], "and not both"),
        (["--task", "gvpo_gsm8k", "--samples", 4], "the task says how many samples it takes"),
        (["--task", "gvpo_gsm8k", "--template", "plain"], "the task says how many samples it takes"),
        (["--task", "gvpo_gsm8k", "--engine", "hf"], "--engine hf"),
    ],
)
def test_what_a_task_cannot_be_asked_is_refused(options, message, reader, capsys):
    assert command("eval", reader, *options) == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_a_folder_with_a_task_for_every_benchmark_and_template(capsys):
    assert command("lm-eval-tasks", "--max-new-tokens", 77) == 0
    folder = own_tasks(max_new_tokens=77)
    assert capsys.readouterr().out.strip() == str(folder)
    names = {path.stem for path in folder.iterdir()}
    assert {"gvpo_gsm8k", "gvpo_math500_qwen_math", "gvpo_aime25_r1", "gvpo_minerva_none"} <= names
    assert len(names) == 9 * 5  # benchmarks that are evaluated, templates
    assert '"max_gen_toks": 77' in (folder / "gvpo_amc23.yaml").read_text(encoding="utf-8")
    shutil.rmtree(folder)
