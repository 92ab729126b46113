"""What is wrong with what was typed, in one line, whether Hydra or OmegaConf noticed it."""

import re

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lstm_lm.command_line.settings import nearest, no_such_setting


def explain(error: Exception) -> str:
    """The same for a command line and for :func:`lstm_lm.compose`."""
    cause = error.__cause__ or error.__context__  # the latter for what is wrong in a file
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        return str(no_such_setting(str(cause.full_key)))
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"there is no {group}={choice}; {nearest(choice, list(error.options))}"
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r}: settings are given as key=value, a value with "
            "special characters as \"key='value'\""
        )
    if "Ambiguous value" in str(error):
        value = str(error).partition("'")[2].partition("'")[0]
        return f"{value} gives several values: -m trains with each of them"
    text = str(cause if isinstance(cause, OmegaConfBaseException) else error)
    key = re.search(r"full_key: (\S+)", text)
    text = text.removeprefix("SettingsError raised while resolving interpolation: ")
    first_line = text.strip().splitlines()[0]
    if "No match in the defaults list" in first_line:
        return f"{first_line} The defaults of a file that -cn names must begin with train"
    if key is None or key[1] in first_line or key[1] == "hydra.run.dir":
        return first_line
    return f"{key[1]}: {first_line}"
