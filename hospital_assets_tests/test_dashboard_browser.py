"""The dashboard in real headless Chromium: pages, slicers, keyboard, accessibility, print, the stream."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from hospital_assets.alerts.outbox import Outbox, Signal, outbox_file
from hospital_assets.automation.build import BuildReport
from hospital_assets.dashboard.pages.menu import MENU
from hospital_assets.settings import Settings, load_settings, write_settings
from hospital_assets_tests.dashboards import Served, published, serve
from hospital_assets_tests.helpers import query, run
from hospital_assets_tests.test_dashboard import NOW, landed, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.nightly

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Whatever a page asks of another host fails, and shows as a failed request.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SCREENSHOTS = Path(__file__).parents[1] / "docs" / "dashboard"
NAMES = [entry.name for entry in MENU]
SLICED = [entry.name for entry in MENU if entry.has_slicers]


@pytest.fixture(scope="module")
def browser(served: Served, built: object) -> Iterator[Browser]:
    # Playwright keeps an event loop in this thread; what is built is built before.
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (apt install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (dev extra)")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Three weeks of a tenth of the network, built: enough days for limits."""
    from hospital_assets.simulator import simulate

    settings = Settings(
        tmp_path_factory.mktemp("weeks"), first_service_date=date(2026, 2, 1), last_service_date=date(2026, 2, 22)
    )
    simulate(settings.landing, settings.ground_truth, start=date(2026, 2, 1), days=22, scale=0.1, seed=3)
    write_settings(settings)
    run(settings)
    return settings


@pytest.fixture(scope="module")
def served(weeks: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from hospital_assets.files import replace_text
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.reports.quality import as_json, gather
    from hospital_assets.warehouse.database import open_warehouse

    settings = published(weeks, tmp_path_factory.mktemp("served") / "data", ("admin", "executive"))
    shutil.copyfile(
        weeks.warehouse_file.with_name("landed_files.parquet"),
        settings.warehouse_file.with_name("landed_files.parquet"),
    )
    with open_warehouse(weeks.warehouse_file) as warehouse:
        replace_text(settings.gathered_quality, as_json(gather(warehouse, load_profiles(None), NOW)))
    with serve(settings) as running:
        yield running


@dataclass
class Opened:
    """A page and what went wrong on it."""

    page: Page
    context: BrowserContext
    problems: list[str] = field(default_factory=list)


def open_page(browser: Browser, address: str, width: int = 1440, height: int = 900, **options: Any) -> Opened:
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    opened = Opened(page, context)
    page.on(
        "console", lambda m: opened.problems.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda e: opened.problems.append(f"error: {e}"))
    # A stream that is still open when the page goes away is no failure.
    page.on(
        "requestfailed", lambda r: opened.problems.append(f"failed: {r.url}") if "/live/events" not in r.url else None
    )
    page.on(
        "request",
        lambda r: (
            opened.problems.append(f"elsewhere: {r.url}")
            if not r.url.startswith(("http://127.0.0.1", "data:", "blob:"))
            else None
        ),
    )
    page.goto(address)
    settle(page)
    return opened


def settle(page: Page) -> None:
    """Wait until the script has seen the figures: locators wait by themselves, without scripts of their own."""
    page.locator("main:not([aria-busy])").wait_for()
    count = page.locator(".plot").count()
    if count and page.evaluate("true"):
        page.locator(".plot[tabindex]").nth(count - 1).wait_for()


def violations(page: Page) -> list[str]:
    """What axe finds on a page: a rule and a place each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="dev extra").Axe()
    found = axe.run(page).response["violations"]
    return [f"{v['id']}: {n['target']} {n['failureSummary']}" for v in found for n in v["nodes"][:3]]


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_clean_and_ask_nothing_of_anybody_else(browser: Browser, served: Served, name: str) -> None:
    opened = open_page(browser, f"{served.address}/{name}")
    assert opened.page.title()
    assert opened.problems == []
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_nothing(browser: Browser, served: Served, name: str, scheme: Any) -> None:
    opened = open_page(browser, f"{served.address}/{name}", color_scheme=scheme, bypass_csp=True)
    for details in opened.page.locator("main details").all()[:4]:
        details.evaluate("d => { d.open = true; }")
    found = violations(opened.page)
    assert not found, "\n".join(found)
    opened.context.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_telephone_shows_everything_without_scrolling_sideways(browser: Browser, served: Served, name: str) -> None:
    opened = open_page(browser, f"{served.address}/{name}", width=390, height=844)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    small = opened.page.evaluate(
        "[...document.querySelectorAll('button, summary, select, nav a, .export')].filter(e => e.checkVisibility())"
        ".map(e => [e.textContent.trim(), e.getBoundingClientRect().height]).filter(([, h]) => h < 24)"
    )
    assert small == []
    # Rows of wide tables are cards, a diagram that does not fit is a list: nothing of them is cut off.
    wide = opened.page.locator(".figure > .as-cards")
    assert all(table.evaluate("t => t.scrollWidth <= t.clientWidth") for table in wide.all())
    for sankey in opened.page.locator(".sankey").all():
        assert not sankey.locator(".plot").is_visible() and sankey.locator(".flows li").first.is_visible()
    opened.context.close()


def kpi(page: Page, name: str = "visits") -> str:
    return page.locator(f"#{name} .value strong").inner_text()


def test_every_slicer_narrows_the_page_and_stands_in_the_address(
    browser: Browser, served: Served, weeks: Settings
) -> None:
    opened = open_page(browser, f"{served.address}/overview")
    page = opened.page
    steps = [
        ("hospital", "H2", lambda: page.select_option("[name=hospital]", "H2")),
        ("department", "Emergency", lambda: page.select_option("[name=department]", "Emergency")),
        ("triage", "3", lambda: page.check("[name=triage][value='3']", force=True)),
        ("period", "last-7", lambda: page.select_option("[name=period]", "last-7")),
    ]
    chosen: dict[str, str] = {}
    for name, value, act in steps:
        with page.expect_response(lambda r: "/overview?" in r.url):
            act()
        settle(page)
        chosen[name] = value
        assert f"{name}={value}" in page.url
        (count,) = query(
            weeks,
            "select sum(visit_count)::bigint from kpis.kpi_waits_daily where "
            f"hospital_id = '{chosen.get('hospital', 'all')}' and department_name = "
            f"'{chosen.get('department', 'all')}' "
            f"and triage_group = '{chosen.get('triage', 'all')}'"
            + (" and service_date > date '2026-02-15'" if "period" in chosen else ""),
        ).row(0)
        assert kpi(page) == f"{count:,}"
    assert "Prairie General, Emergency, triage 3 Urgent" in page.locator("#said").inner_text()
    # The same address, opened anew, is the same page; without scripts, too.
    for options in ({}, {"java_script_enabled": False}):
        again = browser.new_context(**options).new_page()
        again.goto(page.url)
        assert again.locator("#visits .value strong").inner_text() == kpi(page)
        assert again.locator("main .drawing").first.is_visible() or not options
        again.context.close()
    assert opened.problems == []
    opened.context.close()


def test_what_is_supposed_follows_the_slider_and_stands_in_the_address(browser: Browser, served: Served) -> None:
    opened = open_page(browser, f"{served.address}/forecast?hospital=H1")
    page = opened.page
    title = page.locator("#forecast-beds-title")
    slider = page.locator("form.what-if input[type=range]")
    before = int(slider.input_value())
    assert not page.locator("form.what-if button").is_visible()
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(re.compile(rf"hospital=H1&beds={before - 1}$"))
    settle(page)
    assert title.inner_text().startswith(f"With {before - 1:,} beds")
    # The slider is still held, and goes back with the page.
    assert page.evaluate("document.activeElement.name") == "beds"
    page.go_back()
    page.wait_for_url(re.compile("hospital=H1$"))
    settle(page)
    assert title.inner_text().startswith(f"With {before:,} beds, ")
    assert opened.problems == []
    opened.context.close()


def test_what_is_supposed_needs_no_script(browser: Browser, served: Served) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{served.address}/forecast?hospital=H1")
    page.locator("form.what-if button").click()
    assert "hospital=H1" in page.url and "beds=" in page.url
    assert page.locator("#forecast-beds-title").inner_text().startswith("With ")
    context.close()


def test_back_and_forward_go_through_slices(browser: Browser, served: Served) -> None:
    page = (opened := open_page(browser, f"{served.address}/overview")).page
    seen = [(page.url, kpi(page))]
    for hospital in ("H1", "H4"):
        with page.expect_response(lambda r: "/overview?" in r.url):
            page.select_option("[name=hospital]", hospital)
        settle(page)
        seen.append((page.url, kpi(page)))
    assert len({value for _, value in seen}) == 3
    for (url, value), go in ((seen[1], page.go_back), (seen[0], page.go_back), (seen[1], page.go_forward)):
        with page.expect_response(lambda r: "/overview" in r.url):
            go()
        settle(page)
        assert (page.url, kpi(page)) == (url, value)
        wanted = re.search(r"hospital=(\w+)", url)
        assert page.locator("[name=hospital]").input_value() == (wanted.group(1) if wanted else "all")
    opened.context.close()


def test_everything_can_be_done_from_the_keyboard(browser: Browser, served: Served) -> None:
    page = (opened := open_page(browser, f"{served.address}/overview")).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    order = []
    for _ in range(40):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate("document.activeElement.name || document.activeElement.textContent.trim().slice(0, 20)")
        )
        outline = page.evaluate(
            "(e => getComputedStyle(e.type === 'radio' ? e.nextElementSibling : "
            "e).outlineStyle)(document.activeElement)"
        )
        assert outline == "solid", order[-1]
        if order[-1] == "triage":
            break
    assert [name for name in order if name in ("period", "hospital", "department", "triage")] == [
        "period",
        "hospital",
        "department",
        "triage",
    ]
    before = kpi(page)
    with page.expect_response(lambda r: "triage=1" in r.url):
        page.keyboard.press("ArrowRight")
    settle(page)
    assert kpi(page) != before
    link = page.locator("#departments a").first
    name = link.inner_text()
    link.focus()
    with page.expect_response(lambda r: "department=" in r.url):
        page.keyboard.press("Enter")
    settle(page)
    assert page.locator("[name=department]").input_value() == name
    opened.context.close()


def test_a_figure_says_its_values_to_the_mouse_and_to_the_keyboard(browser: Browser, served: Served) -> None:
    page = (opened := open_page(browser, f"{served.address}/overview")).page
    tip = page.locator(".tip")
    page.locator("#wait-trend summary").first.click()
    newest = page.locator("#wait-trend tbody tr").last.inner_text().split("\t")
    said = f"{date.fromisoformat(newest[0]):%b}\nMedian wait: {newest[1]} min, usual range"
    # The whole height over a day says that day's values.
    page.locator("#wait-trend .hit").last.hover()
    assert tip.inner_text().endswith(said)
    plot, box = page.locator("#wait-trend .plot").bounding_box(), tip.bounding_box()
    assert plot and box and plot["x"] <= box["x"] and box["x"] + box["width"] <= plot["x"] + plot["width"]
    page.locator("h1").hover()
    assert tip.count() == 0
    # From the keyboard: the newest day first, then back in time; read out; gone with Escape.
    page.locator("#wait-trend summary").first.focus()
    page.keyboard.press("Shift+Tab")
    assert tip.inner_text().endswith(said)
    page.keyboard.press("ArrowLeft")
    before = page.locator("#wait-trend tbody tr").nth(-2).inner_text().split("\t")
    assert f"Median wait: {before[1]} min" in tip.inner_text()
    assert f"Median wait: {before[1]} min" in page.locator("#said").inner_text()
    page.keyboard.press("Escape")
    assert tip.count() == 0
    # Every other kind says its values, too: cells by row and column.
    for figure in ("#hours", "#blood", "#doctors-chart"):
        assert page.locator(f"{figure} .plot svg title").count() > 3
    page.locator("#hours .plot").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert tip.inner_text().startswith("Tue 00")
    # Nothing of it is lost: the mark has its words back.
    page.keyboard.press("Tab")
    assert page.locator(".plot .on").count() == 0
    assert page.locator("#hours .heat:has(> title)").count() == 7 * 24
    assert opened.problems == []
    opened.context.close()


def overlap(one: Any, other: Any) -> bool:
    """Whether two boxes lie over another by more than the white above and below letters."""
    is_beside = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
    is_below = one["y"] + one["height"] <= other["y"] + 3 or other["y"] + other["height"] <= one["y"] + 3
    return not is_beside and not is_below


@pytest.mark.parametrize("width", [390, 800, 1440])
def test_text_of_a_figure_keeps_its_size_and_none_lies_over_another(
    browser: Browser, served: Served, width: int
) -> None:
    for name in ("overview", "flow", "forecast", "workforce"):
        opened = open_page(browser, f"{served.address}/{name}", width=width)
        for figure in opened.page.locator(".fluid").all():
            boxes = figure.locator(".tick:visible, .name:visible, .unit:visible").all()
            drawn = [box for box in (text.bounding_box() for text in boxes) if box]
            assert len(drawn) > 3 and all(10 <= box["height"] <= 16 for box in drawn)
            assert not [name for one, other in combinations(drawn, 2) if overlap(one, other)]
        opened.context.close()


def test_tiny_and_empty_slices_are_designed(browser: Browser, served: Served) -> None:
    address = "period=days&from=2026-02-01&to=2026-02-01&hospital=H7&department=Oncology&triage=1"
    for name in SLICED:
        opened = open_page(browser, f"{served.address}/{name}?{address}")
        text = opened.page.locator("main").inner_text()
        assert "NaN" not in text and "None" not in text and "undefined" not in text
        if name == "overview":
            assert opened.page.get_by_text("Too few patients to show").count() >= 3
        assert opened.problems == []
        opened.context.close()


def test_the_overview_prints_on_two_pages_with_its_slice(browser: Browser, served: Served, tmp_path: Path) -> None:
    page = (opened := open_page(browser, f"{served.address}/overview?hospital=H2")).page
    page.emulate_media(media="print")
    assert page.locator(".slice").is_visible() and not page.locator(".slicers").is_visible()
    assert page.locator("#wait-trend .drawing").is_visible()
    printed = page.pdf(path=tmp_path / "overview.pdf", prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) <= 2
    opened.context.close()


def test_the_numbers_of_the_charts_are_those_of_the_table(browser: Browser, served: Served, weeks: Settings) -> None:
    page = (opened := open_page(browser, f"{served.address}/overview")).page
    page.locator("#wait-trend summary").first.click()
    cells = page.locator("#wait-trend tbody tr").all_inner_texts()
    wanted = query(
        weeks,
        "select service_date, wait_median_minutes, wait_count from kpis.kpi_waits_daily where hospital_id = 'all' "
        "and department_name = 'all' and triage_group = 'all' order by 1",
    )
    assert [re.split(r"\s*\t\s*", cell)[:3] for cell in cells] == [
        [str(day), f"{median:.1f}", f"{n:,}"] for day, median, n in wanted.iter_rows()
    ]
    opened.context.close()


def test_the_board_shows_what_lands_and_says_when_it_lost_its_stream(
    browser: Browser, built: tuple[Settings, BuildReport], tmp_path: Path
) -> None:
    settings = published(built[0], tmp_path / "data", ("admin",))
    folder = settings.warehouse_file.parent
    (folder / "live" / "open_visits.parquet").unlink()
    landed(folder, [visit("a", 5)])
    with closing(Outbox(outbox_file(settings))) as outbox:
        outbox.record([Signal("critical_wait", "a", NOW, True, "critical", "a long wait", hospital_id="H1")], NOW)
    with serve(settings) as running:
        object.__setattr__(running.dashboard.board, "now", lambda: NOW)
        opened = open_page(browser, running.address + "/live")
        page = opened.page
        page.get_by_text("live, ").wait_for()
        assert page.locator("tr[data-visit]").count() == 1
        landed(folder, [visit("b", 30, triage_level=1, department_name="ICU")])
        page.locator("tr[data-visit]").nth(1).wait_for(timeout=60_000)
        assert (
            "Resuscitation" in page.locator("tr[data-visit]").first.inner_text()
            or "1 a" in page.locator("tr[data-visit]").first.inner_text()
        )
        assert page.locator("tr.changed").count() >= 1
        page.locator("#only").select_option("ICU")
        assert page.locator("tr[data-visit]:visible").count() == 1
        page.locator(".alerts .ack").click()
        page.get_by_text("Noted").or_(page.locator(".alerts").get_by_text("local")).first.wait_for()
        assert running.seen[-1].action == "acknowledge"
        assert opened.problems == []
    page.get_by_text("connection lost").wait_for(timeout=60_000)
    assert "lost" in (page.locator("body").get_attribute("class") or "")
    opened.context.close()


def fill_board(served: Served) -> None:
    """A full board on a made-up afternoon: every band, level and age."""
    folder = served.dashboard.board.warehouse_file.parent
    (folder / "live" / "open_visits.parquet").unlink(missing_ok=True)
    complaints = ["chest pain", "fever", "shortness of breath", "head injury", "abdominal pain", "laceration"]
    departments = ["Emergency", "Emergency", "Pediatrics", "Cardiology", "Surgery"]
    landed(
        folder,
        [
            visit(
                f"B{i}",
                (7 * i) % 97 + 1,
                triage_level=1 + (i * i + 2) % 5,
                chief_complaint=complaints[i % 6],
                department_name=departments[i % 5],
                age_years=(13 * i) % 90 + 1,
                hospital_id=f"H{i % 7 + 1}",
                recorded_at=NOW,
            )
            for i in range(31)
        ],
        [
            {"visit_id": f"B{i}", "measured_at": NOW, "news2_score": score, "has_news2_red_parameter": score == 3}
            for i, score in enumerate([1, 2, 0, 8, 4, 5, 1, 0, 3, 2, 6, 1, 0, 2, 1, 0, 4, 1, 2, 0, 1, 2, 0, 1])
        ],
    )
    names = ["Resuscitation", "Emergent", "Urgent", "Less urgent", "Non-urgent"]
    pl.DataFrame(
        {"scale": ["ESI"] * 5, "level": [1, 2, 3, 4, 5], "level_name": names, "target_minutes": [0.0, 10, 30, 60, 120]}
    ).write_parquet(folder / "live" / "triage_targets.parquet")
    object.__setattr__(served.dashboard.board, "now", lambda: NOW)
    object.__setattr__(served.dashboard.board, "is_live", lambda: True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_full_board(browser: Browser, served: Served, scheme: Any) -> None:
    fill_board(served)
    opened = open_page(browser, f"{served.address}/live", color_scheme=scheme, bypass_csp=True)
    opened.page.get_by_text("live, ").wait_for()
    assert not violations(opened.page) and opened.page.locator("tr[data-visit]").count() == 31
    opened.context.close()


def test_a_telephone_shows_every_patient_of_the_board_whole(browser: Browser, served: Served) -> None:
    fill_board(served)
    page = (opened := open_page(browser, f"{served.address}/live", width=390, height=844)).page
    page.get_by_text("live, ").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    patients = page.locator("tr[data-visit]")
    # What to do and of whom stand within the card of the most urgent, which is one of few rows on the screen.
    for part in ("th", ".chip", ".score", ".action"):
        box = patients.first.locator(part).first.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert all(table.evaluate("t => t.scrollWidth <= t.clientWidth") for table in page.locator(".as-cards").all())
    page.locator("#only").select_option("Cardiology")
    assert {row.get_attribute("data-department") for row in patients.filter(visible=True).all()} == {"Cardiology"}
    assert opened.problems == []
    opened.context.close()


@pytest.mark.parametrize("width", [390, 1440])
def test_the_visits_behind_a_figure_are_one_step_away(
    browser: Browser, served: Served, weeks: Settings, width: int
) -> None:
    page = (opened := open_page(browser, f"{served.address}/overview?hospital=H2&triage=2", width=width)).page
    definition = page.locator("#visits details.definition")
    definition.locator("summary").click()
    definition.get_by_role("link", name="The visits behind it").click()
    page.wait_for_url(re.compile(r"/visits\?hospital=H2&triage=2$"))
    wanted = query(
        weeks,
        "select visit_id from facts.fact_emergency_visits join dimensions.dim_hospital using (hospital_key) "
        "where hospital_id = 'H2' and triage_level = 2 order by arrival_local desc, visit_id",
    )["visit_id"].to_list()
    assert page.locator("#visits-title").inner_text() == f"{len(wanted)} visits"
    assert page.locator("#visits tbody th").all_inner_texts() == wanted
    with page.expect_download() as found:
        page.locator("#visits .export").click()
    assert found.value.suggested_filename.startswith("visits") and "H2" in found.value.suggested_filename
    assert len(found.value.path().read_text(encoding="utf-8-sig").strip().splitlines()) == len(wanted) + 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.problems == []
    opened.context.close()


def test_screenshots_for_the_documentation(browser: Browser, served: Served) -> None:
    """Writes docs/dashboard/*.png, so that people look at them.

    HOSPITAL_SCREENSHOTS names a data directory with publications, as `make demo` and `hospital
    publish` leave it.
    """
    folder = os.environ.get("HOSPITAL_SCREENSHOTS")
    if not folder:
        pytest.skip("set HOSPITAL_SCREENSHOTS to a published data directory to write docs/dashboard")
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed (dev extra)")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    fill_board(served)
    shots = [(name, 1440, "light") for name in NAMES] + [("overview", 1440, "dark"), ("overview", 390, "light")]
    with serve(load_settings(Path(folder))) as running:
        for name, width, scheme in shots:
            address = (served if name == "live" else running).address
            opened = open_page(browser, f"{address}/{name}", width=width, color_scheme=scheme)
            if name == "live":
                opened.page.get_by_text("live, ").wait_for()
            suffix = "-dark" if scheme == "dark" else "-narrow" if width < 600 else ""
            target = SCREENSHOTS / f"{name}{suffix}.png"
            height = min(opened.page.evaluate("document.documentElement.scrollHeight"), 1800)
            shot = opened.page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height}, full_page=True)
            # 256 colours are enough for text and marks, and keep the documentation small.
            with image.open(io.BytesIO(shot)) as found:
                found.convert("RGB").quantize(256, method=image.Quantize.MAXCOVERAGE, dither=image.Dither.NONE).save(
                    target, optimize=True
                )
            assert target.stat().st_size < 200_000
            opened.context.close()


def test_the_report_opens_from_disk_and_prints_on_two_pages(browser: Browser, served: Served, tmp_path: Path) -> None:
    from hospital_assets.reports.overview import as_page

    report = tmp_path / "overview.html"
    settings = served.dashboard.board.warehouse_file.parents[1]
    report.write_text(as_page(settings, "executive")[1], encoding="utf-8")
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.on("console", lambda m: asked.append(m.text))
    page.goto(report.as_uri())
    assert page.locator("#wait-trend .drawing .mark").count() > 20
    assert asked == [report.as_uri()]
    printed = page.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 2
    page.close()
