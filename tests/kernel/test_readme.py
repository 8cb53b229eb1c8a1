"""Every example of the documentation, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/writing-tests.md",
    "docs/instruments.md",
    "docs/state.md",
    "docs/modules.md",
    "docs/splats.md",
)
_EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples(page: str) -> dict[str, object]:
    """The tests of a page, by name; each block is a module of its own."""
    text = (ROOT / page).read_text(encoding="utf-8")
    collected: dict[str, object] = {}
    for block in _EXAMPLE.finditer(text):
        # The lines of the page, so that a failure points at the example.
        above = "\n" * text.count("\n", 0, block.start(1))
        names: dict[str, object] = {"__name__": f"{page}:{above.count(chr(10)) + 1}"}
        exec(compile(above + block[1], str(ROOT / page), "exec"), names)  # it is ours
        tests = {name: function for name, function in names.items() if name.startswith("test_")}
        assert not collected.keys() & tests.keys(), f"{page} has two examples of one name"
        collected |= tests
    assert collected, f"{page} has no examples"
    return collected


# It takes a kernel with a patch, as tests/kernel/test_fail_each_of_patch.py has one.
WITH_A_PATCH = {"test_instruments_the_error_paths_of_the_fix"}

for _page in PAGES:
    _stem = Path(_page).stem.replace("-", "_").lower()
    globals().update(
        {f"test_{_stem}_{name[5:]}": function for name, function in examples(_page).items()}
    )
for _name in WITH_A_PATCH:
    del globals()[_name]
