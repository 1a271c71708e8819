"""From drawings to the finished table."""

import hashlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .captions import captions_of
from .clipart import copy_rank, read_clipart
from .emoji import categories, emoji_name, load_entries, load_sources, read_emoji
from .groups import Signatures, UnionFind, join_equal_captions
from .labels import merge_small, name_table
from .records import Drawing, Report
from .render import BlankPictureError, RenderFailedError, encode, read_rgba, render_svg, square
from .splits import assign_splits
from .twins import Row, join_twins

MINIMUM_CLASS = 20
STYLES = ("noto", "twemoji", "fluent", "clipart")
EXTRA_CATEGORIES = {"ornament": "Symbols"}
SCHEMA = pa.schema(
    [
        ("picture_id", pa.string()), ("image", pa.binary()), ("style", pa.string()), ("concept", pa.string()),
        ("caption", pa.string()), ("variants", pa.list_(pa.string())), ("group", pa.string()), ("label",
        pa.string()),
        ("category", pa.string()), ("split", pa.string()), ("licence", pa.string()), ("title", pa.string()),
        ("author", pa.string()), ("tags", pa.list_(pa.string())), ("skin_tone", pa.string()), ("gender",
        pa.string()),
    ]
)  # fmt: skip


def build(npm: Path, clipart: Path, out: Path, cache: Path | None) -> Report:
    """Read, draw, caption, group, split, join the twins, write."""
    report = Report()
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    sources = load_sources(npm)
    names = {emoji_name(sources, e["unified"].lower()): e["subcategory"] for e in load_entries(npm)}
    drawings = [*read_emoji(npm, report), *read_clipart(clipart, name_table(names), report)]
    drawn = _draw(drawings, cache, report)
    drawings = [drawing for drawing, _ in drawn]
    images = [image for _, image in drawn]
    concepts = {drawing.concept: drawing for drawing in drawings}
    captions = {concept: captions_of(drawing) for concept, drawing in concepts.items()}
    groups = _groups(drawings, images, captions, report)
    category_of = categories(npm) | EXTRA_CATEGORIES
    raw = {concept: drawing.label for concept, drawing in concepts.items()}
    labels = merge_small(raw, category_of, MINIMUM_CLASS)
    splits = assign_splits(groups, labels)
    rows: list[Row] = []
    for drawing, image in drawn:
        concept = drawing.concept
        caption, variants = captions[concept]
        category = category_of.get(labels[concept], labels[concept].removesuffix(" (other)"))
        rows.append({
            "picture_id": drawing.picture_id, "image": encode(image), "style": drawing.style,
            "concept": concept,
            "caption": caption, "variants": variants, "group": groups[concept], "label": labels[concept],
            "category": category, "split": splits[concept], "licence": drawing.licence,
            "title": drawing.title,
            "author": drawing.author, "tags": list(drawing.keywords), "skin_tone": drawing.skin_tone,
            "gender": drawing.gender,
        })  # fmt: skip
    report.facts |= join_twins(rows)
    write(rows, out)
    _summarise(rows, report)
    return report


def write(rows: list[Row], out: Path) -> None:
    """One Parquet file, complete or not at all."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    temporary = out.with_name(f".{out.name}.partial")
    uncompressed = {"image": "NONE"}
    codecs = {
        name: uncompressed.get(name, "ZSTD") for name in SCHEMA.names if name not in ("variants", "tags")
    }
    codecs |= {"variants.list.element": "ZSTD", "tags.list.element": "ZSTD"}
    pq.write_table(
        table, temporary, compression=codecs, row_group_size=1024, use_dictionary=["style", "label"]
    )
    temporary.replace(out)


def _draw(drawings: list[Drawing], cache: Path | None, report: Report) -> list[tuple[Drawing, Image.Image]]:
    """Render all; drop what fails, shows nothing, or is pixel for pixel another clip-art drawing."""

    def picture(drawing: Drawing) -> Image.Image | str:
        try:
            source = (
                render_svg(drawing.path, cache) if drawing.path.suffix == ".svg" else read_rgba(drawing.path)
            )
            return square(source)
        except RenderFailedError:
            return f"{drawing.style}: does not render"
        except BlankPictureError:
            return f"{drawing.style}: blank"

    with ThreadPoolExecutor(2) as pool:
        pictures = list(pool.map(picture, drawings))
    best: dict[str, Drawing] = {}
    shown_pairs: list[tuple[Drawing, Image.Image, str]] = []
    for drawing, image in zip(drawings, pictures, strict=True):
        if isinstance(image, str):
            report.drop(image)
            continue
        digest = (
            hashlib.sha256(image.tobytes()).hexdigest() if drawing.style == "clipart" else drawing.picture_id
        )
        best[digest] = min(best.get(digest, drawing), drawing, key=copy_rank)
        shown_pairs.append((drawing, image, digest))
    kept = [(drawing, image) for drawing, image, digest in shown_pairs if best[digest] is drawing]
    report.dropped["clipart: pixel-identical copy of another drawing"] += len(shown_pairs) - len(kept)
    shown = {drawing.concept for drawing, _ in kept if drawing.style != "fluent"}
    return [(drawing, image) for drawing, image in kept if drawing.concept in shown]


def _groups(
    drawings: list[Drawing],
    images: list[Image.Image],
    captions: dict[str, tuple[str, list[str]]],
    report: Report,
) -> dict[str, str]:
    """Concept -> group."""
    sets = UnionFind()
    first_of: dict[str, str] = {}
    for drawing in drawings:
        sets.union(drawing.concept, first_of.setdefault(drawing.base, drawing.concept))
    pairs = 0
    for first, second in Signatures(
        images, [drawing.style == "clipart" for drawing in drawings]
    ).near_pairs():
        one, two = drawings[first].concept, drawings[second].concept
        pairs += sets.find(one) != sets.find(two)
        sets.union(one, two)
    shared = join_equal_captions(sets, {concept: [text, *more] for concept, (text, more) in captions.items()})
    report.facts |= {"merges by near-duplicate pictures": pairs, "texts shared by concepts": shared}
    return {drawing.concept: sets.find(drawing.concept) for drawing in drawings}


def _summarise(rows: list[Row], report: Report) -> None:
    by_concept = {str(row["concept"]): row for row in rows}
    groups: dict[str, list[str]] = defaultdict(list)
    for concept, row in by_concept.items():
        groups[str(row["group"])].append(concept)
    largest = sorted(groups, key=lambda group: (-len(groups[group]), group))[:15]
    texts = {str(text) for row in by_concept.values() for text in [row["caption"], *row["variants"]]}
    report.facts |= {
        "pictures": len(rows), "concepts": len(by_concept), "groups": len(groups),
        "captions": len({row["caption"] for row in rows}), "captions and variants": len(texts),
        "styles": dict(Counter(str(row["style"]) for row in rows)),
        "splits (pictures)": dict(Counter(str(row["split"]) for row in rows)),
        "splits (concepts)": dict(Counter(str(row["split"]) for row in by_concept.values())),
        "classes (concepts)": dict(sorted(Counter(str(row["label"]) for row in by_concept.values()).items())),
        "largest groups": {group: len(groups[group]) for group in largest},
        "clip-art folders": dict(sorted(Counter(
            str(c).removeprefix("clipart/").rpartition("/")[0] for c in by_concept if c.startswith("clipart/")
        ).items())),
    }  # fmt: skip
