"""Every link of every Markdown file: to files and headings that are there, to addresses of the right form.

No address is called: what is behind it is not ours, and tests need no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.docs.blocks import FILES, PAGES, ROOT, TEMPLATES, text_of

# Whom the files may send readers to. A new one is looked up by hand before it is added.
HOSTS = {"arxiv.org", "github.com", "keepachangelog.com", "semver.org"}
# and where settings of builds may fetch from
BUILDS = {"download.pytorch.org"}
_FURTHER = (ROOT / "mkdocs.yml", ROOT / "pyproject.toml", ROOT / "CITATION.cff", *TEMPLATES)
_LINK = re.compile(r'\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"|^\[[^\]]+\]: (\S+)$', re.MULTILINE)
_ADDRESS = re.compile(r"\b(?:https?|ftp)://[^\s)>\"'`\]}|]*|\bwww\.[^\s)>\"'`]+")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_ARXIV = re.compile(r"\[arXiv ([^\]]+)\]\(([^)]+)\)")


def links(text: str) -> Iterator[str]:
    """Targets of a Markdown text, not those of its code."""
    for found in _LINK.finditer(_CODE.sub("", text)):
        yield found[1] or found[2] or found[3]


def anchors(text: str) -> set[str]:
    """Names of a text's headings as hosts of repositories make them: equal ones are numbered from the second on."""
    made: dict[str, int] = {}
    names = set()
    for title in re.findall(r"^#+ +(.+?)(?: *#+)?$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        name = re.sub(r"[^\w\- ]", "", plain.replace("`", "").strip().lower()).replace(" ", "-")
        count = made.get(name, 0)
        made[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def wrong_address(address: str, hosts: Set[str] = HOSTS) -> str:
    """What is wrong with an address; "" where nothing is."""
    parts = urlsplit(address)
    if parts.scheme != "https":
        return "expected https"
    if parts.hostname not in hosts or parts.port or parts.username:
        return f"expected one of {', '.join(sorted(hosts))}"
    if parts.hostname == "arxiv.org" and not re.fullmatch(r"/abs/\d{4}\.\d{5}", parts.path):
        return "expected https://arxiv.org/abs/YYMM.NNNNN"
    return "ends with a point" if address[-1] in ".,;:" else ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    written = file.read_text(encoding="utf-8")
    text = text_of(file) if file in PAGES else written
    for target in links(text):
        if "://" in target:
            assert not (why := wrong_address(target)), f"{target}: {why}"
            continue
        name, _, anchor = target.partition("#")
        place = (file.parent / name).resolve() if name else file
        assert place.exists(), target
        assert place.is_relative_to(ROOT), target
        if anchor and file.parent.is_relative_to(ROOT / "docs"):  # of the site: mkdocs checks them, made ones too
            continue
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("file", [*FILES, *_FURTHER], ids=lambda file: str(file.relative_to(ROOT)))
def test_addresses_have_their_form(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    hosts = HOSTS | BUILDS if file.name == "pyproject.toml" else HOSTS
    for found in _ADDRESS.findall(text):
        assert not (why := wrong_address(found, hosts)), f"{found}: {why}"
    for number, address in _ARXIV.findall(text):
        assert address == f"https://arxiv.org/abs/{number}"


def test_hosts_are_all_used() -> None:
    shown = {urlsplit(found).hostname for file in FILES for found in _ADDRESS.findall(file.read_text(encoding="utf-8"))}
    assert shown == HOSTS


def test_site_refuses_what_leads_nowhere() -> None:
    """Links between pages are MkDocs' to check; here that it does."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "strict: true" in text
    for name in ("not_found", "anchors", "absolute_links", "unrecognized_links"):
        assert re.search(rf"links: {{.*\b{name}: warn", text), name


@pytest.mark.parametrize(
    "address",
    ["http://arxiv.org/abs/2312.03526", "https://arxiv.org/pdf/2312.03526", "https://arxiv.org/abs/2312.3526",
     "https://example.org/", "https://arxiv.org.example.org/abs/2312.03526", "https://semver.org:8080/", "www.a.org"],
)  # fmt: skip
def test_wrong_addresses_are_found(address: str) -> None:
    assert _ADDRESS.fullmatch(address)
    assert wrong_address(address)


def test_anchors_are_those_of_hosts() -> None:
    text = "# A title, with `code` & more\n```\n# no heading\n```\n## Again\n## Again\n## [Link](a.md) to\n"
    assert anchors(text) == {"a-title-with-code--more", "again", "again-1", "link-to"}
