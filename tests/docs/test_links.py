"""Every link of README and docs leads somewhere; the navigation of the site holds every page."""

import re

import pytest
import yaml
from pages import DOCS, ROOT, Page, all_pages, github_anchor, site_anchor

EXTERNAL = re.compile(r"https://[a-z0-9.-]+\.[a-z]+(/[\w./#~-]*)?")
PAGES = all_pages()


def internal_links(page: Page) -> list[str]:
    """The links of a page that stay inside the repository."""
    return [link for link in page.links if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_into_the_repository_exist(page):
    for link in internal_links(page):
        path, _, _ = link.partition("#")
        target = page.path.parent / path if path else page.path
        assert target.exists(), f"{page.name} links to {link}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_anchors_are_headings_on_github_and_on_the_site(page):
    for link in internal_links(page):
        path, _, anchor = link.partition("#")
        if not anchor:
            continue
        target = Page((page.path.parent / path).resolve() if path else page.path)
        github = list(map(github_anchor, target.headings))
        site = list(map(site_anchor, target.headings))
        assert anchor in github, f"{page.name} links to {link}, GitHub has {github}"
        assert anchor in site, f"{page.name} links to {link}, the site has {site}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_external_links_are_well_formed(page):
    for link in page.links:
        if "://" in link:
            assert EXTERNAL.fullmatch(link), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_two_headings_of_a_page_share_an_anchor(page):
    anchors = list(map(github_anchor, page.headings))
    assert len(set(anchors)) == len(anchors)


def test_pages_of_the_site_link_to_nothing_outside_it():
    for page in PAGES[1:]:
        for link in internal_links(page):
            path, _, _ = link.partition("#")
            target = (page.path.parent / path).resolve()
            assert target.is_relative_to(DOCS), f"{page.name} links to {link}"


def navigation_files(entry) -> list[str]:
    """The files named in a part of mkdocs.yml's navigation."""
    if isinstance(entry, str):
        return [entry]
    files = []
    parts = entry.values() if isinstance(entry, dict) else entry
    for part in parts:
        files += navigation_files(part)
    return files


def test_the_navigation_holds_every_page_once():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = navigation_files(settings["nav"])
    pages = [page.path.relative_to(DOCS).as_posix() for page in PAGES[1:]]
    assert sorted(named) == sorted(pages)
