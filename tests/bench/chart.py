"""The figures as a picture: how many times better than by hand, each bar a row of the bench."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.bench.result import number

# Pixels
WIDTH, TOP, STEP, BAR = 820, 64, 44, 14
LABEL, LENGTH = 20, 560

# What a row is called where there is no room; rows that are no race are not drawn.
NAMES = {
    "warm-start": "from the prompt to the first test",
    "restore": "a pristine kernel for one more test",
    "200-tests": "200 tests, each on a pristine kernel",
    "stops-1": "breakpoint stops",
    "stops-2": "breakpoint stops, two CPUs in the guest",
    "reads": "typed reads of kernel memory",
    "build-nothing": "kernel and initrd when nothing has changed",
}


def chart(rows: Sequence[Mapping[str, Any]], about: Mapping[str, str]) -> str:
    """Return an SVG."""
    drawn = [row for name in NAMES for row in rows if row["name"] == name]
    most = math.log10(max(row["ratio"] for row in drawn))
    height = TOP + STEP * len(drawn) + 28
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="14">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LABEL}" y="26" font-size="17" font-weight="bold">Times as fast as the same '
        "by hand</text>",
        f'<text x="{LABEL}" y="46" fill="#555">medians of one run, alternating; the bars are '
        "logarithmic</text>",
    ]
    for index, row in enumerate(drawn):
        y = TOP + STEP * index
        length = max(2.0, LENGTH * math.log10(max(row["ratio"], 1.0)) / most)
        ours, theirs = (number(statistics.median(row[side])) for side in ("ours", "theirs"))
        unit = row["unit"] if row["unit"].startswith("/") else f" {row['unit']}"
        results = f"{NAMES[row['name']]}: {ours}{unit} against {theirs}{unit}"
        parts += [
            f'<text x="{LABEL}" y="{y + 13}">{escape(results)}</text>',
            f'<rect x="{LABEL}" y="{y + 19}" width="{length:.0f}" height="{BAR}" rx="2" '
            'fill="#2b6cb0"/>',
            f'<text x="{LABEL + length + 8:.0f}" y="{y + 31}" font-weight="bold">'
            f"{number(row['ratio'])} ×</text>",
        ]
    caption = f"{about['date'][:10]}, {about['machine'].split(', load')[0]}"
    parts.append(f'<text x="{LABEL}" y="{height - 10}" fill="#555">{escape(caption)}</text>')
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(chart(results["rows"], results["machine"]), encoding="utf-8")
