"""Record calls and force return values while the kernel runs."""

from __future__ import annotations


def test_who_opens_what(kgdb):
    """A spy records every call; the test sees no stop."""
    with kgdb.spy("do_sys_openat2", returns=True) as opens:
        kgdb.run("cat /proc/version; cat /no/such/file")
    assert [call.return_value for call in opens.calls].count(-2) == 1, "ENOENT once"
    assert all(call.task.pid > 1 for call in opens.calls)


def test_a_system_call_runs_out_of_memory(kgdb):
    """Force an error path that is hard to reach: no memory to open a file."""
    with kgdb.override("do_filp_open", "-ENOMEM", times=1) as opens:
        result = kgdb.run("cat /proc/version")
    assert opens.forced == 1
    assert result.status != 0
    assert "Cannot allocate memory" in result.output
    assert kgdb.run("cat /proc/version").status == 0, "the next call works"
