"""Patches as they come: diffs, mails, series; which files they touch, and in which order."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from pytest_kgdb.errors import BuildError, ConfigError
from pytest_kgdb.kernel._overlay import Overlay
from pytest_kgdb.kernel._patch import Patch, apply, file_of, key, read
from pytest_kgdb.kernel._source import with_patches

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


REAL = """\
diff --git a/fs/old.c b/fs/new.c
similarity index 60%
rename from fs/old.c
rename to fs/new.c
index 0123456789ab..123456789abc 100644
--- a/fs/old.c
+++ b/fs/new.c
@@ -1,3 +1,2 @@ int f(void)
 context

--- a/looks like a header
@@ -9 +8 @@
-old
\\ No newline at end of file
+new
\\ No newline at end of file
diff --git a/run.sh b/run.sh
old mode 100644
new mode 100755
"""


def test_only_the_diffs_are_passed_on() -> None:
    assert Patch("p", REAL.encode()).diffs == REAL.encode()
    message = mail("[PATCH] x", "rename from /etc/passwd\n--- a/x\n+++ no\n\n" + REAL)
    message = message.replace("Why.", "--- a/prose\n\nindex 1..2\nnew file mode 120000\n+++ b/x")
    assert Patch("p", message.encode()).diffs == b"--- a/x\n+++ no\n" + REAL.encode()


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


class TestRefusal:
    """Why a patch does not apply."""

    ONE = b"--- a/one.c\n+++ b/one.c\n@@ -1 +1 @@\n-old\n+new\n"
    NEW = b"--- /dev/null\n+++ b/two.c\n@@ -0,0 +1 @@\n+two\n"

    def refusal(self, tmp_path: Path, files: dict[str, str], *patches: bytes) -> str:
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        numbered = [Patch(f"p{number}", data) for number, data in enumerate(patches)]

        def find(name: str) -> Path | None:
            return path if (path := tmp_path / name).exists() else None

        with pytest.raises(BuildError) as caught:
            apply(numbered, find, scratch, "the tree")
        assert {name: (tmp_path / name).read_text() for name in files} == files
        return str(caught.value)

    def test_one_that_is_applied_already(self, tmp_path: Path) -> None:
        both = self.ONE + self.NEW
        text = self.refusal(tmp_path, {"one.c": "new\n", "two.c": "two\n"}, both)
        assert text.startswith("the patch p0 is applied already: the tree has what it changes\n")
        assert "hint: leave it out" in text

    def test_one_that_another_patch_has(self, tmp_path: Path) -> None:
        text = self.refusal(tmp_path, {"one.c": "old\n"}, self.ONE, self.ONE)
        assert text.startswith("the patch p1 is applied already: the tree, or a patch before it,")

    @pytest.mark.parametrize("files", [{"one.c": "new\n"}, {"one.c": "old\n", "two.c": "two\n"}])
    def test_one_of_which_a_part_is_in(self, tmp_path: Path, files: dict[str, str]) -> None:
        text = self.refusal(tmp_path, files, self.ONE + self.NEW)
        assert text.startswith("the patch p0 does not apply to the tree:\n  ")


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
        with pytest.raises(BuildError, match=r"fix\.patch is not in the tree: there is nothing"):
            self.apply(tmp_path, "old\n")

    def test_one_that_is_of_another_tree(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match=r"fix\.patch cannot be taken out of the tree"):
            self.apply(tmp_path, "other\n")

    def test_the_last_of_a_mailbox_first(self, tmp_path: Path) -> None:
        box = tmp_path / "box"
        box.write_text(mail("[PATCH 1/2] one") + mail("[PATCH 2/2] two"))
        (tmp_path / "series").write_text("box -R\n")
        patches = [(patch.name, patch.reverse) for patch in read(tmp_path)]
        assert patches == [("box: [PATCH 2/2] two", True), ("box: [PATCH 1/2] one", True)]


def link(mode: str = "120000", target: str = "/etc/passwd") -> str:
    return (
        f"diff --git a/link b/link\nnew file mode {mode}\nindex 000000000000..0123456789ab\n"
        f"--- /dev/null\n+++ b/link\n@@ -0,0 +1 @@\n+{target}\n\\ No newline at end of file\n"
    )


class TestHostile:
    """Patches that somebody has made to reach what is not in the tree."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("a/../outside", "b/../outside"),
            ("a/x/../../outside", "b/x/../../outside"),
            ("a//etc/passwd", "b//etc/passwd"),
            ("/dev/null", "b/../outside"),
            ("a/../outside", "/dev/null"),
            ("a/.git/hooks/post-checkout", "b/.git/hooks/post-checkout"),
            ("a/sub/.git/config", "b/sub/.git/config"),
        ],
    )
    def test_names_that_lead_out(self, before: str, after: str) -> None:
        diff = f"--- {before}\n+++ {after}\n@@ -1 +1 @@\n-a\n+b\n"
        if "/dev/null" in (before, after):
            hunk = "@@ -0,0 +1 @@\n+b\n" if before == "/dev/null" else "@@ -1 +0,0 @@\n-a\n"
            diff = f"--- {before}\n+++ {after}\n{hunk}"
        with pytest.raises(ConfigError, match=r"p wants to change \S+, outside of the kernel"):
            Patch("p", diff.encode()).touched()

    @pytest.mark.parametrize("verb", ["rename", "copy"])
    @pytest.mark.parametrize(
        ("source", "target"), [("../outside", "x.c"), ("x.c", "../outside"), ("/etc/passwd", "x.c")]
    )
    def test_gits_renames_and_copies(self, verb: str, source: str, target: str) -> None:
        # The names in the first line are harmless: these are the ones that patch(1) uses.
        diff = f"diff --git a/x.c b/y.c\nsimilarity index 100%\n{verb} from {source}\n"
        with pytest.raises(ConfigError, match="outside of the kernel"):
            Patch("p", f"{diff}{verb} to {target}\n".encode()).touched()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (link(), "a file of mode 120000: symbolic links and submodules are not applied"),
            (link("160000"), "a file of mode 160000"),
            (link("040000"), "a file of mode 040000"),
            ("diff --git a/x b/x\nold mode 100644\nnew mode 120000\n", "mode 120000"),
            ("diff --git a/x b/x\ndeleted file mode 120000\n", "mode 120000"),
            (link().replace("\n", "\r\n"), "mode 120000"),
            (DIFF + "*** a/x\n--- b/x\n***************\n*** 1 ****\n", "holds a context diff"),
            ("*** a/x\n--- b/x\n***************\n*** 1 ****\n" + DIFF, "holds a context diff"),
        ],
    )
    def test_what_is_no_text_of_a_file(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "p"
        path.write_bytes(text.encode())
        with pytest.raises(ConfigError, match=message) as caught:
            read(path)
        assert caught.value.hint == "apply it in your tree, or name a revision that has it"

    def apply(self, tmp_path: Path, text: str) -> dict[str, Path | None]:
        tree, scratch = tmp_path / "tree", tmp_path / "scratch"
        (tree / "fs").mkdir(parents=True)
        scratch.mkdir()
        for name in ("fs/open.c", "fs/read.c"):
            (tree / name).write_text("old\n")
        return apply([Patch("p", text.encode())], lambda name: file_of(tree, name), scratch, "it")

    @pytest.mark.parametrize("name", ["a/fs/open.c", "a/fs/read.c", "fs/open.c"])
    def test_a_script_for_ed_is_not_run(self, tmp_path: Path, name: str) -> None:
        # Behind a diff, patch(1) runs it even if it is told that the diffs are unified ones.
        script = f"Index: {name}\n=====\n1c\nevil\n.\n"
        patched = self.apply(tmp_path, f"{script}{DIFF}\n{script}")
        (path,) = (tmp_path / "scratch").rglob("*.c")
        assert patched == {"fs/open.c": path}
        assert path.read_text() == "new\n"

    def test_a_hunk_of_no_file(self, tmp_path: Path) -> None:
        text = f"{DIFF}\nIndex: fs/read.c\n@@ -1 +1 @@\n-old\n+new\n"
        with pytest.raises(BuildError, match="malformed: line 8 begins a hunk of no file"):
            self.apply(tmp_path, text)

    def test_a_diff_in_the_message_is_not_applied(self, tmp_path: Path) -> None:
        quoted = "".join(f"  {line}\n" for line in DIFF.splitlines()).replace("open", "read")
        text = f"Before @@:\n@@ -1 +1 @@\n{quoted}\n{DIFF}\n{quoted}"
        assert list(self.apply(tmp_path, text)) == ["fs/open.c"]
        assert list((tmp_path / "scratch").rglob("*.c")) == [tmp_path / "scratch/fs/open.c"]

    def test_a_link_that_came_past_the_reader(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="makes of it link, which is a link"):
            self.apply(tmp_path, link())

    @pytest.mark.parametrize("name", ["door/passwd", "door/sub/new.c", "passwd"])
    def test_links_in_the_tree_lead_nobody_out(self, tmp_path: Path, name: str) -> None:
        tree, outside, state_dir = tmp_path / "tree", tmp_path / "outside", tmp_path / "state"
        for directory in (tree, outside, state_dir):
            directory.mkdir()
        (outside / "passwd").write_text("old\n")
        (tree / "door").symlink_to(outside)
        (tree / "passwd").symlink_to(outside / "passwd")
        diff = DIFF.replace("fs/open.c", name)
        with pytest.raises(ConfigError, match=f"{name} is outside of .*: a symbolic link leads"):
            Overlay(tree, state_dir, "it").set_patches([Patch("p", diff.encode())])
        assert (outside / "passwd").read_text() == "old\n"
        assert list(outside.iterdir()) == [outside / "passwd"]

    def test_links_within_the_tree_are_the_trees(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real/x.c").write_text("old\n")
        (tmp_path / "link").symlink_to("real")
        assert file_of(tmp_path, "link/x.c") == tmp_path / "link/x.c"
        assert file_of(tmp_path, "link/y.c") is None


def test_the_name_of_a_kernel_with_patches() -> None:
    patches = [
        Patch("fix.patch", b""),
        Patch("/a/b/old.patch", b"", reverse=True),
        Patch("/a/series.mbox: fs/x: fix: this", b""),
    ]
    name = "linux + fix.patch + old.patch (taken out) + series.mbox: fs/x: fix: this"
    assert with_patches("linux", patches) == name
    series = [Patch(f"{number}.patch", b"") for number in range(1, 9)]
    assert with_patches("linux", series) == "linux + 1.patch + 6 more patches + 8.patch"
