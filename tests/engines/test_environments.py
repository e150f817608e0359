"""An environment that cannot be made is no failure, but its tests say why they are skipped. These run with the default tests."""

import environments
import pytest


@pytest.mark.parametrize(
    "log, reason",
    [
        (None, "run make engines"),
        ("Collecting x\nERROR: no distribution found for x==1\n", "for x==1"),
    ],
)
def test_a_missing_environment_says_why(tmp_path, monkeypatch, log, reason):
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    if log:
        (tmp_path / "vllm.log").write_text(log)
    assert "no environment for vllm" in environments.missing(
        "vllm"
    ) and reason in environments.missing("vllm")


def test_an_environment_is_made_anew_when_its_list_changes(tmp_path, monkeypatch):
    (tmp_path / "requirements").mkdir()
    monkeypatch.setattr(environments, "HERE", tmp_path)
    for name, text in (("serving", "a==1\n"), ("vllm", "-r serving.txt\nb==1\n")):
        (tmp_path / "requirements" / f"{name}.txt").write_text(text)
    before = environments.wanted("vllm")
    (tmp_path / "requirements" / "serving.txt").write_text("a==2\n")
    assert environments.wanted("vllm") != before
