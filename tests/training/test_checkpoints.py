"""Checkpoints are whole or not there, and a folder belongs to one run."""

from eagle_hf.training.checkpoints import last_checkpoint


def test_a_folder_that_does_not_exist_has_no_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None


def test_a_checkpoint_cut_short_is_passed_over(tmp_path):
    for step, state in ((90, "{}"), (100, "{}"), (200, None), (300, '{"epoch": ')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
