"""From a problem to token ids and from token ids to a response: chat templates, BOS, stops."""

import hashlib

import pytest
from tiny import bos_tokenizer

from benchmarks import Problem
from benchmarks.templates import Template, load_template
from harness.model.language import LanguageModel, chat_template_of, end_of_turn, load_model, tokenise
from harness.model.rows import Response
from harness.suite.config import ConfigError, Model

CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PROBLEM = Problem(id="p", prompt="1+1?", answer="2")


def test_a_chat_prompt_is_the_tokenizers_own_with_one_bos():
    tok = bos_tokenizer(CHAT)
    (ids,) = tokenise([PROBLEM], tok, load_template("chat"))
    assert tok.convert_ids_to_tokens(ids) == ["<bos>", "<user>", *"1+1?", "<end>", "<assistant>"]


@pytest.mark.parametrize("text", ["{problem}", "<bos>{problem}"])
def test_a_template_that_spells_out_its_bos_gets_no_second_one(text):
    tok = bos_tokenizer()
    (ids,) = tokenise([PROBLEM], tok, Template(name="mine", version=1, text=text))
    assert tok.convert_ids_to_tokens(ids) == ["<bos>", *"1+1?"]


def test_a_tokenizer_without_a_chat_template_is_refused():
    with pytest.raises(ConfigError, match="template 'chat': the tokenizer of this checkpoint has no chat template"):
        tokenise([PROBLEM], bos_tokenizer(), load_template("chat"))


def test_a_chat_prompt_is_the_same_on_every_day():
    dated = "{{ date_string }}: " + CHAT
    (ids,) = tokenise([PROBLEM], bos_tokenizer(dated), load_template("chat"))
    assert bos_tokenizer().decode(ids).startswith("26 Jul 2024: ")


def test_a_response_ends_at_the_chat_templates_end_of_turn():
    tok = bos_tokenizer(CHAT)
    assert tok.convert_ids_to_tokens(end_of_turn(tok)) == ["<end>"]
    assert end_of_turn(bos_tokenizer("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")) == []


def language_model(template, tok):
    return LanguageModel(None, tok, template, (tok.eos_token_id,), "test")


def test_the_label_of_a_chat_template_has_the_hash_of_its_text():
    lm = language_model(load_template("chat"), bos_tokenizer(CHAT))
    assert chat_template_of(lm.tokenizer) == CHAT
    assert lm.template_label == f"chat-v1 (sha256 {hashlib.sha256(CHAT.encode()).hexdigest()})"
    assert language_model(load_template("plain"), bos_tokenizer(CHAT)).template_label == "plain-v1"


def response(tok, text):
    tokens = tok(text, add_special_tokens=False)["input_ids"]
    return Response(tokens=tokens, logp=[-0.5 * n for n in range(len(tokens))], truncated=True)


def test_a_stop_of_several_tokens_ends_the_response_where_it_is_complete():
    tok = bos_tokenizer()
    lm = language_model(load_template("plain"), tok)
    drawn = response(tok, " 2\nQuestion: 3+3?\nAnswer: 6\nQuestion: 4")
    ended = lm.end_at_stop(drawn)
    assert tok.decode(ended.tokens) == " 2\nQuestion:"
    assert (ended.truncated, ended.logp) == (False, drawn.logp[: len(ended.tokens)])
    assert lm.text(ended.tokens) == lm.text(drawn.tokens) == " 2"


def test_a_response_without_the_stop_is_left_as_it_is():
    tok = bos_tokenizer()
    lm = language_model(load_template("plain"), tok)
    drawn = response(tok, " 2\nQuest")
    assert lm.end_at_stop(drawn) is drawn


pytest_plugins = ["small_fixtures"]


def test_an_answer_after_worked_examples_ends_with_its_line(reader):
    lm = load_model(Model(path=str(reader), template="qa-3shot"))
    line = lm.tokenizer.convert_tokens_to_ids("\n")
    assert lm.eos_ids == (1, line)  # <eos> too: an engine goes no further after either
    assert lm.end_id == line
    assert lm.tokenizer.decode(lm.prompt_ids([Problem(id="0", prompt="What is 8 + 5?", answer="13")])[0]) == (
        "Q: What is 3 + 4?\nA: 3 + 4 = 7\n\nQ: What is the sum of 5 and 9?\nA: 5 + 9 = 14\n\n"
        "Q: Sam has 2 pens and gets 6 more. How many pens does Sam have now?\nA: 2 + 6 = 8\n\n"
        "Q: What is 8 + 5?\nA:"
    )
    ended = lm.end_at_stop(response(lm.tokenizer, " 13\n"))
    assert (lm.text(ended.tokens), ended.truncated) == (" 13", False)


def test_a_line_that_ends_within_a_token_ends_the_response_with_that_token():
    tok = bos_tokenizer()
    tok.add_tokens([".\n\n"])  # as in Qwen's vocabulary
    lm = language_model(load_template("qa-3shot"), tok)
    ended = lm.end_at_stop(response(tok, " 13.\n\nQ: What"))
    assert tok.decode(ended.tokens) == " 13.\n\n"
    assert lm.text(ended.tokens) == " 13."


def test_a_checkpoint_with_a_chat_template_is_loaded_with_its_end_of_turn(reader, tmp_path):
    lm = load_model(Model(path=str(reader)))
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<unk>{% endfor %}"
    lm.tokenizer.add_special_tokens({"additional_special_tokens": ["<unk>"]})
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    assert load_model(Model(path=str(tmp_path), template="chat")).eos_ids == (1, 2)  # <eos>, <unk>
    assert load_model(Model(path=str(tmp_path), template="none")).eos_ids == (1,)
