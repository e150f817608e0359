"""The YAML file of `eagle-hf data`: what does not fit is refused by its whole name."""

import pytest

from eagle_hf.pipeline.config_file import read_config

GOOD = "target: t\noutput_dir: o\nprompts: {magpie: 3}\n"


def config_of(tmp_path, text, **flags):
    path = tmp_path / "data.yaml"
    path.write_text(text)
    return read_config(path, {name.replace("__", "."): value for name, value in flags.items()})


def test_a_file_and_flags_over_it(tmp_path):
    text = GOOD + "answers: {max_new_tokens: 7, temperature: 1e-1}\n"
    config = config_of(tmp_path, text, answers__max_new_tokens=9, prompts__sources=["a.jsonl"])
    assert config.answers.max_new_tokens == 9
    assert config.answers.temperature == 0.1
    assert config.prompts.sources == ["a.jsonl"]
    assert config.prompts.magpie == 3


def test_flags_are_enough():
    flags = {"target": "t", "output_dir": "o", "prompts.magpie": 2}
    assert read_config(None, flags).prompts.magpie == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "anwsers: {}", "no setting anwsers; did you mean answers"),
        (GOOD + "answers: {max_tokens: 5}", "answers.max_tokens; did you mean answers.max_new_tok"),
        (GOOD + "examples: {colour: red}", "known are max_length, train_on"),
        (GOOD + "answers: {max_new_tokens: many}", "max_new_tokens is 'many'; a whole number is"),
        (GOOD + "answers: {max_new_tokens: true}", "max_new_tokens is True; a whole number is"),
        (GOOD + "answers: {temperature: hot}", "temperature is 'hot'; a number is needed"),
        (GOOD + "answers: [1]", r"answers is \[1\]; a mapping of its keys"),
        (GOOD + "answers: {servers: 'http://a'}", "servers is 'http://a'; a list is needed"),
        (GOOD + "chat_template_kwargs: no", "a mapping is needed"),
        (GOOD + "examples: {train_on: first}", "train_on is 'first'; take one of all, last_turn"),
        (GOOD + "steps: [prompts, answer]", "steps is 'answer'; take one of"),
        (GOOD + "steps: [prompts]", "steps lacks answers, conversations"),
        (
            GOOD + "features: {storage_dtype: int8}",
            "features has settings and is none",
        ),
        (GOOD + "target: u", "the key 'target' stands twice"),
        ("output_dir: o\nprompts: {magpie: 3}", "incomplete .*'target'"),
        ("target: t\noutput_dir: o", "so nothing is asked"),
        (GOOD + "answers: {model: m}", "answers.servers is empty"),
        (GOOD + "prompts2: [", "cannot be read as YAML"),
        ("- 3", "a mapping such as"),
        (GOOD + "chat_template_kwargs: {messages: 1}", "no variable of a template"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        config_of(tmp_path, text)


def test_a_file_that_is_not_there_or_not_utf8(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as YAML"):
        read_config(tmp_path / "missing.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read as YAML"):
        read_config(tmp_path / "bytes.yaml")
