"""Takes the README's picture of a migration: `python scripts/migration_screenshot.py URL`.

URL is that of a workbench whose model has been compared already (`gearshift migrate parity`).
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "migrate.png"


def main(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.goto(f"{url}/migrate")
        page.get_by_role("radio", name=re.compile("The proof")).click(timeout=60_000)
        expect(page.get_by_text(re.compile(r"^Verdict"))).to_be_visible(timeout=60_000)
        page.get_by_text(re.compile("^≈ ")).nth(2).click()
        expect(page.get_by_text("With passages of the documents")).to_be_visible(timeout=60_000)
        expect(page.locator("code").first).to_be_visible(timeout=60_000)
        page.wait_for_timeout(2000)
        page.screenshot(path=IMAGE)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
