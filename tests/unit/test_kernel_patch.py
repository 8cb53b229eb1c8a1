"""Patches as they come: diffs, mails, series; which files they touch, and in which order."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from pytest_kgdb.errors import BuildError, ConfigError
from pytest_kgdb.kernel._overlay import Overlay
from pytest_kgdb.kernel._patch import Patch, apply, key, read

DIFF = """\
--- a/fs/open.c
+++ b/fs/open.c
@@ -1 +1 @@
-old
+new
"""

MAIL = """\
From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001
From: A Developer <a@example.org>
Date: Mon, 1 Jan 2024 00:00:00 +0000
Subject: {subject}
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8
Content-Transfer-Encoding: {encoding}

Why.
---
 fs/open.c | 2 +-

"""


def mail(subject: str, body: str = DIFF, encoding: str = "8bit") -> str:
    return MAIL.format(subject=subject, encoding=encoding) + body + "-- \n2.39.5\n\n"


class TestTouched:
    def test_both_sides_without_the_prefix(self) -> None:
        diff = DIFF + "--- /dev/null\n+++ b/fs/new.c\n@@ -0,0 +1 @@\n+x\n"
        assert Patch("p", diff.encode()).touched() == {"fs/open.c", "fs/new.c"}

    def test_dates_behind_names(self) -> None:
        diff = "--- linux.orig/a.c\t2024-01-01 00:00:00\n+++ linux/a.c\t2024-01-02\n@@ -1 +1 @@\n"
        assert Patch("p", (diff + "-a\n+b\n").encode()).touched() == {"a.c"}

    def test_strip(self) -> None:
        diff = b"--- x.c\n+++ x.c\n@@ -1 +1 @@\n-a\n+b\n"
        assert Patch("p", diff, strip=0).touched() == {"x.c"}
        assert Patch("p", diff.replace(b"x.c", b"a/b/x.c"), strip=2).touched() == {"x.c"}

    def test_renames_without_hunks(self) -> None:
        diff = b"diff --git a/a.c b/b.c\nsimilarity index 100%\nrename from a.c\nrename to b.c\n"
        assert Patch("p", diff).touched() == {"a.c", "b.c"}

    def test_lines_that_look_like_headers(self) -> None:
        # A removed line "-- a/old.h" and an added one "++ b/new.h".
        diff = DIFF.replace("@@ -1 +1 @@", "@@ -1,2 +1,2 @@")
        diff += "--- a/old.h\n+++ b/new.h\n"
        assert Patch("p", diff.encode()).touched() == {"fs/open.c"}
        assert Patch("p", mail("[PATCH] x", diff).encode()).touched() == {"fs/open.c"}

    def test_git_headers(self) -> None:
        diff = b"""\
diff --git a/new name.c b/new name.c
new file mode 100644
index 000000000000..0123456789ab
--- /dev/null
+++ b/new name.c\t
@@ -0,0 +1 @@
+x
\\ No newline at end of file
diff --git a/gone.c b/gone.c
deleted file mode 100644
index 0123456789ab..000000000000
--- a/gone.c
+++ /dev/null
@@ -1 +0,0 @@
-x
diff --git a/run.sh b/run.sh
old mode 100644
new mode 100755
"""
        assert Patch("p", diff).touched() == {"new name.c", "gone.c", "run.sh"}

    def test_lines_end_as_on_windows(self) -> None:
        assert Patch("p", DIFF.replace("\n", "\r\n").encode()).touched() == {"fs/open.c"}

    def test_names_in_any_encoding(self) -> None:
        diff = DIFF.encode().replace(b"open", b"\xffopen\x85")
        assert Patch("p", diff).touched() == {os.fsdecode(b"fs/\xffopen\x85.c")}

    def test_malformed(self) -> None:
        with pytest.raises(BuildError, match=r"the patch p is malformed: .*shorter"):
            Patch("p", DIFF.replace("-1 +1", "-1,9 +1").encode()).touched()


class TestFile:
    def test_plain_diff(self, tmp_path: Path) -> None:
        path = tmp_path / "fix.diff"
        path.write_text(DIFF)
        (only,) = read(path)
        assert (only.name, only.strip, only.reverse) == ("fix.diff", 1, False)

    def test_no_patch_in_it(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("nothing of the kind\n")
        with pytest.raises(ConfigError, match="there is no patch in"):
            read(path)

    def test_binary_patch(self, tmp_path: Path) -> None:
        path = tmp_path / "p"
        path.write_text("diff --git a/x b/x\nGIT binary patch\nliteral 1\n")
        with pytest.raises(ConfigError, match="binary patch"):
            read(path)

    def test_unreadable(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read the patch"):
            read(tmp_path / "absent")


class TestMailbox:
    def read(self, tmp_path: Path, *mails: str) -> list[Patch]:
        path = tmp_path / "series.mbox"
        path.write_text("".join(mails))
        return read(path)

    def test_numbers_give_the_order(self, tmp_path: Path) -> None:
        patches = self.read(
            tmp_path,
            mail("[PATCH v2 2/2] second"),
            mail("[PATCH v2 0/2] cover", body=""),
            mail("[PATCH v2 1/2] first"),
        )
        assert [patch.name.split("] ")[1] for patch in patches] == ["first", "second"]

    def test_without_numbers_the_file_does(self, tmp_path: Path) -> None:
        patches = self.read(tmp_path, mail("[PATCH] one"), mail("[PATCH] two"))
        assert [patch.name.split("] ")[1] for patch in patches] == ["one", "two"]

    def test_replies_are_left_out(self, tmp_path: Path) -> None:
        patches = self.read(tmp_path, mail("[PATCH] one"), mail("Re: [PATCH] one"))
        assert len(patches) == 1

    def test_encoded_bodies(self, tmp_path: Path) -> None:
        body = base64.encodebytes(DIFF.encode()).decode()
        text = mail("[PATCH] one", body="", encoding="base64")
        head, _, _ = text.partition("\n\n")
        (only,) = self.read(tmp_path, f"{head}\n\n{body}\n")
        assert only.touched() == {"fs/open.c"}

    def test_a_long_subject_goes_on_over_lines(self, tmp_path: Path) -> None:
        (only,) = self.read(tmp_path, mail("[PATCH 1/1] a\n very long one"))
        assert only.name == "series.mbox: [PATCH 1/1] a very long one"


class TestSeries:
    def test_order_options_and_comments(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        for name in ("b.patch", "sub/a.patch", "c.patch"):
            (tmp_path / name).write_text(DIFF)
        series = "# first\nb.patch\n\nsub/a.patch -p0 # why\nc.patch -p2 -R\n"
        (tmp_path / "series").write_text(series)
        patches = [(patch.name, patch.strip, patch.reverse) for patch in read(tmp_path)]
        assert patches == [("b.patch", 1, False), ("sub/a.patch", 0, False), ("c.patch", 2, True)]

    def test_the_one_below_patches(self, tmp_path: Path) -> None:
        (tmp_path / "patches").mkdir()
        (tmp_path / "patches/series").write_text("a\n")
        (tmp_path / "patches/a").write_text(DIFF)
        assert len(read(tmp_path)) == 1

    def test_a_patch_that_is_missing(self, tmp_path: Path) -> None:
        (tmp_path / "series").write_text("a.patch\n")
        with pytest.raises(ConfigError, match=r"series:1: there is no .*a\.patch"):
            read(tmp_path)

    def test_no_series(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="has no quilt series"):
            read(tmp_path)

    def test_an_empty_one(self, tmp_path: Path) -> None:
        (tmp_path / "series").write_text("# nothing yet\n")
        with pytest.raises(ConfigError, match="there is no patch in"):
            read(tmp_path)


def test_key_tells_order_and_direction() -> None:
    one, two = Patch("1", b"a"), Patch("2", b"b")
    keys = {key([one, two]), key([two, one]), key([Patch("1", b"a", reverse=True), two])}
    assert len(keys) == 3
    assert key([one]) == key([Patch("other name", b"a")])


def test_one_that_fits_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text("first\na\nb\nc\nold\nd\ne\nx\n")
    diff = b"--- a/one.c\n+++ b/one.c\n@@ -1,7 +1,7 @@\n a\n b\n c\n-old\n+new\n d\n e\n f\n"
    (tmp_path / "scratch").mkdir()
    lines: list[str] = []
    apply(
        [Patch("fix", diff)],
        lambda name: tmp_path / name,
        tmp_path / "scratch",
        "it",
        lines.append,
    )
    (line,) = lines
    assert line == (
        "the patch fix fits it not exactly: Hunk #1 succeeded at 2 with fuzz 1 (offset 1 line)"
    )


def test_a_tree_remembers_how_its_patches_fit(tmp_path: Path) -> None:
    tree, state_dir = tmp_path / "tree", tmp_path / "state"
    tree.mkdir()
    state_dir.mkdir()
    (tree / "one.c").write_text("first\na\nb\nc\nold\nd\ne\nf\n")
    diff = b"--- a/one.c\n+++ b/one.c\n@@ -1,7 +1,7 @@\n a\n b\n c\n-old\n+new\n d\n e\n f\n"
    overlay = Overlay(tree, state_dir, "it")
    assert overlay.inexact() == ()
    overlay.set_patches([Patch("fix", diff)])
    line = "the patch fix fits it not exactly: Hunk #1 succeeded at 2 (offset 1 line)"
    assert overlay.inexact() == Overlay(tree, state_dir, "it").inexact() == (line,)
    overlay.set_patches([])
    assert overlay.inexact() == ()


class TestReverse:
    """Patches that are to be taken out (`quilt`'s -R, `gate --revert`)."""

    DIFF = b"--- a/one.c\n+++ b/one.c\n@@ -1 +1 @@\n-old\n+new\n"

    def apply(self, tmp_path: Path, content: str) -> str:
        (tmp_path / "one.c").write_text(content)
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        patch = Patch("fix.patch", self.DIFF, reverse=True)
        done = apply([patch], lambda name: tmp_path / name, scratch, "the tree")
        path = done["one.c"]
        assert path is not None
        return path.read_text()

    def test_one_that_is_in(self, tmp_path: Path) -> None:
        assert self.apply(tmp_path, "new\n") == "old\n"

    def test_one_that_is_not_in_is_not_put_in(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match=r"fix\.patch cannot be taken out of the tree"):
            self.apply(tmp_path, "old\n")

    def test_the_last_of_a_mailbox_first(self, tmp_path: Path) -> None:
        box = tmp_path / "box"
        box.write_text(mail("[PATCH 1/2] one") + mail("[PATCH 2/2] two"))
        (tmp_path / "series").write_text("box -R\n")
        patches = [(patch.name, patch.reverse) for patch in read(tmp_path)]
        assert patches == [("box: [PATCH 2/2] two", True), ("box: [PATCH 1/2] one", True)]
