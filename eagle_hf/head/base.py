"""What a draft head is besides its layers: settings of drafting, and a folder on disk."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from eagle_hf.head.acceptance import Acceptance
from eagle_hf.head.adapted import TakesAdapters
from eagle_hf.head.adapters import LoadedAdapters
from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.head.opening import open_head
from eagle_hf.head.sidecars import choose_sidecars, copy_sidecars
from eagle_hf.head.trees import TreeConfig


class DraftHead(TakesAdapters, PreTrainedModel):
    """The part of a draft head that `generate` and the Hub see.

    Args:
        config: The head's config.

    Attributes:
        dialect: The dialect of the folder that the head was opened from.
        last_run: `DecodingStats` of the last `generate`.
        plan: The `planning.plan.Plan` of tree policies that need one; saved with the head.
        tree_by_machine: Whether trees are chosen by what this machine is measured to do (see
            measuring/automatic.py).
    """

    config: Eagle3Config
    config_class = Eagle3Config
    dialect = "eagle_hf"

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__(config)
        self.last_run: Any = None
        self.plan: Any = None
        self.tree_by_machine = False
        self.adapters = LoadedAdapters()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """True: transformers would guess from the text of the module that defines the class."""
        return True

    @property
    def tree(self) -> TreeConfig:
        """How drafts are shaped; saved with the head. Setting it ends the choice by machine."""
        return self.config.tree

    @tree.setter
    def tree(self, tree: TreeConfig) -> None:
        self.config.tree = tree
        self.tree_by_machine = False

    @property
    def acceptance(self) -> Acceptance | None:
        """How often the head's drafts are accepted, where that was measured; saved with it."""
        return self.config.acceptance

    @acceptance.setter
    def acceptance(self, acceptance: Acceptance) -> None:
        self.config.acceptance = acceptance

    @property
    def window(self) -> tuple[int, int] | None:
        """(sinks, newest tokens) that drafting sees of a text, None for all; saved with the head.

        See `Eagle3Config.window`.
        """
        return self.config.window

    @window.setter
    def window(self, window: tuple[int, int] | None) -> None:
        self.config.window = window

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """Save the head in the layout that vLLM and SGLang load.

        Its plan and what lies beside its weights go along: see sidecars.py. Loaded adapters do
        not: see `save_adapter`.

        Args:
            save_directory: The folder, which is made where it is missing.
            is_main_process: False in all but one of several processes.
            state_dict: Weights to save instead of the head's own.
            push_to_hub: Refused; call `head.push_to_hub`.
            kwargs: As in `PreTrainedModel.save_pretrained`.

        Raises:
            ValueError: push_to_hub was given.
        """
        if push_to_hub:  # it would write transformers' own card over the head's
            raise ValueError(
                "save_pretrained was called with push_to_hub=True; save first, then call "
                'head.push_to_hub("user/name")'
            )
        # chosen before weights are written: they are compared with those in the folder
        chosen = {}
        if is_main_process:
            chosen = choose_sidecars(self, save_directory, state_dict or self.state_dict())
        super().save_pretrained(
            save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs
        )
        copy_sidecars(chosen, save_directory)
        if self.plan is not None and is_main_process:
            self.plan.save(save_directory)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *args,
        tree: TreeConfig | str = "auto",
        vocab_size: int | None = None,
        **kwargs,
    ):
        """Open a saved head of any dialect (`dialects.DIALECTS`).

        `head.dialect` says which one it was. Saved again, the head is in ours.

        Args:
            pretrained_model_name_or_path: A folder or hub id.
            args: As in `PreTrainedModel.from_pretrained`.
            tree: How drafts are shaped.

                - "auto" measures what a few tokens cost on this machine, at the first call of
                  generate, and chooses drafts by it, plain decoding included
                  (measuring/automatic.py). A saved tree of a fixed shape, compiled, with rejection
                  or with a plan is kept.
                - "saved" keeps the tree saved with the head.
                - A `TreeConfig` replaces it.
            vocab_size: Of a target whose embeddings were resized since the head was trained (see
                `resize_vocabulary`). Default: as saved.
            kwargs: As in `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: This is no head. Every weight must be there and none may be left over;
                pickles that are more than tensors are refused.
            OSError: There is no such source.
        """
        if not isinstance(tree, TreeConfig) and tree not in ("auto", "saved"):
            raise ValueError(f'tree is {tree!r}; give "auto", "saved" or an eagle_hf.TreeConfig')
        opened = open_head(cls, pretrained_model_name_or_path, kwargs)
        loaded = super().from_pretrained(
            None, *args, config=opened.config, state_dict=opened.weights, **kwargs
        )
        # with output_loading_info, transformers returns a pair
        head = loaded[0] if isinstance(loaded, tuple) else loaded
        head.name_or_path = head.config.name_or_path = str(pretrained_model_name_or_path)
        head.dialect = opened.dialect
        if vocab_size is not None:
            head.resize_vocabulary(vocab_size)
        if isinstance(tree, TreeConfig):
            head.tree = tree
        head.tree_by_machine = tree == "auto" and head.tree.is_replaceable
        return loaded
