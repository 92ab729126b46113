"""The vocabulary: a map between tokens and ids."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lstm_lm.data.text import OF_BYTE
from lstm_lm.errors import SettingsError

UNKNOWN = "<unk>"


def describe_unknown(shares: Mapping[str, Any]) -> str:
    """Shares of unknown tokens as text: ``83 % of the validation text, …``; empty if none.

    Args:
        shares: a run's summary.
    """
    parts = {"train": "training", "validation": "validation", "test": "test"}
    return ", ".join(
        f"{100 * share:.3g} % of the {part} text"
        for name, part in parts.items()
        if (share := shares.get(f"{name}/unknown"))
    )


class Vocabulary:
    """Immutable two-way map between tokens and ids ``0 … len - 1``.

    Id 0 is ``<unk>``; it stands for every token not listed.

    Args:
        merges: only of subwords: which two tokens were joined, in this order.

    Raises:
        ValueError: if a token is listed twice, or joined tokens are not listed.
    """

    def __init__(
        self, tokens: Iterable[str], merges: Iterable[Sequence[str]] | None = None
    ) -> None:
        self.tokens = tuple(tokens)
        self._ids = {token: id_ for id_, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens) or self._ids.get(UNKNOWN) != 0:
            raise ValueError(f"a vocabulary starts with {UNKNOWN} and lists each token once")
        self.merges = None if merges is None else [(one, other) for one, other in merges]
        if self.merges is not None:
            joined = {part for one, other in self.merges for part in (one, other, one + other)}
            if not self._ids.keys() >= {*joined, *OF_BYTE}:
                raise ValueError("a vocabulary of subwords lists all bytes and what they join to")

    @classmethod
    def from_json(cls, content: Any) -> "Vocabulary":
        """The vocabulary that :meth:`for_json` describes; ValueError, TypeError if it is none."""
        if isinstance(content, dict):
            return cls(content.get("tokens", ()), content.get("merges"))
        return cls(content)

    def for_json(self) -> Any:
        """The tokens in a list; of subwords a dictionary of tokens and merges."""
        if self.merges is None:
            return self.tokens
        return {"tokens": self.tokens, "merges": self.merges}

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], minimum_count: int = 1) -> "Vocabulary":
        """A vocabulary with the most frequent tokens first; ties keep their order."""
        tokens = [
            token
            for token, count in Counter(counts).most_common()
            if count >= minimum_count and token != UNKNOWN
        ]
        if not tokens:
            raise SettingsError(
                f"no token occurs {minimum_count} times in the text: "
                "use a longer text or a smaller data.minimum_count"
            )
        return cls([UNKNOWN, *tokens])

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        return [self._ids.get(token, 0) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        return [self.tokens[id_] for id_ in ids]

    def unknown(self, tokens: Iterable[str]) -> list[str]:
        """The tokens that are not in the vocabulary, each once."""
        return list(dict.fromkeys(token for token in tokens if token not in self._ids))
