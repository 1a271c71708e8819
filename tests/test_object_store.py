"""Tables in an object store: the same rows, passing errors waited for, clear mistakes, and no secret anywhere."""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from stablerep.audit.quality import QualityConfig, audit_quality
from stablerep.captions.sources import ImportConfig, import_captions
from stablerep.console import Console
from stablerep.embedding import EmbedConfig, embed
from stablerep.errors import UserError
from stablerep.interchange.convert import ConvertConfig, convert
from stablerep.storage import first_line
from stablerep.store import OK, REAL, CaptionTable, ImageTable, caption_id

pytest.importorskip("moto", reason="an S3 server on loopback needs moto")
import object_store


def image(caption: str, index: int = 0) -> dict[str, Any]:
    return {"origin": REAL, "caption_id": caption, "image_index": index, "image": b"picture", "status": OK}


@pytest.fixture
def faults(server: tuple[str, object_store.Faults]) -> Iterator[object_store.Faults]:
    yield server[1]
    server[1].spoil = object_store.never


@pytest.mark.usefixtures("server")
def test_captions_are_imported_into_an_object_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "captions.txt").write_text("a cat\na dog\na cat\n")
    config = ImportConfig(files=(tmp_path / "captions.txt",), out=Path("s3://bucket/captions.lance"))
    assert not CaptionTable.exists(config.out)
    summary = import_captions(config)
    assert (summary.new, summary.duplicates) == (2, 1) and CaptionTable.exists(config.out)
    assert CaptionTable.open(config.out).read(["text"])["text"].to_pylist() == ["a cat", "a dog"]
    assert import_captions(config).new == 0
    Console().show(summary)
    Console().json(summary)
    assert capsys.readouterr().out.count("s3://bucket/captions.lance") == 2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["captions.txt"]


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_images_and_their_scores_live_in_an_object_store() -> None:
    path = Path("s3://bucket/project/images.lance")
    table = ImageTable.open_or_create(path)
    table.append([image("a"), image("b")])
    table.register_origin("painter-1", {"steps": 2})
    table = table.reload()
    assert table.path == "s3://bucket/project/images.lance" and table.take_images([1, 0]) == [b"picture"] * 2
    table = table.write_columns([1], {"score": pa.array([0.5])})
    assert table.append([image("b"), image("c")]) == 1
    assert table.reload().read(["caption_id", "score"]).to_pylist() == [
        {"caption_id": "a", "score": None},
        {"caption_id": "b", "score": 0.5},
        {"caption_id": "c", "score": None},
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_commands_read_tables_there_and_write_files_here(tmp_path: Path) -> None:
    path = Path("s3://bucket/there/images.lance")
    captions = Path("s3://bucket/there/captions.lance")
    CaptionTable.open_or_create(captions).append(
        [{"id": caption_id("a cat"), "text": "a cat", "source": "test", "group": "cats"}]
    )
    buffer = io.BytesIO()
    Image.effect_noise((16, 16), 80).convert("RGB").save(buffer, "PNG")
    ImageTable.open_or_create(path).append([image(caption_id("a cat")) | {"image": buffer.getvalue()}])
    with pytest.raises(UserError, match=r"audit\.json is a file of this machine: say where with --out"):
        audit_quality(QualityConfig(images=path))
    with pytest.raises(UserError, match="only tables lie in object stores"):
        audit_quality(QualityConfig(images=path, out=path.with_name("audit.json")))
    assert audit_quality(QualityConfig(images=path, out=tmp_path / "audit.json")).num_pictures == 1
    assert ImageTable.open(path).read(["keep"])["keep"].to_pylist() == [True]
    summary = convert(ConvertConfig(source=path, out=tmp_path / "set", to="parquet"))
    assert (summary.num_images, summary.num_captions) == (1, 1), "the captions beside it were found"
    with pytest.raises(UserError, match="only tables lie in object stores"):
        convert(ConvertConfig(source=path, out=Path("s3://bucket/set"), to="parquet"))
    with pytest.raises(UserError, match="nobody"):  # the pictures were found, the encoder is not
        embed(EmbedConfig(source=path, encoder=Path("nobody"), out=tmp_path / "x.npy"))
    assert sorted(entry.name for entry in tmp_path.glob("[!.]*")) == ["audit.json", "set"]


@pytest.mark.slow
def test_passing_errors_of_the_store_are_waited_for(faults: object_store.Faults) -> None:
    table = ImageTable.open_or_create("s3://bucket/flaky.lance")
    seen: set[tuple[str, str]] = set()

    def once(method: str, path: str) -> int | None:
        if (method, path) in seen:
            return None
        seen.add((method, path))
        return 503

    faults.spoil = once
    assert table.append([image("a"), image("b")]) == 2
    assert any(status == 503 for _, _, status in faults.requests)
    assert len(table.reload()) == 2


def test_a_store_that_refuses_leaves_the_last_version(faults: object_store.Faults) -> None:
    table = ImageTable.open_or_create("s3://bucket/refusing.lance")
    assert table.append([image("a")]) == 1
    faults.spoil = lambda method, path: 403 if method in ("PUT", "POST") and "refusing" in path else None
    with pytest.raises(
        UserError, match=r"s3://bucket/refusing\.lance could not be written .*committed before"
    ):
        table.append([image("b")])
    faults.spoil = object_store.never
    assert table.reload().read(["caption_id"])["caption_id"].to_pylist() == ["a"]
    assert table.append([image("b")]) == 1


def commits(method: str, path: str) -> bool:
    return method in ("PUT", "POST") and "/_versions/" in path


@pytest.mark.slow
@pytest.mark.parametrize("place", ["/data/", "/_transactions/", "/_versions/"])
@pytest.mark.parametrize("cut", [object_store.CUT, object_store.CUT_AFTER])
def test_a_line_that_is_cut_in_the_middle_of_a_commit_loses_and_doubles_nothing(
    faults: object_store.Faults, place: str, cut: int
) -> None:
    table = ImageTable.open_or_create(f"s3://bucket/cut{place.strip('/')}{cut}.lance")
    table.append([image("a")])
    happened: list[str] = []

    def first(method: str, path: str) -> int | None:
        if method not in ("PUT", "POST") or place not in path or happened:
            return None
        happened.append(path)
        return cut

    faults.spoil = first
    table.append([image("b"), image("c")])
    faults.spoil = object_store.never
    assert happened
    assert sorted(table.reload().read(["caption_id"])["caption_id"].to_pylist()) == ["a", "b", "c"]
    assert table.append([image("b"), image("d")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("answer", [500, 503, object_store.CUT])
def test_a_store_that_stays_broken_is_given_up_and_the_last_version_stays(
    faults: object_store.Faults, answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"s3://bucket/broken{answer}.lance"
    ImageTable.open_or_create(path).append([image("a")])
    monkeypatch.setenv("OBJECT_STORE_CLIENT_MAX_RETRIES", "0")
    table = ImageTable.open(path)
    faults.spoil = lambda method, path: answer if commits(method, path) else None
    with pytest.raises(
        UserError, match=r"broken-?\d*\.lance could not be written .*every row committed before"
    ):
        table.append([image("b")])
    assert table.reload().read(["caption_id"])["caption_id"].to_pylist() == ["a"], "readable all the while"
    faults.spoil = object_store.never
    assert table.append([image("b")]) == 1
    assert len(table.reload()) == 2


@pytest.mark.slow
def test_columns_and_reading_give_up_as_well(
    faults: object_store.Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "s3://bucket/hopeless.lance"
    ImageTable.open_or_create(path).append([image("a")])
    monkeypatch.setenv("OBJECT_STORE_CLIENT_MAX_RETRIES", "0")
    table = ImageTable.open(path)
    faults.spoil = lambda method, path: object_store.CUT if commits(method, path) else None
    with pytest.raises(UserError, match="could not be written"):
        table.write_columns([0], {"score": pa.array([1.0])})
    faults.spoil = lambda method, path: object_store.CUT if "hopeless" in path else None  # noqa: ARG005
    with pytest.raises(UserError, match="could not be read"):
        table.read(["caption_id", "width"])
    faults.spoil = object_store.never
    assert table.reload().read(["caption_id"])["caption_id"].to_pylist() == ["a"]


@pytest.mark.slow
def test_a_slow_store_is_waited_for(faults: object_store.Faults) -> None:
    table = ImageTable.open_or_create("s3://bucket/slow.lance")

    def slow(method: str, path: str) -> None:
        time.sleep(0.5 if commits(method, path) else 0.02)

    faults.spoil = slow
    assert table.append([image("a"), image("b")]) == 2
    assert table.reload().take_images([0]) == [b"picture"]


@pytest.mark.slow
def test_secrets_are_neither_said_nor_stored(
    server: tuple[str, object_store.Faults], faults: object_store.Faults, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ImageTable.open_or_create("s3://bucket/secret.lance")
    table.append([image("a")])
    table.note("note", {"by": "a test"})
    faults.spoil = object_store.always(403)
    with pytest.raises(UserError) as caught:
        ImageTable.open("s3://bucket/secret.lance")
    faults.spoil = object_store.never
    said = "".join([str(caught.value), *capsys.readouterr()])
    client = object_store.client(server[0])
    listed = client.list_objects_v2(Bucket="bucket", Prefix="secret.lance/")
    keys = [entry["Key"] for entry in listed["Contents"]]
    stored = b"".join(client.get_object(Bucket="bucket", Key=key)["Body"].read() for key in keys)
    for secret in (object_store.KEY, object_store.SECRET):
        assert secret not in said and secret.encode() not in stored
    assert first_line(OSError(f"denied: {object_store.SECRET}, /x/y.rs:3")) == "denied: ***"
