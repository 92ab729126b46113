"""Whatever a user has for text or types as settings: a right count or one clear line."""

import codecs
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_lm.config import (
    Cleaning,
    DataConfig,
    Level,
    ModelConfig,
    RunConfig,
    TextName,
    VocabularySource,
)
from lstm_lm.data.splits import Split, read_splits
from lstm_lm.data.text import OF_BYTE, bytes_of, spell, tokenize
from lstm_lm.data.tokenized import Tokenized
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError
from lstm_lm.evaluation.score import evaluate
from lstm_lm.experiment import train
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.saved.fingerprint import trained_settings

SCRIPTS = Path(__file__).parents[1] / "scripts"
in_any_folder = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
# Some texts with few letters and many line ends, others with anything that Unicode has.
texts = st.text(alphabet="aAbB \n\t\r\x0c'ü<eos>", max_size=300) | st.text(max_size=300)
levels = st.sampled_from([Level.character, Level.byte, Level.word])
cleanings = st.sampled_from(list(Cleaning))


def tokens_of(content, level, cleaning):
    content = content.removeprefix(codecs.BOM_UTF8)
    if level is Level.byte and cleaning is Cleaning.none:
        return [OF_BYTE[byte] for byte in content]
    return list(tokenize(content.decode(), level, cleaning))


@given(texts, levels, cleanings)
@settings(derandomize=True)
def test_tokens_spell_the_text_and_ids_the_tokens(text, level, cleaning):
    tokens = list(tokenize(text, level, cleaning))
    if level is not Level.word:
        assert all(len(token) == 1 for token in tokens)
        if cleaning is Cleaning.none:
            assert spell(tokens, level) == text
    else:
        assert all(token and not token.isspace() for token in tokens)
    if not tokens:
        return
    numbered = Tokenized.of(text, level, cleaning)
    assert [numbered.distinct[number] for number in numbered.numbers] == tokens
    counts = dict(zip(numbered.distinct, numbered.counts().tolist(), strict=True))
    assert list(counts.items()) == list(Counter(tokens).items())
    vocabulary = Vocabulary.from_counts(counts)
    assert vocabulary.decode(vocabulary.encode(tokens)) == tokens
    assert len(vocabulary) == len({"<unk>", *tokens})


@given(
    content=texts.map(str.encode) | st.binary(max_size=300),
    level=levels,
    cleaning=cleanings,
    validation_size=st.floats(0.01, 20),
    test_size=st.floats(0, 20),
    max_tokens=st.none() | st.integers(1, 400),
    minimum_count=st.integers(1, 3),
    source=st.sampled_from(list(VocabularySource)),
)
@in_any_folder
def test_any_file_is_split_and_counted_or_refused(
    content,
    level,
    cleaning,
    validation_size,
    test_size,
    max_tokens,
    minimum_count,
    source,
    tmp_path,
):
    path = tmp_path / "text"
    path.write_bytes(content)
    config = DataConfig(
        text=TextName.file,
        path=str(path),
        level=level,
        cleaning=cleaning,
        validation_size=validation_size,
        test_size=test_size,
        max_tokens=max_tokens,
        minimum_count=minimum_count,
        vocabulary_from=source,
    )
    try:
        splits = read_splits(config)
    except SettingsError as error:
        assert str(error) and "\n" not in str(error)
        return
    tokens = tokens_of(content, level, cleaning)[:max_tokens]
    parts = [splits.training, splits.validation]
    parts += [] if splits.test_is_validation else [splits.test]
    assert sum(len(part.ids) for part in parts) == len(tokens)
    counts = Counter(tokens)
    start = 0
    for part in parts:
        own = tokens[start : start + len(part.ids)]
        start += len(own)
        spelled = spell(own[1:], level)
        length = len(spelled), len(spelled.encode())
        if level is Level.byte:  # it need not be UTF-8
            own_bytes = b"".join(map(bytes_of, own[1:]))
            length = sum(byte & 0xC0 != 0x80 for byte in own_bytes), len(own_bytes)
        assert (part.characters, part.bytes) == length
        assert part.predictions == len(own) - 1
        for token, id_ in zip(own, part.ids.tolist(), strict=True):
            assert splits.vocabulary.tokens[id_] in (token, "<unk>")
            if splits.vocabulary.tokens[id_] != token:
                assert source is VocabularySource.training or counts[token] < 3


# What is found in files: marks, line ends of other systems, zero bytes, accents without a letter,
# other alphabets, one long line, nothing but line ends, nothing, other encodings, wrong bytes.
PIECES = ["to be ", "or not", "\n", "\r\n", "\r", "\0", "\u0301", "жук ", "漢字", "😀"]
PIECES += ["\ufeff", "\u2028"]
odd_files = st.builds(
    lambda mark, pieces, times, encoding, end: (
        mark + ("".join(pieces) * times).encode(encoding) + end
    ),
    st.sampled_from([b"", codecs.BOM_UTF8]),
    st.lists(st.sampled_from(PIECES), max_size=5),
    st.sampled_from([1, 7, 90]),
    st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-16-le", "utf-32"]),
    st.sampled_from([b"", b"", b"\n", b"\xff", "ж".encode()[:1]]),
)


@given(content=odd_files, level=levels, cleaning=cleanings)
@in_any_folder
def test_any_odd_file_is_read_the_same_twice_or_refused(content, level, cleaning, tmp_path):
    path = tmp_path / "text"
    path.write_bytes(content)
    config = DataConfig(text=TextName.file, path=str(path), level=level, cleaning=cleaning)
    try:
        splits = read_splits(config)
    except SettingsError as error:
        assert str(error) and "\n" not in str(error)
        assert "use a longer text" in str(error) or str(path) in str(error)
        return
    parts = splits.training, splits.validation, splits.test
    assert [*parts[0].ids.tolist(), *parts[1].ids.tolist(), *parts[2].ids.tolist()] == (
        splits.vocabulary.encode(tokens_of(content, level, cleaning))
    )
    assert splits.unknown["train/unknown"] == 0
    assert all(0 <= share <= 1 for share in splits.unknown.values())
    again = read_splits(config, splits.vocabulary, splits.text_sha256)
    for part, same in zip(parts, (again.training, again.validation, again.test), strict=True):
        assert part.ids.tolist() == same.ids.tolist()


ODD_TEXTS = {
    "one long line": "to be or not to be " * 40,
    "lines of an old Mac": "to be\ror not\r" * 60,
    "a mark and lines of Windows": "\ufeff" + "to be\r\nor not\r\n" * 60,
    "nothing but line ends": "\n" * 700,
    "zero bytes and accents alone": "\0\u0301a\u0301" * 200,
}


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_odd_texts_can_be_learned_from(text, tiny_run, tmp_path):
    (tmp_path / "odd").write_bytes(text.encode())
    config = tiny_run(f"data.path={tmp_path / 'odd'}", "data.batch_size=2", "training.steps=2")
    assert train(config, tmp_path / "run")["status"] == "completed"


@given(texts.filter(lambda text: len(text) > 1), st.none() | st.integers(1, 50))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_every_token_but_the_first_is_scored_whatever_the_text(text, reset_every):
    vocabulary = Vocabulary.from_counts(Counter(text))
    split = Split.of(
        Tokenized.of(text, Level.character, Cleaning.none), vocabulary, Level.character
    )
    model = LanguageModel(ModelConfig(hidden_size=3, embedding_size=2), len(vocabulary)).eval()
    for weight in model.parameters():
        weight.data.zero_()  # so that every token is as likely as any other
    score = evaluate(model, split, reset_every)
    assert score.tokens == len(text) - 1
    assert score.loss == pytest.approx(math.log(len(vocabulary)), rel=1e-6)


KEYS = [*trained_settings(RunConfig()), "resume", "init_from", "data.path"]
KEYS += ["device.precision", "model.backend"]
KEYS += [
    "hydra.run.dir",
    "data",
    "experiment",
    "device",
    "nonsense",
    "model",
    "+model.extra",
    "~seed",
]
# What an operating system hands over as an argument holds no zero byte.
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
numbers = st.integers().map(str) | st.floats().map(str)


@given(
    st.lists(
        st.tuples(st.sampled_from(KEYS), values | numbers).map("=".join)
        | values.filter(lambda value: not value.startswith("-")),
        min_size=1,
        max_size=3,
    )
)
@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
    max_examples=25,
)
def test_any_settings_are_refused_in_one_line(type_command, typed):
    # The last one is wrong for certain, so nothing is ever trained.
    code, output, errors = type_command("train.py", *typed, "data.batch_size=0")
    assert (code, output) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert not list(Path.cwd().iterdir())


def test_programs_end_in_good_order_in_odd_situations():
    command = [
        sys.executable,
        str(Path(__file__).with_name("try_anything.py")),
        "--tries",
        "24",
        "--seed",
        "5",
    ]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (tried.returncode, tried.stderr) == (0, ""), tried.stdout
    assert "24 tries with seed 5" in tried.stdout
