"""Suites: what is refused, with file, key and what would be right, and always before any work begins."""

import re

import pytest
from pydantic import ValidationError
from small import command, write_suite

from harness.suite.config import ConfigError, Model, Resources, Suite, Train
from harness.suite.load import load_suite, suite_files
from harness.suite.plan import build_algorithm, plan


@pytest.fixture(scope="module")
def suite_toml(tmp_path_factory):
    """A suite whose model is never loaded."""
    folder = tmp_path_factory.mktemp("suite")
    return write_suite(folder, folder / "no-model")


@pytest.fixture
def refused(suite_toml, tmp_path, capsys):
    """Sweeps with these settings; returns the message of the refusal, before which nothing was written."""

    def refused(*settings, arguments=(), file=suite_toml):
        options = [part for setting in settings for part in ("--set", setting)]
        code = command("sweep", file, *options, *arguments, "--out", tmp_path / "out")
        shown = capsys.readouterr()
        assert code == 2, shown
        assert shown.out == ""
        assert not (tmp_path / "out").exists()
        return shown.err

    return refused


def test_small_suite_is_read_as_written(suite_toml):
    suite = load_suite(str(suite_toml))
    assert (suite.name, suite.seeds, suite.train.prompts, suite.train.mini_batches) == ("small", 2, 8, 2)
    assert suite.algorithms["ppo"].optimizer.critic_lr == 1e-2
    assert suite.train.temperature == 1.0  # by default
    assert [cell.name for cell in plan(suite)] == ["base", "gvpo-s0", "ppo-s0", "gvpo-s1", "ppo-s1"]


@pytest.mark.parametrize(
    ("setting", "key", "known"),
    [
        ("train.stepz=3", "train.stepz", "steps, prompts, samples"),
        ("sedes=3", "sedes", "name, seeds, model"),
        ("algorithms.gvpo.optimizer.learning_rate=1", "algorithms.gvpo.optimizer.learning_rate", "lr, max_norm"),
        ("algorithms.gvpo.optimiser.lr=1", "algorithms.gvpo.optimiser", "algorithm, optimizer, parameters"),
        ("train.top_p=0.9", "train.top_p", "temperature"),
        ("evaluation.top_k=20", "evaluation.top_k", "benchmarks, hard_benchmarks"),
        ("tuning.budget=20", "tuning.budget", "trials, benchmark"),
    ],
)
def test_unknown_key_is_named_with_its_file_and_the_known_ones(refused, suite_toml, setting, key, known):
    message = refused(setting)
    assert str(suite_toml) in message
    assert f"{key}: unknown key; known here: " in message
    assert known in message


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("train.steps=three", "train.steps = 'three'"),
        ("train.steps=2.5", "train.steps = 2.5"),
        ("train.steps=true", "train.steps = True"),
        ('seeds="2"', "seeds = '2'"),
        ("evaluation.benchmarks=gsm8k", "evaluation.benchmarks = 'gsm8k'"),
        ("algorithms.gvpo.optimizer=0.1", "algorithms.gvpo.optimizer = 0.1"),
        ("algorithms.gvpo.tuned=no", "algorithms.gvpo.tuned = 'no'"),
    ],
)
def test_wrong_type_is_refused_and_never_converted(refused, suite_toml, setting, shown):
    message = refused(setting)
    assert str(suite_toml) in message
    assert shown in message


@pytest.mark.parametrize(
    "setting",
    [
        "seeds=0",
        "train.steps=0",
        "train.prompts=-1",
        "train.temperature=0",
        "train.temperature=5e-324",
        "train.temperature=inf",
        "train.temperature=nan",
        "train.history_share=1.0",
        "resources.checkpoint_every=-1",
        "resources.stall_seconds=1e7",  # no wait of the system takes so many
        "evaluation.samples=0",
        "evaluation.temperature=-0.1",
        "evaluation.temperature=5e-324",
        "evaluation.limit=0",
        "algorithms.gvpo.optimizer.lr=0",
        "algorithms.gvpo.optimizer.lr=inf",
        "algorithms.gvpo.optimizer.max_norm=-1",
        "model.device=tpu",
        "model.precision=float16",
        "rollout.engine=vllm2",
        "tuning.trials=0",
    ],
)
def test_value_out_of_range_is_refused_with_its_key(refused, setting):
    assert setting.partition("=")[0] in refused(setting)


def test_all_mistakes_are_listed_at_once(refused):
    message = refused("train.stepz=3", "seeds=0", "model.device=tpu")
    assert all(key in message for key in ("train.stepz", "seeds", "model.device"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.samples=1"], "algorithms.gvpo: GVPO needs groups of at least 2 samples; train.samples is 1"),
        (["train.mini_batches=3"], "mini_batches = 3 does not divide prompts = 8"),
        (["train.history_share=0.01"], "leaves 0 historical samples"),  # round(0.01 · 8)
        (["train.history_share=0.99"], "leaves 8 historical samples"),
        # 6 steps of 8 prompts are 48 of 4,096 problems
        (["train.history_share=0.5"], "meet none of the 4096 problems of arithmetic-train twice"),
        (
            [
                "train.history_share=0.5",
                "train.benchmark=arithmetic-tune",
                "train.prompts=64",
                'algorithms.gvpo.parameters.anchor="behaviour"',
            ],
            "algorithms.gvpo: anchor 'behaviour' has no single anchor policy in a group of mixed age",
        ),
        (["train.prompts=5000", "train.mini_batches=1"], "arithmetic-train has only 4096 problems"),
        (["evaluation.samples={ arithmetic = 4 }"], "samples names arithmetic; it must name each of arithmetic, arit"),
        (["evaluation.samples={ arithmetic = 4, arithmetic-hard = 0 }"], "arithmetic-hard = 0"),
        (["evaluation.samples={ arithmetic = 4, arithmetic-hard = 1 }"], "tuning needs evaluation.samples to be one"),
        (["train.limit=7"], "arithmetic-train has only 7 problems within train.limit = 7"),
        (["report.baseline=grpo"], "report.baseline = 'grpo' is not one of the algorithms: gvpo, ppo"),
        (["tuning.benchmark=arithmetic"], "tuning.benchmark = 'arithmetic' is also evaluated on"),
        (["tuning.benchmark=arithmetic-hard"], "tuning.benchmark = 'arithmetic-hard' is also evaluated on"),
        (["evaluation.benchmarks=['arithmetic', 'arithmetic']"], "'arithmetic' is named twice: name it once, in bench"),
        (
            ["evaluation.hard_benchmarks=['arithmetic']"],
            "'arithmetic' is named twice: name it once, in bench",
        ),
        (["algorithms.gvpo.optimizer.betas=[0.9, 1.0]"], "algorithms.gvpo.optimizer.betas.1 = 1.0"),
        (["algorithms.gvpo.optimizer.betas=[-0.1, 0.9]"], "algorithms.gvpo.optimizer.betas.0 = -0.1"),
        (["algorithms.gvpo.parameters.beta=inf"], "algorithms.gvpo.parameters.beta = inf: every number is finite"),
        (["algorithms.gvpo.parameters.beta=nan"], "algorithms.gvpo.parameters.beta = nan: every number is finite"),
        (['algorithms={ ".gvpo" = {} }'], "algorithms..gvpo.optimizer: missing"),
        ([f"name={'n' * 201}"], "a name of 201 bytes is too long for a folder's; use 200 at most"),
        ([f"train.steps={2**63}"], "train.steps: an integer of 64 bits; TOML's have 64"),
        ([f"train.steps={'9' * 5000}"], "--set train.steps=999"),
        (["train.steps=1000001"], "train.steps = 1000001: Input should be less than or equal to 1000000"),
        (["seeds=10001"], "seeds = 10001: Input should be less than or equal to 10000"),
        (["tuning.seeds=[1000, 1000]"], "tuning.seeds = [1000, 1000] name one twice"),
        ([".".join("a" * 4000) + "=1"], "tables within tables, too many of them"),
        (["algorithms.gvpo.parameters.x=" + "[" * 3000], "maximum recursion depth"),
        (["model.path=\udcff"], "model.path = '\\udcff': no text in UTF-8"),
        (["tuning.seeds=[1]"], "tuning.seeds = [1] overlap the table's seeds 0 to 1"),
        (["tuning.lr=[1e-2, 1e-4]"], "lr = [0.01, 0.0001] is no range"),
        (["tuning.lr=[1e-200, 1e200]"], "lr = [1e-200, 1e+200] is no range"),
        (["tuning.max_norm=[0.0, 1.0]"], "max_norm = [0.0, 1.0] is no range"),
        (["train.reward=correct"], "train.reward: no reward is called 'correct'; choose from correct-v1"),
        (["evaluation.temperature=0"], "samples = 2 at temperature = 0: greedy decoding gives the same response"),
        (["train.benchmark=arithmetics"], "no benchmark is called 'arithmetics'; choose from aime24"),
        (["tuning.benchmark=gsm9k"], "tuning.benchmark = 'gsm9k': choose from aime24"),
        (['evaluation.benchmarks=["gsm9k"]'], "no benchmark is called 'gsm9k'"),
        (["model.template=qwen"], "no template is called 'qwen'; choose from none, plain"),
        (["algorithms.gvpo.algorithm=gpvo"], "algorithms.gvpo: unknown algorithm 'gpvo': use one of gvpo, grpo"),
        (["algorithms.gvpo.algorithm=no/file.py:Mine"], "there is no file"),
        (["algorithms.gvpo.parameters.bata=0.3"], "GVPO has no such hyper-parameter; it has ['beta', 'anchor'"),
        (["algorithms.gvpo.parameters.beta=small"], "algorithms.gvpo.parameters.beta: "),
        (["algorithms.gvpo.parameters.beta=true"], "algorithms.gvpo.parameters.beta: "),
        (["algorithms.gvpo.parameters.beta=-1.0"], "algorithms.gvpo.parameters: gvpo: beta is -1.0; it must be"),
        (["algorithms.gvpo.parameters.anchor=newest"], "algorithms.gvpo.parameters.anchor: "),
        (['train.replay="a/\\u0000b"'], "replay = 'a/\\x00b' can be no folder; leave out the \\0"),
        (["name=../elsewhere"], "name = '../elsewhere'"),
        (["algorithms.base.optimizer={ lr = 1e-3, max_norm = 1.0 }"], "algorithms.base: a label has letters"),
    ],
)
def test_impossible_combination_is_refused_with_what_would_be_right(refused, settings, message):
    assert message in refused(*settings)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (["1e300"], "report.published.0.scores.arithmetic = 1e+300: Input should be less than or equal to 100"),
        (["-5"], "report.published.0.scores.arithmetic = -5: Input should be greater than or equal to 0"),
        (["5", "6"], "report.published: two rows have the label 'x'; give each a label of its own"),
    ],
)
def test_published_scores_are_percent_and_their_labels_distinct(suite_toml, scores, message):
    row = '{{ label = "x", source = "s", protocol = "p", scores = {{ arithmetic = {} }} }}'
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_suite(str(suite_toml), [f"report.published=[{', '.join(row.format(score) for score in scores)}]"])


def test_missing_key_is_named(suite_toml, tmp_path, refused):
    broken = tmp_path / "broken.toml"
    broken.write_text(suite_toml.read_text().replace("steps = 6\n", ""), encoding="utf-8")
    assert f"{broken}:\n  train.steps: missing; it has no default" in refused(file=broken)


def test_file_that_is_not_toml_is_refused_with_the_line(tmp_path, refused):
    broken = tmp_path / "broken.toml"
    broken.write_text("name = 'x'\nseeds = = 3\n", encoding="utf-8")
    message = refused(file=broken)
    assert f"{broken}: not valid TOML" in message
    assert "line 2" in message


def test_a_byte_order_mark_before_a_suite_is_no_part_of_it(suite_toml, tmp_path):
    marked = tmp_path / "marked.toml"
    marked.write_text(suite_toml.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert load_suite(str(marked)) == load_suite(str(suite_toml))


def test_file_that_does_not_exist_is_refused_with_the_suites_there_are(refused):
    assert f"the suites that come with gvpo-bench: {', '.join(suite_files())}" in refused(file="nowhere.toml")


def test_suite_may_be_named_without_its_folder_and_ending():
    assert load_suite("embedded") == load_suite("embedded.toml") == load_suite(str(suite_files()["embedded"]))


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("train.steps=3", lambda suite: suite.train.steps == 3),
        ("train.temperature=2", lambda suite: suite.train.temperature == 2.0),
        ("algorithms.ppo.optimizer.lr=1e-4", lambda suite: suite.algorithms["ppo"].optimizer.lr == 1e-4),
        ("model.path=some/folder", lambda suite: suite.model.path == "some/folder"),
        ('model.path="some=folder"', lambda suite: suite.model.path == "some=folder"),
        ("model.path=some=folder", lambda suite: suite.model.path == "some=folder"),
        ("tuning.seeds=[7, 8]", lambda suite: suite.tuning.seeds == [7, 8]),
        (
            "resources.rollout_batch=16",
            lambda suite: suite.resources.rollout_batch == 16,
        ),  # a section that the file does not have
        (
            "algorithms.gvpo.parameters.anchor=reference",
            lambda suite: suite.algorithms["gvpo"].parameters == {"anchor": "reference"},
        ),
    ],
)
def test_override_takes_numbers_lists_and_bare_text(suite_toml, setting, read):
    assert read(load_suite(str(suite_toml), [setting]))


def test_samples_may_differ_by_benchmark(suite_toml, tmp_path):
    path = tmp_path / "untuned.toml"
    text = suite_toml.read_text()
    path.write_text(text[: text.index("[tuning]")] + text[text.index("[algorithms.gvpo]") :])
    evaluation = load_suite(str(path), ["evaluation.samples={ arithmetic = 4, arithmetic-hard = 1 }"]).evaluation
    assert (evaluation.samples_of("arithmetic"), evaluation.samples_of("arithmetic-hard")) == (4, 1)
    assert load_suite(str(path)).evaluation.samples_of("arithmetic-hard") == 2


def test_training_may_be_limited_to_the_first_problems(suite_toml):
    # 48 prompts from 20 problems meet each twice, so that history is accepted
    suite = load_suite(str(suite_toml), ["train.limit=20", "train.history_share=0.5"])
    assert len(plan(suite)) == 5


def test_another_reward_is_another_run(suite_toml):
    hashes = {
        plan(load_suite(str(suite_toml), settings))[1].config.hashes().training
        for settings in ([], ["train.reward=correct-v1"], ["train.reward=dapo-v1"])
    }
    assert len(hashes) == 2


def test_later_override_wins(suite_toml):
    assert load_suite(str(suite_toml), ["seeds=3", "seeds=4"]).seeds == 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.steps", "write it as key=value"),
        ("seeds.first=1", "seeds is not a section"),
        ("train.steps=3\nprompts=7", "--set 'train.steps=3\\nprompts=7' sets more than one key; give each a --set"),
    ],
)
def test_override_that_is_none_is_refused(refused, setting, message):
    assert message in refused(setting)


def test_choosing_labels_leaves_out_the_others_and_keeps_the_baseline_if_it_can(suite_toml):
    assert list(load_suite(str(suite_toml), algorithms=["gvpo"]).algorithms) == ["gvpo"]
    chosen = load_suite(str(suite_toml), algorithms=["ppo"])
    assert (list(chosen.algorithms), chosen.report.baseline) == (["ppo"], "ppo")
    both = load_suite(str(suite_toml), algorithms=["ppo", "gvpo"])
    assert (list(both.algorithms), both.report.baseline) == (["gvpo", "ppo"], "gvpo")


def test_another_algorithm_beside_chosen_labels_joins_those_alone(suite_toml):
    chosen = load_suite(str(suite_toml), algorithms=["ppo", "kimi"])
    assert (list(chosen.algorithms), chosen.report.baseline) == (["ppo", "kimi"], "ppo")
    assert chosen.algorithms["kimi"].optimizer == load_suite(str(suite_toml)).algorithms["gvpo"].optimizer


def test_another_algorithm_joins_with_the_baselines_optimizer_as_untuned(suite_toml):
    suite = load_suite(str(suite_toml), algorithms=["kimi"])
    assert list(suite.algorithms) == ["gvpo", "ppo", "kimi"]
    assert suite.algorithms["kimi"].optimizer == suite.algorithms["gvpo"].optimizer
    assert not suite.algorithms["kimi"].tuned


def test_setting_the_new_algorithms_optimizer_leaves_the_baselines_alone(suite_toml):
    suite = load_suite(str(suite_toml), ["algorithms.kimi.optimizer.lr=0.5"], ["kimi"])
    assert suite.algorithms["kimi"].optimizer.lr == 0.5
    assert suite.algorithms["gvpo"].optimizer.lr == 3e-3


def test_class_of_a_file_is_labelled_by_its_lower_case_name(suite_toml):
    suite = load_suite(str(suite_toml), algorithms=["some/mine.py:Mine"])
    assert suite.algorithms["mine"].algorithm == "some/mine.py:Mine"


def test_class_whose_label_is_taken_is_refused(refused):
    message = refused(arguments=["--algorithm", "mine.py:PPO"])
    assert "the suite already has one labelled 'ppo'; rename the class" in message


def test_history_is_accepted_where_prompts_recur(suite_toml):
    # 6 steps of 64 prompts meet 192 problems twice
    recurring = ["train.history_share=0.5", "train.benchmark=arithmetic-tune", "train.prompts=64"]
    assert len(plan(load_suite(str(suite_toml), recurring))) == 5


def test_hash_counts_every_setting_that_decides_the_numbers_and_no_other(suite_toml):
    def hashes(*settings):
        return [cell.config.hashes().training for cell in plan(load_suite(str(suite_toml), settings))]

    same = hashes()
    assert len(set(same)) == len(same)
    assert hashes("report.baseline=ppo", "tuning.trials=7") == same
    changed = hashes("algorithms.ppo.optimizer.lr=1e-5")  # base, gvpo-s0, ppo-s0, gvpo-s1, ppo-s1
    assert [a == b for a, b in zip(changed, same, strict=True)] == [True, True, False, True, False]
    for setting in ("train.temperature=0.9", "model.path=other", "name=other"):
        assert not set(hashes(setting)) & set(same)


def test_evaluation_has_a_hash_of_its_own(suite_toml):
    def hashes(*settings):
        return plan(load_suite(str(suite_toml), settings))[1].config.hashes()

    assert hashes("evaluation.samples=3").training == hashes().training
    assert hashes("evaluation.samples=3").evaluation != hashes().evaluation
    assert hashes("train.temperature=0.9").evaluation == hashes().evaluation


def test_hash_counts_the_content_of_a_users_file_and_not_its_folder(suite_toml, tmp_path):
    from test_load_algorithm import MINE

    def hash_in(folder, content):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "mine.py").write_text(content, encoding="utf-8")
        suite = load_suite(str(suite_toml), algorithms=[f"{tmp_path / folder / 'mine.py'}:Mine"])
        return next(cell.config.hashes().training for cell in plan(suite) if cell.name == "mine-s0")

    assert hash_in("one", MINE) == hash_in("two", MINE)
    assert hash_in("one", MINE) != hash_in("one", MINE + "# changed\n")


def test_resources_are_no_part_of_the_hash(suite_toml):
    hashes = {plan(load_suite(str(suite_toml), [f"resources.cpus={n}"]))[1].config.hashes() for n in (1, 4)}
    assert len(hashes) == 1


def test_defaults_are_part_of_the_hash(suite_toml):
    """A default that changes in a later version must not pass for the same run."""
    config = plan(load_suite(str(suite_toml)))[1].config
    assert config.parameters["beta"] == 0.1
    explicit = load_suite(str(suite_toml), ["algorithms.gvpo.parameters.beta=0.1"])
    assert plan(explicit)[1].config.hashes().training == config.hashes().training


def test_users_own_check_of_a_hyperparameter_names_the_entry():
    with pytest.raises(ValueError, match=r"^here\.parameters: gvpo: beta is 0\.0; it must be positive"):
        build_algorithm("gvpo", {"beta": 0.0}, where="here")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (".gvpo", "algorithms..gvpo: its cells would be hidden folders; begin it with another sign"),
        ("é" * 101, "a name of 202 bytes is too long for a folder's; use 200 at most"),
    ],
)
def test_a_label_whose_folder_a_report_would_not_find_is_refused(suite_toml, label, message):
    table = f"\n[algorithms.'{label}']\nalgorithm = 'gvpo'\noptimizer = {{ lr = 1e-3, max_norm = 1.0 }}\n"
    path = suite_toml.with_name("labelled.toml")
    path.write_text(suite_toml.read_text(encoding="utf-8") + table, encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_suite(str(path))


def test_tables_that_are_none_are_named_beside_algorithms_of_the_command_line(refused, suite_toml, tmp_path):
    text = suite_toml.read_text(encoding="utf-8")
    for old, new, message in (
        ("[report]\nbaseline = ", "[report]\nbaseline = [1]\n# ", "report.baseline = [1]"),
        ("optimizer = { lr = 3e-3, max_norm = 1.0 }", "optimizer = 'x'", "algorithms.sft.optimizer = 'x'"),
    ):
        path = tmp_path / "broken.toml"
        path.write_text(text.replace(old, new), encoding="utf-8")
        assert message in refused(file=path, arguments=["--algorithm", "sft"])


@pytest.mark.parametrize("name", ["n" * 300, "~nosuchuser/suite.toml", "", "/"])
def test_a_suite_that_cannot_be_a_file_is_none(refused, name):
    assert f"there is no suite file {name}" in refused(file=name)


def test_a_file_with_an_impossible_number_is_no_suite(refused, tmp_path):
    path = tmp_path / "huge.toml"
    path.write_text(f"seeds = {'9' * 5000}", encoding="utf-8")
    assert "huge.toml: not valid TOML: Exceeds the limit" in refused(file=path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("~nosuchuser/mine.py:Mine", "~nosuchuser/mine.py cannot be a file here"),
        (f"{'n' * 300}.py:Mine", "cannot be a file here"),
    ],
)
def test_an_algorithm_that_cannot_be_a_file_is_none(refused, spec, message):
    assert message in refused(arguments=["--algorithm", spec])


def test_sections_cannot_be_changed_after_validation(suite_toml):
    suite = load_suite(str(suite_toml))
    with pytest.raises(ValidationError, match="frozen"):
        suite.train.steps = 4  # type: ignore[misc]


SECTIONS = {"model", "train", "rollout", "evaluation", "report", "resources", "tracking", "tuning", "ablation"}


@pytest.mark.parametrize("section", [Suite, Train, Model, Resources])
def test_every_key_of_a_suite_is_documented(section):
    undocumented = [
        name for name, field in section.model_fields.items() if not field.description and name not in SECTIONS
    ]
    assert undocumented == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["rollout.vllm.mode=server"], "rollout: [rollout.vllm] is for engine = 'vllm', and engine is 'cached'"),
        (
            ["rollout.engine=vllm", "rollout.vllm.mode=server", "rollout.vllm.sleep=true"],
            "rollout.vllm: sleep = true: a server has its GPUs to itself",
        ),
        (["rollout.engine=vllm", "rollout.vllm.memory=0.5"], "rollout.vllm.memory: unknown key; known here: mode"),
        (["rollout.engine=vllm", "rollout.vllm.gpu_memory_fraction=1.5"], "rollout.vllm.gpu_memory_fraction = 1.5"),
        (["train.sampler_ratio_cap=0.5"], "train.sampler_ratio_cap = 0.5"),
        (["train.sampler_ratio_cap=2.0"], "algorithms.gvpo: GVPO is right whatever policy sampled"),
    ],
)
def test_impossible_rollout_is_refused_with_what_would_be_right(refused, settings, message):
    assert message in refused(*settings)


@pytest.mark.parametrize(
    ("resources", "vllm", "message"),
    [
        ({"ranks": 2}, None, "resources.cpus = 1 with ranks = 2: each rank takes one; set cpus = 2"),
        ({"gpus": 8}, None, "resources.gpus = 8 with ranks = 1: each rank uses 1; set gpus = 1, or other ranks"),
        ({"gpus": 1, "ranks": 2, "cpus": 2}, None, "with ranks = 2: each rank uses 1; set gpus = 2, or other ranks"),
        ({"gpus": 1}, {"tensor_parallel_size": 2}, "with ranks = 1: each rank uses 2; set gpus = 2"),
        ({"gpus": 1.5}, None, "resources.gpus: 1.5 is no number of GPUs: a cell has whole ones, or a share of one"),
        ({"gpus": 5e-324}, None, "resources.gpus: 5e-324 is too small a share of a GPU for a cell; set 0.01 or more"),
        ({"gpus": 0.5, "ranks": 2, "cpus": 2}, None, "resources.gpus = 0.5 with ranks = 2: cells that share a GPU"),
        ({"gpus": 0.5}, {}, "resources.gpus = 0.5 with rollout.engine = 'vllm', which takes its memory of whole GPUs"),
        ({"gpus": 4, "ranks": 2, "cpus": 2}, {"tensor_parallel_size": 2}, "leave tensor_parallel_size at 1"),
        ({"gpus": 1}, {"mode": "server"}, "each rank uses 2, one to train on and 1 for each server; set gpus = 2"),
        # Two ranks and a server of two GPUs for each are six; with eight, two would be left over.
        (
            {"gpus": 8, "ranks": 2, "cpus": 2},
            {"mode": "server", "tensor_parallel_size": 2},
            "each rank uses 3, one to train on and 2 for each server; set gpus = 6",
        ),
    ],
)
def test_cell_takes_the_gpus_that_its_ranks_and_vllm_use(suite_toml, resources, vllm, message):
    settings = [f"resources.{key}={value}" for key, value in resources.items()]
    if vllm is not None:
        settings += ["rollout.engine=vllm", *(f"rollout.vllm.{key}={value}" for key, value in vllm.items())]
    with pytest.raises(ConfigError) as refusal:
        load_suite(str(suite_toml), settings)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("ranks", "gpus", "vllm"),
    [
        (8, 8, None),
        (8, 8, {}),
        (1, 2, {"tensor_parallel_size": 2}),
        (4, 8, {"mode": "server"}),
        (2, 10, {"mode": "server", "tensor_parallel_size": 2}),  # two servers for each rank
        (2, 0, {"mode": "server"}),
        (1, 0.125, None),
    ],
)
def test_gpus_for_every_rank_and_server_are_accepted(suite_toml, ranks, gpus, vllm):
    settings = [f"resources.ranks={ranks}", f"resources.gpus={gpus}", f"resources.cpus={ranks}"]
    if vllm is not None:
        settings += ["rollout.engine=vllm", *(f"rollout.vllm.{key}={value}" for key, value in vllm.items())]
    assert load_suite(str(suite_toml), settings).resources.gpus == gpus


def test_algorithms_with_importance_weights_take_a_ratio_cap_and_the_others_do_not(suite_toml):
    for label in ("ppo", "grpo", "pg"):
        assert plan(load_suite(str(suite_toml), ["train.sampler_ratio_cap=2.0", "report.baseline=ppo"], ["ppo"]))
        assert not build_algorithm(label, {}, where="here").needs.off_policy
    for label in ("gvpo", "dpo", "kimi"):
        assert build_algorithm(label, {}, where="here").needs.off_policy
    assert build_algorithm("pg", {"importance_weight": False}, where="here").needs.off_policy  # it is GVPO/(2β)
