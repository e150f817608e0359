"""What the tests of training read off a trainer, and how they compare weights."""

import torch


def losses(trainer):
    """The logged training losses."""
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def evaluations(trainer, name="eval"):
    """The logs of the evaluations of one set."""
    return [log for log in trainer.state.log_history if f"{name}_loss" in log]


def same_weights(ours, theirs):
    """Whether two models have the same names in the same order, with equal bits."""
    ours, theirs = ours.state_dict(), theirs.state_dict()
    if list(ours) != list(theirs):
        return False
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def assert_close_weights(ours, theirs, bound):
    """Every parameter differs from its counterpart by at most this share of its norm."""
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (mine - other).norm() <= bound * mine.norm()


def copied_parameters(model):
    """{name: a copy of the parameter}."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
