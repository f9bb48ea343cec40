"""The page of `mc analyze --html` in a real browser: sorted, filtered, opened, without a word on the console."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from conftest import safetensors
from mc import analyze
from mc_cli.commands.analyze import plain
from mc_cli.page import page

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,1300"
)  # fmt: skip
NASTY = "</script><script>document.title='broken'</script>"
TENSORS = 1000


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages of an ordinary checkpoint and of one with a thousand tensors and odd names."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    low = (rng.normal(size=(96, 4)) @ rng.normal(size=(4, 64))).astype(np.float32)
    ordinary: dict[str, tuple[str, np.ndarray]] = {
        "layers.0.weight": ("F32", rng.normal(0, 0.02, (96, 64)).astype(np.float32)),
        "layers.1.weight": ("F32", low),
        "layers.1.half": ("F16", rng.laplace(size=(64, 80)).astype(np.float16)),
        "constant": ("F32", np.full((4, 4), 2, "f4")),
        "empty": ("F32", np.empty((0, 3), "f4")),
        "broken": ("F32", np.full(5, np.nan, "f4")),
        "steps": ("I64", rng.poisson(9, 5000)),
        NASTY: ("I32", np.array(3, "i4")),
    }
    many: dict[str, tuple[str, np.ndarray]] = {
        f"block.{k // 10}.weight.{k}": ("F32", rng.normal(k, 1, 32).astype(np.float32)) for k in range(TENSORS)
    }
    for name, tensors in (("ordinary", ordinary), ("many", many)):
        (folder / f"{name}.safetensors").write_bytes(safetensors(tensors))
        found = analyze(folder / f"{name}.safetensors", deep=name == "ordinary")
        (folder / f"{name}.html").write_text(page([plain(found)]), "utf-8")
        if name == "ordinary":
            scores: list[Any] = [[900, 1.0, True], [300, 0.98, True], [200, 0.7, False], [250, 0.9, False], ["x"], 3]
            second = {"as": "grid", "bytes": 900, "loss": 0.02, "cost": 0.07}
            listed: dict[str, Any] = {
                "layers.0.weight": {"as": "trellis,effort=8", "bytes": 800, "loss": 0.01, "bits": 2.5, "next": second},
                "layers.1.weight": {"as": "low-rank,rank=4+grid", "bytes": 2000, "loss": 0, "next": {"cost": 1e9}},
                "edited": {"as": 3, "bytes": "x", "next": [1]},
                NASTY: None,
            }
            plan = {"plans": [{"scores": scores, "tensors": listed}], "explanation": ["It is smaller.", NASTY]}
            (folder / "planned.html").write_text(page([{**plain(found), "plan": plan}]), "utf-8")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """Chromium without a window, with a profile of its own."""
    if BROWSER is None or DRIVER is None:
        pytest.skip("LEFT OUT: the page's tests need Debian's chromium and chromium-driver, which aren't installed.")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        try:
            yield driver
        finally:
            driver.quit()


def names(browser: Chrome) -> list[str]:
    """The tensors in the table, as they stand."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('#tensors tbody tr')].map(row => row.cells[0].textContent)"
    )
    return found


def text(browser: Chrome, selector: str) -> str:
    found = browser.find_element("css selector", selector).text
    return str(found)


def log(browser: Chrome) -> list[Any]:
    """What the browser's console has to say."""
    found: list[Any] = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return found


def test_a_tensor_is_found_sorted_and_opened(browser: Chrome, pages: Path) -> None:
    browser.get((pages / "ordinary.html").as_uri())
    assert browser.title == "ordinary.safetensors · mc analyze"
    assert len(names(browser)) == 8 and NASTY in names(browser)
    assert len(browser.find_elements("css selector", "#sizes .size")) == 4
    assert "Factor at rank 4" in text(browser, "#advice")
    browser.find_element("css selector", "[data-sort=std]").click()
    assert names(browser)[:2] == ["steps", "layers.1.weight"] and set(names(browser)[-2:]) == {"empty", "broken"}
    browser.find_element("css selector", "[data-sort=std]").click()
    assert names(browser)[2] == "layers.0.weight"
    assert set(names(browser)[-2:]) == {"empty", "broken"}  # what has no figure stays last
    browser.find_element("id", "filter").send_keys("layers f16")
    assert names(browser) == ["layers.1.half"] and text(browser, "#count") == "1 of 8"
    browser.find_element("css selector", "#tensors tbody tr").click()
    assert text(browser, "#detail-name") == "layers.1.half"
    assert len(browser.find_elements("css selector", "#detail .curve")) >= 4
    assert "laplace" in text(browser, "#detail .models")
    colours = browser.execute_script(
        "const c = document.querySelector('#detail canvas');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return new Set([...Array(d.length / 4).keys()].map(k => d.slice(4 * k, 4 * k + 3).join())).size"
    )
    assert colours > 50  # the map of scales is drawn
    browser.find_element("css selector", "body").send_keys("\ue00c")  # Escape
    assert not browser.find_element("id", "detail").is_displayed()
    assert log(browser) == []


def test_every_kind_of_tensor_can_be_opened(browser: Chrome, pages: Path) -> None:
    browser.get((pages / "ordinary.html").as_uri())
    for number in range(8):
        browser.execute_script(f"document.querySelectorAll('#tensors tbody tr')[{number}].click()")
        assert text(browser, "#detail-name") == names(browser)[number]
    assert log(browser) == []


def test_light_and_dark(browser: Chrome, pages: Path) -> None:
    browser.get((pages / "ordinary.html").as_uri())

    def ground() -> tuple[str, bytes]:
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return colour, browser.get_screenshot_as_png()

    before = ground()
    browser.find_element("id", "theme").click()
    after = ground()
    assert before[0] != after[0] and before[1] != after[1]
    browser.find_element("id", "theme").click()
    assert ground()[0] == before[0] and log(browser) == []


def test_a_thousand_tensors(browser: Chrome, pages: Path) -> None:
    browser.get((pages / "many.html").as_uri())
    assert len(names(browser)) == TENSORS
    browser.find_element("id", "filter").send_keys("block.42.")
    assert names(browser) == [f"block.42.weight.{k}" for k in range(420, 430)]
    assert log(browser) == []


def test_nothing_is_fetched(pages: Path) -> None:
    assert "\\u003c/script>" in (pages / "ordinary.html").read_text()
    for made in pages.glob("*.html"):
        assert "http" not in made.read_text().replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_the_plan_of_auto_is_told_and_its_scores_are_drawn(pages: Path, browser: Chrome) -> None:
    browser.get((pages / "planned.html").as_uri())
    from selenium.webdriver.common.by import By

    panel = browser.find_element(By.ID, "planned")
    assert panel.is_displayed()
    assert [item.text for item in panel.find_elements(By.TAG_NAME, "li")] == ["It is smaller.", NASTY]
    assert len(panel.find_elements(By.TAG_NAME, "circle")) == 3
    assert "the original, 900 B: 1" in panel.find_element(By.TAG_NAME, "svg").text

    def choices() -> list[list[str]]:
        found: list[list[str]] = browser.execute_script(
            "return [...document.querySelectorAll('#choices tbody tr')]"
            ".map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return found

    assert [row[0] for row in choices()] == ["layers.1.weight", "layers.0.weight", "edited", NASTY]  # largest first
    assert choices()[1][1:6] == ["trellis,effort=8", "800 B", "0.01", "2.50", "–"]
    assert choices()[1][7:] == ["grid", "900 B", "0.02", "7.0 %"] and choices()[0][-1] == "far"
    browser.find_element(By.CSS_SELECTOR, "#choices [data-order='10']").click()
    assert [row[0] for row in choices()][:2] == ["layers.1.weight", "layers.0.weight"]
    browser.find_element(By.CSS_SELECTOR, "#choices [data-order='0']").click()
    assert [row[0] for row in choices()][1:] == ["edited", "layers.0.weight", "layers.1.weight"]
    log: Any = browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert browser.title != "broken" and not log
    browser.get((pages / "ordinary.html").as_uri())
    assert not browser.find_element(By.ID, "planned").is_displayed()
