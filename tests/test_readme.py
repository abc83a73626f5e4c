"""The README's snippets run as they stand."""

from __future__ import annotations

import pathlib
import re

import pytest

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_there_are_snippets() -> None:
    import seqops

    for op in seqops.functional.__all__:
        if op.islower():
            assert any(re.search(rf"\b{op}\b", snippet) for snippet in SNIPPETS), f"{op} has no snippet"


@pytest.mark.usefixtures("cpu_path")
@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet_runs(snippet: str) -> None:
    exec(compile(snippet, "README.md", "exec"), {})


def test_each_feature_has_its_test() -> None:
    rows = re.findall(r"^\| .* \| (`\w+::.*`) \|$", README, re.MULTILINE)
    assert len(rows) > 15
    for file, name in re.findall(r"`(\w+)::(\w+)`", " ".join(rows)):
        source = (pathlib.Path(__file__).parent / f"test_{file}.py").read_text()
        assert f"def test_{name}(" in source, f"{file}::{name}"
