"""`gvpo-bench doctor`: each thing that would waste a sweep is broken once, and must be found."""

import copy
import dataclasses
import io
import math
import time

import pytest
import torch
from rich.console import Console
from small import command, needs_data
from tiny import bos_tokenizer, tiny_lm

from benchmarks import Problem, load_benchmark
from benchmarks.judges import GRADINGS
from benchmarks.templates import Template, load_template
from harness.model.language import load_model, tokenise
from harness.preflight import doctor, model_checks, overlap
from harness.preflight.memory import memory_of
from harness.sampling.engine import ENGINES, open_engine
from harness.sampling.local import CachedEngine
from harness.suite.load import load_suite
from harness.suite.plan import plan

pytest_plugins = ["small_fixtures"]


def problem(text, name="p"):
    return Problem(id=name, prompt=text, answer="1")


def statuses(checks):
    return {check.name: check.status for check in checks}


def test_sound_suite_passes_in_every_check(suite_file, tmp_path):
    suite = load_suite(str(suite_file))
    said: list[str] = []
    checks = doctor.examine(suite, plan(suite), tmp_path, workers=2, say=said.append)
    assert said == [
        "versions", "device", "disk", "data", "overlap of training and test problems", "model", "model: loading it",
        "model: starting cached", "log-prob parity", "weight sync", "grader", "keys",
    ]  # fmt: skip
    assert set(statuses(checks).values()) == {"ok"}, checks
    assert list(statuses(checks)) == [
        "versions", "device", "disk", "data",
        "overlap arithmetic", "overlap arithmetic-hard", "overlap arithmetic-tune",
        "BOS", "EOS", "log-prob parity", "weight sync", "grader", "keys",
    ]  # fmt: skip


def test_what_is_looked_at_stands_in_a_terminal_and_nowhere_else():
    for terminal in (True, False):
        console = Console(file=(output := io.StringIO()), force_terminal=terminal)
        with doctor.shown(console) as say:
            say("the moon")
            time.sleep(0.3)
        assert ("doctor: the moon" in output.getvalue()) == terminal


def test_command_shows_the_checks(suite_file, tmp_path, capsys):
    assert command("doctor", suite_file, "--out", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "log-prob parity" in shown
    assert "arithmetic-train 4096 to train on" in shown


class WrongTemperature(CachedEngine):
    """Samples at another temperature than it is asked for."""

    def generate(self, *arguments, temperature, **options):
        return super().generate(*arguments, temperature=0.8 * temperature, **options)


class DeafSync(CachedEngine):
    """Keeps a copy of the weights it was given first, and says that every sync worked."""

    def sync(self, policy):
        if self.model is policy.model:
            self.model = copy.deepcopy(policy.model)


@pytest.mark.parametrize("seconds", [0.0, model_checks.SECONDS])  # one round, which is all that a large model gets
@pytest.mark.parametrize(
    ("engine", "failed"),
    [(CachedEngine, []), (WrongTemperature, ["log-prob parity", "weight sync"]), (DeafSync, ["weight sync"])],
)
def test_engine_that_samples_from_another_policy_fails(suite_file, monkeypatch, engine, failed, seconds):
    monkeypatch.setattr(model_checks, "SECONDS", seconds)
    suite = load_suite(str(suite_file))
    lm = load_model(suite.model)
    broken = engine(lm.model, eos_ids=lm.eos_ids, batch=64)
    checks = list(model_checks.agreement(suite, lm, broken))
    assert [check.name for check in checks if check.status == "fail"] == failed


class Counting(CachedEngine):
    """Notes how many responses it was asked for, and of how many tokens."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.asked: list[tuple[int, int]] = []

    def generate(self, prompts, counts, *, max_new_tokens, **options):
        self.asked.append((sum(counts), max_new_tokens))
        return super().generate(prompts, counts, max_new_tokens=max_new_tokens, **options)


@pytest.mark.parametrize(
    ("tokens", "seconds", "rounds"),
    [
        (10**9, 0.0, 1),  # time is up after the first round
        (1, 10**9, 1),
        (4 * 16 + 1, 10**9, 2),  # 4 responses of 16 tokens, and one token more
        (12 * 16, 10**9, 3),
    ],
)
def test_what_is_drawn_stays_within_the_budget(reader, suite_file, monkeypatch, tokens, seconds, rounds):
    monkeypatch.setattr(model_checks, "TOKENS", tokens)
    monkeypatch.setattr(model_checks, "SECONDS", seconds)
    settings = [f"model.path={reader}", "train.benchmark=arithmetic-train", "train.max_new_tokens=1000"]
    suite = load_suite(str(suite_file), settings)
    lm = load_model(suite.model)
    engine = Counting(lm.model, eos_ids=[], batch=64)
    parity, sync = model_checks.agreement(suite, lm, engine)
    assert (parity.status, sync.status) == ("ok", "ok")
    assert engine.asked == [(4, 16)] * (rounds + 1)  # and one round again after the change
    assert f"{rounds * 64} tokens (budget: {tokens} or {seconds:g} s)" in parity.found


@needs_data
def test_memory_is_estimated_with_one_prompt_the_longest(reader, suite_file, monkeypatch):
    settings = [f"model.path={reader}", "train.benchmark=gsm8k-train", "train.max_new_tokens=8"]
    suite = load_suite(str(suite_file), settings)
    asked, lengths = [], []

    def tokenise_seen(problems, *rest):
        asked.append(problems)
        return tokenise(problems, *rest)

    def memory_seen(config, size, needs, longest, *rest):
        lengths.append(longest)
        return memory_of(config, size, needs, longest, *rest)

    monkeypatch.setattr(doctor, "tokenise", tokenise_seen)
    monkeypatch.setattr(doctor, "memory_of", memory_seen)
    assert doctor.memory(suite, plan(suite), free=1e9, whole=1e9).status == "ok"
    assert doctor.memory(suite, plan(suite), free=1e3, whole=1e9).status == "warn"
    assert [len(problems) for problems in asked] == [1, 1]
    longest = max(len(problem.prompt) for problem in load_benchmark("gsm8k-train").problems())  # a token a character
    assert set(lengths) == {longest + 8}


def test_perturbed_weights_are_put_back(suite_file):
    suite = load_suite(str(suite_file))
    lm = load_model(suite.model)
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    with open_engine(suite.rollout, suite.resources, lm.model, eos_ids=lm.eos_ids, precision="float32") as engine:
        list(model_checks.agreement(suite, lm, engine))
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())


EVERY_MESSAGE = (
    "{% if messages[0]['role'] != 'system' %}{{ bos_token }}Be brief.<end>{% endif %}"
    "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}assistant: {% endif %}"
)
"""A chat template as SmolLM2's, whose BOS begins each message; so does that of ChatML where the BOS is <|im_start|>."""


@pytest.mark.parametrize(
    ("template", "chat", "status", "found"),
    [
        ("chat", EVERY_MESSAGE, "ok", "one at the start, '<bos>'"),
        ("none", None, "ok", "one at the start, '<bos>'"),
        # The tokenizer adds a BOS, or the chat template's is one too many: the prompt gets only one of the two.
        (Template(name="mine", version=1, text="<bos>{problem}"), None, "ok", "one at the start, '<bos>'"),
        ("chat", "{{ bos_token }}" + EVERY_MESSAGE, "ok", "one at the start, '<bos>'"),
        # Of three, two are left.
        (Template(name="mine", version=1, text="<bos><bos>{problem}"), None, "fail", "24 of 24 prompts begin with two"),
        ("chat", 2 * "{{ bos_token }}" + EVERY_MESSAGE, "fail", "24 of 24 prompts begin with two of '<bos>'"),
    ],
)
def test_two_bos_in_a_row_fail_and_one_in_each_message_does_not(suite_file, template, chat, status, found):
    suite = load_suite(str(suite_file), ["train.limit=8", "evaluation.limit=8"])
    template = load_template(template) if isinstance(template, str) else template
    lm = dataclasses.replace(load_model(suite.model), tokenizer=bos_tokenizer(chat), template=template)
    bos, *_ = model_checks.prompts(suite, lm)
    assert (bos.name, bos.status) == ("BOS", status)
    assert found in bos.found


def test_prompts_of_which_only_some_begin_with_a_bos_fail(suite_file):
    suite = load_suite(str(suite_file))
    lm = load_model(suite.model)
    lm.tokenizer.bos_token = "7"  # with which some problems begin
    bos, *_ = model_checks.prompts(suite, lm)
    assert bos.status == "fail"
    assert "prompts begin with it" in bos.found


def test_overlap_tells_the_same_problem_from_a_near_one_and_from_a_phrase():
    words = [f"w{i}" for i in range(40)]
    train = [problem(" ".join(words), "trained"), problem("1+2*3")]
    test = [
        problem("W0  w1\n" + " ".join(words[2:])),  # case and white space
        problem(" ".join(words[:30]) + ", then?", "near"),  # 18 of 19 passages
        problem(" ".join(words[:13]) + " " + " ".join(f"v{i}" for i in range(20)), "phrase"),  # 1 of 21 passages
        problem(" ".join(words[:12]) + " else", "none"),  # 12 words in a row
        problem("1+2*4"),
        problem("1+2*3"),
    ]
    found = overlap.overlap(train, test)
    assert [p.prompt for p in found.same] == [test[0].prompt, "1+2*3"]
    assert [(p.id, other.id) for p, other in found.near] == [("near", "trained")]
    assert found.phrases == 1


def test_more_than_one_problem_in_a_hundred_that_is_trained_on_fails(suite_file):
    # the first 12 problems that are scored are those that are trained on
    suite = load_suite(str(suite_file), ["train.benchmark=arithmetic"])
    checks = {check.name: check for check in overlap.overlaps(suite)}
    assert checks["overlap arithmetic"].status == "fail"
    assert "of 12 problems 12 are trained on" in checks["overlap arithmetic"].found
    assert checks["overlap arithmetic-hard"].status == "ok"


@needs_data
def test_olympiadbench_has_a_problem_of_the_math_training_set():
    found = overlap.overlap(load_benchmark("math-train").problems(), load_benchmark("olympiadbench").problems())
    # The same ellipse, but for a comma and the typesetting.
    assert [(p.id, other.id) for p, other in found.near] == [("olympiadbench/517", "math-train/4015")]
    assert found.same == []


@needs_data
def test_svamp_has_one_problem_that_varies_the_numbers_of_one_of_asdiv_a():
    svamp = load_benchmark("svamp").problems()
    found = overlap.overlap(load_benchmark("asdiv-a-train").problems(), svamp)
    assert [(p.id, other.id) for p, other in found.near] == [("chal-147", "mawps-asdiv-a/2262")]
    assert (found.same, found.phrases) == ([], 118)
    found = overlap.overlap(load_benchmark("mawps-train").problems(), svamp)
    assert (found.same, found.near, found.phrases) == ([], [], 19)


def test_wrong_verdict_of_the_grader_fails(suite_file, monkeypatch):
    suite = load_suite(str(suite_file))
    monkeypatch.setitem(GRADINGS, "exact", dataclasses.replace(GRADINGS["exact"], cases=(("3", "=3", "wrong"),)))
    (check,) = doctor.self_test(suite)
    assert check.status == "fail"
    assert "'=3' for '3': correct, expected wrong" in check.found


@needs_data
def test_mathematics_verdicts_hold(suite_file):
    suite = load_suite(str(suite_file), ["train.benchmark=gsm8k-train", 'evaluation.benchmarks=["gsm8k"]'])
    (check,) = doctor.self_test(suite)
    assert (check.status, check.found) == ("ok", "8 known verdicts")  # 5, and 3 of arithmetic's


class OneLayer(CachedEngine):
    """Refuses a model that the device has no room for."""

    def __init__(self, model, **options):
        assert model.config.num_hidden_layers == 1
        super().__init__(model, **options)


class OneLayerAtAnotherTemperature(OneLayer, WrongTemperature):
    pass


@pytest.fixture
def two_layers(suite_file, tmp_path):
    """A suite on a model of two layers, of 512 numbers for its words and 2,232 for each layer, its last norm shared out
    among them."""
    lm = tiny_lm()
    lm.model.save_pretrained(tmp_path / "two")
    lm.tokenizer.save_pretrained(tmp_path / "two")
    return load_suite(str(suite_file), [f"model.path={tmp_path / 'two'}"])


@pytest.mark.parametrize(
    ("engine", "parity"), [(OneLayer, "ok"), (OneLayerAtAnotherTemperature, "fail")], ids=["sound", "broken"]
)
def test_a_policy_that_does_not_fit_the_device_is_checked_by_its_first_layers(
    two_layers, monkeypatch, capfd, engine, parity
):
    monkeypatch.setattr(model_checks, "room_for_policy", lambda suite: 4 * (512 + 1.5 * 2232))
    monkeypatch.setitem(ENGINES, "cached", engine)
    checks = {check.name: check for check in model_checks.on_the_model(two_layers)}
    assert list(checks) == ["model", "BOS", "EOS", "log-prob parity", "weight sync"]
    assert checks["model"].status == "warn"
    assert "all 2 layers take 1.99e-05 GB of one device" in checks["model"].found
    assert "looked at are the first 1" in checks["model"].found
    assert "of these alone; a cell is the first to load the others" in checks["model"].remedy
    assert (checks["BOS"].status, checks["EOS"].status, checks["log-prob parity"].status) == ("ok", "ok", parity)
    assert "UNEXPECTED" not in "".join(capfd.readouterr())  # what transformers says of the layers left out


def test_a_policy_that_fits_is_checked_whole_with_the_copies_that_autocast_makes(two_layers):
    def fits(suite, room):
        layers, checks = model_checks.what_fits(suite, room)
        assert (layers is None) == (checks == [])
        return layers

    half = two_layers.model_copy(update={"model": two_layers.model.model_copy(update={"precision": "bfloat16"})})
    assert [fits(two_layers, room) for room in (math.inf, 4 * 4976, 4 * 4976 - 1, 1)] == [None, None, 1, 1]
    assert [fits(half, room) for room in (6 * 4976, 6 * 4976 - 1)] == [None, 1]


@pytest.mark.parametrize(
    ("settings", "room"),
    [
        ([], 70e9 - 2e9),
        (["rollout.engine=vllm"], 70e9 - 0.4 * 80e9 - 2e9),
        (["rollout.engine=vllm", "rollout.vllm.mode=server"], 70e9 - 2e9),
        (["resources.gpus=0.5"], 35e9 - 1e9 - 2e9),
        (["model.device=cpu"], math.inf),
    ],
)
def test_room_for_the_policy_is_what_is_free_without_its_samplers_share(suite_file, monkeypatch, settings, room):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70e9, 80e9))
    assert model_checks.room_for_policy(load_suite(str(suite_file), settings)) == room


@pytest.mark.parametrize(
    ("settings", "status", "remedy"),
    [
        # Alone 4N bytes of the policy, 8N of Adam's moments and 4N of the base. On two ranks half of that, and on each
        # a whole policy to sample from; vLLM has none.
        ([], "fail", "raise resources.ranks, set model.weights"),
        (["resources.ranks=2"], "fail", "'cached' samples from a whole policy on each rank: set it to 'vllm'"),
        (["resources.ranks=2", "rollout.engine=vllm"], "warn", "lower resources.token_budget"),
    ],
)
def test_weights_that_no_token_budget_makes_fit_end_the_sweep(two_layers, suite_file, settings, status, remedy):
    suite = load_suite(str(suite_file), [f"model.path={two_layers.model.path}", "resources.cpus=2", *settings])
    gvpo = [cell for cell in plan(suite) if cell.config.label == "gvpo"]
    check = doctor.memory(suite, gvpo, free=9.5 * 4976, whole=9.5 * 4976)
    assert (check.status, remedy in check.remedy) == (status, True), check
    assert ("of which weights and optimiser alone take" in check.found) == (status == "fail")


def test_full_disk_fails(suite_file, tmp_path, monkeypatch):
    suite = load_suite(str(suite_file))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    check = doctor.storage(plan(suite), tmp_path / "not" / "there", workers=1)
    assert check.status == "fail"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds without a GPU")
def test_missing_gpu_is_pointed_out(suite_file):
    suite = load_suite(str(suite_file), ["resources.gpus=1"])
    (check,) = doctor.hardware(suite, plan(suite))
    assert check.status == "warn"
    assert "this machine has none" in check.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds without a GPU")
@pytest.mark.parametrize(
    ("capabilities", "status"),
    [
        ({"avx2": True, "avx512_bf16": False}, "warn"),
        ({}, "warn"),
        ({"avx512_bf16": True}, "ok"),
        ({"amx_bf16": True}, "ok"),
    ],
)
def test_bfloat16_is_slow_on_a_cpu_that_has_no_instructions_for_it(suite_file, monkeypatch, capabilities, status):
    monkeypatch.setattr(doctor.torch.cpu, "get_capabilities", lambda: capabilities)
    suite = load_suite(str(suite_file), ["model.precision=bfloat16"])
    (check,) = doctor.hardware(suite, plan(suite))
    assert check.status == status
    assert ("bfloat16 is slow on this CPU" in check.remedy) == (status == "warn")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (["algorithms.gvpo.optimizer.critic_lr=1e-3"], "algorithms.gvpo.optimizer.critic_lr has no effect"),
        (["algorithms.gvpo.optimizer.critic_max_norm=2.0"], "algorithms.gvpo.optimizer.critic_max_norm has no effect"),
        (["model.revision=main"], "model.revision says nothing of a folder"),
        (["resources.checkpoint_every=6"], "resources.checkpoint_every = 6 comes after the last of 6 steps"),
        (["train.refresh_every=6"], "train.refresh_every = 6: in 6 steps only the base samples"),
        (["train.pass_rate_samples=4"], "train.pass_rate_samples has no effect: there is no train.pass_rate"),
        (["train.limit=5000"], "train.limit = 5000 leaves out none of the 4096 problems"),
        (["evaluation.limit=1000"], "evaluation.limit = 1000 leaves out no problem"),
        (["train.mini_batches=1"], "algorithms.gvpo.parameters of the anchor have no effect but on the scale"),
        (["algorithms.ppo.optimizer={ lr = 1e-3, max_norm = 1.0 }"], "critic_lr is not set: the critic learns at"),
    ],
)
def test_key_without_effect_is_named(suite_file, settings, key):
    checks = list(doctor.unused_keys(load_suite(str(suite_file), settings)))
    assert any(check.status == "warn" and key in check.found for check in checks), checks


def test_failed_check_ends_a_sweep_before_it_starts(suite_file, tmp_path, capsys):
    out = tmp_path / "out"
    options = ("--set", "train.benchmark=arithmetic", "--workers", 1, "--out", out)
    assert command("sweep", suite_file, *options) == 2
    shown = capsys.readouterr()
    assert "overlap arithmetic: of 12 problems 12 are trained on" in shown.err
    assert not out.exists()


def test_finished_sweep_is_not_examined_again(suite_file, tmp_path, no_figures, monkeypatch):
    options = ("--set", "train.steps=1", "--set", "resources.checkpoint_every=0", "--seeds", 1, "--algorithm", "gvpo")
    assert command("sweep", suite_file, *options, "--workers", 1, "--out", tmp_path / "out") == 0
    monkeypatch.setattr("harness.sweep.run.examine", lambda *_, **__: pytest.fail("examined"))
    assert command("sweep", suite_file, *options, "--workers", 1, "--out", tmp_path / "out") == 0
