"""Every Python block of README and docs runs, on tiny models that lie where the pages say.

A page's blocks run in order, in one namespace, in a folder of their own. Names such as
`you/your-model` are folders there. `"smollm2"` opens the tiny target too.
"""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from answer_server import AnswerServer
from engine_folders import play_the_engine
from head_adapters import save_adapter
from pages import all_pages
from peft import LoraConfig, get_peft_model
from tiny import tiny_head, tiny_target, word_tokenizer
from tiny_vision import picture, vision_processor, vision_target

import eagle_hf
import eagle_hf.data
from eagle_hf import Eagle3DraftHead
from eagle_hf.hub.publish import add_custom_generate

VOCABULARY = 8200  # more than the 8,192 draft tokens of the pages
USED_TOKENS = 40  # those that the tiny target really emits
HEADS = ("model_cards/smollm2-135m-instruct-eagle3", "outputs/head", "user/name")
NEEDED = {"docs/privacy.md": "phonenumbers"}  # a library of the extra that a page is about
PAGES = [page for page in all_pages() if page.python]


def talkative_target(layers: int = 7):
    """A tiny target with a large vocabulary that keeps to its first tokens, the end of turn too."""
    target = tiny_target(
        vocab_size=VOCABULARY,
        layers=layers,
        dtype=torch.float32,
        max_position_embeddings=2048,
    )
    with torch.no_grad():
        target.lm_head.weight[:USED_TOKENS] *= 4
        target.lm_head.weight[USED_TOKENS:] = 0
    return target


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder in which all models of the pages lie; made once."""
    folder = tmp_path_factory.mktemp("docs")
    target = talkative_target()
    tokenizer = word_tokenizer(VOCABULARY)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # as those of LLMs
    target.save_pretrained(folder / "you/your-model")
    tokenizer.save_pretrained(folder / "you/your-model")
    talkative_target(layers=3).save_pretrained(folder / "you/small-model")
    tokenizer.save_pretrained(folder / "you/small-model")
    adapted = get_peft_model(talkative_target(), LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(folder / "you/your-adapter")
    vision_target("llava", torch.float32).save_pretrained(folder / "you/image-text-model")
    vision_processor("llava").save_pretrained(folder / "you/image-text-model")
    picture(0).save(folder / "photo.jpg")
    head = tiny_head(target)
    for name in HEADS:
        head.save_pretrained(folder / name)
    for seed, name in enumerate(("code", "chat")):
        adapter = folder / "outputs" / name / "adapter"
        save_adapter(adapter, ["fc", "q_proj"], seed, head=tiny_head(target))
    add_custom_generate(folder / "user/name")
    write_lines(folder / "my_prompts.jsonl", [{"prompt": f"w{i} w9 w7"} for i in range(5, 17)])
    conversations = []
    for number in range(12):
        question = {"role": "user", "content": f"w{number + 5} w9"}
        answer = {"role": "assistant", "content": f"w{number + 6} w8 w7 w{number + 9}"}
        conversations.append({"id": str(number), "messages": [question, answer]})
    write_lines(folder / "outputs/data/conversations/conversations.jsonl", conversations)
    return folder


def write_lines(path, rows: list[dict]) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def workplace(models, tmp_path, monkeypatch):
    """A working directory with links to the models and room for what the blocks write."""
    for entry in models.iterdir():
        if entry.name != "outputs":
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "outputs").mkdir()
    for name in ("head", "code", "chat"):
        (tmp_path / "outputs" / name).symlink_to(models / "outputs" / name)
    monkeypatch.chdir(tmp_path)
    modules = str(tmp_path / "modules")  # of remote code
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
    open_target = eagle_hf.load_target

    def open_tiny_target(name, *args, **kwargs):
        return open_target("you/your-model" if name == "smollm2" else name, *args, **kwargs)

    monkeypatch.setattr(eagle_hf, "load_target", open_tiny_target)
    return tmp_path


@pytest.fixture
def server(monkeypatch):
    """A server of `you/your-model` in the place of those that the pages name."""
    ask = eagle_hf.data.write_served_responses

    def ask_here(urls, *args, **kwargs):
        return ask([here.url], *args, **kwargs)

    monkeypatch.setattr("eagle_hf.data.write_served_responses", ask_here)
    with AnswerServer(models=("you/your-model",)) as here:
        yield here


@pytest.fixture
def engine(monkeypatch):
    """An engine that answers every request at once."""
    request = eagle_hf.data.write_engine_request

    def request_and_answer(target, examples, folder, **settings):
        written = request(target, examples, folder, **settings)
        play_the_engine(target, Path(folder))
        return written

    monkeypatch.setattr("eagle_hf.data.write_engine_request", request_and_answer)


@pytest.fixture
def pushed(monkeypatch):
    """Where heads were pushed to; nothing leaves the machine."""
    repositories = []

    def remember(head, repository):
        repositories.append(repository)

    monkeypatch.setattr(Eagle3DraftHead, "push_to_hub", remember)
    return repositories


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_python_blocks_run_and_print_what_the_page_says(page, workplace, models, server, pushed):
    if page.name in NEEDED:
        library = NEEDED[page.name]
        pytest.importorskip(library, reason=f"{library} is not installed")
    if page.name != "docs/data.md":  # which writes the conversations itself
        (workplace / "outputs" / "data").symlink_to(models / "outputs" / "data")
    if "trainer.train()" in page.text:  # which makes the head itself
        (workplace / "outputs" / "head").unlink()
    namespace: dict = {"__name__": page.name}
    printed = ""
    for block in page.blocks:
        if block.is_output:
            assert printed == block.code, f"{page.name}, line {block.line}"
        if block.language != "python":
            continue
        padding = "\n" * block.line  # so that a traceback names the page's own line
        screen = io.StringIO()
        with contextlib.redirect_stdout(screen):
            exec(compile(padding + block.code, page.name, "exec"), namespace)
        printed = screen.getvalue()
    pushes = page.python.count("push_to_hub(")
    assert pushed == ["user/name"] * pushes
