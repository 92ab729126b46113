"""The texts a model can learn from, by name.

    python_docs       the language reference that every CPython carries; differs between versions
    time_machine      H. G. Wells, 1895, in the copy of d2l.ai
    tiny_shakespeare  40,000 lines of Shakespeare put together by Karpathy (2015)
    wikitext2         Merity et al. (2016), words, with its own three splits
    file              the user's own
    embedded_reber, recall, anbn      written by a known process: see generated

What is the same everywhere is held to its SHA-256, wherever it comes from.
"""

import hashlib
import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from lstm_lm.config import DataConfig, TextName
from lstm_lm.data.download import KnownFile, data_root, fetch, read_known
from lstm_lm.data.generated import Floor, generate_text
from lstm_lm.data.held_out import sizes
from lstm_lm.errors import SettingsError

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


@dataclass(frozen=True)
class Corpus:
    """A text as it was found: one piece, or three where splits are part of the text."""

    training: str  # or the whole, yet to be split
    validation: str | None
    test: str | None
    sha256: str  # of all its bytes
    note: str | None = None  # what every figure made with this text must say
    floors: tuple[Floor, Floor, Floor] | None = None  # of a generated text's three pieces


def find_corpus(config: DataConfig) -> Corpus:
    """The text that ``config.text`` names, verified.

    Raises:
        SettingsError: if the text cannot be had, is not UTF-8, or is not what it should be.
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
            path = str(config.path)
            return one_piece(read_file(path), path)
        case TextName.embedded_reber | TextName.recall | TextName.anbn:
            return generated(config)
        case unhandled:
            assert_never(unhandled)


def python_docs() -> Corpus:
    from pydoc_data.topics import topics  # half a megabyte: only on demand

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


def generated(config: DataConfig) -> Corpus:
    """Three pieces, each beginning with a whole string."""
    parts = sizes(int(config.max_tokens or 0), config)._asdict()
    pieces = [generate_text(config, part, size) for part, size in parts.items()]
    corpus = three_pieces([piece.text.encode() for piece in pieces], config.text.value)
    training, validation, test = (piece.floor for piece in pieces)
    return replace(corpus, floors=(training, validation, test))


def read_file(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error


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
        raise SettingsError(
            f"{name} is not UTF-8: byte {error.start} is {content[error.start]:#04x}; "
            "convert it, for example with iconv -t utf-8"
        ) from error
