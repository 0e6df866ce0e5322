"""The results page in a real browser: it opens from disk, navigates, searches, enlarges figures and draws showers."""

from __future__ import annotations

import pytest
from browser import Browser, open_browser
from test_evaluate import config, evaluations, parts  # noqa: F401

from pipeline.evaluation.summary import collect, gather, summarise
from pipeline.figures import draw
from pipeline.figures.report import write_report
from pipeline.figures.showers import in_space

pytestmark = pytest.mark.browser
DRAWN = ("hits", "longitudinal_profile", "shower_space")
PIXELS = """
    const shown = document.getElementById(arguments[0]), copy = document.createElement("canvas");
    [copy.width, copy.height] = [shown.width, shown.height];
    const pen = copy.getContext("2d", { willReadFrequently: true });
    pen.drawImage(shown, 0, 0);
    const bytes = pen.getImageData(0, 0, copy.width, copy.height).data;
    let painted = 0, sum = 0;
    for (let i = 0; i < bytes.length; i += 4) {
        if (bytes[i + 3] > 0) { painted++; sum = (sum * 31 + bytes[i] + bytes[i + 1] + bytes[i + 2] + i) % 1000000007; }
    }
    return [painted, sum];
"""
VISIBLE = "return [...document.querySelectorAll(arguments[0])].filter((e) => e.getClientRects().length).length"


@pytest.fixture(scope="module")
def page(config, evaluations, tmp_path_factory):  # noqa: F811
    folder, tables = tmp_path_factory.mktemp("page"), gather(config, evaluations)
    figures = {name: folder / "figures" / f"{name}.pdf" for name in DRAWN}
    for name, path in figures.items():
        draw(name, tables, path, {})
    rows = collect(config, evaluations)
    write_report(
        folder / "report.html",
        title="toy",
        rows=rows,
        summary=summarise(rows),
        figures=figures,
        configuration="experiment: toy",
        showers=in_space(tables),
    )
    return folder / "report.html"


@pytest.fixture(scope="module")
def window():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def browser(window: Browser, page) -> Browser:
    window.open(page)
    window.run("document.documentElement.style.scrollBehavior = 'auto'")  # a driver does not wait for smooth scrolling
    return window


def test_the_page_loads_nothing_and_says_nothing(browser) -> None:
    loaded = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == browser.console() == []
    widths = browser.run("return [...document.querySelectorAll('main img')].map((image) => image.naturalWidth)")
    assert len(widths) == len(DRAWN) and min(widths) > 100
    assert browser.run("return [...document.querySelectorAll('main img')].every((image) => image.alt.length > 20)")


def test_every_link_of_the_navigation_leads_somewhere(browser) -> None:
    leads = "(a) => document.getElementById(a.hash.slice(1)) !== null"
    assert browser.run(f"return [...document.querySelectorAll('nav a')].every({leads})")
    browser.click("nav a[href='#figure-hits']")
    top = browser.run("return document.getElementById('figure-hits').getBoundingClientRect().top")
    assert 0 <= top < browser.run("return innerHeight")


def test_search_leaves_what_fits(browser) -> None:
    everything = browser.run(VISIBLE, "main figure")
    browser.type("#search", "longitudinal")
    assert everything == len(DRAWN) and browser.run(VISIBLE, "main figure") == 1
    assert "match" in browser.run("return document.getElementById('found').textContent")
    assert browser.run(VISIBLE, "nav a[href='#figure-hits']") == 0
    browser.type("#search", "\ue00c")  # escape
    assert browser.run(VISIBLE, "main figure") == everything
    browser.type("#search", "experiment: toy")
    assert browser.run(VISIBLE, "#configuration pre") == 1


def test_figures_are_enlarged(browser) -> None:
    browser.click("#figure-hits button")
    assert browser.run("return document.querySelector('dialog[open] img').naturalWidth") > 100
    browser.click("dialog button")
    assert not browser.run("return document.querySelector('dialog').open")


def test_showers_are_drawn_and_turned(browser) -> None:
    before = {name: browser.run(PIXELS, name) for name in ("geant4", "second")}
    assert all(painted > 5000 for painted, _ in before.values())
    browser.drag("#geant4", 90, 30)
    browser.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
    after = {name: browser.run(PIXELS, name) for name in before}
    assert all(after[name][1] != before[name][1] for name in before)


def test_sample_energy_and_threshold_are_chosen(browser) -> None:
    names = browser.run("return [...document.getElementById('sample').options].map((o) => o.text)")
    assert names[0] == "Geant4" and len(names) == 3
    choose = """
        const control = document.getElementById(arguments[0]);
        control.value = arguments[1];
        control.dispatchEvent(new Event("input"));
        return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))));
    """
    text = "return document.getElementById('geant4-text').textContent"
    whole = browser.run(text)
    browser.run(choose, "threshold", "99")
    assert whole.split()[2] != "0" and int(browser.run(text).split()[2]) <= 1
    browser.run(choose, "shower", "0")
    browser.run(choose, "sample", "2")
    assert browser.run(text).split()[0] != whole.split()[0]
    assert browser.run("return document.getElementById('second-name').textContent") == names[2]
    browser.click("#reset")
    assert browser.console() == []
