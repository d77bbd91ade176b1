"The documentation site loads nothing from elsewhere, and its own links lead somewhere."

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from site_pages import read

SCRIPT = re.compile(r"(https?:)?//[\w.-]+\.\w+/\S*\.(js|mjs|css|woff2?)\b")
STYLE = re.compile(r"(@import\s+|url\()\s*(url\()?['\"]?(https?:)?//")


def elsewhere(url: str) -> bool:
    return urlsplit(url).scheme not in ("", "data") or url.startswith("//")


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for path, page in pages.items():
        assert not [url for url in page.loads if elsewhere(url)], path
        assert not SCRIPT.search(page.script) and not STYLE.search(page.script), path
    for path in site.rglob("*.css"):
        assert not STYLE.search(path.read_text(encoding="utf-8")), path


def test_links_within_the_site_lead_somewhere(pages):
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.exists(), f"{path.name}: {link}"
            if url.fragment and target.suffix == ".html" and "search" not in target.name:
                assert unquote(url.fragment) in read(target).ids, f"{path.name}: {link}"
