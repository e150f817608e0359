"""The tree that an engine can draft, nearest to the one that was asked for or saved."""

from dataclasses import replace

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.trees import TreeConfig
from eagle_hf.hub.engines import Engine
from eagle_hf.hub.serve.command import Caveat, cite


def fit_tree(
    engine: Engine,
    method: str,
    asked: TreeConfig | None,
    saved: TreeConfig,
    config: Eagle3Config | None = None,
) -> tuple[TreeConfig, list[Caveat]]:
    """Choose the tree of a round.

    Args:
        engine: The engine.
        method: One of METHODS.
        asked: The tree that the user asks for; None to take the saved one.
        saved: The tree that the head was saved with.
        config: The head's; None for another drafter.

    Returns:
        The tree, and a caveat where it is not the saved one.

    Raises:
        ValueError: The engine cannot draft the tree that was asked for.
    """
    tree = asked or saved
    fit = _nearest_tree(engine, method, tree, config)
    # Trees are compared as they are written: policy, depth, top_k, nodes, acceptance.
    if str(fit) == str(tree):
        return fit, []
    # What was saved may be replaced, what is asked for may not.
    if asked:
        raise ValueError(
            f"{engine.full_name} cannot draft {asked} with {method}; the nearest it can is {fit}"
        )
    text = f"The head's tree is {saved}; this engine drafts {fit} instead."
    return fit, cite(engine.read, [text])


def _nearest_tree(
    engine: Engine, method: str, tree: TreeConfig, config: Eagle3Config | None
) -> TreeConfig:
    """The tree, if the engine can draft it; else a dynamic one or a chain of the same depth."""
    if tree.policy == "chain":
        fit = tree
    elif method in engine.tree_methods:
        fit = TreeConfig(depth=tree.depth, top_k=tree.top_k, nodes=tree.nodes)
    else:
        fit = TreeConfig("chain", depth=tree.depth, acceptance=tree.acceptance)
    if fit.acceptance == "rejection" and not _can_draw(engine, method, config):
        return replace(fit, acceptance="sample_match")
    return fit


def _can_draw(engine: Engine, method: str, config: Eagle3Config | None) -> bool:
    """Whether drafts can be drawn, and accepted by the ratio of probabilities."""
    has_part = config is not None and config.draft_vocab_size < config.vocab_size
    if has_part and engine.draws_from_whole_vocabulary:
        return False
    return method in engine.drawn_methods
