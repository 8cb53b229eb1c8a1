"""A cache that others share: there, not there, down, slow, and full of rubbish."""

from __future__ import annotations

import functools
import http.server
import io
import random
import re
import socket
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_kgdb.cache import Cache
from pytest_kgdb.cache._files import Manifest, make_manifest
from pytest_kgdb.errors import CacheError, ConfigError
from pytest_kgdb.progress import Silent

pytest.importorskip("fsspec")

VMLINUX = random.Random(1).randbytes(500_000)


def build(path: Path) -> None:
    (path / "vmlinux").write_bytes(VMLINUX)
    (path / "tool").write_text("#!/bin/sh\n")
    (path / "tool").chmod(0o755)
    (path / "lib/empty").mkdir(parents=True)
    (path / "lib/module.ko").write_text("module")
    (path / "to a file").symlink_to("tool")
    (path / "to a directory").symlink_to("lib")
    (path / "to nowhere").symlink_to("/no/such/place")


def never(path: Path) -> None:
    raise AssertionError("it was built, and not fetched")


class Elsewhere:
    """Machines with caches of their own, and one remote."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = 0
        self.directory = root / "remote"
        self.directory.mkdir()

    def machine(self, url: str | Path | None = None) -> tuple[Cache, Silent]:
        self._count += 1
        progress = Silent()
        place = self._root / f"machine {self._count}"
        return Cache(place, progress=progress, remote=str(url or self.directory)), progress

    def pushed(self) -> Path:
        """The object of an entry that one machine made."""
        cache, _ = self.machine()
        cache.make("kernel", "k", build, label="it", about={"release": "6.1"})
        assert [(info.kind, info.key) for info in cache.push()] == [("kernel", "k")]
        return self.directory / "v1/kernel/k.tar.gz"

    def builds(self, url: str | Path | None = None) -> str:
        """What another machine says, which has to build it."""
        cache, progress = self.machine(url)
        entry = cache.make("kernel", "k", lambda path: (path / "a").write_text("built"), label="it")
        assert [path.name for path in entry.path.iterdir()] == ["a"]
        assert list((cache.root / "v1/tmp").iterdir()) == []
        assert cache.verify() == []
        return "\n".join(progress.lines)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    return Elsewhere(tmp_path)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


Handler = Callable[..., http.server.BaseHTTPRequestHandler]


@pytest.fixture
def serve() -> Iterator[Callable[[Handler], str]]:
    servers: list[http.server.ThreadingHTTPServer] = []

    def serve(handler: Handler) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def is_whole(cache: Cache) -> None:
    entry = cache.make("kernel", "k", never, label="it")
    assert entry.about == {"release": "6.1"}
    assert (entry.path / "vmlinux").read_bytes() == VMLINUX
    assert stat.S_IMODE((entry.path / "tool").stat().st_mode) == 0o755
    assert (entry.path / "lib/empty").is_dir()
    assert (entry.path / "to a directory").readlink() == Path("lib")
    assert (entry.path / "to nowhere").readlink() == Path("/no/such/place")
    assert sorted(path.name for path in entry.path.parent.iterdir()) == [
        "files", "manifest.json", "use"
    ]  # fmt: skip
    assert cache.verify() == []


def test_a_directory(elsewhere: Elsewhere) -> None:
    archive = elsewhere.pushed()
    assert list(elsewhere.directory.rglob("*.*")) == [archive]
    cache, progress = elsewhere.machine()
    is_whole(cache)
    assert progress.lines == []
    assert cache.push() == []  # it is there already


def test_the_same_entry_is_the_same_object(elsewhere: Elsewhere) -> None:
    archive = elsewhere.pushed()
    content = archive.read_bytes()[10:]  # behind gzip's time
    archive.unlink()
    cache, _ = elsewhere.machine()
    cache.make("kernel", "k", build, label="it", about={"release": "6.1"})
    cache.push()
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert names[0] == "manifest.json"
    assert names[1:] == sorted(names[1:])
    assert abs(len(archive.read_bytes()) - len(content)) < 200  # the times in the manifest


def test_a_file_url(elsewhere: Elsewhere) -> None:
    elsewhere.pushed()
    is_whole(elsewhere.machine(elsewhere.directory.as_uri())[0])


def test_an_object_store(elsewhere: Elsewhere) -> None:
    cache, _ = elsewhere.machine("memory://bucket/folder")
    cache.make("kernel", "k", build, label="it", about={"release": "6.1"})
    assert len(cache.push()) == 1
    is_whole(elsewhere.machine("memory://bucket/folder")[0])


def test_a_web_server(elsewhere: Elsewhere, serve: Callable[[Handler], str]) -> None:
    elsewhere.pushed()
    url = serve(functools.partial(Quiet, directory=str(elsewhere.directory)))
    is_whole(elsewhere.machine(url)[0])
    cache, progress = elsewhere.machine(url)
    cache.make("kernel", "another", build, label="it")
    assert progress.lines == []  # not there is nothing to talk about
    with pytest.raises(CacheError, match=r"cannot push kernel another to http(?s:.)*not HTTP"):
        cache.push()


def test_a_remote_is_not_asked_for_what_is_not_shared(elsewhere: Elsewhere) -> None:
    elsewhere.pushed()
    cache, _ = elsewhere.machine()
    entry = cache.make("kernel", "k", lambda path: None, label="it", shared=False)
    assert list(entry.path.iterdir()) == []


def test_a_remote_that_is_down(elsewhere: Elsewhere) -> None:
    with socket.socket() as unused:  # bound, and nobody listens
        unused.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{unused.getsockname()[1]}/cache"
        cache, progress = elsewhere.machine(url)
        cache.make("kernel", "k1", lambda path: None, label="it")
        cache.make("kernel", "k2", lambda path: None, label="it")
    (line,) = progress.lines  # once, and in one line
    assert line.startswith("the remote cache http://127.0.0.1:")
    assert line.endswith("; building here")
    assert "secret" not in line


def test_a_directory_that_is_not_there(elsewhere: Elsewhere) -> None:
    report = elsewhere.builds(elsewhere.directory / "typo")
    assert report.endswith("typo is not used: there is no such directory; building here")


def test_a_remote_that_fails(elsewhere: Elsewhere, serve: Callable[[Handler], str]) -> None:
    class Fails(Quiet):
        def do_GET(self) -> None:
            self.send_error(500)

    report = elsewhere.builds(serve(Fails))
    assert " is not used: 500" in report
    assert "\n" not in report


def test_a_remote_that_hangs(
    elsewhere: Elsewhere, serve: Callable[[Handler], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    class Hangs(Quiet):
        def do_GET(self) -> None:
            ended.wait(20)

    monkeypatch.setattr("pytest_kgdb.cache._remote._READ_SECONDS", 0.2)
    try:
        assert " is not used: " in elsewhere.builds(serve(Hangs))
    finally:
        ended.set()


def test_a_connection_that_breaks(elsewhere: Elsewhere, serve: Callable[[Handler], str]) -> None:
    archive = elsewhere.pushed()

    class Breaks(Quiet):
        def do_GET(self) -> None:
            content = archive.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])

    report = elsewhere.builds(serve(Breaks))
    assert "is not used: " in report
    assert report.endswith("; building here")


def test_a_web_server_with_a_page_for_everything(
    elsewhere: Elsewhere, serve: Callable[[Handler], str]
) -> None:
    class Page(Quiet):
        def do_GET(self) -> None:
            page = b"<html>Please log in</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    assert "has a broken kernel k" in elsewhere.builds(serve(Page))


@pytest.mark.parametrize("size", [0, 1, 100, 1000, -1, -8, -100])
def test_a_truncated_archive(elsewhere: Elsewhere, size: int) -> None:
    archive = elsewhere.pushed()
    archive.write_bytes(archive.read_bytes()[:size])
    report = elsewhere.builds()
    assert report.startswith(f"{elsewhere.directory} has a broken kernel k (")
    assert report.endswith("); built here instead")
    assert "\n" not in report


@pytest.mark.parametrize("where", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_damaged_archive(elsewhere: Elsewhere, where: float) -> None:
    archive = elsewhere.pushed()
    content = bytearray(archive.read_bytes())
    content[int((len(content) - 1) * where)] ^= 0x40
    archive.write_bytes(content)
    assert "has a broken kernel k" in elsewhere.builds()


def repack(archive: Path, edit: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
    """Change the members of an archive, and nothing of its outer shape."""
    with tarfile.open(archive) as tar:
        members = [
            (member, content.read() if (content := tar.extractfile(member)) else b"")
            for member in tar.getmembers()
            if not member.issym()
        ]
    edit(members)
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def regular(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), b"evil"


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member, b""


Members = list[tuple[tarfile.TarInfo, bytes]]


def alter_content(members: Members) -> None:
    for index, (member, data) in enumerate(members):
        if member.name == "files/vmlinux":
            members[index] = (member, data[:-1] + b"x")


def enlarge(members: Members) -> None:
    for index, (member, data) in enumerate(members):
        if member.name == "files/vmlinux":
            members[index] = (member, data + bytes(1 << 20))


EDITS: dict[str, tuple[Callable[[Members], None], str]] = {
    "another content": (alter_content, "vmlinux has another content"),
    "a larger file": (enlarge, r"vmlinux has \d+ bytes"),
    "a missing file": (lambda members: members.pop(), "vmlinux is missing"),
    "an extra file": (lambda m: m.append(regular("files/extra")), "extra does not belong to it"),
    "a file twice": (lambda m: m.append(regular("files/tool")), "tool does not belong to it"),
    "a way out": (lambda m: m.append(regular("files/../../evil")), "would be outside of it"),
    "an absolute name": (lambda m: m.append(regular("/tmp/evil")), "would be outside of it"),
    "beside the files": (lambda m: m.append(regular("use")), "would be outside of it"),
    "a device": (
        lambda m: m.append(special("files/null", tarfile.CHRTYPE)),
        "null is neither a file nor a link",
    ),
    "a hard link": (
        lambda m: m.append(special("files/passwd", tarfile.LNKTYPE, "/etc/passwd")),
        "passwd",
    ),
    "no manifest": (lambda members: members.pop(0), "it does not begin with a manifest"),
    "nothing": (lambda members: members.clear(), "it does not begin with a manifest"),
}


@pytest.mark.parametrize(("edit", "reason"), EDITS.values(), ids=EDITS)
def test_an_archive_that_is_not_the_entry(
    elsewhere: Elsewhere, tmp_path: Path, edit: Callable[[Members], None], reason: str
) -> None:
    repack(elsewhere.pushed(), edit)
    report = elsewhere.builds()
    assert re.search(reason, report)
    assert list(tmp_path.rglob("evil")) == []
    # The next machine may be luckier: only this entry is bad, the remote is not given up.
    cache, progress = elsewhere.machine()
    cache.make("kernel", "k", lambda path: None, label="it")
    cache.make("kernel", "another", lambda path: None, label="it")
    assert len(progress.lines) == 1


def test_links_lead_nobody_out(elsewhere: Elsewhere, tmp_path: Path) -> None:
    # A link in the manifest, and a file behind it.
    outside = tmp_path / "outside"
    outside.mkdir()

    def wicked(path: Path) -> None:
        (path / "door").mkdir()
        (path / "door/evil").write_text("evil")

    cache, _ = elsewhere.machine()
    entry = cache.make("kernel", "k", wicked, label="it")
    stock = make_manifest(entry.path, kind="kernel", key="k", about={}, created=0, sync=False)
    manifest = Manifest("kernel", "k", {}, 0, stock.files, {"door": str(outside)}, 0)
    cache.push()
    repack(
        elsewhere.directory / "v1/kernel/k.tar.gz",
        lambda members: members.__setitem__(0, (members[0][0], manifest.dump())),
    )
    assert "has a broken kernel k" in elsewhere.builds()
    assert list(outside.iterdir()) == []


def test_an_entry_under_the_wrong_name(elsewhere: Elsewhere) -> None:
    archive = elsewhere.pushed()
    archive.rename(archive.with_name("other.tar.gz"))
    cache, progress = elsewhere.machine()
    cache.make("kernel", "other", lambda path: None, label="it")
    assert "it is kernel k" in progress.lines[0]


def test_a_url_that_nothing_can_read(elsewhere: Elsewhere) -> None:
    cache, _ = elsewhere.machine("gopher://example.org/cache")
    with pytest.raises(ConfigError, match=r"gopher(?s:.)*pytest-kgdb\[remote\]"):
        cache.make("kernel", "k", build, label="it")


def test_without_fsspec(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    cache, _ = elsewhere.machine()
    with pytest.raises(ConfigError, match=r"cannot use the remote.*fsspec(?s:.)*pip install"):
        cache.make("kernel", "k", build, label="it")


def test_pushing_without_a_remote(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no remote cache to push to"):
        Cache(tmp_path, progress=Silent()).push()


def test_what_is_there_needs_no_remote(elsewhere: Elsewhere) -> None:
    elsewhere.pushed()
    cache, _ = elsewhere.machine()
    is_whole(cache)
    code = (
        "import sys; from pathlib import Path; from pytest_kgdb.cache import Cache\n"
        "from pytest_kgdb.progress import Silent\n"
        f"cache = Cache(Path({str(cache.root)!r}), progress=Silent(), remote='http://127.0.0.1:1')\n"
        "assert cache.make('kernel', 'k', None, label='it')\n"
        "print('fsspec' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
