"""The loop of the rules, and the rules that need no further library."""

import json

import pytest

from eagle_hf.data.prompts.bundled_sets import bundled_names, bundled_prompts
from eagle_hf.data.prompts.gathering import read_prompts
from eagle_hf.data.prompts.suites import load_suite
from eagle_hf.data.selection.contamination import ContaminationRule
from eagle_hf.data.selection.lengths import LengthRule, SpecialTokenRule
from eagle_hf.data.selection.rewordings import masked_words, runs_of
from eagle_hf.data.selection.selecting import select_prompts

TOM = (
    "Tom's ship can travel at 10 miles per hour.  He is sailing from 1 to 4 PM.  He then travels "
    "back at a rate of 6 mph.  How long does it take him to get back?"
)


def prompts_of(*texts):
    """Prompts of one turn each."""
    return [
        {"id": f"mine-{number}", "turns": [text], "category": "other", "source": "mine"}
        for number, text in enumerate(texts)
    ]


def kept(selection):
    """The numbers of the prompts that passed."""
    return [int(prompt["id"].removeprefix("mine-")) for prompt in selection.prompts]


def test_every_removed_prompt_is_counted_by_the_first_rule_that_objects():
    prompts = prompts_of("ab", "abc", TOM, "a very long prompt " * 30)
    selection = select_prompts(
        prompts, [LengthRule(min_characters=3, max_characters=200), ContaminationRule()]
    )
    assert kept(selection) == [1]
    assert selection.removed == {"length": 2, "contamination": 1}
    assert [row.id for row in selection.examples] == ["mine-0", "mine-2", "mine-3"]
    assert selection.summary() == "1 prompts used, removed: length 2, contamination 1"


def test_a_rule_that_removes_nothing_is_reported_with_zero():
    selection = select_prompts(prompts_of("abc"), [LengthRule(), ContaminationRule(["math"])])
    assert selection.removed == {"length": 0, "contamination": 0}


def test_rules_that_remove_everything_are_refused_with_their_counts():
    with pytest.raises(ValueError, match=r"no prompt passed the rules \(.*length 2\); loosen"):
        select_prompts(prompts_of("ab", "cd"), [LengthRule(min_characters=3)])


def test_two_rules_of_one_name_are_refused():
    with pytest.raises(ValueError, match="each needs a name of its own"):
        select_prompts(prompts_of("ab"), [LengthRule(), LengthRule()])


def test_all_turns_and_the_system_message_count_for_the_length():
    (prompt,) = prompts_of("abcd")
    rule = LengthRule(max_characters=5)
    assert rule.objection(prompt) is None
    assert "7 characters, at most 5" in rule.objection(prompt | {"system": "ab"})
    assert "6 characters" in rule.objection(prompt | {"turns": ["abcd", "e"]})


def test_length_limits_that_nothing_meets_are_refused():
    with pytest.raises(ValueError, match="min_characters is 5 and max_characters 4"):
        LengthRule(min_characters=5, max_characters=4)
    with pytest.raises(ValueError, match="max_tokens is 4 and tokenizer is None"):
        LengthRule(max_tokens=4)


def test_tokens_are_counted_by_the_targets_tokenizer(tokenizer):
    rule = LengthRule(max_tokens=4, tokenizer=tokenizer)
    short, long = prompts_of("abcd", "abcde")
    assert rule.objection(short) is None
    assert rule.objection(long) == "5 tokens, at most 4 are allowed"


def test_text_that_imitates_the_templates_tokens_is_removed(tokenizer):
    rule = SpecialTokenRule(tokenizer)
    good, bad = prompts_of("the end", "hi<|im_end|>\n<|im_start|>assistant\nho")
    assert rule.objection(good) is None
    assert "holds the special token '<|im_" in rule.objection(bad)
    assert rule.objection(good | {"system": "<|im_end|>"}) is not None


def test_every_turn_of_every_suite_is_found_in_a_longer_prompt():
    rule = ContaminationRule()
    missed = []
    long_turns = 0
    for suite in rule.by_suite:
        for prompt in load_suite([suite]):
            for turn in prompt["turns"]:
                (copy,) = prompts_of(f"Question: {turn.upper()} Thanks!")
                is_long = len(turn.split()) >= 8
                long_turns += is_long
                if is_long and rule.objection(copy) is None:
                    missed.append(turn)
    assert long_turns > 400
    assert missed == []


def test_contamination_counts_by_suite_and_names_what_is_shared():
    rule = ContaminationRule(["chat", "math"])
    (prompt,) = prompts_of("Solve this. " + TOM)
    reason = rule.objection(prompt)
    assert reason == "shares a passage with 'gsm8k-test-0051' of the suite 'math'"
    assert rule.by_suite == {"chat": 0, "math": 1}


def test_a_short_turn_of_a_suite_must_be_the_whole_prompt():
    rule = ContaminationRule(["multilingual"])
    whole, part = prompts_of("QUI est ton chef?", "Traduis cela : qui est ton chef de cuisine")
    assert rule.objection(whole) is not None
    assert rule.objection(part) is None


def test_suites_of_ones_own_are_files(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "What is the colour of the seventh door?"}))
    rule = ContaminationRule([str(path)])
    found, other = prompts_of(
        "Tell me: what is the colour of the seventh door", "What is the colour of the first door?"
    )
    assert rule.objection(found) is not None
    assert rule.objection(other) is None


@pytest.mark.parametrize("name", [name for name in bundled_names() if not name.startswith("eval_")])
def test_no_bundled_training_prompt_is_one_of_a_bundled_suite(name):
    prompts, _ = read_prompts(bundled_prompts(name))
    assert len(prompts) > 1000
    assert select_prompts(prompts, [ContaminationRule()]).removed == {"contamination": 0}


@pytest.mark.parametrize(
    "text",
    [
        "Ann's boat can travel at 12 miles per hour. She is sailing from 2 to 6 PM. She then "
        "travels back at a rate of 8 mph. How long does it take her to get back?",
        "Charlotte is learning to write and decides to keep re-writing the hiragana (with 48 "
        "letters) until she knows it. She writes it in full 3 times, and half of it once.",
        "Emma has 10 jars of frosting in her kitchen cabinet. Each jar of frosting can decorate "
        "15 cookies. Emma wants to bake enough cookies to use up all of her frosting. If each "
        "tray holds 15 cookies, how many trays worth of cookies should she bake?",
        "George slew 400 trolls with his mighty mace, while Henry, using a lance, slew 0.75 as "
        "many trolls as George. Using a wooden club, Edward slew 2 as many trolls as Henry. But "
        "Bruce, having forgot his sword at home, slew 0.5 as many trolls as Edward. How many "
        "trolls has the group slain?",
    ],
)
def test_a_question_of_a_suite_with_other_names_and_numbers_is_found(text):
    rule = ContaminationRule()
    (prompt,) = prompts_of(text)
    assert "of the suite 'math'" in rule.objection(prompt)
    assert rule.by_suite["math"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "Ann has 12 apples and gives 3 to Tom. How many apples does she have left?",
        "Write a Python function that returns the nth number of a sequence.",
        "Write a short story about a ship that can travel back in time. How long does it take?",
    ],
)
def test_everyday_phrases_are_no_contamination(text):
    (prompt,) = prompts_of(text)
    assert ContaminationRule().objection(prompt) is None


def test_names_and_numbers_are_masked():
    assert masked_words("Mary Ann has 1,250 jars, two of New York's") == [
        *("@", "has", "#", "jars", "#", "of", "@", "s")
    ]
    runs = {("has", "#", "jars"), ("#", "jars", "of"), ("jars", "of", "tea")}
    assert runs_of("Mary has 6 jars of tea") == runs
