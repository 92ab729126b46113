import json

from benchmarks.rows import Row, table, write_json

ROWS = [
    Row("scratch / builtin", "small", 1, "cpu", "32-true", 0.75, 0.7, 0.8, 30000.0, 0.5),
    Row("run / bare", "tiny", 2, "cpu", "32-true", 1.5, 1.4, 1.6, milliseconds=0.5),
]


def test_a_table_has_a_heading_for_each_shape():
    assert table(ROWS) == (
        "\n"
        "small; 1 thread, cpu\n"
        "                    ratio    low   high   tokens/s   of peak\n"
        "scratch / builtin    0.75   0.70   0.80     30,000       50%\n"
        "\n"
        "tiny; 2 threads, cpu\n"
        "                    ratio    low   high   tokens/s   of peak\n"
        "run / bare           1.50   1.40   1.60                       +0.50 ms a step"
    )


def test_rows_as_json_have_the_agreed_keys(tmp_path):
    write_json({"processor": "a fast one"}, ROWS, tmp_path / "rows.json")
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["machine"] == {"processor": "a fast one"}
    scratch, loop = content["rows"]
    keys = "what shape threads device dtype ratio low high tokens_per_second share_of_peak".split()
    assert list(scratch) == keys
    assert list(loop) == [*keys, "milliseconds"]
