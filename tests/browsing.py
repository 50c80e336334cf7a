"""Pages in a real browser: nothing is loaded, complained of, cut off or without words."""

from pathlib import Path
from typing import Any


def look(browser: Any, page: Path, pictures: Path, width: int = 1000) -> Any:
    """Return the page as a browser shows it, and save a screenshot of each section."""
    tab = browser.new_page(viewport={"width": width, "height": 900})
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    assert said == [] and [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    for picture in tab.query_selector_all("img"):
        assert (
            len(picture.get_attribute("alt")) > 40
            and picture.evaluate("node => node.naturalWidth") > 0
        )
    for table in tab.query_selector_all("table"):
        assert table.query_selector("caption") and table.query_selector("th[scope=col]")
    for unfold in (False, True):
        tab.evaluate(
            "open => document.querySelectorAll('details').forEach(one => one.open = open)", unfold
        )
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, (
            "no sideways scrolling, on a phone either"
        )
    pictures.mkdir(exist_ok=True)
    for section in tab.query_selector_all("section"):
        section.screenshot(path=str(pictures / f"{width}-{section.get_attribute('id')}.png"))
    return tab
