"""A smoke run's whole site in a browser: every page loads, from here alone, without an error, and links lead on."""

from dataclasses import dataclass, field
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml

from .conftest import ROOT, build

LINKS = "Array.from(document.querySelectorAll('a[href]'), link => link.href)"
IDENTIFIERS = "Array.from(document.querySelectorAll('[id]'), element => element.id)"
IMAGES = "Array.from(document.images, image => ({src: image.src, alt: image.alt, width: image.naturalWidth}))"


@dataclass
class Page:
    errors: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    links: list = field(default_factory=list)
    identifiers: set = field(default_factory=set)
    images: list = field(default_factory=list)
    formulas: int = 0
    title: str = ""


def visit(browser, address: str) -> Page:
    """Everything a page did and shows, once MathJax is done."""
    page, seen = browser.new_page(), Page()
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("requestfailed", lambda request: seen.errors.append(f"{request.url}: {request.failure}"))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(address, wait_until="networkidle")
    page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
    seen.links, seen.identifiers, seen.images = (
        page.evaluate(LINKS),
        set(page.evaluate(IDENTIFIERS)),
        page.evaluate(IMAGES),
    )
    seen.formulas, seen.title = page.locator("mjx-container").count(), page.title()
    page.close()
    return seen


@pytest.fixture(scope="module")
def site():
    """The folder of a site built from a smoke run of every chapter."""
    output = ROOT / "_build" / "test"
    for chapter in sorted((ROOT / "notebooks").glob("*.ipynb")):
        build("--output", output, "run", chapter, "--scale", "smoke")
    build("--output", output, "site")
    return output / "_build" / "html"


@pytest.fixture(scope="module")
def pages(site, browser, serve):
    """{page's path: what it did and shows} for every HTML page of the site that is a document."""
    address = serve(site)
    paths = [str(file.relative_to(site)) for file in site.rglob("*.html") if "_static" not in file.parts]
    return address, {path: visit(browser, f"{address}/{path}") for path in sorted(paths)}


def test_every_page_of_the_contents_is_built(pages):
    contents = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    names = [contents["root"], *(entry["file"] for part in contents["parts"] for entry in part["chapters"])]
    assert {f"{name}.html" for name in names} <= set(pages[1])
    assert all(page.title for page in pages[1].values())


def test_no_page_has_an_error_in_its_console(pages):
    assert {path: page.errors for path, page in pages[1].items() if page.errors} == {}


def test_no_page_loads_anything_from_another_host(pages):
    address, visited = pages
    foreign = {
        url for page in visited.values() for url in page.requests if not url.startswith((address, "data:", "blob:"))
    }
    assert foreign == set()


def test_no_internal_link_is_broken(pages, site):
    address, visited = pages
    broken = []
    for path, page in visited.items():
        for link in page.links:
            url, fragment = urldefrag(link)
            if not url.startswith(address):
                continue
            target = unquote(urlsplit(url).path).lstrip("/") or "index.html"
            if (
                not (site / target).is_file()
                or fragment
                and target in visited
                and unquote(fragment) not in visited[target].identifiers
            ):
                broken.append((path, link))
    assert broken == []


def test_every_image_loads_and_has_alternative_text(pages):
    images = [(path, image) for path, page in pages[1].items() for image in page.images]
    assert images
    assert [(path, image) for path, image in images if not image["width"] or not image["alt"].strip()] == []


def test_formulas_are_set(pages):
    assert pages[1]["book/notation.html"].formulas > 10


def test_chapters_open_in_colab_at_the_repository_s_address(pages):
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    owner = repository["url"].removeprefix("https://github.com/")
    for path, page in pages[1].items():
        if path.startswith("notebooks/"):
            chapter = path.replace(".html", ".ipynb")
            assert (
                f"https://colab.research.google.com/github/{owner}/blob/{repository['branch']}/{chapter}" in page.links
            )
