"""One run at a time in a folder, and what a run leaves on record."""

import json
import os
import signal

import pytest

from eagle_hf.data import write_run
from eagle_hf.data.manifest import only_one_run


def test_killed_run_holds_no_lock(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with only_one_run(tmp_path):
            os.write(writer, b"locked")
            signal.pause()
    os.read(reader, 6)
    try:
        with pytest.raises(ValueError, match="another run"), only_one_run(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with only_one_run(tmp_path):
        pass


def test_run_is_recorded_in_the_folder_and_on_the_screen(tmp_path, capsys):
    write_run(tmp_path / "new", {"steps": 3, "folder": tmp_path}, {"loss": 0.5})
    run = json.loads((tmp_path / "new" / "run.json").read_text())
    assert run["settings"] == {"steps": 3, "folder": str(tmp_path)}
    assert set(run) == {"settings", "commit", "versions"}
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == {"loss": 0.5}
    assert json.loads(capsys.readouterr().out) == {"loss": 0.5}
