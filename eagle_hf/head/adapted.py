"""Adapters as users of PEFT know them: loaded, saved and deleted by name, chosen for every call."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eagle_hf.head.adapters import BARE, LoadedAdapters, lay, read_adapter
from eagle_hf.head.trees import TreeConfig


class AdaptedHead:
    """A head with its adapters chosen: `generate(assistant_model=head.with_adapter("code"))`.

    Args:
        head: The head.
        adapters: The name for all rows, or one a row; None for the head alone.

    Attributes:
        head: The head.
        adapters: As given; several names are a tuple.
        plan: A `planning.plan.Plan` measured with these adapters. The head's own is not used.
        last_run: `DecodingStats` of the last `generate` with this object; `head.last_run` has them
            too, until the head is used otherwise.
    """

    def __init__(self, head: Any, adapters: str | Sequence[str | None] | None) -> None:
        self.head = head
        self.adapters: str | tuple[str | None, ...] | None
        if adapters is None or isinstance(adapters, str):
            self.adapters = adapters
        else:
            self.adapters = tuple(adapters)
        for name in self.distinct:
            if name is not None:
                head.adapters.get(name)  # raises where there is none
        self.plan: Any = None
        self._tree: TreeConfig | None = None
        self._last_run: Any = None

    def __repr__(self) -> str:
        return f"{type(self.head).__name__}.with_adapter({self.adapters!r})"

    @property
    def distinct(self) -> tuple[str | None, ...]:
        """The adapters in use, each once; None for the head alone."""
        if isinstance(self.adapters, tuple):
            return tuple(dict.fromkeys(self.adapters))
        return (self.adapters,)

    @property
    def rows(self) -> tuple[str | None, ...] | None:
        """One name a row; None where they hold for any batch."""
        return self.adapters if isinstance(self.adapters, tuple) else None

    @property
    def tree(self) -> TreeConfig:
        """How drafts are shaped: as the head's, unless it was set here."""
        return self._tree or self.head.tree

    @tree.setter
    def tree(self, tree: TreeConfig) -> None:
        self._tree = tree

    @property
    def tree_by_machine(self) -> bool:
        """Whether trees are chosen by what this machine is measured to do."""
        return self._tree is None and self.head.tree_by_machine

    @property
    def last_run(self) -> Any:
        return self._last_run

    @last_run.setter
    def last_run(self, stats: Any) -> None:
        self._last_run = stats
        self.head.last_run = stats


class TakesAdapters:
    """The methods of a head that has adapters.

    transformers' own (`PeftAdapterMixin`) put an adapter's layers into the model, and switch all
    calls at once. A head stays as it is, and calls choose.

    Attributes:
        adapters: What is loaded; `adapters.names` are the names.
    """

    adapters: LoadedAdapters

    def load_adapter(
        self,
        adapter: str | Path,
        adapter_name: str = "default",
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | None = None,
    ) -> None:
        """Load a LoRA that was trained on this head. The head itself drafts as before.

        Args:
            adapter: A folder that PEFT saved, such as the one that recipes/adapt.py leaves, or a
                hub id.
            adapter_name: What it is called from now on.
            revision, subfolder, token: Where it is a hub id.

        Raises:
            ValueError: It is no LoRA, or of a head with other shapes; or the name is taken.
        """
        if not adapter_name or adapter_name == BARE:
            raise ValueError(f"adapter_name is {adapter_name!r}; give it another name")
        if adapter_name in self.adapters.names:
            raise ValueError(
                f"an adapter {adapter_name!r} is loaded already; choose another name, or call "
                f"head.delete_adapter({adapter_name!r}) first"
            )
        read = read_adapter(adapter, revision=revision, subfolder=subfolder, token=token)
        try:
            lay(self, [read])
        except Exception as error:  # of a dozen kinds, whatever does not fit first
            reason = textwrap.shorten(str(error), 300)
            raise ValueError(
                f"the adapter {adapter} cannot be laid over this head ({reason}); give an adapter "
                "that was trained on this very head"
            ) from error
        self.adapters.add(adapter_name, read)

    def save_adapter(self, save_directory: str | Path, adapter_name: str = "default") -> None:
        """Save one adapter alone, as PEFT does. `save_pretrained` saves the head without any.

        Args:
            save_directory: The folder, which is made where it is missing.
            adapter_name: Its name.

        Raises:
            ValueError: There is no such adapter, or a head in that folder.
        """
        self.adapters.get(adapter_name).save(save_directory)

    def delete_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Drop adapters; calls that draft with them go on.

        Args:
            adapter_names: One name or several.

        Raises:
            ValueError: There is no such adapter; all are kept then.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        for name in names:
            self.adapters.get(name)
        for name in dict.fromkeys(names):
            self.adapters.remove(name)

    def with_adapter(self, adapter: str | Sequence[str | None] | None) -> AdaptedHead:
        """What to give `generate(assistant_model=...)` to draft with adapters.

        Args:
            adapter: The name of one for all rows, or a list with a name for each row. None stands
                for the head alone.

        Raises:
            ValueError: There is no such adapter.
        """
        return AdaptedHead(self, adapter)

    def set_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refused, as all methods of PEFT's that switch adapters for every later call."""
        raise ValueError(
            "adapters of a head are chosen for every call and not switched: "
            'generate(assistant_model=head.with_adapter("name")), or assistant_model=head without'
        )

    enable_adapters = set_adapter
    disable_adapters = set_adapter
    active_adapters = set_adapter

    def add_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refused: new adapters are made by training."""
        raise ValueError(
            "an adapter of a head is made by training: Eagle3Trainer(peft_config=LoraConfig(...)) "
            "or recipes/adapt.py --lora_rank; then call head.load_adapter(folder, name)"
        )

    enable_peft_hotswap = add_adapter
