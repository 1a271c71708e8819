"""The mark of a painted picture: IPTC's digital source type "trained algorithmic media", in its XMP metadata.

The packet is put between the parts of the file, so that no pixel changes, and can be taken out again to the byte.
IPTC Photo Metadata Standard 2023.1, "Digital Source Type"; XMP specification part 3 on where files keep it.
"""

import struct
import zlib

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_JPEG, _PNG, _RIFF = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF"
_JPEG_XMP, _PNG_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"XML:com.adobe.xmp\0"
_PNG_HEADER = 33  # signature and IHDR
_XMP_FLAG, _ALPHA_FLAG = 0x04, 0x10


def _packet(tool: str) -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="{tool}">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


_PACKET = _packet("stablerep")
_PACKET_WITH_HEADER = _packet("stablerep, extended")  # where WebP's extended header came with it


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


_JPEG_SEGMENT = b"\xff\xe1" + struct.pack(">H", 2 + len(_JPEG_XMP + _PACKET)) + _JPEG_XMP + _PACKET
_PNG_CHUNK = _png_chunk(b"iTXt", _PNG_XMP + b"\0\0\0\0" + _PACKET)


def mark(image: bytes) -> bytes:
    """The picture with the mark; unchanged where its kind has no place for it, or where it carries XMP already."""
    if image.startswith(_JPEG) and _JPEG_XMP not in image:
        place = _after_headers(image)
        return image[:place] + _JPEG_SEGMENT + image[place:]
    if image.startswith(_PNG) and _PNG_XMP not in image:
        return image[:_PNG_HEADER] + _PNG_CHUNK + image[_PNG_HEADER:]
    if image.startswith(_RIFF) and image[8:12] == b"WEBP":
        return _mark_webp(image)
    return image


def unmark(image: bytes) -> bytes:
    """The picture as it was before ``mark``, to the byte; unchanged where it does not carry this program's mark."""
    if image.startswith(_JPEG):
        return image.replace(_JPEG_SEGMENT, b"", 1)
    if image.startswith(_PNG):
        return image.replace(_PNG_CHUNK, b"", 1)
    if image.startswith(_RIFF):
        return _unmark_webp(image)
    return image


def _after_headers(image: bytes) -> int:
    """Where a JPEG's own headers end: JFIF and Exif come first."""
    place = 2
    while image[place : place + 2] == b"\xff\xe0" or image[place + 4 : place + 8] == b"Exif":
        place += 2 + int.from_bytes(image[place + 2 : place + 4], "big")
    return place


def _chunks(image: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a WebP file: kind and content."""
    chunks, place = [], 12
    while place + 8 <= len(image):
        size = int.from_bytes(image[place + 4 : place + 8], "little")
        chunks.append((image[place : place + 4], image[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2
    return chunks


def _webp(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for kind, content in chunks
    )
    return _RIFF + struct.pack("<I", len(body)) + body


def _mark_webp(image: bytes) -> bytes:
    chunks = _chunks(image)
    # What is put together differently than here could not be taken apart to the same bytes.
    if not chunks or _webp(chunks) != image or any(kind == b"XMP " for kind, _ in chunks):
        return image
    kind, content = chunks[0]
    if kind == b"VP8X" and content and not content[0] & _XMP_FLAG:  # set, it announces XMP that is not there
        return _webp([(kind, _flagged(content, True)), *chunks[1:], (b"XMP ", _PACKET)])
    size = _webp_size(kind, content)
    if size is None:
        return image
    width, height, alpha = size
    header = bytes([_XMP_FLAG | (_ALPHA_FLAG if alpha else 0), 0, 0, 0])
    header += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return _webp([(b"VP8X", header), *chunks, (b"XMP ", _PACKET_WITH_HEADER)])


def _unmark_webp(image: bytes) -> bytes:
    chunks = _chunks(image)
    if not chunks or chunks[-1] not in ((b"XMP ", _PACKET), (b"XMP ", _PACKET_WITH_HEADER)):
        return image
    if chunks[-1][1] == _PACKET_WITH_HEADER:
        return _webp(chunks[1:-1])
    return _webp([(b"VP8X", _flagged(chunks[0][1], False)), *chunks[1:-1]])


def _flagged(header: bytes, on: bool) -> bytes:
    return bytes([header[0] | _XMP_FLAG if on else header[0] & ~_XMP_FLAG]) + header[1:]


def _webp_size(kind: bytes, content: bytes) -> tuple[int, int, bool] | None:
    """Width, height and transparency of a simple WebP file."""
    if kind == b"VP8 " and content[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", content[6:10])
        return width & 0x3FFF, height & 0x3FFF, False
    if kind == b"VP8L" and content[:1] == b"\x2f":
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    return None
