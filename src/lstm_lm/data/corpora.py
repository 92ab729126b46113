"""The texts to train on, by name.

    python_docs       the language reference shipped with every CPython; differs between versions
    time_machine      H. G. Wells, 1895, in the copy of d2l.ai
    tiny_shakespeare  40,000 lines of Shakespeare, compiled by Karpathy (2015)
    wikitext2         Merity et al. (2016), words, with its own three splits
    file              the user's own text

Downloaded texts must match their SHA-256, whether they come from a mirror or from disk.
"""

import codecs
import errno
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from lstm_lm.config import DataConfig, TextName
from lstm_lm.data.download import KnownFile, data_root, fetch, read_known
from lstm_lm.data.generated import Floor
from lstm_lm.errors import SettingsError
from lstm_lm.files import read_regular
from lstm_lm.machine import format_bytes, memory

TIME_MACHINE = KnownFile(
    "timemachine.txt",
    "8424dbd9532ac81f7e5f0b6add90e6952baea29158309d7d1bf3884f4e12c516",
    (
        "http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",
        "https://d2l-data.s3.amazonaws.com/timemachine.txt",
    ),
)
TINY_SHAKESPEARE = KnownFile(
    "tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt",
    ),
)
WIKITEXT2 = KnownFile(
    "wikitext-2/wikitext-2-v1.zip",
    "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
    (
        "https://wikitext.smerity.com/wikitext-2-v1.zip",
        "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-2-v1.zip",
    ),
)
WIKITEXT2_SHUFFLED = (
    KnownFile(
        "wikitext-2/wiki.train.shuffled-articles.tokens",
        "666de6ab6f012e175ed5e6180269c8780c9d393b99cf702f0c9a1892d0cec913",
    ),
    KnownFile(
        "wikitext-2/wiki.valid.tokens",
        "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    ),
    KnownFile(
        "wikitext-2/wiki.test.tokens",
        "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    ),
)

MARKS = {  # longer ones first: that of UTF-32 LE begins with that of UTF-16 LE
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# With redirected input these may be a regular file now, but not in the next run.
TRANSIENT_PATHS = "/dev/stdin", "/dev/fd/", "/proc/"
REMEDIES = {
    errno.ENXIO: "save the text as a file first",
    errno.ENOMEM: "use a part of it, for example the output of head -c 1G",
    errno.EISDIR: "name a file in it",
}
MOVED = (
    "set data.path=FILE to the text; for a run that was trained on it, evaluate.py and "
    "inspect_run.py also take --text-path FILE"
)


@dataclass(frozen=True)
class Corpus:
    """A text as it was read: one piece, or three if it comes with its own splits."""

    training: str  # the whole text if it has no splits of its own
    validation: str | None
    test: str | None
    sha256: str  # of all its bytes
    note: str | None = None  # a remark to print with all results on this text
    floors: tuple[Floor, Floor, Floor] | None = None  # of the three pieces of a generated text


def find_corpus(config: DataConfig, known_sha256: str | None = None) -> Corpus:
    """The text that ``config.text`` names, verified.

    Args:
        known_sha256: the checksum of the text in a run's summary.

    Raises:
        SettingsError: if the text cannot be read or downloaded, is not UTF-8, or has changed.
    """
    root = data_root(config.root)
    match config.text:
        case TextName.python_docs:
            return python_docs()
        case TextName.time_machine:
            return one_piece(fetch(TIME_MACHINE, root), TIME_MACHINE.path)
        case TextName.tiny_shakespeare:
            return one_piece(fetch(TINY_SHAKESPEARE, root), TINY_SHAKESPEARE.path)
        case TextName.wikitext2:
            return wikitext2(root)
        case TextName.file:
            return own_file(str(config.path), known_sha256)
        case TextName.embedded_reber | TextName.recall | TextName.anbn:
            raise ValueError(f"{config.text} is generated, not found")
        case unhandled:
            assert_never(unhandled)


def python_docs() -> Corpus:
    from pydoc_data.topics import topics  # half a megabyte, so only on demand

    text = "\n\n".join(topics[name].strip() for name in sorted(topics))
    return one_piece(text.encode(), "pydoc_data.topics")


def wikitext2(root: Path) -> Corpus:
    if read_known(WIKITEXT2, root) is None and (root / WIKITEXT2_SHUFFLED[0].path).is_file():
        contents = [fetch(file, root) for file in WIKITEXT2_SHUFFLED]
        note = "WikiText-2 with its training articles in another order than the official one"
        return three_pieces(contents, "WikiText-2", note)
    archive = zipfile.ZipFile(io.BytesIO(fetch(WIKITEXT2, root)))
    names = [f"wikitext-2/wiki.{split}.tokens" for split in ("train", "valid", "test")]
    return three_pieces([archive.read(name) for name in names], "WikiText-2")


def own_file(path: str, known_sha256: str | None) -> Corpus:
    """The user's own text, without its byte order mark.

    Runs of version 0.2.0 and before trained on the mark, too; their checksum covers all bytes.
    """
    if any(link.startswith(TRANSIENT_PATHS) for link in follow_links(path)):
        raise SettingsError(f"{path} is another text in the next run: {REMEDIES[errno.ENXIO]}")
    content = read_file(path)
    has_mark = content.startswith(codecs.BOM_UTF8)
    if has_mark and known_sha256 != hashlib.sha256(content).hexdigest():
        content = content.removeprefix(codecs.BOM_UTF8)
    return one_piece(content, path)


def follow_links(path: str) -> Iterator[str]:
    """The path, and the target of each symbolic link on the way."""
    for _ in range(40):  # Linux follows no more
        path = os.path.abspath(os.path.expanduser(path))
        yield path
        if not os.path.islink(path):
            return
        path = os.path.join(os.path.dirname(path), os.readlink(path))


def read_file(path: str, is_read_once: bool = False) -> bytes:
    """The content of a file.

    Args:
        is_read_once: accept a pipe, too.

    Raises:
        SettingsError: if the file cannot be read; says what to do.
    """
    if not path:
        raise SettingsError("cannot read a text: the file's name is empty")
    try:
        return read_regular(Path(os.path.expanduser(path)), may_be_pipe=is_read_once)
    except OSError as error:
        is_moved = error.errno in (errno.ENOENT, errno.ENOTDIR) and not is_read_once
        remedy = MOVED if is_moved else REMEDIES.get(error.errno or 0)
        reason = f"{error.strerror}: {remedy}" if remedy else error.strerror
        raise SettingsError(f"cannot read {path}: {reason}") from error
    except ValueError as error:  # a zero byte in the name
        raise SettingsError(f"cannot read {path!r}: no file can have this name") from error


def one_piece(content: bytes, name: str) -> Corpus:
    return Corpus(decode(content, name), None, None, hashlib.sha256(content).hexdigest())


def three_pieces(contents: list[bytes], name: str, note: str | None = None) -> Corpus:
    training, validation, test = (decode(content, name) for content in contents)
    sha256 = hashlib.sha256(b"".join(contents)).hexdigest()
    return Corpus(training, validation, test, sha256, note)


def decode(content: bytes, name: str) -> str:
    """The text of a UTF-8 file.

    Raises:
        SettingsError: if it is not UTF-8; names the file and the first wrong byte.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        marked = (encoding for mark, encoding in MARKS.items() if content.startswith(mark))
        encoding = next(marked, None)
        if encoding is None:
            found, source = f"byte {error.start} is {content[error.start]:#04x}", ""
        else:
            found, source = f"it begins with the byte order mark of {encoding}", f"-f {encoding} "
        raise SettingsError(
            f"{name} is not UTF-8: {found}; convert it, for example with iconv {source}-t UTF-8"
        ) from error
    except MemoryError as error:
        raise out_of_memory_error(name, content) from error


def out_of_memory_error(name: str, content: Sized) -> SettingsError:
    size, there_is = format_bytes(len(content)), format_bytes(memory())
    return SettingsError(
        f"{name} has {size}, too much to tokenize in {there_is} of memory: {REMEDIES[errno.ENOMEM]}"
    )
