"""To a hub and back over HTTP: everything in one commit or nothing, and no token anywhere."""

import json
import logging
import os
import runpy
import subprocess
import sys
import time
import traceback

import pytest
import torch
import yaml
from hub_server import LocalHub
from huggingface_hub import constants
from huggingface_hub.hf_api import api
from huggingface_hub.utils import close_session
from test_cards import METRICS, RECIPE
from tiny import tiny_head, word_tokenizer

from eagle_hf import Eagle3DraftHead, TreeConfig
from eagle_hf.hub import files_to_push
from eagle_hf.hub.publish import OWN_GENERATE, push_folder
from eagle_hf.provenance import weights_fingerprint

ALICE = "hf_alice"
BOB = "hf_bob"
WRONG = "hf_wrong"
NEW = {".gitattributes"}  # what a new repository holds
LONGEST_UPLOAD_S = 10.0


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that huggingface_hub of this process talks to, as nobody.

    HF_ENDPOINT and its kin are read at import, so what they set is patched.
    """
    with LocalHub() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        settings = dict(
            ENDPOINT=hub.url,
            HUGGINGFACE_CO_URL_TEMPLATE=template,
            HF_HUB_CACHE=str(tmp_path / "cache"),
            HF_HUB_DISABLE_XET=True,
            HF_TOKEN_PATH=str(tmp_path / "no-token"),
            HF_HUB_OFFLINE=False,
            AGENT_HARNESSES_PATH=str(tmp_path / "agents"),
        )
        for name, value in settings.items():
            must_exist = name != "AGENT_HARNESSES_PATH"  # huggingface_hub 1 has none
            monkeypatch.setattr(constants, name, value, raising=must_exist)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(api, "endpoint", hub.url)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)
        monkeypatch.setattr(
            "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
        )
        close_session()  # a client made earlier has read the proxies
        yield hub
        close_session()


@pytest.fixture
def saved(target, tmp_path):
    """The folder of a head with a card, figures, a tokenizer, and what is not to be published."""
    folder = tmp_path / "head"
    tiny_head(target).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text(
        "---\nlicense: mit\n---\n\nOpen THIS_USER/THIS_REPOSITORY in THIS_REPOSITORY.\n"
    )
    for name in ("metrics.json", "run.json", "acceptance.png", "optimizer.pt"):
        (folder / name).write_text("{}")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("raise SystemExit  # somebody else's")
    return folder


def change(head):
    head.fc.weight.data[0, 0] += 1
    return head


def test_a_pushed_head_comes_back_by_its_id(hub, saved):
    head = Eagle3DraftHead.from_pretrained(saved)
    head.push_to_hub("alice/head", token=ALICE)
    files = hub.files("alice/head")
    assert set(files) == NEW | {
        "config.json",
        "model.safetensors",
        "README.md",
        "metrics.json",
        "acceptance.png",
        "custom_generate/generate.py",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert b"Open alice/head in head." in files["README.md"]
    assert files["custom_generate/generate.py"] == OWN_GENERATE.read_bytes()
    again = Eagle3DraftHead.from_pretrained("alice/head")
    weights = again.state_dict()
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert again.tree == head.tree


def test_what_is_listed_is_what_a_push_uploads(hub, saved):
    listed = files_to_push(saved)
    assert "optimizer.pt" not in listed
    push_folder(saved, "alice/head", token=ALICE)
    assert set(hub.files("alice/head")) == NEW | set(listed)


def test_a_folder_without_a_head_lists_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config.json and no model.safetensors"):
        files_to_push(tmp_path)


def test_people_without_eagle_hf_try_it_by_its_id(hub, saved, target):
    push_folder(saved, "alice/head", token=ALICE, private=True, revision="v1")
    prompt = torch.tensor([[5, 9, 11]])
    plain = target.generate(prompt, max_new_tokens=12)
    by_id = target.generate(
        prompt,
        max_new_tokens=12,
        custom_generate="alice/head",
        trust_remote_code=True,
        revision="v1",
        token=ALICE,
    )
    assert torch.equal(by_id, plain)


def test_the_same_push_again_makes_no_commit(hub, saved):
    first = push_folder(saved, "alice/head", token=ALICE)
    assert push_folder(saved, "alice/head", token=ALICE).oid == first.oid
    downloaded = Eagle3DraftHead.from_pretrained("alice/head")  # without its card
    downloaded.push_to_hub("alice/head", token=ALICE)
    assert hub.repositories["alice/head"].messages == ["initial commit", "Upload draft head"]


def test_branches_and_commits_open_by_revision(hub, saved):
    head = Eagle3DraftHead.from_pretrained(saved)
    first = head.push_to_hub("alice/head", token=ALICE)
    head.tree = TreeConfig("chain", depth=2)
    head.push_to_hub("alice/head", token=ALICE, revision="v2")
    head.tree = TreeConfig("chain", depth=7)
    head.push_to_hub("alice/head", token=ALICE)
    for revision, depth in ((first.oid, 4), ("v2", 2), ("main", 7)):
        opened = Eagle3DraftHead.from_pretrained("alice/head", revision=revision)
        assert opened.tree.depth == depth
    with pytest.raises(OSError, match="v3 is not a valid git identifier"):
        Eagle3DraftHead.from_pretrained("alice/head", revision="v3")


def test_a_private_head_opens_with_its_owners_token_alone(hub, saved, tmp_path):
    push_folder(saved, "alice/head", token=ALICE, private=True)
    assert Eagle3DraftHead.from_pretrained("alice/head", token=ALICE).tree.depth == 4
    for token in (False, BOB):
        with pytest.raises(OSError, match="make sure to pass a token"):
            Eagle3DraftHead.from_pretrained(
                "alice/head", token=token, cache_dir=tmp_path / str(token)
            )


def test_what_was_to_be_private_is_not_pushed_to_a_public_repository(hub, saved):
    push_folder(saved, "alice/head", token=ALICE)
    changed = change(Eagle3DraftHead.from_pretrained(saved))
    with pytest.raises(ValueError, match="there already and private=False"):
        changed.push_to_hub("alice/head", token=ALICE, private=True)
    assert len(hub.repositories["alice/head"].messages) == 2


@pytest.mark.parametrize(
    "method, part, stored",
    [("POST", "/preupload/", 0), ("PUT", "/store/", 1), ("POST", "/commit/", 2)],
)
def test_a_push_cut_off_shows_nothing_and_goes_on_when_repeated(hub, saved, method, part, stored):
    hub.fail(method, part, status=400)
    with pytest.raises(ValueError, match="nothing of it is visible .*out of order.*push again"):
        push_folder(saved, "alice/head", token=ALICE)
    assert set(hub.files("alice/head")) == NEW
    # The other large file may still be on its way: both are sent at once.
    until = time.monotonic() + LONGEST_UPLOAD_S
    while len(hub.store) < stored and time.monotonic() < until:
        time.sleep(0.01)
    assert len(hub.store) == stored
    push_folder(saved, "alice/head", token=ALICE)
    assert len(hub.files("alice/head")) == 10
    # Two large files, and once more the one whose upload failed.
    uploads = [path for sent, path in hub.requests if sent == "PUT"]
    assert len(uploads) == 2 + (method == "PUT")
    assert hub.repositories["alice/head"].messages == ["initial commit", "Upload draft head"]


@pytest.mark.parametrize(
    "repo_id, token, remedy",
    [
        ("alice/head", False, "hf auth login"),
        ("alice/head", WRONG, "hf auth login"),
        ("alice/head", BOB, "write access"),
        ("https://alice:hf_alice@hub/alice/head", ALICE, 'not of the form "user/name"'),
        ("head", ALICE, 'not of the form "user/name"'),
    ],
    ids=str,
)
def test_who_may_not_push_is_told_what_to_do(hub, saved, repo_id, token, remedy):
    with pytest.raises(ValueError, match=remedy) as caught:
        push_folder(saved, repo_id, token=token)
    assert hub.repositories == {}
    message = "".join(traceback.format_exception(caught.value)).split("ValueError: ")[-1]
    assert "hf_" not in message
    # Where the server's words would stand.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_missing_repository_a_wrong_token_and_a_hub_out_of_reach_are_clear_errors(
    hub, saved, monkeypatch
):
    with pytest.raises(OSError, match="not a valid model identifier"):
        Eagle3DraftHead.from_pretrained("alice/nothing")
    push_folder(saved, "alice/head", token=ALICE)
    with pytest.raises(OSError, match="Invalid credentials"):
        Eagle3DraftHead.from_pretrained("alice/head", token=WRONG)
    with pytest.raises(ValueError, match="holds no config.json and no model.safetensors"):
        push_folder(saved.parent, "alice/head", token=ALICE)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="was not pushed and nothing of it is visible"):
        push_folder(saved, "alice/head", token=ALICE)


def test_offline_a_head_opens_once_it_was_downloaded(hub, saved, monkeypatch):
    push_folder(saved, "alice/head", token=ALICE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="offline mode"):
        Eagle3DraftHead.from_pretrained("alice/head")
    with pytest.raises(ValueError, match="offline mode is enabled"):
        push_folder(saved, "alice/head", token=ALICE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    Eagle3DraftHead.from_pretrained("alice/head")
    # In a process of its own, where the variable is read at import.
    code = (
        "import eagle_hf; print(eagle_hf.Eagle3DraftHead.from_pretrained('alice/head').tree.depth)"
    )
    settings = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": constants.HF_HUB_CACHE,
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True
    )
    assert done.stdout == "4\n", done.stderr[-2000:]


def test_new_weights_take_the_old_figures_down(hub, saved):
    push_folder(saved, "alice/head", token=ALICE)
    change(Eagle3DraftHead.from_pretrained(saved)).push_to_hub("alice/head", token=ALICE)
    assert not {"README.md", "metrics.json", "acceptance.png"} & set(hub.files("alice/head"))
    assert {"tokenizer.json", "model.safetensors", ".gitattributes"} <= set(hub.files("alice/head"))


def test_a_token_is_nowhere_but_in_requests(hub, saved, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    monkeypatch.setattr(constants, "HF_DEBUG", True)
    for name in (None, "huggingface_hub"):
        caplog.set_level(logging.DEBUG, logger=name)
    head = Eagle3DraftHead.from_pretrained(saved)
    head.push_to_hub("alice/head", token=ALICE, private=True)
    Eagle3DraftHead.from_pretrained("alice/head", token=ALICE).save_pretrained(tmp_path / "again")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert not any(ALICE.encode() in path.read_bytes() for path in written)
    assert not any(ALICE.encode() in data for data in hub.files("alice/head").values())
    assert "authorization: <TOKEN>" in caplog.text
    assert ALICE not in caplog.text
    assert ALICE not in "".join(capfd.readouterr())


def test_the_recipe_pushes_as_whoever_is_logged_in(hub, saved, tmp_path, monkeypatch, capfd):
    fingerprint = weights_fingerprint(Eagle3DraftHead.from_pretrained(saved))
    measured = METRICS | {"head_sha256": fingerprint}
    for folder, metrics in (("head", {"steps": 9}), ("evaluation", measured)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "metrics.json").write_text(json.dumps(metrics))
    settings = dict(
        head="head",
        evaluation="evaluation",
        output_dir="out",
        title="A head",
        base_model="someone/model",
        limits="Only for tests.",
    )
    (tmp_path / "publish.yaml").write_text(yaml.safe_dump(settings))
    command = "publish.py --config publish.yaml --push_to alice/head --private true --revision v1"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.setattr(sys, "argv", command.split())
    runpy.run_path(str(RECIPE), run_name="__main__")
    out, errors = capfd.readouterr()
    assert json.loads(out.splitlines()[-1])["pushed"].startswith(hub.url)
    for text in (out, errors, (tmp_path / "out" / "run.json").read_text()):
        assert ALICE not in text
    assert hub.repositories["alice/head"].private
    assert set(hub.files("alice/head")) == NEW
    published = hub.files("alice/head", "v1")
    assert {
        "README.md",
        "acceptance.png",
        "custom_generate/generate.py",
        "chat_template.jinja",
    } < set(published)
    assert "run.json" not in published
    assert b'from_pretrained("alice/head"' in published["README.md"]
