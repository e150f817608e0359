"""Checkpoints are whole or not there, and a folder belongs to one run."""

from eagle_hf.training.checkpoints import last_checkpoint


def test_a_checkpoint_cut_short_is_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step, state in ((90, "{}"), (100, "{}"), (200, None), (300, '{"epoch": ')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
