"""`eagle-hf report` in a real browser: complete, readable everywhere, nothing from elsewhere."""

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import report_data
from viewing import PHONE, WIDE

from eagle_hf.evaluation.charts import read_sources, report_page
from eagle_hf.evaluation.charts.theme import DARK, LIGHT

pytestmark = pytest.mark.browser

LIMIT = 3_000_000  # bytes of a page
# A4 between its margins, in CSS pixels
PAPER = 688
LOOKS = {
    "wide": dict(width=WIDE),
    "dark": dict(width=WIDE, scheme="dark"),
    "tablet": dict(width=800),
    "phone": dict(width=PHONE, touch=True),
    "small phone": dict(width=320, scheme="dark", touch=True),
}
VISIBLE = "[...document.querySelectorAll('.drawing')].filter(d => d.getClientRects().length)"
DRAWN = f"""{VISIBLE}.map(drawing => ({{
  chart: drawing.closest('section').id,
  marks: drawing.querySelectorAll('.mark').length,
  box: drawing.querySelector('svg').getBoundingClientRect().toJSON(),
}}))"""
# the least height of a drawing's texts, in pixels of the screen
SMALLEST = f"""Math.min(...{VISIBLE}.flatMap(drawing =>
  [...drawing.querySelectorAll('text')].filter(text => text.textContent.trim()).map(text =>
    parseFloat(getComputedStyle(text).fontSize) *
      drawing.querySelector('svg').getBoundingClientRect().width /
      drawing.querySelector('svg').viewBox.baseVal.width)))"""
# texts that reach beyond the drawing they belong to
CUT = f"""{VISIBLE}.flatMap(drawing => {{
  const frame = drawing.closest('section').getBoundingClientRect();
  return [...drawing.querySelectorAll('text')].filter(text => {{
    const box = text.getBoundingClientRect();
    return box.width && (box.left < frame.left || box.right > frame.right);
  }}).map(text => text.textContent.trim());
}})"""
# thousands of paths of which axe knows nothing; test_report_colours.py holds their contrast
INSIDE = ".drawing svg > *"
HORIZONTAL = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A report with every chart."""
    folder = tmp_path_factory.mktemp("report")
    sources = read_sources([report_data.write_all(folder / "files")])
    file = folder / "report.html"
    file.write_text(report_page(sources, "A report of everything"), encoding="utf-8")
    return file.as_uri()


@pytest.mark.parametrize("look", LOOKS)
def test_every_chart_is_drawn_and_no_text_lies_over_another(viewer, address, look):
    opened = viewer.open(address, **LOOKS[look])
    drawn = opened.page.evaluate(DRAWN)
    charts = opened.page.locator(".charts > section").count()
    assert len(drawn) == charts >= 14
    for drawing in drawn:
        assert drawing["marks"] > 0, drawing["chart"]
        assert drawing["box"]["width"] > 200, drawing["chart"]
        assert drawing["box"]["height"] > 100, drawing["chart"]
    assert opened.overlaps(".drawing svg text") == []
    assert opened.page.evaluate(CUT) == []
    assert opened.page.evaluate(HORIZONTAL) == 0
    assert opened.page.evaluate(SMALLEST) >= 8.5
    assert opened.complaints == []


@pytest.mark.parametrize("look", ["wide", "dark", "phone"])
def test_axe_finds_nothing_even_with_every_table_open(viewer, address, look):
    opened = viewer.open(address, **LOOKS[look])
    opened.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert opened.axe_violations(exclude=INSIDE) == []
    assert opened.page.evaluate(HORIZONTAL) == 0
    assert opened.complaints == []


def test_every_number_that_hovering_says_stands_in_the_charts_table(viewer, address):
    opened = viewer.open(address)
    page = opened.page
    checked = 0
    for section in page.locator(".charts > section").all():
        table = section.locator("table").text_content().replace(",", "")
        tips = section.locator(".wide .mark").evaluate_all("all => all.map(m => m.dataset.tip)")
        for tip in tips:
            body = tip.partition("\n")[2].replace(",", "")
            for number in re.findall(r"\d+\.\d+", body):
                assert number in table, f"{section.get_attribute('id')}: {tip}"
                checked += 1
    assert checked > 200


def test_hovering_shows_the_number_and_leaving_hides_it(viewer, address):
    page = viewer.open(address).page
    tip = page.locator("#tip")
    mark = page.locator("#time-per-token .wide .mark").nth(1)
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.mouse.move(box["x"] + 12, box["y"] + 4)
    assert tip.is_visible()
    assert tip.text_content() == mark.get_attribute("data-tip")
    assert "ms a token" in tip.text_content()
    page.mouse.move(2, 2)
    assert tip.is_hidden()


def test_a_tap_shows_the_number_within_the_screen(viewer, address):
    page = viewer.open(address, **LOOKS["phone"]).page
    mark = page.locator("#speed-by-method .narrow .mark").first
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.touchscreen.tap(box["x"] + 6, box["y"] + 6)
    tip = page.locator("#tip").bounding_box()
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= PHONE
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_the_scheme_colours_page_and_drawings(viewer, address):
    colours = {}
    for scheme in ("light", "dark"):
        page = viewer.open(address, scheme=scheme).page
        line = page.locator("#time-per-token .wide path[style*='series-1']").first
        colours[scheme] = (
            page.locator("h1").evaluate("e => getComputedStyle(e).color"),
            line.evaluate("e => getComputedStyle(e).stroke"),
        )
    for scheme, palette in (("light", LIGHT), ("dark", DARK)):
        expected = (css_rgb(palette["ink"]), css_rgb(palette["series-1"]))
        assert colours[scheme] == expected


def css_rgb(colour: str) -> str:
    """#0068a8 as browsers say it."""
    parts = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return "rgb({}, {}, {})".format(*parts)


def test_paper_is_light_and_has_every_table(viewer, address):
    opened = viewer.open(address, width=PAPER, scheme="dark")
    page = opened.page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("h1").evaluate("e => getComputedStyle(e).color") == css_rgb(LIGHT["ink"])
    closed = page.locator("details:not([open])").count()
    assert closed == 0
    assert page.locator(".charts table").first.is_visible()
    assert opened.overlaps(".drawing svg text") == []
    widest = page.evaluate(
        "Math.max(...[...document.querySelectorAll('table')].map(t => t.scrollWidth))"
    )
    assert widest <= PAPER
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="screen")
    assert page.locator("details[open]").count() == 0


def test_it_opens_in_under_a_second(viewer, address):
    page = viewer.open(address).page
    entry = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    assert 0 < entry["loadEventEnd"] < 1000


def test_the_file_is_small_and_names_nothing_that_lies_elsewhere(address):
    page = Path(url2pathname(urlsplit(address).path)).read_text(encoding="utf-8")
    assert len(page.encode()) < LIMIT
    assert "default-src 'none'" in page
    addresses = set(re.findall(r"https?://[^\"'\s<]+", page))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    identities = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(identities)) == len(identities)


def test_it_opens_without_its_script(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator(".charts .wide svg").first.is_visible()
    page.locator(".charts summary").first.click()
    assert page.locator(".charts table").first.is_visible()
    context.close()
