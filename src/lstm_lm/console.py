"""Rich's console, for readers that may leave before the end, as ``head`` does."""

import rich.console


class Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """As Python does, where Rich would end the program with 1."""
        raise BrokenPipeError
