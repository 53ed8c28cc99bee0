"""Takes the README's pictures of what takes long: `python scripts/measured_screenshots.py URL …`.

URL is that of a workbench in whose home it has been done: a model compared (`gearshift migrate
parity`), servers measured (`gearshift bench --scenario crossover`), settings searched (`gearshift
tune`). What follows are the names of the pictures: migrate, benchmark, tune.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PATIENCE = 60_000  # milliseconds


def migrate(page: Page) -> None:
    page.get_by_role("radio", name=re.compile("The proof")).click()
    expect(page.get_by_text(re.compile(r"^Verdict"))).to_be_visible()
    page.get_by_text(re.compile("^≈ ")).nth(2).click()
    expect(page.get_by_text("With passages of the documents")).to_be_visible()
    expect(page.locator("code").first).to_be_visible()


def benchmark(page: Page) -> None:
    expect(page.get_by_text("Throughput, output tokens a second").first).to_be_visible()
    expect(page.locator("[data-testid=stVegaLiteChart] canvas, svg.marks").first).to_be_visible()


def tune(page: Page) -> None:
    expect(page.get_by_text("People at once within the goals, by setting")).to_be_visible()


PICTURES = {"migrate": migrate, "benchmark": benchmark, "tune": tune}


def main(url: str, *names: str) -> None:
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name in names:
            page = browser.new_page(viewport={"width": 1280, "height": 1500})
            page.set_default_timeout(PATIENCE)
            page.goto(f"{url}/{name}")
            PICTURES[name](page)
            page.wait_for_timeout(3000)  # charts are drawn after their place is there
            page.screenshot(path=IMAGES / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
