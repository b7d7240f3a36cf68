"""A smoke run's whole site in a browser: every page loads, from here alone, without an error, and links lead on."""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml

from .conftest import ROOT, build

LINKS = "Array.from(document.querySelectorAll('a[href]'), link => link.href)"
IDENTIFIERS = "Array.from(document.querySelectorAll('[id]'), element => element.id)"
IMAGES = """Array.from(document.images, image => {
  const box = image.getBoundingClientRect();
  const hidden = image.closest("article") ? image.closest("details:not([open])") !== null : !image.checkVisibility();
  return {src: image.src, alt: image.alt, width: image.naturalWidth, seen: hidden || box.width * box.height > 0};
})"""
SQUEEZED = """Array.from(document.querySelectorAll("article img"), image => {
  const box = image.getBoundingClientRect();
  return {src: image.src, by: box.width * image.naturalHeight / (box.height * image.naturalWidth)};
}).filter(image => Math.abs(image.by - 1) > 0.02)"""
PHONE = {"width": 390, "height": 844}


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
    assert [(path, i) for path, i in images if not i["width"] or not i["seen"] or not i["alt"].strip()] == []


def test_the_search_finds_token_merging(pages, browser):
    page = browser.new_page()
    page.goto(f"{pages[0]}/search.html?q=token+merging")
    page.wait_for_selector("#search-results ul.search li a", timeout=20_000)
    found = page.eval_on_selector_all("#search-results ul.search li a", "links => links.map(link => link.href)")
    page.close()
    assert any("05_experiments" in link for link in found) and any("04_attention" in link for link in found)


def test_on_a_phone_nothing_is_too_wide_and_pictures_keep_their_shape(pages, browser):
    address, visited = pages
    page, wide, squeezed = browser.new_page(viewport=PHONE), {}, []
    for path in visited:
        page.goto(f"{address}/{path}", wait_until="networkidle")
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            wide[path] = width
        squeezed += page.evaluate(SQUEEZED)
    page.close()
    assert wide == {} and squeezed == []


def test_dark_mode_darkens_the_page_and_leaves_the_figures_light(pages, browser):
    page = browser.new_page(color_scheme="dark")
    page.goto(f"{pages[0]}/notebooks/04_attention.html", wait_until="networkidle")
    brightness = "element => getComputedStyle(element).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.eval_on_selector("body", brightness) < 200
    filtered = page.eval_on_selector_all("main img", "images => images.map(image => getComputedStyle(image).filter)")
    page.close()
    assert filtered and not any("invert" in name for name in filtered)


def test_the_book_is_printed_with_its_pictures(site):
    build("--output", ROOT / "_build" / "test", "pdf")
    printed = (site.parent / "frugal-diffusion.pdf").read_bytes()
    pictures = len(list((site / "_images").glob("*.png")))
    assert printed.startswith(b"%PDF") and pictures > 20
    assert printed.count(b"/Subtype /Image") >= pictures  # each is placed; some have a mask beside them


def test_no_table_is_left_as_its_source(pages, site):
    pattern = re.compile(r"\|\s*(---|—)\s*\|")
    assert [path for path in pages[1] if pattern.search((site / path).read_text(encoding="utf-8"))] == []


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
