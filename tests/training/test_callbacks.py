from lstm_lm.training.callbacks import COLUMNS, wrap


def test_long_lines_are_wrapped_and_nothing_is_lost():
    text = "  a  b\n\n" + "time traveller " * 40 + "\nend"
    wrapped = wrap(text)
    assert all(len(line) <= COLUMNS for line in wrapped.split("\n"))
    assert wrapped.startswith("  a  b\n\ntime") and wrapped.endswith("\nend")
    assert wrapped.replace("\n", "") == text.replace("\n", "")
