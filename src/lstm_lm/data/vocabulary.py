"""The vocabulary: a map between tokens and ids."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

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
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(tokens)
        self._ids = {token: id_ for id_, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens) or self._ids.get(UNKNOWN) != 0:
            raise ValueError(f"a vocabulary starts with {UNKNOWN} and lists each token once")

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
                f"no token occurs {minimum_count} times in the training text: "
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
