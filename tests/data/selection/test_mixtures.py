"""Categories, their shares in a log, and mixtures that reach them."""

import json
from collections import Counter

import pytest

from eagle_hf.data.prompts.bundled_sets import bundled_prompts
from eagle_hf.data.prompts.suites import load_suite
from eagle_hf.data.selection.categories import estimate_category, with_categories
from eagle_hf.data.selection.mixtures import allot, estimate_mixture, mix_prompts

CODE = "Write a Python function that sorts a list."
MATH = "A train needs 3 hours for 240 km. How many km does it drive in 5 hours?"
CHAT = "Suggest a name for a cat."


def pool(**numbers):
    """Prompts of these categories."""
    prompts = []
    for category, number in numbers.items():
        for index in range(number):
            text = f"{category} {index}"
            id = f"{category}-{index}"
            prompts.append({"id": id, "turns": [text], "category": category, "source": "mine"})
    return prompts


def shares_of(prompts):
    """The share of each category."""
    counts = Counter(prompt["category"] for prompt in prompts)
    return {name: number / len(prompts) for name, number in counts.items()}


def write(path, *entries):
    """A log of these entries; bytes stay as they are."""
    lines = [entry if isinstance(entry, bytes) else json.dumps(entry).encode() for entry in entries]
    path.write_bytes(b"\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("text", "category"),
    [
        (CODE, "code"),
        ("What does this do?\n```\nx = [i for i in y]\n```", "code"),
        ("SELECT name FROM users is slow, why?", "code"),
        (MATH, "math"),
        (r"Show that \frac{1}{2} is rational", "math"),
        ("What is 3 * 4?", "math"),
        ("你能给我解释一下潮汐吗", "multilingual"),
        (CHAT, "chat"),
        ("What is the function of the heart?", "chat"),
        ("What happened in 1914 and 1918?", "chat"),
    ],
)
def test_categories_follow_words_and_signs(text, category):
    assert estimate_category(text) == category


@pytest.mark.parametrize(("suite", "share"), [("code", 0.99), ("math", 0.9)])
def test_the_suites_are_of_their_own_category(suite, share):
    prompts = load_suite([suite])
    found = [estimate_category(prompt["turns"][0]) for prompt in prompts]
    assert found.count(suite) >= share * len(prompts)


def test_most_questions_of_mt_bench_are_of_the_category_of_their_subject():
    subjects = {"math": "math", "coding": "code"}
    right = 0
    rows = bundled_prompts("eval_chat_mt_bench").read_text().splitlines()
    for row in map(json.loads, rows):
        wanted = subjects.get(row["subcategory"], "chat")
        right += estimate_category(row["turns"][0]) == wanted
    assert right >= 0.8 * len(rows)


def test_prompts_get_the_category_that_they_lack_and_keep_the_one_they_have():
    given = pool(other=1, legal=1)
    given[0]["turns"] = [CODE]
    categorised = with_categories(given)
    assert [prompt["category"] for prompt in categorised] == ["code", "legal"]
    assert given[0]["category"] == "other"


def test_shares_are_shared_out_by_the_largest_remainders():
    assert allot({"a": 0.43, "b": 0.57}, 200) == {"a": 86, "b": 114}
    assert allot({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 100) == {"a": 34, "b": 33, "c": 33}


@pytest.mark.parametrize("count", [100, 137, 500, None])
def test_every_category_reaches_its_share_within_one_percent(count):
    shares = {"code": 0.437, "math": 0.1, "chat": 0.463}
    drawn = mix_prompts(pool(code=400, math=60, chat=500, legal=50), shares, count)
    found = shares_of(drawn)
    assert set(found) == set(shares)
    for name, share in shares.items():
        assert abs(found[name] - share) <= 0.01
    assert len({prompt["id"] for prompt in drawn}) == len(drawn)
    assert count is None or len(drawn) == count


def test_without_a_count_the_scarcest_category_is_used_up():
    drawn = mix_prompts(pool(code=50, chat=900), {"code": 0.25, "chat": 0.75})
    assert len(drawn) == 200


def test_a_mixture_repeats_itself_under_one_seed_only():
    prompts = pool(code=200, chat=200)
    shares = {"code": 0.5, "chat": 0.5}
    first = mix_prompts(prompts, shares, 100, seed=1)
    assert first == mix_prompts(prompts, shares, 100, seed=1)
    assert first != mix_prompts(prompts, shares, 100, seed=2)


@pytest.mark.parametrize(
    ("shares", "count", "reason"),
    [
        ({"code": 0.5, "chat": 0.4}, 100, "sum to 0.9; they must"),
        ({"code": 1.5, "chat": -0.5}, 100, "at least 0 and sum to 1"),
        ({"code": 0.9, "chat": 0.1}, 100, "at most 55 can be drawn"),
        ({"code": 0.5, "law": 0.5}, 100, "'law': 0}; at most 0 can be drawn"),
        ({"code": 0.5, "law": 0.5}, None, "'law': 0}; at most 0 can be drawn"),
        ({"code": 0.43, "chat": 0.57}, 10, "ask for at least 100 prompts"),
    ],
)
def test_a_mixture_that_cannot_be_reached_is_refused(shares, count, reason):
    with pytest.raises(ValueError) as refusal:
        mix_prompts(pool(code=50, chat=900), shares, count)
    assert reason in str(refusal.value)


def test_shares_are_estimated_from_a_log_of_requests(tmp_path):
    parts = [{"type": "text", "text": CODE}, {"type": "image_url", "image_url": {"url": "u"}}]
    log = write(
        tmp_path / "log.jsonl",
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": CODE}]},
        {"body": {"messages": [{"role": "user", "content": parts}]}},
        {"request": {"prompt": MATH}},
        {"input": CHAT},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": CHAT}]}]},
        {"messages": [{"role": "user", "content": CHAT}], "category": "legal"},
        {"messages": [{"role": "system", "content": "s"}]},
        [1],
        b"{half",
    )
    estimate = estimate_mixture(log)
    assert estimate.counts == {"code": 2, "chat": 2, "math": 1, "legal": 1}
    assert estimate.requests == 6
    assert estimate.shares["code"] == pytest.approx(1 / 3)
    assert estimate.margin("math") == pytest.approx(0.298, abs=1e-3)
    assert [row.line for row in estimate.skipped] == [7, 8, 9]
    assert "no text of a user" in estimate.skipped[0].reason


BODY = {"model": "m", "messages": [{"role": "user", "content": CODE}]}


@pytest.mark.parametrize(
    "entry",
    [
        BODY,
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": BODY},
        {"time": "t", "request": {"method": "POST", "body": BODY}, "status": 200},
        {"remote_addr": "-", "status": "200", "request_body": json.dumps(BODY)},
        {"log": json.dumps({"level": "info", "body": json.dumps(BODY)}) + "\n", "stream": "stdout"},
        {"message": "Received request", "params": BODY},
        {"text": CODE, "sampling_params": {"max_new_tokens": 8}},
        {"prompt": [CODE, CODE], "max_tokens": 8},
        {"input": {"messages": BODY["messages"]}, "output": "x"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": CODE}]}]},
    ],
)
def test_requests_are_found_in_the_entries_of_servers_and_proxies(tmp_path, entry):
    log = write(tmp_path / "log.jsonl", entry, entry | {"category": "legal"})
    assert estimate_mixture(log).counts == {"code": 1, "legal": 1}


@pytest.mark.parametrize(
    "entry",
    [
        {"request_body": json.dumps(BODY)[:40]},
        {"prompt": [1, 2, 3]},
        {"request_body": "-", "status": "200"},
        {"messages": [{"role": "assistant", "content": CODE}]},
        {"body": {"body": {"body": {"body": {"body": BODY}}}}},
    ],
)
def test_an_entry_without_a_users_text_is_counted(tmp_path, entry):
    estimate = estimate_mixture(write(tmp_path / "log.jsonl", entry, BODY))
    assert estimate.counts == {"code": 1}
    assert [row.line for row in estimate.skipped] == [1]
    assert CODE[:20] not in estimate.skipped[0].reason


def test_prompts_are_mixed_as_the_log_says(tmp_path):
    entries = [{"prompt": CODE}] * 30 + [{"prompt": CHAT}] * 70
    shares = estimate_mixture(write(tmp_path / "log.jsonl", *entries)).shares
    drawn = mix_prompts(pool(code=200, chat=200, math=200), shares, 200)
    assert shares_of(drawn) == {"code": 0.3, "chat": 0.7}


def test_a_log_without_a_request_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none of 1 lines of log.jsonl is a request"):
        estimate_mixture(write(tmp_path / "log.jsonl", {"status": 200}))
