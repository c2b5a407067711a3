"""The site in a browser: sorting, filtering, links, widths, accessibility, and no request beyond its folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urldefrag, urlsplit

import pandas as pd
import pytest

from suite.board.site import build_site
from suite.board.site.loading import read_entries
from suite.report.table import Column, Table, magnitude
from suite.report.write import render_page
from tests.board.synthetic import make_entry, put, put_board

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api")
axe_core = pytest.importorskip("axe_core_python.sync_playwright")

CHROMIUM = shutil.which("chromium")
PATIENCE = 120_000  # milliseconds; for what hangs, not for slow machines
BRIEF = {"resultTypes": ["violations"]}  # details of what passes take half the time
SERIOUS = ("serious", "critical")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; install Debian's package")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    put_board(folder / "entries", seeds=2)
    origin = {"links": ["https://example.org/paper"], "notes": "<b>x</b>"}
    put(folder / "entries", make_entry("tpe", 9, text="<img src=x>", origin=origin), "verified")
    build_site(read_entries(folder / "entries"), folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, timeout=PATIENCE)
        yield started
        started.close()


Opener = Callable[..., "Page"]


@pytest.fixture
def open_page(browser: Browser, site: Path) -> Iterator[Opener]:
    """Opens a page of the site; whatever it asks for or complains about fails the test."""
    contexts, wrong = [], []

    def opened(path: str, *, width: int = 1280, scheme: Literal["light", "dark"] = "light") -> Page:
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on(
            "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
        )
        page.goto((site / path.partition("#")[0]).as_uri() + "".join(path.partition("#")[1:]))
        page.wait_for_load_state("load")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def column(page: Page, key: str) -> list[str]:
    """The visible cells of a column of the entries."""
    found: list[str] = page.evaluate(
        """key => { const table = document.querySelector("table[data-entries]");
        const place = [...table.tHead.rows[0].cells].findIndex(cell => cell.dataset.key === key);
        return [...table.tBodies[0].rows].map(row => row.cells[place]?.textContent.trim() ?? "") }""",
        key,
    )
    return found


def sorted_by(page: Page, key: str, direction: str) -> None:
    """Wait for the table to be sorted, which a browser does after the event."""
    page.locator(f"table[data-entries] th[data-key={key}][aria-sort={direction}]").wait_for(state="attached")


def board(site: Path) -> str:
    return next(str(path.relative_to(site)) for path in sorted(site.glob("boards/*w3a3*.html")))


def entry(site: Path) -> str:
    return next(str(path.relative_to(site)) for path in sorted(site.glob("entries/*w3a3-evolution-*.html")))


def test_verified_entries_come_first_and_filters_are_kept_in_the_link(open_page: Opener, site: Path) -> None:
    page = open_page("index.html")
    assert set(column(page, "status")) == {"verified"}
    page.locator("[data-filter=budget]").select_option("w2a2")
    assert set(column(page, "budget")) == {"w2a2"}
    page.locator("[data-filter=status]").select_option("")
    page.locator("[data-filter=budget]").select_option("")
    page.locator("[data-filter=q]").fill("arq:episodes")
    assert column(page, "method") == ["arq:episodes=64"] * 2
    assert column(page, "rank") == ["", ""]
    link = page.url
    assert "q=arq" in link
    again = open_page("index.html#" + link.partition("#")[2])
    assert column(again, "method") == ["arq:episodes=64"] * 2
    again.get_by_role("button", name="Reset").click()
    assert set(column(again, "status")) == {"verified"}
    assert "#" not in again.url
    assert len(column(open_page("index.html#status=rejected&sort=nonsense:up&problem=none"), "status")) == 1


def test_headers_sort_by_mouse_and_by_keyboard(open_page: Opener, site: Path) -> None:
    page = open_page(board(site))
    header = page.locator("table[data-entries] th[data-key=acr]")
    header.click()
    sorted_by(page, "acr", "descending")
    values = [float(text) for text in column(page, "acr")]
    assert values == sorted(values, reverse=True)
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('table[data-entries] th')?.dataset.key") == "passes":
            break
    page.keyboard.press("Enter")
    sorted_by(page, "passes", "ascending")
    page.keyboard.press("Enter")
    sorted_by(page, "passes", "descending")
    passes = [int(text.replace(",", "")) for text in column(page, "passes")]
    assert passes == sorted(passes, reverse=True)
    assert "sort=passes%3Adesc" in page.url
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_rows_and_points_are_linked(open_page: Opener, site: Path) -> None:
    page = open_page(board(site))
    active = """() => { const chart = Chart.getChart(document.querySelector("[data-plot] canvas"));
        return chart.getActiveElements().map(each => chart.data.datasets[each.datasetIndex].data[each.index].y) }"""
    link = page.locator("table[data-entries] tbody a").nth(1)
    link.focus()
    assert page.evaluate(active) == [float(column(page, "acr")[1])]
    page.locator("[data-axis=y]").select_option("0.25")
    page.locator("table[data-entries] tbody tr").nth(2).hover()
    assert page.evaluate(active) == [pytest.approx(float(column(page, "at0.25")[2]), abs=0.05)]
    place = page.evaluate(
        """() => { const chart = Chart.getChart(document.querySelector("[data-plot] canvas"));
        const point = chart.getDatasetMeta(0).data[0], box = chart.canvas.getBoundingClientRect();
        chart.canvas.scrollIntoView({block: "center"});
        const moved = chart.canvas.getBoundingClientRect();
        return [moved.left + point.x, moved.top + point.y] }"""
    )
    page.mouse.move(*place)
    page.locator("tr.linked").first.wait_for(state="attached")
    sets = page.evaluate(
        "Chart.getChart(document.querySelector('[data-plot] canvas')).data.datasets.map(each => each.label)"
    )
    assert sets == ["verified", "front of verified entries"]


def test_no_link_is_broken(open_page: Opener, site: Path) -> None:
    page = open_page("index.html")
    seen, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        seen.add(name)
        # Parsed, not opened: a page differs from another of its kind in data alone.
        links = page.evaluate(
            """text => [...new DOMParser().parseFromString(text, "text/html").querySelectorAll("[href], [src]")]
            .map(each => [each.getAttribute("href") ?? each.getAttribute("src"), each.rel ?? ""])""",
            (site / name).read_text(encoding="utf-8"),
        )
        for link, rel in links:
            path = urldefrag(link).url
            if urlsplit(path).scheme:
                assert link.startswith("data:") or rel == "nofollow noopener noreferrer", link
                continue
            target = (site / name).parent / unquote(path) if path else site / name
            assert target.resolve().is_file(), f"{name}: {link}"
            relative = str(target.resolve().relative_to(site.resolve()))
            if relative.endswith(".html") and relative not in seen and relative not in waiting:
                waiting.append(relative)
    assert seen == {str(path.relative_to(site)) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_pages_fit_every_width_and_theme_and_axe_finds_nothing_serious(open_page: Opener, site: Path) -> None:
    for name in ("index.html", board(site), entry(site)):
        page = open_page(name)
        for width in (360, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, f"{name} at {width}"
        found = {"light": axe_core.Axe().run(page, options=BRIEF)}
        page.emulate_media(color_scheme="dark")
        found["dark"] = axe_core.Axe().run(
            page, options={**BRIEF, "runOnly": ["color-contrast"]}
        )  # all else is the same
        for scheme, rules in found.items():
            serious = [rule["id"] for rule in rules["violations"] if rule["impact"] in SERIOUS]
            assert serious == [], f"{name} in {scheme}"
            assert any(rule["id"] == "color-contrast" for rule in rules["passes"])


def test_an_entry_page_has_its_curve_and_copies_its_command(open_page: Opener, site: Path) -> None:
    page = open_page(entry(site))
    curve = "Chart.getChart(document.querySelector('[data-curve] canvas')).data.datasets[0].data"
    assert page.evaluate(f"{curve}.length") > 10
    assert page.evaluate(f"{curve}.at(-1).y") == 0
    page.get_by_role("button", name="Copy command").click()
    assert page.evaluate("getSelection().toString()").strip() == page.locator("pre.command").inner_text().strip()
    page.keyboard.press("Home")
    page.get_by_role("link", name="Skip to content").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_printing_shows_all_rows_in_light_colours(open_page: Opener) -> None:
    page = open_page("index.html", scheme="dark")
    page.locator("[data-filter=status]").select_option("")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("form[data-filters]").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") is None


def test_tables_of_reports_sort_by_value(open_page: Opener, tmp_path: Path) -> None:
    frame = pd.DataFrame({"searcher": ["a", "b", "c"], "passes": [2_000_000, 900, float("nan")]})
    columns = [
        Column("searcher", lambda row: str(row["searcher"]), "left"),
        Column("spend", lambda row: magnitude(row["passes"])),
    ]
    (tmp_path / "index.html").write_text(render_page(Table(frame, columns, "t"), {}, {}), encoding="utf-8")
    page = open_page(str(tmp_path / "index.html"), width=360)
    header = page.locator("table[data-sortable] th").nth(1)
    for direction, expected in (("descending", ["2M", "900", "—"]), ("ascending", ["—", "900", "2M"])):
        header.click()
        page.locator(f"table[data-sortable] th[aria-sort={direction}]").wait_for(state="attached")
        assert page.locator("table[data-sortable] td").all_inner_texts() == expected


def test_the_tables_are_complete_without_scripts(browser: Browser, site: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    assert page.locator("table[data-entries] tbody tr").count() == len(list(site.glob("entries/*.html")))
    assert not page.locator("form[data-filters]").is_visible()
    context.close()
