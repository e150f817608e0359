"""The page on this machine: loopback unless another address is asked for, and no outward calls."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from eagle_hf.demo.models import DemoModels
from eagle_hf.demo.page import STYLE, build_page, load_gradio

FONTS = ("Helvetica Neue", "Arial", "Liberation Sans", "sans-serif")
MONOSPACE = ("Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
MAX_WAITING = 20  # questions in the queue
LOOPBACK = "127.0.0.1"
PROXY_EXCEPTIONS = ("NO_PROXY", "no_proxy")


def serve(models: DemoModels, host: str = LOOPBACK, port: int = 7860) -> None:
    """Serve the page until Ctrl-C.

    Args:
        models: who answers; closed at the end.
        host: address to listen at.
        port: of it.

    Raises:
        ValueError: gradio is not installed.
        OSError: nothing can listen there, as where the port is in use.
    """
    gr = load_gradio()
    page = build_page(models)
    page.queue(max_size=MAX_WAITING)
    try:
        with no_proxy_for(host):  # Gradio asks its own server whether it is there
            _, url, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                footer_links=[],
                quiet=True,
                prevent_thread_lock=True,
                theme=make_theme(gr),
                css=STYLE.read_text(encoding="utf-8"),
            )
    except OSError as error:
        raise OSError(f"nothing can listen at {host}:{port}; try another --port") from error
    print(f"the demo is at {url}  (Ctrl-C ends it)", flush=True)
    if not is_loopback(host):
        print(
            f"note: {host} may be reached from other machines, and whoever reaches it can use it",
            file=sys.stderr,
        )
    try:
        page.block_thread()
    finally:
        models.close()


@contextmanager
def no_proxy_for(host: str) -> Generator[None]:
    """Let requests to a host of this machine go there, and not to a proxy, inside the block."""
    former = {name: os.environ.get(name) for name in PROXY_EXCEPTIONS}
    for name, exceptions in former.items():
        os.environ[name] = ",".join(filter(None, [exceptions, host, LOOPBACK, "localhost"]))
    try:
        yield
    finally:
        for name, exceptions in former.items():
            if exceptions is None:
                del os.environ[name]
            else:
                os.environ[name] = exceptions


def make_theme(gr: Any) -> Any:
    """Gradio's plainest theme, in fonts that a machine has and greys that can be read."""
    theme = gr.themes.Base(font=FONTS, font_mono=MONOSPACE)
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return False
