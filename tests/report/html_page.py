"""A page as a browser's parser sees it: elements with attributes, text by element, tables, and what it refers to."""

from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "br", "hr", "wbr", "path", "use", "line"}
_REFERRING = {
    "src",
    "srcset",
    "href",
    "xlink:href",
    "data",
    "poster",
    "action",
    "formaction",
    "background",
    "cite",
}


class ParsedPage(HTMLParser):
    """``elements``: (tag, attributes); ``tables``: rows of cell texts; ``styles``: sheets and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.styles: list[str] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if "style" in attributes:
            self.styles.append(attributes["style"])
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.styles.append(data)
            return
        self.text.append(data)
        if "table" in self._open and any(cell in self._open for cell in ("td", "th")):
            separator = " " if "small" in self._open else ""
            self.tables[-1][-1][-1] += separator + data

    @property
    def visible(self) -> str:
        """All text, white space collapsed."""
        return " ".join(" ".join(self.text).split())

    @property
    def references(self) -> list[str]:
        """Everything that the page would load or lead to."""
        return [
            value
            for _, attributes in self.elements
            for name, value in attributes.items()
            if name in _REFERRING
        ]

    @property
    def ids(self) -> list[str]:
        """Every id, repeated ones included."""
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def tags(self) -> set[str]:
        """Names of all elements."""
        return {tag for tag, _ in self.elements}
