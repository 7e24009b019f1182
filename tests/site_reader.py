"""Whoever reads the page in a browser."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import BrowserContext, Page


class Reader:
    """Opens pages of the site, and keeps what they said and asked for."""

    def __init__(self, context: BrowserContext, folder: Path) -> None:
        self.page: Page = context.new_page()
        self.folder = folder
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, where: str) -> Page:
        self.page.goto("about:blank")
        self.page.goto(f"{(self.folder / 'site' / 'index.html').as_uri()}{where}")
        return self.ready()

    def ready(self) -> Page:
        self.page.wait_for_selector("main:not([aria-busy])")
        return self.page

    def until(self, expression: str) -> None:
        """Waits for it to be true. Playwright's own way of waiting for that is an eval, which the page forbids."""
        for _ in range(1000):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(10)
        raise AssertionError(f"never true: {expression}")

    def saved(self, button: str) -> str:
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=button, exact=True).click()
        return Path(download.value.path()).read_text(encoding="utf-8")

    def column(self, place: int) -> list[str]:
        cells = self.page.locator(f".grid tbody tr td:nth-child({place})")
        return [text.strip() for text in cells.all_inner_texts()]

    def column_becomes(self, place: int, expected: list[str]) -> bool:
        """Waits for a column to hold these texts: rows are sorted and filtered after the event that asks for it."""
        for _ in range(500):
            if (found := self.column(place)) == expected:
                return True
            self.page.wait_for_timeout(10)
        raise AssertionError(f"column {place} is {found}, not {expected}")
