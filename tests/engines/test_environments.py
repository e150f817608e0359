"""An environment that cannot be made is no failure, but its tests say why they are skipped.

These tests need no engine and run with the default ones.
"""

import environments
import pytest


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (None, "run make engines"),
        ("Collecting x\nERROR: no distribution found for x==1\n", "for x==1"),
    ],
)
def test_a_missing_environment_says_why(tmp_path, monkeypatch, log, reason):
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    if log:
        (tmp_path / "vllm.log").write_text(log)
    said = environments.missing("vllm")
    assert "no environment for vllm" in said
    assert reason in said


def test_an_environment_is_made_anew_when_its_list_changes(tmp_path, monkeypatch):
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    (requirements / "serving.txt").write_text("a==1\n")
    (requirements / "vllm.txt").write_text("-r serving.txt\nb==1\n")
    monkeypatch.setattr(environments, "HERE", tmp_path)
    before = environments.wanted("vllm")
    (requirements / "serving.txt").write_text("a==2\n")
    assert environments.wanted("vllm") != before
