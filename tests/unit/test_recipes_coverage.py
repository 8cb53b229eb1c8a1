"""Coverage: what lines hold, what is reported of them, and how reports are added up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_kgdb.kernel._change import compare_texts, lines_of
from pytest_kgdb.kernel._source_lines import CodeAddress, SourceFile, last_line
from pytest_kgdb.recipes import (
    FileCoverage,
    KernelCoverage,
    LineCoverage,
    as_diff,
    as_json,
    as_lcov,
    as_table,
)
from pytest_kgdb.recipes._coverage import _with_whole_statements
from pytest_kgdb.recipes._coverage_report import ranges
from pytest_kgdb.recipes._statements import left_out, line_of_calls, spans, statements

C = """\
#define SUM(a, b) \\
	((a) + (b))
struct pair { int first; int second; };

static int add(struct pair *pair,
		int n)
{
	int i, sum;		/* no value; */
	char text[16], *end;
	unsigned long flags = 0;
	static const char name[] = "a;{b";

	if (pair->first > n &&
		pair->second < n)
		return -EINVAL;
	else if (n == 3) {
		n = 4;
	} else {
		n = call(pair,
			n);
	}
	for (i = 0; i < n; i++)
		sum += i;
again:
	switch (n) {
	case 1:
		break;
	case 2: return 2;
	default:
		goto again;
	}
	do
		sum--;
	while (sum > 0);
	return sum;
}
int table[] = {
	1,
	SUM(2, 3),
};
"""


def test_statements() -> None:
    # Neither braces, declarations without a value, the rest of a statement, nor initialisers.
    assert statements(C) == {10, 11, 13, 15, 16, 17, 19, 22, 23, 25, 27, 28, 30, 33, 34, 35}


def test_statements_of_several_lines() -> None:
    text = """\
int show(struct seq_file *m,
		void *v)
{
	int a;
	int b;

	for (a = 0;
		a < 2;
		a++)
		b = a;
	seq_printf(m, "%d; {",
			a,

			b);
	if (a &&
		b) {
		a = 1;
	}
	return a;
}
int other(int a,
		int b);
"""
    several = {first: lines for first, lines in spans(text).items() if len(lines) > 1}
    assert several == {7: [7, 8, 9], 11: [11, 12, 14], 15: [15, 16]}


def test_declarations_of_several_lines_are_no_statements() -> None:
    text = """\
int show(void)
{
	struct device *a,
		*b;
	unsigned long flags,
		/* of the caller's */
		other[2];
	int (*call)(struct device *dev,
		int n);
	char text[16] __aligned(8),
		end __attribute__((unused));
	int c = 1,
		d;

	(*call)(a,
		c);
	return d;
}
"""
    assert statements(text) == {12, 15, 17}


def test_lines_of_calls_that_go_on() -> None:
    text = """\
int show(void)
{
	if (first(a,
			second(b,
				c)) &&
		third(d))
		return (e +
			f);
#ifdef A
	fourth(a,
#else
	fifth(
#endif
		b);
}
int other(int a,
		int b)
{
	sixth("(", g,
		h);
}
"""
    assert line_of_calls(text) == {
        4: [3], 5: [3, 4], 11: [10], 12: [10], 13: [10, 12], 14: [10, 12], 17: [16],
        20: [19],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("named", "compiled", "standing"),
    [
        ({7}, {5, 10}, {7: 5}),  # an argument alone
        ({6, 7}, {5, 10}, {6: 5}),  # once
        ({7}, {5, 7, 10}, {}),
        ({5, 7}, {5, 10}, {}),
        ({7}, {6, 10}, {7: 6}),
        ({7}, {10}, {}),
        ({3}, {5, 10}, {}),
    ],
)
def test_a_named_line_that_is_the_rest_of_a_statement(
    tmp_path: Path, named: set[int], compiled: set[int], standing: dict[int, int]
) -> None:
    path = tmp_path / "show.c"
    path.write_text(
        """\
int show(struct seq_file *m, void *v)
{
	int a = 1;

	seq_printf(m, "%d %d",
			a,
			a);

	a = 2;
	return a;
}
"""
    )
    code: dict[int, tuple[CodeAddress, ...]] = {
        line: (CodeAddress("", "", line),) for line in compiled
    }
    file = SourceFile("show.c", code, frozenset(named), path)
    whole = _with_whole_statements(file)
    assert {line: whole.code[line][0].offset for line in whole.code.keys() - compiled} == standing
    assert whole.requested == file.requested


def test_lines_that_the_configuration_leaves_out() -> None:
    text = """\
#ifdef CONFIG_A
on
#else
off
#endif
#ifndef CONFIG_A
off
#endif
#if defined(CONFIG_B) && IS_ENABLED(CONFIG_A)
off
#ifdef CONFIG_A
off, by the outer one
#endif
#endif
#if IS_ENABLED(CONFIG_B) || defined(CONFIG_M_MODULE)
on
#endif
#if !defined(CONFIG_B)
on
#endif
#ifdef CONFIG_M
off
#else
on
#endif
#if IS_BUILTIN(CONFIG_M) || IS_MODULE(CONFIG_A) || defined(CONFIG_A_MODULE)
off
#endif
#if IS_MODULE(CONFIG_M) && IS_ENABLED(CONFIG_M) && IS_REACHABLE(CONFIG_M)
on
#endif
#ifdef CONFIG_TEXT
on
#endif
#if BITS_PER_LONG == 64
not known
#else
not known
#endif
#ifdef __x86_64__
not known
#endif
""".splitlines()
    out = left_out(text, {"A": "y", "M": "m", "TEXT": '"words"'})
    assert {number for number, line in enumerate(text, 1) if line.startswith("off")} == set(out)
    assert out[10] == out[12] == "CONFIG_B, CONFIG_A"
    assert out[4] == "CONFIG_A"


@pytest.mark.parametrize(
    ("text", "line", "last"),
    [
        (C, 5, 36),
        ("static inline int f(void) { return 1; }\nint g;\n", 1, 1),
        ("int f(void)\n{ /* } */\n\tif (x) { return '}'; }\n}\n", 1, 4),
        ("int f(void);\nint g(void)\n{\n}\n", 1, 1),
    ],
)
def test_a_functions_end(text: str, line: int, last: int) -> None:
    assert last_line(text, line) == last


def test_changes() -> None:
    before = [f"line {n}" for n in range(1, 41)]
    after = list(before)
    after[9] = "line ten"
    after[20:20] = ["new one", "new two"]
    del after[33:35]  # lines 32 and 33 of before
    change = compare_texts("a.c", before, after)
    assert {after[n - 1] for n in change.added} == {"line ten", "new one", "new two"}
    assert {after[n - 1] for n in change.touched} == {"line 34"}
    assert [text for sign, _, text in change.diff if sign == "-"] == [
        "line 10", "line 32", "line 33",
    ]  # fmt: skip
    for sign, number, text in change.diff:
        if sign in " +":
            assert after[number - 1] == text


@pytest.mark.parametrize("odd", ["\f", "\v", "\x1c", "\x85", "\u2028", "\r"])
def test_lines_are_numbered_as_a_compiler_numbers_them(tmp_path: Path, odd: str) -> None:
    text = f"/* one {odd} */\r\nint f(void)\n{{\n\treturn 1;\n}}\n"
    assert lines_of(text.encode())[1:] == ["int f(void)", "{", "\treturn 1;", "}"]
    assert last_line(text, 2) == 5
    path = tmp_path / "a.c"
    path.write_bytes(text.encode())
    file = SourceFile("a.c", {}, None, path=path)
    assert statements("\n".join(file.text)) == {4}
    assert lines_of(b"") == []
    assert lines_of(b"one\n\ntwo") == ["one", "", "two"]


def test_the_change_of_a_new_file() -> None:
    change = compare_texts("a.c", [], ["one", "two"])
    assert change.lines == {1, 2}


def test_ranges() -> None:
    assert ranges([1, 2, 4, 9, 12], others=[8, 30]) == "1-4, 9-12"
    assert ranges([], others=[8]) == ""


def example(tests: str = "t") -> KernelCoverage:
    lines = {
        3: LineCoverage("ran", [f"{tests}::a", f"{tests}::b"]),
        4: LineCoverage("not reached"),
        6: LineCoverage("not reached"),
        7: LineCoverage("optimised away"),
        8: LineCoverage("cannot be observed"),
        9: LineCoverage("not compiled", why="CONFIG_X"),
    }
    diff = [("@", 2, "@@ -2,3 +2,3 @@"), (" ", 2, "two"), ("-", 3, "old"), ("+", 3, "three")]
    return KernelCoverage(
        "distro:6.1 + fix.patch",
        {
            "fs/open.c": FileCoverage("fs/open.c", "/src/fs/open.c", lines, diff=diff),
            "fs/none.c": FileCoverage("fs/none.c", "", {}, why_not="CONFIG_NONE"),
        },
    )


def test_a_table() -> None:
    assert as_table(example()) == [
        "File       Lines  Ran  Cover  Not reached",
        "fs/none.c      0    0      -",
        "    no line of it holds code: CONFIG_NONE",
        "fs/open.c      3    1    33%  4-6",
        "    cannot be observed: 8",
        "    optimised away: 7",
        "    not compiled (CONFIG_X): 9",
        "in all         3    1    33%",
    ]


def test_lcov() -> None:
    assert as_lcov([example()]) == (
        "TN:distro_6_1_fix_patch\nSF:/src/fs/open.c\nDA:3,2\nDA:4,0\nDA:6,0\nLF:3\nLH:1\n"
        "end_of_record\n"
    )


def test_a_diff() -> None:
    assert as_diff([example()]).splitlines() == [
        "# distro:6.1 + fix.patch",
        "                  --- a/fs/open.c",
        "                  +++ b/fs/open.c",
        "                  @@ -2,3 +2,3 @@",
        "                   two",
        "                  -old",
        "ran               +three",
    ]


def test_json_is_read_again() -> None:
    document = json.loads(as_json([example()]))
    assert document["version"] == 1
    (kernel,) = document["kernels"]
    assert (kernel["ran"], kernel["lines"], kernel["percent"]) == (1, 3, 33.33)
    assert kernel["files"]["fs/open.c"]["lines"]["3"] == {
        "state": "ran",
        "tests": ["t::a", "t::b"],
    }
    assert KernelCoverage.load(kernel) == example()


def test_workers_are_added_up() -> None:
    one, other = example("t"), example("u")
    other.files["fs/open.c"].lines[4] = LineCoverage("ran", ["u::a"])
    other.files["fs/new.c"] = FileCoverage("fs/new.c", "", {1: LineCoverage("ran", ["u::a"])})
    one.merge(other)
    lines = one.files["fs/open.c"].lines
    assert lines[3].tests == ["t::a", "t::b", "u::a", "u::b"]
    assert (lines[4].state, lines[4].tests) == ("ran", ["u::a"])
    assert lines[6].state == "not reached"
    assert one.files["fs/new.c"].lines[1].tests == ["u::a"]
    assert (one.ran, one.observed) == (3, 4)


def test_nothing_is_covered_by_nothing() -> None:
    assert KernelCoverage("k", {}).percent is None
