"""What becomes of rows in which personal data is found."""

import json
import pickle
import time

import pytest

from eagle_hf.data import PrivacyFilter, PrivacySettings, filter_conversations, filter_prompts

MAIL = "jane.roe@northwind-traders.co.uk"
PHONE = "+49 151 23871946"

pytestmark = pytest.mark.usefixtures("libraries")


def prompt(*turns: str, **extra) -> dict:
    return {"id": "p1", "turns": list(turns), "category": "chat", "source": "mine", **extra}


def conversation(question, answer, **extra) -> dict:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": "c1", "messages": messages, **extra}


def test_a_prompt_gets_typed_placeholders():
    row = prompt(f"Write to {MAIL}", "thanks", system=f"Call {PHONE}")
    kept, report = filter_prompts([row])
    assert kept[0]["turns"] == ["Write to [EMAIL]", "thanks"]
    assert kept[0]["system"] == "Call [PHONE]"
    assert row["turns"][0] == f"Write to {MAIL}"
    assert (report.rows, report.redacted, report.unchanged) == (1, 1, 0)


def test_a_prompt_without_personal_data_is_passed_on_as_it_is():
    row = prompt("What is 2 + 2?")
    kept, report = filter_prompts([row])
    assert kept[0] is row
    assert report.unchanged == 1
    assert report.kinds == {}


def test_each_kind_can_have_an_action_of_its_own():
    settings = PrivacySettings(actions={"phone": "drop", "ip_address": "report"})
    rows = [prompt(f"Call {PHONE}"), prompt(f"{MAIL} from 91.214.67.183")]
    kept, report = filter_prompts(rows, settings)
    assert [row["turns"] for row in kept] == [["[EMAIL] from 91.214.67.183"]]
    assert report.dropped == {"phone in the prompt": 1}
    assert report.dropped_rows == [0]
    assert report.kinds["ip_address"].found == {"prompt": 1}


def test_a_redaction_in_an_answer_leaves_the_conversation_out():
    rows = [conversation("Who?", f"Ask {MAIL}."), conversation(f"I am {MAIL}", "Hello!")]
    kept, report = filter_conversations(rows)
    assert [row["messages"][0]["content"] for row in kept] == ["I am [EMAIL]"]
    assert report.dropped == {"a redaction in the answer (email)": 1}


def test_an_answer_that_is_only_reported_on_stays_as_it_is():
    row = conversation("Who?", f"Ask {MAIL}.")
    kept, report = filter_conversations([row], PrivacySettings(action="report"))
    assert kept[0] is row
    assert report.kinds["email"].found == {"answer": 1}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_is_a_part_of_the_answer(name):
    row = conversation("Who?", "Ask her.")
    row["messages"][1][name] = f"Her mail is {MAIL}."
    kept, _ = filter_conversations([row])
    assert kept == []


def test_the_arguments_of_a_tool_call_are_a_part_of_the_answer():
    row = conversation("Mail her.", None)
    call = {"type": "function", "function": {"name": "send", "arguments": {"to": MAIL}}}
    row["messages"][1]["tool_calls"] = [call]
    kept, _ = filter_conversations([row])
    assert kept == []


def test_what_a_tool_returns_is_redacted():
    row = conversation("Who?", "Done.")
    row["messages"].insert(1, {"role": "tool", "content": f'{{"mail": "{MAIL}"}}'})
    kept, _ = filter_conversations([row])
    assert kept[0]["messages"][1] == {"role": "tool", "content": '{"mail": "[EMAIL]"}'}


def test_text_beside_images_is_redacted_and_images_are_not_read():
    key = "AKIA" + "3QH7ZPLMX5TRW2VN"
    image = {"type": "image", "url": f"data:image/png;base64,{key}"}
    row = conversation([image, {"type": "text", "text": f"Is this {MAIL}?"}], "Yes.")
    kept, _ = filter_conversations([row])
    assert kept[0]["messages"][0]["content"] == [
        image,
        {"type": "text", "text": "Is this [EMAIL]?"},
    ]


def test_token_ids_of_a_redacted_question_leave_the_conversation_out():
    row = conversation(f"I am {MAIL}", "Hello!", served_turns=[{"prompt_ids": [1, 2, 3]}])
    clean = conversation("I am nobody", "Hello!", served_turns=[{"prompt_ids": [1, 2, 3]}])
    kept, report = filter_conversations([row, clean])
    assert kept == [clean]
    reason = "a redaction in a prompt that was answered by token; filter prompts first"
    assert report.dropped == {reason: 1}


def test_token_ids_say_nothing_about_other_columns():
    row = conversation("Hi", "Hello!", served_turns=[{"prompt_ids": [1]}], source=f"mail of {MAIL}")
    kept, _ = filter_conversations([row])
    assert kept[0]["source"] == "mail of [EMAIL]"
    assert kept[0]["served_turns"] is row["served_turns"]


def test_names_that_end_with_ids_are_no_token_ids():
    row = conversation(f"I am {MAIL}", None)
    call = {"type": "function", "function": {"name": "find", "arguments": {"user_ids": [1, 2]}}}
    row["messages"][1]["tool_calls"] = [call]
    kept, _ = filter_conversations([row])
    assert kept[0]["messages"][0]["content"] == "I am [EMAIL]"


class Letters:
    """A tokenizer whose ids are code points."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(map(chr, token_ids))


def test_a_value_that_only_the_token_ids_of_an_answer_hold_leaves_the_conversation_out():
    thought = list(map(ord, f"<think>{MAIL}</think>Hello!"))
    row = conversation("Hi", "Hello!", served_turns=[{"response_ids": thought}])
    kept, report = filter_conversations([row], tokenizer=Letters())
    assert kept == []
    assert report.dropped == {"a redaction in the token ids (email)": 1}
    assert report.kinds["email"].found == {"token ids": 1}


def test_an_answer_whose_message_holds_all_of_it_is_read_once():
    said = list(map(ord, f"Ask {MAIL}."))
    row = conversation("Who?", f"Ask {MAIL}.", served_turns=[{"response_ids": said}])
    _, report = filter_conversations([row], PrivacySettings(action="report"), Letters())
    assert report.kinds["email"].found == {"answer": 1}


def test_token_ids_of_another_tokenizer_are_left_out_and_counted():
    class Small:
        def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
            raise IndexError("piece id is out of range.")

    row = conversation("Hi", "Hello!", served_turns=[{"response_ids": [999_999]}])
    _, report = filter_conversations([row], tokenizer=Small())
    assert report.dropped == {"served_turns of another tokenizer": 1}


@pytest.mark.parametrize("served", [3, [None], [{"response_ids": "12"}], [{"response_ids": [-1]}]])
def test_served_turns_without_token_ids_are_left_out_and_counted(served):
    rows = [conversation("Hi", "Hello!", served_turns=served)]
    kept, report = filter_conversations(rows, tokenizer=Letters())
    assert kept == []
    assert report.dropped == {"served_turns without lists of token ids": 1}


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("phone", "5057364152", "phone"),
        ("mobile_number", 5057364152, "phone"),
        ("telephone", 5057364152.0, "phone"),
        ("card", 4539148803436467, "payment_card"),
        ("ssn", 418273645, "us_ssn"),
        ("api_key", "Zq8" + "vTn3Kd7Lw2Rb5Yc9Mh4", "api_key"),
    ],
)
def test_the_name_of_a_field_explains_its_value(name, value, kind):
    row = conversation("Who?", "Done.")
    row["messages"].insert(1, {"role": "tool", "content": [{"type": "json", name: value}]})
    kept, report = filter_conversations([row])
    assert list(report.kinds) == [kind]
    assert kept[0]["messages"][1]["content"] == [{"type": "json", name: f"[{kind.upper()}]"}]


@pytest.mark.parametrize("value", [True, 12, 2024.0, 1.5, float("nan"), float("inf"), 10**50])
def test_numbers_that_are_nobodys_stay_as_they_are(value):
    row = prompt("Hello", phone=value)
    kept, report = filter_prompts([row])
    assert kept[0] is row
    assert report.unchanged == 1


def test_a_field_that_is_called_by_a_value_leaves_the_row_out():
    kept, report = filter_prompts([prompt("Hello", tools={"users": {MAIL: "admin"}})])
    assert kept == []
    assert report.dropped == {"a redaction in the field name (email)": 1}


def test_a_text_that_begins_like_a_file_is_read():
    kept, _ = filter_prompts([prompt(f"data: {MAIL}", f"data:text/plain;base64,aGk= {MAIL}")])
    assert kept[0]["turns"] == ["data: [EMAIL]", "data:text/plain;base64,aGk= [EMAIL]"]


@pytest.mark.parametrize("role", ["assistant", "gpt", "model"])
def test_an_answer_is_known_by_every_name_of_its_role(role):
    row = conversation("Who?", f"Ask {MAIL}.")
    row["messages"][1]["role"] = role
    kept, report = filter_conversations([row])
    assert kept == []
    assert report.dropped == {"a redaction in the answer (email)": 1}


def test_other_columns_are_redacted_too():
    kept, report = filter_prompts([prompt("Hello", source=f"mail of {MAIL}")])
    assert kept[0]["source"] == "mail of [EMAIL]"
    assert report.kinds["email"].found == {"other": 1}


def test_an_id_with_personal_data_leaves_the_row_out():
    kept, report = filter_prompts([prompt("Hello") | {"id": f"{MAIL}-1"}])
    assert kept == []
    assert report.dropped == {"a redaction in the id (email)": 1}
    assert MAIL not in json.dumps(report.as_json())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "no messages"),
        ({"conversations": [{"from": "gpt", "value": f"Ask {MAIL}"}]}, "no messages"),
        ({"messages": []}, "no messages"),
        ({"messages": None}, "no messages"),
        ({"messages": [None]}, "a message whose role is none of system, user, assistant, tool"),
        ({"messages": [{"content": MAIL}]}, "a message whose role is none of"),
        ({"messages": [{"role": MAIL, "content": ""}]}, "a message whose role is none of"),
        ({"messages": [{"role": ["user"], "content": ""}]}, "a message whose role is none of"),
        (conversation("Hi", 4539148803436467), "content that is neither text nor a list of parts"),
        (conversation("Hi", [7]), "content that is neither text nor a list of parts"),
    ],
)
def test_a_row_that_cannot_be_read_is_left_out_and_counted(row, reason):
    readable = conversation("Who?", "Me.")
    kept, report = filter_conversations([row, readable])
    assert kept == [readable]
    assert report.dropped_rows == [0]
    assert next(iter(report.dropped)).startswith(reason)
    assert MAIL not in str(report)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (None, "no turns"),
        ([], "no turns"),
        ("Hello", "no turns"),
        ([None], "turns that are no text"),
        ([7], "turns that are no text"),
        ([{"role": "user"}], "turns that are no text"),
    ],
)
def test_a_prompt_without_turns_of_text_is_left_out_and_counted(turns, reason):
    kept, report = filter_prompts([prompt("Hello"), prompt("Hello") | {"turns": turns}])
    assert len(kept) == 1
    assert report.dropped == {reason: 1}


@pytest.mark.parametrize("messages", [None, "text", [None], [{"content": "Hi"}]])
def test_a_prompt_may_have_any_other_columns(messages):
    row = prompt("Hello", messages=messages)
    assert PrivacyFilter(tokenizer=Letters()).filter_prompt(row) is row


def test_an_answer_without_content_is_read():
    row = conversation("Mail her.", None)
    kept, _ = filter_conversations([row])
    assert kept[0] is row


def test_values_nested_without_end_are_left_out_and_counted():
    nested = {"a": 1}
    for _ in range(5000):
        nested = {"a": [nested]}
    kept, report = filter_prompts([prompt("Hello", tools=nested), prompt("Hello")])
    assert len(kept) == 1
    assert report.dropped == {"values nested too deeply": 1}


def test_a_text_of_fifty_megabytes_does_not_hold_up_the_run():
    rows = [prompt("1 a@b.c +4" * 5_000_000), prompt("Hello")]
    started = time.process_time()
    kept, report = filter_prompts(rows)
    assert time.process_time() - started < 2  # seconds
    assert kept == rows[1:]
    assert report.dropped == {"more text than max_characters": 1}


def test_the_text_of_a_row_counts_as_a_whole():
    rows = [prompt(*["Hi" * 30] * 3)]
    _, report = filter_prompts(rows, PrivacySettings(max_characters=100))
    assert report.dropped == {"more text than max_characters": 1}


def test_rows_of_which_none_can_be_read_are_refused():
    with pytest.raises(ValueError, match="none of 1 rows is a prompt with turns"):
        filter_prompts([{"prompt": "Hello"}])
    with pytest.raises(ValueError, match="none of 1 rows is a conversation with messages"):
        filter_conversations([prompt("Hello")])


def test_rows_are_filtered_while_they_are_read():
    read = []

    def rows():
        for number in range(10):
            read.append(number)
            yield prompt("Hello" if number % 2 else f"Ask {MAIL}")

    privacy = PrivacyFilter(PrivacySettings(action="drop"))
    first = next(privacy.stream_prompts(rows()))
    assert first["turns"] == ["Hello"]
    assert read == [0, 1]
    assert (privacy.report.rows, privacy.report.unchanged) == (2, 1)


def test_a_part_of_which_no_row_can_be_read_does_not_end_a_stream():
    privacy = PrivacyFilter()
    assert list(privacy.stream_prompts([{"prompt": "Hello"}])) == []
    assert list(privacy.stream_prompts([prompt("Hello")])) == [prompt("Hello")]
    assert privacy.report.dropped == {"no turns": 1}


def test_a_filter_goes_to_another_process_with_its_settings_and_report():
    privacy = PrivacyFilter(PrivacySettings(actions={"phone": "drop"}), Letters())
    privacy.filter_prompt(prompt(f"Ask {MAIL}"))
    copy = pickle.loads(pickle.dumps(privacy))
    assert copy.filter_prompt(prompt(f"Call {PHONE}")) is None
    assert copy.report.rows == 2
    assert privacy.report.rows == 1


def test_half_a_surrogate_does_not_end_the_run():
    kept, _ = filter_prompts([prompt(f"\ud83d {MAIL} \udc00")])
    assert kept[0]["turns"] == ["\ud83d [EMAIL] \udc00"]
