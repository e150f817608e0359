"""`eagle-hf demo` in a real browser: a tiny target, whose words would be markup if they could."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import quickly_trained, tiny_head, tiny_target, word_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eagle_hf.demo import DemoModels, serve

pytestmark = pytest.mark.browser

SERVER = Path(__file__).with_name("demo_server.py")
ROOT = Path(__file__).parents[2]
DEADLINE = 120  # seconds until the server listens
FINISHED = "#status .identical, #status .differs, #status .error"
WAIT = 60_000  # milliseconds
PAUSE = 500  # milliseconds; Gradio's page takes no click in the moment after it has stopped
CLOSED_STREAM = re.compile(r"^request failed: \S+/queue/data\S* \(net::ERR_ABORTED\)$")
TREE = "dynamic:4:6:24"
WRONG = (
    (" ", TREE, "the prompt is empty; write a question or a task"),
    ("w9", "forest:3:5:8", "tree policy is 'forest'; choose one of dynamic, chain"),
    ("w9", "everything", "the tree is 'everything'; write policy:depth:top_k:nodes"),
    ("w9 " * 600, TREE, "the prompt has 603 tokens and the answer up to 128"),
)
MARKUP = (
    "<b>bold</b>",
    "<img/src=x/onerror=alert(1)>",
    "${1+1}",
    "{{value}}",
    "`tick`",
    "&amp;",
    "</div>",
    "\\u0041",
    "\"quote'",
    "{{#if",
)


def markup_tokenizer() -> PreTrainedTokenizerFast:
    """Words w0 to w4, then markup, as the tokens 0 1 ..."""
    words = {f"w{token}": token for token in range(31)}
    for place, text in enumerate(MARKUP):
        del words[f"w{5 + place}"]
        words[text] = 5 + place
    inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="w2", pad_token="w0")
    tokenizer.chat_template = word_tokenizer().chat_template
    return tokenizer


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def wait_for(process: subprocess.Popen, log: Path) -> str:
    """The address that the server prints."""
    started = time.monotonic()
    while time.monotonic() - started < DEADLINE:
        found = re.search(r"the demo is at (\S+)", log.read_text())
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.2)
    pytest.fail(f"the demo did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the demo listens; it must still run, and have reached no other machine, at the end."""
    folder = tmp_path_factory.mktemp("demo")
    target = tiny_target(dtype=torch.float32, eos_token_id=None)
    target.save_pretrained(folder / "target")
    markup_tokenizer().save_pretrained(folder / "target")
    quickly_trained(target, tiny_head(target), steps=60).save_pretrained(folder / "head")
    log = folder / "log"
    command = [sys.executable, SERVER, folder / "target", folder / "head", str(free_port())]
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    settings = {
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HOME": str(folder / "cache"),
        "HTTP_PROXY": "http://proxy.invalid:9",  # must not be asked for this machine's own page
    }
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | settings, cwd=folder
        )
    try:
        yield wait_for(process, log)
        assert process.poll() is None, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 0, log.read_text()


@pytest.fixture
def demo(viewer, address):
    opened = viewer.open(address)
    opened.page.wait_for_selector("#run", timeout=WAIT)
    choose_tree(opened.page, TREE)
    opened.page.fill("#prompt textarea", "w20 w21 w22")
    return opened


def choose_tree(page, tree):
    field = page.locator("#tree input")
    field.fill(tree)
    field.press("Enter")


def troubles(opened):
    """A page's complaints, but for the stream of answers, which Gradio's page itself closes."""
    return [text for text in opened.complaints if not CLOSED_STREAM.search(text)]


def ask(page):
    """Press the button, and wait for the verdict; its text."""
    # the former verdict is taken away, so that it is not taken for the new one
    page.evaluate("document.querySelector('#status .message').className = 'message'")
    page.click("#run")
    page.wait_for_selector(FINISHED, timeout=WAIT)
    return page.inner_text("#status")


def figures(page, side):
    """{name: text} of an answer's figures."""
    names = page.locator(f"{side} dt").all_inner_texts()
    return dict(zip(names, page.locator(f"{side} dd").all_inner_texts(), strict=True))


def test_one_prompt_answered_twice_and_compared(demo):
    page = demo.page
    assert ask(page) == "Identical: both answers are the same 128 tokens."
    plain = page.inner_text("#plain .answer")
    assert plain == page.inner_text("#drafted .answer")
    assert page.locator("#plain .draft").count() == 0
    colours = set()
    for depth in (1, 2):
        chip = page.locator(f"#drafted .depth-{depth}").first
        colours.add(chip.evaluate("element => getComputedStyle(element).backgroundColor"))
    assert len(colours) == 2
    shown = figures(page, "#drafted")
    assert shown["tokens"] == figures(page, "#plain")["tokens"] == "128"
    assert float(shown["tau"]) > 1
    for name in ("seconds", "tokens/s", "times alone"):
        assert float(shown[name]) > 0
    assert page.locator("#last-tree svg .node").count() > 2
    assert page.locator("#last-tree svg .root").count() == 1
    assert demo.overlaps("#last-tree svg text") == []
    assert troubles(demo) == []


def test_answers_stream(demo):
    """Figures grow while the answer is written, the target's first."""
    page = demo.page
    page.evaluate(
        """() => {
          window.seen = [];
          const look = () => window.seen.push(["#plain", "#drafted"].map(
            side => Number(document.querySelector(side + " dd").textContent)));
          new MutationObserver(look).observe(
            document.body, {childList: true, subtree: true, characterData: true});
        }"""
    )
    ask(page)
    seen = page.evaluate("window.seen")
    plain = sorted({counts[0] for counts in seen})
    drafted = sorted({counts[1] for counts in seen})
    assert len(plain) > 2 and plain[-1] == 128
    assert len(drafted) > 2 and drafted[-1] == 128
    assert all(ours == 0 or theirs == 128 for theirs, ours in seen)


def test_what_a_model_writes_is_text_and_never_markup(demo):
    page = demo.page
    page.fill("#prompt textarea", " ".join(MARKUP))
    assert ask(page).startswith("Identical")
    text = page.inner_text("#drafted .answer")
    found = [word for word in MARKUP if word in text]
    assert len(found) > 3, text
    assert page.locator("#plain .answer b, #drafted .answer b, .answer img").count() == 0
    assert troubles(demo) == []


def test_sampled_answers_are_identical_too(demo):
    page = demo.page
    greedy = ask(page), page.inner_text("#plain .answer")
    page.fill("#temperature input[type=number]", "1")
    page.press("#temperature input[type=number]", "Enter")
    sampled = ask(page), page.inner_text("#plain .answer")
    assert greedy[0] == sampled[0] == "Identical: both answers are the same 128 tokens."
    assert greedy[1] != sampled[1]


def test_wrong_input_is_a_message_and_the_next_question_is_answered(demo):
    page = demo.page
    for prompt, tree, said in WRONG:
        choose_tree(page, tree)
        page.fill("#prompt textarea", prompt)
        page.click("#run")
        page.locator("#status .error[role=alert]", has_text=said).wait_for(timeout=WAIT)
    choose_tree(page, "chain:4:1:4")
    page.fill("#prompt textarea", "w20")
    assert ask(page).startswith("Identical")
    assert troubles(demo) == []


def test_a_port_in_use_is_refused(target, head, address):
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    models = DemoModels(target, word_tokenizer(), head, "tiny", "luck")
    with pytest.raises(OSError, match=f"nothing can listen at 127.0.0.1:{port}; try another"):
        serve(models, port=port)


def test_a_stopped_answer_ends_and_the_next_one_begins(demo):
    page = demo.page
    page.click("#run")
    page.wait_for_function(
        "() => Number(document.querySelector('#plain dd').textContent) > 0", timeout=WAIT
    )
    page.click("#stop")
    page.get_by_text("Stopped.").wait_for(timeout=WAIT)
    stopped_at = page.inner_text("#plain .answer")
    page.wait_for_timeout(PAUSE)
    assert page.inner_text("#plain .answer") == stopped_at
    assert ask(page).startswith("Identical")


@pytest.mark.parametrize("scheme, width", [("light", 390), ("dark", 1280)])
def test_the_page_can_be_read(viewer, address, scheme, width):
    opened = viewer.open(address, scheme=scheme, width=width)
    page = opened.page
    page.wait_for_selector("#run", timeout=WAIT)
    choose_tree(page, TREE)
    page.fill("#prompt textarea", "w20 w21 w22")
    ask(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.axe_violations() == []
    assert troubles(opened) == []
