"""Names for blocks of rows that change where their pictures do, found without reading a picture.

A block is known by the data files that hold its pictures: Lance never uses a file name twice and never changes a file.
"""

import hashlib

import lance

BLOCK = 2048
"""Rows of a block."""


def block_names(dataset: lance.LanceDataset, num_rows: int, fingerprint: str) -> list[str]:
    """A name for each block of rows that changes with the model and with the files that hold the block's pictures."""
    image_field = next(field.id() for field in dataset.lance_schema.fields() if field.name() == "image")
    spans = []
    begin = 0
    for fragment in dataset.get_fragments():
        files = [file.path for file in fragment.metadata.files if image_field in file.fields]
        files += filter(None, [fragment.deletion_file()])  # a deleted row moves those behind it
        length = fragment.count_rows()
        spans.append((begin, begin + length, "|".join(files)))
        begin += length
    names = []
    for start in range(0, num_rows, BLOCK):
        stop = min(start + BLOCK, num_rows)
        inside = [
            (max(a, start) - a, min(b, stop) - a, name) for a, b, name in spans if a < stop and b > start
        ]
        text = f"{fingerprint}\x1f{stop - start}\x1f{inside}"
        names.append(hashlib.blake2b(text.encode(), digest_size=16).hexdigest())
    return names
