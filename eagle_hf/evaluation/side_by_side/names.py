"""Ways of decoding that can be measured side by side, by the names that a command line gives them.

    plain                  the target alone, by transformers
    loop                   the target alone, by this package's loop
    lookup                 prompt look-up: transformers copies drafts from the text (arXiv
                           2304.04487)
    assistant:MODEL        transformers' assisted generation, another model drafts a chain
    early-exit:LAYER       transformers' own early exit: the target's first layers draft
    head[@TREE]            the draft head
    window:MODEL[@TREE]    another model drafts, behind a window
    itself[@TREE]          the target drafts, behind a window of its own cache
    server:LABEL=URL       an OpenAI-compatible server; URL#MODEL where it serves several

TREE is `policy:depth:top_k:nodes`; without it a method drafts as it does by itself.
"""

from dataclasses import dataclass, replace

from eagle_hf.head.trees import TreeConfig

PLAIN = "plain"
LOOP = "loop"
NAMES = (
    "plain",
    "loop",
    "lookup",
    "assistant",
    "early-exit",
    "head",
    "window",
    "itself",
    "server",
)
WITH_SOURCE = {
    "assistant": "a model",
    "early-exit": "a layer",
    "window": "a model",
    "server": "LABEL=URL",
}
WITH_TREE = ("head", "window", "itself")


@dataclass(frozen=True)
class Method:
    """One way of decoding, not opened yet.

    Attributes:
        kind: one of NAMES.
        source: the model or head that drafts, the layer after which the target does, or the address
            of a server; "" where none is named.
        tree: what is drafted; None where the method decides.
        label: what a server is called.
    """

    kind: str
    source: str = ""
    tree: TreeConfig | None = None
    label: str = ""

    @classmethod
    def parse(cls, text: str) -> "Method":
        """Make the method that a text names.

        Args:
            text: as listed above.

        Raises:
            ValueError: There is no such method, or it lacks something.
        """
        kind, _, source = text.partition(":")
        if kind == "server":  # its address may hold an @
            return cls._parse_server(text, source)
        named, _, tree = text.partition("@")
        kind, _, source = named.partition(":")
        if kind not in NAMES:
            raise ValueError(f"the method is {text!r}; take of {', '.join(NAMES)}")
        if bool(source) != (kind in WITH_SOURCE):
            rule = "takes no model"
            if kind in WITH_SOURCE:
                rule = f"needs {WITH_SOURCE[kind]} behind a colon"
            raise ValueError(f"the method is {text!r}; {kind} {rule}")
        if tree and kind not in WITH_TREE:
            raise ValueError(f"the method is {text!r}; trees are drafted by {', '.join(WITH_TREE)}")
        if kind == "early-exit" and not source.isdigit():
            raise ValueError(f"the method is {text!r}; give the layer's number: early-exit:4")
        return cls(kind, source, TreeConfig.parse(tree) if tree else None)

    @classmethod
    def _parse_server(cls, text: str, source: str) -> "Method":
        """The method of a server."""
        label, _, url = source.partition("=")
        is_address = url.startswith(("http://", "https://"))
        if not label or not is_address:
            raise ValueError(
                f"the method is {text!r}; name a server and give its address: "
                "server:vllm=http://localhost:8000"
            )
        return cls("server", url, label=label)

    def with_default_tree(self, tree: TreeConfig | None) -> "Method":
        """The same method; one that could draft a tree and names none gets this one."""
        if tree is None or self.tree is not None or self.kind not in WITH_TREE:
            return self
        return replace(self, tree=tree)

    def __str__(self) -> str:
        if self.label:
            return f"{self.kind}:{self.label}"
        text = f"{self.kind}:{self.source}" if self.source else self.kind
        return f"{text}@{self.tree}" if self.tree else text


def named_methods(texts: list[str], tree: TreeConfig | None = None) -> dict[str, Method]:
    """The methods of a contest by their names, plain decoding first.

    Where one of this package's own methods is among them, its loop without drafts is too: it says
    what the drafts alone are worth.

    Args:
        texts: what `Method.parse` takes.
        tree: of methods that draft trees and name none; None leaves them theirs.

    Raises:
        ValueError: One is no method, or two servers have one label.
    """
    methods = {PLAIN: Method(PLAIN)}
    given = [Method.parse(text).with_default_tree(tree) for text in texts]
    if any(method.kind in WITH_TREE for method in given):
        methods[LOOP] = Method(LOOP)
    for method in given:
        name = str(method)
        if methods.setdefault(name, method) != method:
            raise ValueError(
                f"two servers are called {method.label!r}: {methods[name].source} and "
                f"{method.source}; give each a label of its own"
            )
    return methods
