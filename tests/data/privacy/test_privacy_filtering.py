"""What becomes of rows in which personal data is found."""

import json

import pytest
from privacy_corpus import read_planted

from eagle_hf.data import PrivacySettings, filter_conversations, filter_prompts
from eagle_hf.data.privacy.report import SAMPLES, mask

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
    assert report.dropped == {"a redaction in a row with token ids": 1}


def test_other_columns_are_redacted_too():
    kept, report = filter_prompts([prompt("Hello", source=f"mail of {MAIL}")])
    assert kept[0]["source"] == "mail of [EMAIL]"
    assert report.kinds["email"].found == {"other": 1}


def test_an_id_with_personal_data_leaves_the_row_out():
    kept, report = filter_prompts([prompt("Hello") | {"id": f"{MAIL}-1"}])
    assert kept == []
    assert report.dropped == {"a redaction in the id (email)": 1}
    assert MAIL not in json.dumps(report.as_json())


def test_a_row_without_roles_is_left_out_and_counted():
    shared = {"id": "c2", "conversations": [{"from": "gpt", "value": f"Ask {MAIL}"}]}
    rows = [conversation("Who?", "Me."), shared, {"messages": [{"content": MAIL}]}, "text"]
    kept, report = filter_conversations(rows)
    assert kept == rows[:1]
    assert report.dropped == {"no turns or messages in it": 3}


def test_rows_of_which_none_can_be_read_are_refused():
    with pytest.raises(ValueError, match="none of 1 rows is a prompt with turns"):
        filter_prompts([{"prompt": "Hello"}])
    with pytest.raises(ValueError, match="none of 1 rows is a conversation with messages"):
        filter_conversations([prompt("Hello")])


def test_half_a_surrogate_does_not_end_the_run():
    kept, _ = filter_prompts([prompt(f"\ud83d {MAIL} \udc00")])
    assert kept[0]["turns"] == ["\ud83d [EMAIL] \udc00"]


def test_the_report_never_holds_a_value(tmp_path):
    texts = read_planted("planted.txt")
    _, report = filter_prompts(prompt(text) for text, _ in texts)
    path = tmp_path / "privacy" / "report.json"
    report.write(path)
    written = path.read_text() + str(report)
    for text, planted in texts:
        for one in planted:
            assert text[one.start : one.end] not in written


def test_the_report_adds_up_and_names_settings_and_versions(tmp_path):
    rows = [prompt("Hello"), prompt(f"Ask {MAIL}"), prompt(f"Call {PHONE}")] * 4
    settings = PrivacySettings(actions={"phone": "drop"})
    _, report = filter_prompts(rows, settings)
    written = report.as_json()
    assert written["rows"] == 12
    assert (written["unchanged"], written["redacted"]) == (4, 4)
    assert written["dropped"] == {"phone in the prompt": 4}
    assert written["dropped_rows"] == [2, 5, 8, 11]
    assert written["kinds"]["email"] == {
        "what": "e-mail address",
        "action": "redact",
        "found": {"prompt": 4},
        "samples": [mask(MAIL)] * SAMPLES,
    }
    assert written["settings"]["actions"] == {"phone": "drop"}
    assert set(written["versions"]) >= {"phonenumbers", "python-stdnum", "detect-secrets"}
    assert str(report).startswith("12 rows: 4 unchanged, 4 redacted, 4 dropped")


def test_a_sample_shows_the_form_and_no_character():
    assert mask("+49 151-23") == "+## ###-##"
    assert mask("Jörg.x@firma.de") == "****.*@*****.**"
    assert mask("上海路1号\n") == "***#* "
    assert mask("k" * 100) == "*" * 32 + "..."
