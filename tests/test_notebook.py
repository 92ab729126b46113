"""The notebook of the documentation, executed as its reader would."""

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def printed(cell) -> str:
    return "".join(
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
        if output.get("name") != "stderr"
    )


def test_the_notebook_is_stored_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


def test_every_cell_of_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:  # on less text
        cell.source = cell.source.replace("100000", "20000").replace("50_000", "10_000")
    # It stops at the first cell that fails.
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    output = [printed(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert "did you mean model.hidden_size" in output[0]
    assert re.search(r"<Run outputs/\S+: completed, 2 epochs, \d+ steps>", output[1])
    assert "The statement " in output[3]
    assert ": completed, 3 epochs" in output[5]
    assert {"lstm", "gru"} <= set(output[6].split())
    assert output[8].strip() == "64"
    assert len(list(tmp_path.glob("outputs/*/*/summary.json"))) == 2
