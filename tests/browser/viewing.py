"""What tests ask of a page in a real browser: its complaints, its requests, axe, overlaps.

A test opens a page with `viewer.open(address)` and ends with `page.complaints == []`.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

LOCAL = ("", "127.0.0.1", "localhost", "[::1]")  # "" is a file or inline data
WIDE = 1280
PHONE = 390
HEIGHT = 844
# Boxes of texts may touch: a letter's box is higher than its ink.
TOUCHING = 1.5  # pixels

OVERLAPS = """([selector, touching]) => {
  const boxes = [];
  for (const element of document.querySelectorAll(selector)) {
    const box = element.getBoundingClientRect();
    if (box.width && box.height && element.textContent.trim())
      boxes.push({text: element.textContent.trim(), box, group: element.closest("svg, figure")});
  }
  const found = [];
  for (let i = 0; i < boxes.length; i++) {
    for (let j = i + 1; j < boxes.length; j++) {
      const [a, b] = [boxes[i], boxes[j]];
      if (a.group !== b.group) continue;
      const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      if (across > touching && down > touching) found.push([a.text, b.text]);
    }
  }
  return found;
}"""


@dataclass
class OpenPage:
    """A page in the browser.

    Attributes:
        page: playwright's page.
        complaints: what the console was told as an error or warning, errors of scripts, and
            requests that failed or went to another machine.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Begin to note complaints."""
        self.page.on("console", self._note_message)
        self.page.on("pageerror", self._note_error)
        self.page.on("request", self._note_request)
        self.page.on("requestfailed", self._note_failure)

    def overlaps(self, selector: str) -> list[list[str]]:
        """Pairs of texts in one drawing whose boxes lie over each other.

        Args:
            selector: of the elements with texts, in CSS.
        """
        return self.page.evaluate(OVERLAPS, [selector, TOUCHING])

    def axe_violations(self, exclude: str = "") -> list[str]:
        """What axe finds on the page: one line a rule, with the elements.

        Args:
            exclude: elements that are not looked at, in CSS.
        """
        from axe_playwright_python.sync_playwright import Axe

        context = {"exclude": [[exclude]]} if exclude else None
        found = Axe().run(self.page, context=context)
        lines = []
        for violation in found.response["violations"]:
            places = [node["html"][:160] for node in violation["nodes"][:3]]
            lines.append(f"{violation['id']}: {violation['help']}: {places}")
        return lines

    def _note_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _note_error(self, error: Any) -> None:
        self.complaints.append(f"script: {error}")

    def _note_request(self, request: Any) -> None:
        host = urlsplit(request.url).hostname or ""
        if host not in LOCAL:
            self.complaints.append(f"request to elsewhere: {request.url}")

    def _note_failure(self, request: Any) -> None:
        self.complaints.append(f"request failed: {request.url} ({request.failure})")


class Viewer:
    """Opens pages in a browser.

    Args:
        browser: playwright's browser.
    """

    def __init__(self, browser: Any):
        self._browser = browser
        self._contexts: list[Any] = []

    def open(
        self,
        address: str,
        *,
        width: int = WIDE,
        height: int = HEIGHT,
        scheme: str = "light",
        touch: bool = False,
    ) -> OpenPage:
        """Open an address in a profile of its own and wait until it is loaded.

        Args:
            address: such as "file:///tmp/report.html".
            width, height: of the screen, in CSS pixels.
            scheme: "light" or "dark", what the reader prefers.
            touch: whether the screen is touched.

        Returns:
            The page, watched from its first request on.
        """
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch
        )
        self._contexts.append(context)
        opened = OpenPage(context.new_page())
        opened.watch()
        opened.page.goto(address, wait_until="load")
        return opened

    def close(self) -> None:
        """Close all pages."""
        for context in self._contexts:
            context.close()
