"""The layout of the page and what its parts answer; everything it says comes from ``session`` and ``render``."""

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stablerep.errors import UserError
from stablerep.gallery import pairs, render
from stablerep.gallery.columns import read_filter
from stablerep.gallery.facets import facets
from stablerep.gallery.pairs import Place
from stablerep.gallery.projection import projections
from stablerep.gallery.routes import add_routes
from stablerep.gallery.session import Gallery, Wish

_HEAD = (
    '<link rel="stylesheet" href="/gallery/static/gallery.css">'
    '<script src="/gallery/static/map.js"></script><script src="/gallery/static/gallery.js"></script>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
)
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "multiple"}


def application(gallery: Gallery) -> Any:
    """A FastAPI application with the page at ``/`` and the pictures beside it."""
    import fastapi
    import gradio as gr

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, gallery)
    fonts = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
    return gr.mount_gradio_app(
        app,
        lay_out(gallery),
        path="/",
        allowed_paths=[],
        blocked_paths=[str(Path("/").absolute())],
        ssr_mode=False,
        footer_links=[],
        show_error=False,
        theme=gr.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"]),
        head=_HEAD,
    )


def lay_out(gallery: Gallery) -> Any:
    """The page."""
    import gradio as gr

    with gr.Blocks(
        title=f"{gallery.main.name} · stablerep gallery", analytics_enabled=False, fill_width=True
    ) as page:
        head = _part("header", render.header(gallery))
        wish = gr.State(Wish())
        with gr.Tabs(elem_id="sg-tabs"):
            with gr.Tab("Browse", id="browse"):
                _browse_tab(gallery, wish, page, head)
            with gr.Tab("Compare", id="compare") as tab:
                _compare_tab(gallery, tab)
            with gr.Tab("Copies", id="copies") as tab:
                _copies_tab(gallery, tab)
            with gr.Tab("Map", id="map"):
                _map_tab(gallery, wish)
            with gr.Tab("Paint", id="paint"):
                _paint_tab(gallery)
    page.queue(default_concurrency_limit=1, api_open=False)
    return page


def _part(name: str, value: Any = None, **more: Any) -> Any:
    """A part of the page that ``gallery.js`` fills and listens to; ``value`` is HTML or plain values for it."""
    import gradio as gr

    is_html = isinstance(value, str)
    # The script of the page may come after its parts.
    start = (
        "const part = {element, trigger, props, server, watch}; const events = ['chosen', 'turned', 'resembles'];"
        f"(function start() {{ if (window.stablerepGallery) window.stablerepGallery.{name}(part);"
        " else setTimeout(start, 20); })();"
    )
    return gr.HTML(
        value,
        html_template="${value}" if is_html else f'<div class="sg-{name}"></div>',
        js_on_load=start,
        apply_default_css=False,
        elem_id=f"sg-{name}-part",
        **more,
    )


# -- browse ------------------------------------------------------------------------------------------


def _browse_tab(gallery: Gallery, wish: Any, page: Any, head: Any) -> None:
    import gradio as gr

    with gr.Row(elem_id="sg-searchbar", equal_height=True):
        reads = gallery.looker.reads
        text = gr.Textbox(
            label="Search",
            placeholder="what a picture shows" if reads else "words of a caption",
            elem_id="sg-search",
            scale=5,
            max_lines=1,
        )
        modes = [("by meaning", "meaning"), ("by words", "words")]
        mode = gr.Radio(modes, value="meaning" if reads else "words", label="How", visible=reads, scale=2)
        picker = _part("picker", {"like": None}, scale=1)
    with gr.Row(elem_id="sg-browse"):
        controls = _part("controls", {"columns": []}, scale=1)
        results = _part("results", "", scale=4, server_functions=[_marker(gallery)])
    outputs = [wish, results, controls, picker]

    def show(asked: Wish) -> tuple[Any, ...]:
        return _show(gallery, asked)

    def typed(asked: Wish, said: str, how: str) -> tuple[Any, ...]:
        return show(replace(asked, text=said, mode=how, like=None, page=0))  # type: ignore[arg-type]

    def changed(asked: Wish, event: gr.EventData) -> tuple[Any, ...]:
        return _told(lambda: show(_controlled(asked, event.said)), asked)

    def paged(asked: Wish, event: gr.EventData) -> tuple[Any, ...]:
        return show(replace(asked, page=int(event.said)))

    def liked(asked: Wish, event: gr.EventData) -> tuple[Any, ...]:
        return _told(lambda: show(replace(asked, like=_like(event.said), page=0)), asked)

    def opened(asked: Wish) -> tuple[Any, ...]:
        gallery.refresh()
        return *show(asked), render.header(gallery)

    # A request is never dropped because another one is under way: the last change is the one that counts.
    # One group: answers come in the order of the questions, and no search runs while the table is read anew.
    quiet = {**_QUIET, "outputs": outputs, "concurrency_id": "browse"}
    for listen in (text.submit, mode.input):
        listen(typed, [wish, text, mode], **quiet)
    controls.chosen(changed, [wish], **quiet)
    results.turned(paged, [wish], **quiet)
    results.resembles(liked, [wish], **quiet)
    picker.resembles(liked, [wish], **quiet)
    page.load(opened, [wish], **{**quiet, "outputs": [*outputs, head]})


def _show(gallery: Gallery, asked: Wish) -> tuple[Any, ...]:
    """The wish, and what the parts of the first tab show for it."""
    try:
        shown = gallery.browse(asked)
        side = facets(gallery, asked, shown.rows)
        content = render.results(gallery, shown, asked.sort)
    except UserError as error:
        return _failed(asked, error)
    return asked, content, {**side, **_chosen(asked)}, {"like": _like_words(asked)}


def _failed(asked: Wish, error: UserError) -> tuple[Any, ...]:
    import gradio as gr

    return asked, render.note("That did not work", str(error)), gr.skip(), gr.skip()


def _told(answer: Callable[[], tuple[Any, ...]], asked: Wish) -> tuple[Any, ...]:
    try:
        return answer()
    except UserError as error:
        return _failed(asked, error)


def _chosen(asked: Wish) -> dict[str, Any]:
    return {"view": asked.view, "sort": asked.sort, "descending": asked.descending, "turn": asked.turn}


def _like_words(asked: Wish) -> str | None:
    if asked.like is None:
        return None
    return "your picture" if isinstance(asked.like, bytes) else "a picture of the table"


def _controlled(asked: Wish, said: Mapping[str, Any]) -> Wish:
    """A wish after the reader changed the side of the page."""
    filters = {str(name): read_filter(value) for name, value in dict(said.get("filters", {})).items()}
    return replace(
        asked,
        filters={name: chosen for name, chosen in filters.items() if chosen is not None},
        view="pictures" if said.get("view") == "pictures" else "captions",
        sort=str(said.get("sort", asked.sort)),
        descending=bool(said.get("descending")),
        turn=int(said.get("turn", 0)),
        page=0,
    )


def _like(said: Any) -> Place | bytes | None:
    """A picture that the browser names, or sends as a data address; ``UserError`` for anything else."""
    if not said:
        return None
    text = str(said)
    if text.startswith("data:image/"):
        try:
            return base64.b64decode(text.partition(",")[2], validate=True)
        except ValueError as error:  # no base 64, or letters beyond ASCII
            raise UserError("the picture did not arrive whole; try again") from error
    return read_place(text)


def read_place(said: str) -> Place:
    """``0/12`` as a place; ``UserError`` for anything else."""
    table, _, position = said.partition("/")
    if not (table.isdecimal() and position.isdecimal()):
        raise UserError(f"{said[:40]!r} names no picture; reload the page")
    return Place(int(table), int(position))


def _marker(gallery: Gallery) -> Callable[[Any], dict[str, Any]]:
    def mark(said: Any) -> dict[str, Any]:
        """Called by the browser with ``{"places": [...], "mark": name or null}``."""
        try:
            places = [gallery.place(place.table, place.position) for place in map(read_place, said["places"])]
            gallery.mark(places, said["mark"])
        except UserError as error:
            return {"problem": str(error)}
        return {"marked": gallery.num_marked()}

    return mark


# -- the other tabs ----------------------------------------------------------------------------------


def _compare_tab(gallery: Gallery, tab: Any) -> None:
    import gradio as gr

    names = pairs.lanes(gallery.tables)
    if len(names) < 2:
        gr.HTML(
            render.note("One origin only", "Open a table with two origins, or a second table with --beside."),
            apply_default_css=False,
        )
        return
    choices = list(names)
    with gr.Row(elem_classes="sg-bar"):
        left = gr.Dropdown(choices, value=choices[0], label="Above", filterable=False)
        right = gr.Dropdown(choices, value=choices[1], label="Below", filterable=False)
    results = _part("compared", "")

    def compare(above: str, below: str, number: int = 0) -> str:
        rows, page, total = gallery.compare(names[above], names[below], number)
        return render.comparison(gallery, rows, page, (above, below), total)

    def paged(above: str, below: str, event: gr.EventData) -> str:
        return compare(above, below, int(event.said))

    quiet = {**_QUIET, "outputs": results}
    for listen in (tab.select, left.input, right.input):
        listen(compare, [left, right], **quiet)
    results.turned(paged, [left, right], **quiet)


def _copies_tab(gallery: Gallery, tab: Any) -> None:
    import gradio as gr

    if not pairs.has_copies(gallery.main):
        gr.HTML(
            render.note(
                "Nobody looked for copies yet",
                f"`stablerep audit copies {gallery.main.table.path} --reference REAL.lance` does; then open the "
                "gallery again.",
            ),
            apply_default_css=False,
        )
        return
    column = gallery.main.column(pairs.COPY_VERDICT)
    choices = [name for name in getattr(column, "choices", ()) if name != "(none)"]
    verdicts = gr.CheckboxGroup(choices, label="Verdict", visible=len(choices) > 1)
    results = _part("copied", "")

    def show(chosen: list[str], number: int = 0) -> str:
        found, page, total = gallery.copies(chosen, number)
        return render.copies(gallery, found, page, total)

    def paged(chosen: list[str], event: gr.EventData) -> str:
        return show(chosen, int(event.said))

    quiet = {**_QUIET, "outputs": results}
    for listen in (tab.select, verdicts.input):
        listen(show, [verdicts], **quiet)
    results.turned(paged, [verdicts], **quiet)


def _map_tab(gallery: Gallery, wish: Any) -> None:
    import gradio as gr

    with gr.Row(elem_classes="sg-bar sg-how"):
        names = {"umap": "UMAP", "t-sne": "t-SNE", "pca": "PCA"}
        how = gr.Radio(
            [(names[name], name) for name in projections()], value=projections()[0], label="Projection"
        )
        button = gr.Button("Draw the map", variant="primary")
    picture = _part("map", {})

    def draw(asked: Wish, chosen: Any) -> dict[str, Any]:
        try:
            return render.drawn(gallery, *gallery.draw_map(asked, chosen))
        except UserError as error:
            return {"problem": str(error)}

    button.click(draw, [wish, how], picture, api_visibility="private", concurrency_limit=1)


def _paint_tab(gallery: Gallery) -> None:
    import gradio as gr

    painter = gallery.painter
    if painter is None:
        gr.HTML(
            render.note(
                "No teacher is open", "Start the gallery with --teacher icons, or a diffusers folder."
            ),
            apply_default_css=False,
        )
        return
    with gr.Row(elem_classes="sg-bar", equal_height=True):
        prompt = gr.Textbox(
            label="Prompt", placeholder="a red apple", scale=5, max_lines=1, elem_id="sg-prompt"
        )
        count = gr.Number(4, label="Pictures", minimum=1, maximum=16, precision=0, scale=1, min_width=90)
        seed = gr.Number(0, label="Seed", precision=0, scale=1, min_width=90)
        button = gr.Button("Paint", variant="primary", scale=1, min_width=90)
    results = _part("painted", "")

    def paint(text: str, number: float, drawn: float) -> str:
        begin = time.monotonic()
        try:
            done = painter.paint(text, int(number or 0), int(drawn or 0))
        except UserError as error:
            return render.note("That did not work", str(error))
        return render.paintings(done, time.monotonic() - begin, painter.name)

    for listen in (button.click, prompt.submit):
        listen(paint, [prompt, count, seed], results, api_visibility="private", concurrency_limit=1)
