"""How are the bytes of a trace file reached, whether or not it is compressed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from controller.errors import BadInput
from simulations.output_places import refusing

# By the first bytes and not by the extension, because downloads get renamed.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_COPY_BYTES = 1 << 20


def checked_file(path: Path) -> Path:
    """Return ``path`` if it is a readable file with something in it.

    Raises:
        BadInput: If it is missing, a folder, empty, or may not be read.
    """
    try:
        if path.is_dir():
            raise BadInput("this is a folder, not a file", str(path), "name one trace file inside it")
        with path.open("rb") as file:
            if not file.read(1):
                raise BadInput("the file is empty (0 bytes)", str(path), "export or download the trace again")
    except (FileNotFoundError, ValueError):  # the latter for what cannot be a name, such as one with a zero byte
        raise BadInput("no such file", str(path), "check the path given as the trace") from None
    except OSError as error:
        raise BadInput(f"the file cannot be read: {error.strerror}", str(path), "check its permissions") from error
    return path


def compression_of(path: Path) -> str | None:
    """Return ``gzip``, ``bz2`` or ``zstd`` by the file's first bytes, None when it is not compressed."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((name for magic, name in _MAGIC if start.startswith(magic)), None)


@contextmanager
def decompressed(path: Path) -> Iterator[pa.NativeFile]:
    """Open the file's plain bytes for one forward pass."""
    compression = compression_of(path)
    with pa.OSFile(str(path), "rb") as raw:
        if compression is None:
            yield raw
        else:
            with pa.CompressedInputStream(raw, compression) as plain:
                yield plain


@contextmanager
def seekable(path: Path) -> Iterator[Path | BinaryIO]:
    """Give something that can be read at any position: the file, or an unnamed temporary copy of its plain bytes.

    Parquet keeps its index at the end, so a compressed one has to be unpacked to disk first.
    """
    if compression_of(path) is None:
        yield path
        return
    place, remedy = tempfile.gettempdir(), f"unpack {path} yourself, or set TMPDIR to a folder with room"
    with tempfile.TemporaryFile(prefix="foresail-trace-") as copy:
        with decompressed(path) as plain:
            while chunk := plain.read(_COPY_BYTES):
                with refusing(place, remedy):
                    copy.write(chunk)
                    copy.flush()  # or else a full disk shows only later, and somewhere else
        copy.seek(0)
        yield copy


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises about a damaged file into BadInput naming ``path``."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(_plainly(what), str(path), _remedy(what)) from error


def _plainly(what: str) -> str:
    """Return pyarrow's message in the words of someone who looks at the file."""
    if "Truncated compressed stream" in what:
        return "the compressed file ends too early (it is truncated)"
    if "inflate" in what or "bz2" in what.lower() or "ZSTD" in what:
        return f"the compressed file is damaged ({what})"
    return what


def _remedy(what: str) -> str:
    if "CSV" in what:
        return "correct that row, or remove it"
    return "the copy is damaged: fetch or export it again"
