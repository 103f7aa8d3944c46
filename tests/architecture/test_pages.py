"""The pages for people: no link leads nowhere, and a reader who begins at the README finds every page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "deploy", "libs/*", "proto", "services/*", "tests")
PAGES = [ROOT / "README.md", *sorted(path for each in FOLDERS for path in ROOT.glob(f"{each}/**/*.md"))]
LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


@cache
def text_of(page: Path) -> str:
    """Give a page without its code, in which brackets mean something else."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Give what can follow "#": headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(page: Path) -> list[tuple[str, Path, str]]:
    """Give each link to something of ours: as written, its file, its anchor."""
    found = []
    for link in LINK.findall(text_of(page)):
        target, _, anchor = link.partition("#")
        if "://" not in link:
            path = (page.parent / target).resolve() if target else page
            found.append((link, path / "README.md" if (path / "README.md").exists() else path, anchor))
    return found


def test_every_link_leads_somewhere() -> None:
    assert len(PAGES) > 50
    for page in PAGES:
        for link, target, anchor in links_of(page):
            assert target.exists(), (page, link)
            assert not anchor or anchor in anchors(target), (page, link)


def test_every_page_is_found_from_the_readme() -> None:
    found: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in found and page.suffix == ".md":
            found.add(page)
            waiting += [target for _, target, _ in links_of(page)]
    assert {str(page.relative_to(ROOT)) for page in set(PAGES) - found} == set()
