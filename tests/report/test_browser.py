"""The page in a real browser, from disk, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from browsing import CHROMIUM
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, expect, sync_playwright
from synthetic_run import CLASSES, HOSTILE, make_run

from robustvideo.report import build_report

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
FRAMES = 12


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with hostile class names, as a file address."""
    run = make_run(tmp_path_factory.mktemp("browser") / "run", classes=[HOSTILE, *CLASSES[1:]], unusable=1)
    return build_report([run]).as_uri()


class Visit:
    """A page under watch: what it logs, and what it tries to fetch."""

    def __init__(self, context: BrowserContext, address: str):
        self.complaints: list[str] = []
        self.fetched: list[str] = []
        context.route("**/*", self._gate)
        self.page = context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)

    def _hear(self, message: ConsoleMessage) -> None:
        if "willReadFrequently" not in message.text:  # these tests read pixels, the page does not
            self.complaints.append(f"{message.type}: {message.text}")

    def _gate(self, route: Route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.fetched.append(route.request.url)
            route.abort()


@pytest.fixture
def visit(browser: Browser, report: str) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    visit = Visit(context, report)
    yield visit
    context.close()
    assert visit.complaints == []
    assert visit.fetched == []


@pytest.fixture
def page(visit: Visit) -> Page:
    until(visit.page, "document.querySelector('video').readyState >= 2")
    return visit.page


def until(page: Page, condition: str) -> None:
    """Wait for a condition; unlike `wait_for_function` it needs no eval, which the page forbids."""
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    raise TimeoutError(condition)


def shown_frame(page: Page) -> str:
    return page.locator("output.frame").inner_text()


def pixels(page: Page, panel: int) -> list[int]:
    """Every 40th pixel of a panel, red, green, blue and alpha."""
    script = """panel => {
        const canvas = document.querySelectorAll('canvas')[panel];
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const picked = [];
        for (let i = 0; i < data.length; i += 160) picked.push(data[i], data[i + 1], data[i + 2], data[i + 3]);
        return picked;
    }"""
    return list(page.evaluate(script, panel))


def test_the_page_opens_from_disk_without_network_or_errors(page: Page) -> None:
    expect(page.locator("h1")).to_contain_text("With changes of at most 8/255 per pixel")
    assert page.locator(".card").count() > 5
    broken = "[...document.images].filter(i => i.getClientRects().length && !i.naturalWidth).length"
    assert page.evaluate(broken) == 0


def test_the_video_plays_and_all_panels_and_the_strip_follow(page: Page) -> None:
    assert page.evaluate("document.querySelector('video').videoWidth") > 0
    before = [pixels(page, panel) for panel in range(3)]
    assert all(len(set(panel)) > 2 for panel in before)
    page.locator("select[name=speed]").select_option("0.5")
    page.get_by_role("button", name="Play").click()
    until(page, "document.querySelector('video').currentTime > 0.6")
    page.get_by_role("button", name="Pause").click()
    assert page.evaluate("document.querySelector('video').paused")
    until(page, "!document.querySelector('video').seeking")
    page.wait_for_timeout(100)
    assert all(pixels(page, panel) != before[panel] for panel in range(3))
    number = int(shown_frame(page).split()[1])
    assert number > 1
    current = page.locator(".clip.current .strip i")
    assert current.nth(number - 1).evaluate("bar => bar.classList.contains('now')")
    assert page.locator(".clip.current .strip i.now").count() == 1


def test_the_keyboard_steps_frame_by_frame_and_the_picture_is_that_frame(page: Page) -> None:
    stage = page.locator(".stage")
    stage.focus()
    assert shown_frame(page) == f"frame 1 of {FRAMES}"
    # the square moves right by two pixels a frame: the picture tells which frame it is
    corner = """() => {
        const canvas = document.querySelector('canvas');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        let left = canvas.width;
        for (let y = 0; y < canvas.height; y += 8)
            for (let x = 0; x < left; x++) {
                const i = 4 * (y * canvas.width + x);
                if (Math.max(data[i], data[i + 1], data[i + 2]) > 110) left = x;
            }
        return Math.round(left / canvas.width * 32);
    }"""
    places = [page.evaluate(corner)]
    for number in range(2, 7):
        page.keyboard.press("ArrowRight")
        assert shown_frame(page) == f"frame {number} of {FRAMES}"
        until(page, "!document.querySelector('video').seeking")
        page.wait_for_timeout(60)
        places.append(page.evaluate(corner))
        assert page.locator(".scrubber input").input_value() == str(number - 1)
        marked = "[...document.querySelectorAll('.clip.current .strip i')].findIndex(b => b.classList.contains('now'))"
        assert page.evaluate(marked) == number - 1
    assert [b - a for a, b in pairwise(places)] == [2] * 5
    page.keyboard.press("ArrowLeft")
    assert shown_frame(page) == f"frame 5 of {FRAMES}"
    page.keyboard.press("End")
    assert shown_frame(page) == f"frame {FRAMES} of {FRAMES}"
    page.keyboard.press("ArrowRight")
    assert shown_frame(page) == f"frame {FRAMES} of {FRAMES}"
    page.keyboard.press("Home")
    assert shown_frame(page) == f"frame 1 of {FRAMES}"
    page.keyboard.press(" ")
    until(page, "!document.querySelector('video').paused")


def test_a_click_on_the_strip_goes_to_that_frame(page: Page) -> None:
    page.locator(".clip.current .strip i").nth(7).click()
    assert shown_frame(page) == f"frame 8 of {FRAMES}"


def test_the_scrubber_stands_over_the_bar_of_its_frame(page: Page) -> None:
    page.locator(".stage").focus()
    page.keyboard.press("End")
    bars = page.locator(".clip.current .strip i")
    last, track = bars.nth(FRAMES - 1).bounding_box(), page.locator(".scrubber input").bounding_box()
    assert last is not None
    assert track is not None
    thumb_centre = track["x"] + track["width"] - 8
    assert abs(thumb_centre - (last["x"] + last["width"] / 2)) < 3


@pytest.mark.parametrize("bars", [".stand .bar", ".overview .bar"])
def test_equal_shares_have_bars_of_equal_length(page: Page, bars: str) -> None:
    lengths = page.locator(bars).evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert len(lengths) > 1
    assert max(lengths) - min(lengths) < 0.5


def test_filters_choose_what_is_listed(page: Page) -> None:
    cards = page.locator(".card:visible")
    everything = cards.count()
    page.get_by_label("Fooled", exact=True).check()
    fooled = cards.count()
    assert 0 < fooled < everything
    expect(page.locator(".filters .shown")).to_have_text(f"{fooled} clips" if fooled != 1 else "1 clip")
    page.get_by_label("Stood", exact=True).check()
    assert cards.count() == everything - fooled
    page.locator("select[name=attack]").select_option("noise")
    assert all(a == "noise" for a in cards.evaluate_all("cards => cards.map(c => c.dataset.attack)"))
    expect(page.locator(".clip.current")).to_be_visible()
    expect(page.locator(".clip.current")).to_contain_text("noise")


def test_another_clip_can_be_chosen(page: Page) -> None:
    first = pixels(page, 0)
    card = page.locator(".card:not([data-class*='script'])").first
    card.click()
    expect(card).to_have_attribute("aria-pressed", "true")
    until(page, "document.querySelector('video').readyState >= 2")
    page.wait_for_timeout(100)
    assert pixels(page, 0) != first
    expect(page.locator(".says-before")).to_contain_text(card.get_attribute("data-class") or "?")


def test_a_clip_whose_files_are_gone_says_so(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", levels=(8,), saved=3)
    for path in (run / "clips" / "clip-000").iterdir():
        path.unlink()
    context = browser.new_context()
    visit = Visit(context, build_report([run]).as_uri())
    expect(visit.page.locator(".clip.current .problem")).to_contain_text("clips/clip-000/clean.mkv is missing")
    expect(visit.page.locator(".panels")).to_be_hidden()
    visit.page.locator(".card", has=visit.page.locator("img")).first.click()
    expect(visit.page.locator(".panels")).to_be_visible()
    until(visit.page, "document.querySelector('video').readyState >= 2")
    assert visit.complaints == []
    context.close()


def test_hostile_names_do_nothing(page: Page) -> None:
    assert page.evaluate("typeof window.hacked") == "undefined"
    assert page.locator("script:not([type])").count() == 1
    expect(page.locator(".clip.current")).to_contain_text("<script>window.hacked = 1</script>")


@pytest.mark.parametrize("width", [375, 768])
def test_a_narrow_screen_has_no_horizontal_scroll(visit: Visit, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 812})
    visit.page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    wide = """() => [...document.querySelectorAll('body *')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, nav, .cards, pre, code'))
        .filter(e => !e.closest('.hidden, .skip, .source')).map(e => e.className || e.tagName)"""
    assert visit.page.evaluate(wide) == []


def test_dark_and_light_differ_and_the_button_switches(browser: Browser, report: str, tmp_path: Path) -> None:
    shots = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = Visit(context, report).page
        shots[scheme] = page.screenshot()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button", name="Switch between light and dark").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
        context.close()
    assert shots["light"] != shots["dark"]


def test_every_control_is_reached_by_tab_and_shows_its_focus(page: Page) -> None:
    page.locator(".filters input").first.focus()
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        script = "[document.activeElement.className, getComputedStyle(document.activeElement).outlineStyle]"
        name, outline = page.evaluate(script)
        assert outline != "none"
        seen.add(name.split(" ")[0])
        if "scroll" in seen:
            break
    assert {"card", "stage", "step", "play"} <= seen


def test_it_prints_with_key_frames_instead_of_the_player(browser: Browser, report: str, tmp_path: Path) -> None:
    context = browser.new_context()
    page = Visit(context, report).page
    page.emulate_media(media="print")
    expect(page.locator(".stage")).to_be_hidden()
    assert page.locator(".sheet img:visible").count() == page.locator("article.clip").count()
    printed = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000
    context.close()


def test_without_a_script_the_key_frames_are_there(browser: Browser, report: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = Visit(context, report).page
    expect(page.locator("h1")).to_be_visible()
    expect(page.locator(".sheet img").first).to_be_visible()
    expect(page.locator(".stage")).to_be_hidden()
    context.close()
