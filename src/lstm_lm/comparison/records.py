"""The runs below a folder as rows of a table."""

import os
from pathlib import Path
from typing import Any

from lstm_lm.comparison.differences import differing, with_effect
from lstm_lm.comparison.results import read_results

FIGURES = "epochs", "steps", "tokens", "seconds", "tokens_per_second", "parameters"


def runs(folder: str | Path = "outputs") -> list[dict[str, Any]]:
    """A record of every run and every sweep's job below a folder, the best first.

        pandas.DataFrame(lstm_lm.runs("outputs"))

    All have the same keys: ``folder``, ``status``, the settings in which they differ,
    ``perplexity`` (of the best weights on the validation text; of a run that is not completed, the
    lowest so far), the figures of their summaries, and ``error``. What is not known is None.

    Raises:
        SettingsError: if there are none, or the folder is not there.
    """
    results = read_results([Path(folder)])
    settings = with_effect(differing(results))
    figures = dict.fromkeys(FIGURES) | dict.fromkeys(
        name for result in results for name in result.summary if "/" in name
    )
    return [
        {
            "folder": os.path.join(folder, os.path.relpath(result.path, Path(folder).absolute())),
            "status": result.status,
            **{name: result.settings.get(name) for name in settings},
            "perplexity": result.perplexity,
            **{name: result.summary.get(name) for name in figures},
            "error": result.error,
        }
        for result in results
    ]
