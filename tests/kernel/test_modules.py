"""Modules: symbols before their init, breakpoints that wait, parameters, failures, unloading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guest_files import built_from

from pytest_kgdb.errors import (
    ConfigError,
    GuestCommandError,
    KernelPanic,
    KgdbError,
    TimeoutError,
)

HERE = Path(__file__).parent / "modules"
DEMO = HERE / "demo"
USERS = HERE / "users"
CLONES = HERE / "clones"

# Two modules of one name: what is in one of them is elsewhere in the other.
TWIN = """
#include <linux/module.h>
static volatile int twin_number = 3;
noinline int twin_add(int n) { return n + twin_number; }
static int __init twin_init(void) { return twin_add(-3); }
static void __exit twin_exit(void) { }
module_init(twin_init);
module_exit(twin_exit);
MODULE_LICENSE("GPL");
"""
OTHER_TWIN = TWIN.replace(
    "static volatile int twin_number = 3;",
    "static volatile int twin_earlier[9] = { 1 }, twin_number = 70000;\n"
    "noinline int twin_more(int n) { return twin_earlier[n & 7] * n; }",
).replace("(-3)", "(-70000) + twin_more(0)")

smp = pytest.mark.parametrize("smp", [1, pytest.param(2, marks=pytest.mark.kgdb(smp=2))])


class TestLoad:
    @smp
    def test_a_directory_is_built_and_put_into_the_guest(self, kgdb, smp) -> None:
        demo = kgdb.modules.load(DEMO, answer=42)
        assert (demo.name, demo.state, demo.loaded) == ("demo", "live", True)
        assert kgdb.stopped
        assert kgdb.stop.reason == "interrupt"
        assert kgdb.evaluate("answer") == 42
        assert kgdb.evaluate("demo_total") == 7 + 43
        assert kgdb.program["demo_total"].value_() == 7 + 43
        assert kgdb.run("cat /sys/module/demo/parameters/answer").output == "42\n"

    def test_the_kernel_runs_on_if_it_ran(self, kgdb) -> None:
        kgdb.resume()
        demo = kgdb.modules.load(DEMO)
        assert not kgdb.stopped
        demo.unload()
        assert not kgdb.stopped
        with pytest.raises(GuestCommandError):
            kgdb.modules.load(DEMO, fail=5)
        assert not kgdb.stopped
        kgdb.interrupt()
        assert not demo.loaded

    def test_parameters_of_every_kind(self, kgdb) -> None:
        kgdb.modules.load(DEMO, label="two words", numbers=[3, 2, 1], crash=False, answer=-4)
        assert kgdb.evaluate("label").string() == "two words"
        assert [int(item) for item in kgdb.evaluate("numbers")] == [3, 2, 1, 0]
        assert kgdb.evaluate("numbered") == 3
        assert kgdb.evaluate("answer") == -4

    @pytest.mark.parametrize(
        "label", ["a\tb\nc", "voilà ", '"quoted"', 'a "b" c', 'a"b c"d', "", "it's $x \\ `"]
    )
    def test_strings_that_the_kernel_divides(self, kgdb, label) -> None:
        kgdb.modules.load(DEMO, label=label, answer=5)
        assert kgdb.evaluate("label").string() == label
        assert kgdb.evaluate("answer") == 5

    @pytest.mark.parametrize("label", ['a"b', 'x " y" z', "a\0b"])
    def test_strings_that_the_kernel_would_misread(self, kgdb, label) -> None:
        with pytest.raises(ConfigError, match=r"parameter label cannot be .* another value"):
            kgdb.modules.load(DEMO, label=label, answer=5)
        assert "demo" not in kgdb.modules

    def test_a_file_of_the_same_name_that_is_not_what_is_loaded(
        self, kgdb, kgdb_kernel, tmp_path_factory
    ) -> None:
        first, second = (
            built_from(text, "twin", kgdb_kernel, tmp_path_factory) for text in (TWIN, OTHER_TWIN)
        )
        module = kgdb.modules.load(first)
        address = int(kgdb.evaluate("&twin_add"))
        with pytest.raises(GuestCommandError, match="File exists"):
            kgdb.modules.load(second)
        assert kgdb.evaluate("twin_number") == 3
        assert int(kgdb.evaluate("&twin_add")) == address
        assert kgdb.program["twin_number"].value_() == 3
        assert module.file == first
        module.unload()
        module = kgdb.modules.load(second)
        assert kgdb.evaluate("twin_number") == 70000
        assert kgdb.breakpoint("twin_more").address
        assert module.file == second
        # The guest loads the first again.
        kgdb.put(first, "/root/twin.ko")
        assert kgdb.run("rmmod twin && insmod /root/twin.ko").status == 0
        assert kgdb.evaluate("twin_number") == 3
        assert module.file == first

    def test_a_parameter_that_has_no_type(self, kgdb) -> None:
        # module_param_cb()
        kgdb.modules.load(CLONES, step=1, async_probe=True, dyndbg="+p")
        assert re.search(r"clones: step 1 gives \d+", kgdb.dmesg())
        assert "unknown parameter" not in kgdb.dmesg()

    def test_a_parameter_that_it_does_not_have(self, kgdb) -> None:
        with pytest.raises(ConfigError, match=r"(?s)no parameter 'answr'.*answer, crash, fail"):
            kgdb.modules.load(DEMO, answr=42)
        assert "demo" not in kgdb.modules

    def test_all_sections(self, kgdb) -> None:
        demo = kgdb.modules.load(DEMO)
        for line in kgdb.run("cd /sys/module/demo/sections; grep . .[a-z]*").output.splitlines():
            name, _, address = line.partition(":")
            assert demo.sections[name] == int(address, 16)
        places = {
            name: int(kgdb.evaluate(f"(unsigned long)&{name}"))
            for name in ("demo_add", "demo_exit", "demo_total", "numbered", "__this_module")
        }
        assert places["demo_add"] >= demo.sections[".text"]
        assert places["demo_exit"] >= demo.sections[".exit.text"]
        assert places["demo_total"] >= demo.sections[".data"]
        assert places["numbered"] >= demo.sections[".bss"]
        assert places["__this_module"] == demo.address
        for name in ("demo_add", "demo_total"):
            assert kgdb.program.symbol(name).address == places[name]

    def test_a_module_of_the_kernels_own(self, kgdb) -> None:
        dummy = kgdb.modules.load("dummy", numdummies=3)
        assert kgdb.evaluate("numdummies") == 3
        assert "dummy2" in kgdb.run("ls /sys/class/net").output
        assert dummy.file is not None
        assert dummy.file.name == "dummy.ko"

    def test_a_path_in_the_guest(self, kgdb) -> None:
        kgdb.modules.load(DEMO).unload()
        kgdb.run("mv /run/demo.ko /tmp/demo.ko")
        kgdb.modules.load("/tmp/demo.ko", answer=4)
        assert kgdb.evaluate("demo_total") == 7 + 5

    def test_one_of_several_with_what_it_needs(self, kgdb) -> None:
        with pytest.raises(ConfigError, match=r"builds user-one\.ko, user-two\.ko"):
            kgdb.modules.load(USERS)
        kgdb.modules.load(USERS / "user-two.ko")
        assert kgdb.evaluate("user_two_sum") == 1111
        assert [item.name for item in kgdb.modules] == ["user_two", "user_one"]
        assert len(kgdb.modules) == 2
        assert "user_one" in kgdb.modules
        assert kgdb.modules["user-one"].state == "live"

    def test_nothing_of_that_name(self, kgdb) -> None:
        with pytest.raises(ConfigError, match=r"no module nonesuch"):
            kgdb.modules.load("nonesuch")
        with pytest.raises(GuestCommandError, match=r"No such file"):
            kgdb.modules.load("/no/such.ko")
        with pytest.raises(KeyError, match="module demo is not loaded; these are: none"):
            kgdb.modules["demo"]


class TestInit:
    @smp
    def test_begin_stops_before_init(self, kgdb, smp) -> None:
        demo = kgdb.modules.begin(DEMO, answer=5)
        assert demo.state == "coming"
        assert kgdb.evaluate("demo_total") == 7
        assert kgdb.evaluate("answer") == 5
        assert kgdb.program["demo_total"].value_() == 7
        init = kgdb.breakpoint("demo_init")
        prepare = kgdb.breakpoint("demo_prepare")
        stop = kgdb.cont()
        assert stop.breakpoint is init
        assert stop.frame.file == str(DEMO / "main.c")
        assert stop.frame.up().function == "do_one_initcall"
        stop = kgdb.cont()
        assert stop.breakpoint is prepare
        assert stop.frame.args["amount"] == 5
        assert kgdb.finish().return_value == 6
        assert kgdb.run("cat /sys/module/demo/initstate").output == "live\n"
        assert demo.state == "live"
        assert kgdb.evaluate("demo_total") == 13

    @smp
    def test_breakpoints_in_init_memory_go_with_it(self, kgdb, smp) -> None:
        demo = kgdb.modules.begin(DEMO)
        init = kgdb.breakpoint("demo_init")
        assert kgdb.cont().breakpoint is init
        assert kgdb.run("true").status == 0
        # What had been that memory is somebody else's; an int3 of ours would be their end.
        kgdb.modules.load("dummy")
        kgdb.modules.load(USERS / "user-one.ko")
        assert kgdb.run("ip link set dummy0 up && ls /proc/net >/dev/null").status == 0
        with pytest.raises(
            KgdbError, match=r"\.init\.text of module demo.*freed.*load_stopped\(\)"
        ):
            kgdb.breakpoint("demo_prepare")
        demo.unload()
        kgdb.modules.begin(DEMO)
        assert kgdb.cont().breakpoint is init
        assert init.hits == 2

    def test_a_breakpoint_that_load_runs_into(self, kgdb) -> None:
        kgdb.modules.known(DEMO)
        with kgdb.breakpoint("demo_prepare"):
            with pytest.raises(
                GuestCommandError, match=r"(?s)stopped.*demo_prepare.*load_stopped\(\)"
            ):
                kgdb.modules.load(DEMO)
            assert kgdb.stop.frame.function == "demo_prepare"
        assert kgdb.run("cat /sys/module/demo/initstate").output == "live\n"

    @smp
    def test_an_oops_in_init(self, kgdb, smp) -> None:
        kgdb.modules.begin(DEMO, crash=True)
        stop = kgdb.cont()
        assert stop.reason == "oops"
        assert stop.frame.function == "demo_prepare"
        assert stop.frame.file == str(DEMO / "main.c")
        assert "/* the oops */" in stop.frame.source(context=0)
        names = [frame.function for frame in stop.backtrace()]
        assert names[:4] == ["demo_prepare", "demo_init", "do_one_initcall", "do_init_module"]

    def test_an_oops_that_load_did_not_expect(self, kgdb) -> None:
        where = rf"oopsed in demo_prepare at {re.escape(str(DEMO))}/main\.c:\d+: BUG: "
        with pytest.raises(KernelPanic, match=where):
            kgdb.modules.load(DEMO, crash=True)
        assert kgdb.stop.reason == "oops"

    def test_an_oops_nobody_was_shown_has_lines_too(self, kgdb) -> None:
        kgdb.modules.load(DEMO).unload()  # so that it is there
        kgdb.type("insmod /run/demo.ko crash=1")
        stop = kgdb.cont()
        assert stop.reason == "oops"
        assert stop.frame.file == str(DEMO / "main.c")


class TestFailure:
    def test_init_fails(self, kgdb) -> None:
        with pytest.raises(GuestCommandError, match=r"(?s)Invalid arg.*told to fail with 22"):
            kgdb.modules.load(DEMO, fail=22)
        assert "demo" not in kgdb.modules
        with pytest.raises(KgdbError, match="No symbol"):
            kgdb.evaluate("demo_total")
        assert kgdb.modules.load(DEMO).loaded

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (2, ": its init returned -ENOENT"), (3, ": its init returned -ESRCH"),
            (8, ": its init returned -ENOEXEC"), (38, ": its init returned -ENOSYS"),
            (19, r": No such device \(its init returned -ENODEV\)"),
            (517, ": its init returned -EPROBE_DEFER"),
        ],
    )  # fmt: skip
    def test_what_init_returned(self, kgdb, code, words) -> None:
        """insmod has words of the loader's for some errors."""
        with pytest.raises(
            GuestCommandError, match=rf"(?s){words}\nthe kernel said:\n.*told to fail"
        ):
            kgdb.modules.load(DEMO, fail=code)

    def test_what_the_loader_returned(self, kgdb, tmp_path) -> None:
        data = bytearray(kgdb.modules.known(DEMO)[0].read_bytes())
        place = data.index(b"vermagic=") + len(b"vermagic=")
        data[place : place + 1] = b"7"
        (tmp_path / "demo.ko").write_bytes(data)
        kgdb.put(tmp_path / "demo.ko", "/run/altered.ko")
        with pytest.raises(GuestCommandError, match="invalid module format\n"):
            kgdb.modules.load("/run/altered.ko")

    def test_init_fails_with_a_breakpoint_in_it(self, kgdb) -> None:
        kgdb.modules.begin(DEMO, fail=12)
        init = kgdb.breakpoint("demo_init")
        add = kgdb.breakpoint("demo_add")
        assert kgdb.cont().breakpoint is init
        assert kgdb.cont().breakpoint is add
        init.enabled = add.enabled = False  # busybox tries again by another system call
        assert kgdb.run("grep -c demo /proc/modules").output == "0\n"
        assert add.address is None
        init.enabled = add.enabled = True
        kgdb.modules.begin(DEMO)
        assert kgdb.cont().breakpoint is init
        assert kgdb.cont().breakpoint is add

    @pytest.mark.parametrize("code", [4096, 5000])
    def test_init_fails_with_what_is_no_error(self, kgdb, code) -> None:
        # libc knows errors of 1 to 4095.
        with pytest.raises(
            GuestCommandError, match=rf"(?s)no module demo.*told to fail with {code}.*-1 to -4095"
        ):
            kgdb.modules.load(DEMO, fail=code)
        assert "demo" not in kgdb.modules
        assert kgdb.modules.load(DEMO).loaded

    def test_init_returns_more_than_0(self, kgdb) -> None:
        assert kgdb.modules.load(DEMO, fail=-1).state == "live"

    def test_a_file_of_another_name(self, kgdb) -> None:
        kgdb.modules.load(DEMO).unload()
        kgdb.run("mv /run/demo.ko /run/renamed.ko")
        renamed = kgdb.modules.load("/run/renamed.ko", answer=4)
        assert (renamed.name, renamed.state) == ("demo", "live")
        assert kgdb.evaluate("demo_total") == 7 + 5

    def test_a_parameters_value_is_refused(self, kgdb) -> None:
        with pytest.raises(GuestCommandError, match=r"(?s)`x' invalid for parameter `answer'"):
            kgdb.modules.load(DEMO, answer="x")

    def test_a_symbol_is_missing(self, kgdb) -> None:
        kgdb.modules.load(USERS / "user-two.ko").unload()
        kgdb.modules.unload("user-one")
        with pytest.raises(GuestCommandError, match=r"Unknown symbol user_one_value"):
            kgdb.modules.load("/run/user_two.ko")

    def test_it_is_loaded_already(self, kgdb) -> None:
        kgdb.modules.load(DEMO)
        with pytest.raises(GuestCommandError, match=r"File exists"):
            kgdb.modules.load(DEMO)
        with pytest.raises(GuestCommandError, match=r"File exists"):
            kgdb.modules.begin(DEMO)

    def test_it_is_for_another_kernel(self, kgdb, tmp_path) -> None:
        (built,) = kgdb.modules.known(DEMO)
        data = built.read_bytes()
        release = kgdb.kernel.release.encode()
        other = tmp_path / "demo.ko"
        other.write_bytes(data.replace(b"vermagic=" + release, b"vermagic=9" + release[1:]))
        with pytest.raises(ConfigError, match=r"was built for 9\."):
            kgdb.modules.load(other)
        other.write_bytes(data.replace(b" mod_unload ", b" mod_unl_ad "))
        with pytest.raises(ConfigError, match=r"another configuration.*mod_unl_ad"):
            kgdb.modules.load(other)


class TestUnload:
    @smp
    def test_and_loaded_again_elsewhere(self, kgdb, smp) -> None:
        demo = kgdb.modules.load(DEMO)
        add = kgdb.breakpoint("demo_add")
        first = add.address
        assert first == demo.sections[".text"]
        kgdb.type("rmmod demo")
        stop = kgdb.cont()
        assert stop.breakpoint is add
        assert stop.frame.up().function != "demo_init"
        assert stop.frame.args["amount"] == -1
        assert kgdb.run("true").status == 0
        assert not demo.loaded
        assert demo.state is None
        with pytest.raises(KgdbError, match="module demo is not loaded"):
            demo.address  # noqa: B018
        assert add.address is None
        with pytest.raises(KgdbError, match="No symbol"):
            kgdb.evaluate("demo_total")
        with pytest.raises(LookupError):
            kgdb.program["demo_total"]
        kgdb.modules.load(USERS / "user-one.ko")  # takes its place
        demo = kgdb.modules.begin(DEMO, answer=9)
        assert add.address == demo.sections[".text"] != first
        stop = kgdb.cont()
        assert stop.breakpoint is add
        assert stop.frame.args["amount"] == 10
        stop = kgdb.finish()
        assert stop.frame.function == "demo_init"
        assert kgdb.run("true").status == 0
        assert kgdb.program["demo_total"].value_() == kgdb.evaluate("demo_total") == 17
        assert add.hits == 2

    @smp
    def test_instruments_end_with_it(self, kgdb, smp) -> None:
        demo = kgdb.modules.begin(DEMO, answer=3)
        prepare = kgdb.spy("demo_prepare", returns=True)
        add = kgdb.spy("demo_add")
        forced = kgdb.override("demo_add", 1000, when="amount == 4")
        assert kgdb.run("true").status == 0
        assert kgdb.evaluate("demo_total") == 1000
        assert not prepare.active
        assert [call.return_value for call in prepare.calls] == [4]
        assert add.active
        demo.unload()
        assert not add.active
        assert not forced.active
        assert [call.args["amount"] for call in add.calls] == [4, -1]
        for _ in range(3):  # in the same memory
            kgdb.modules.load(DEMO).unload()
        assert add.count == 2

    def test_refused(self, kgdb) -> None:
        with pytest.raises(GuestCommandError, match=r"unloading demo.*No such file"):
            kgdb.modules.unload("demo")
        kgdb.modules.load(USERS / "user-one.ko")
        kgdb.modules.load(USERS / "user-two.ko")
        with pytest.raises(GuestCommandError, match=r"Resource temporarily unavailable"):
            kgdb.modules.unload("user-one")
        kgdb.modules.unload("user-two")
        kgdb.modules.unload("user-one")
        assert not list(kgdb.modules)


class TestPending:
    @smp
    def test_waits_for_a_module_that_is_known(self, kgdb, smp) -> None:
        kgdb.modules.load(DEMO).unload()
        waiting = kgdb.breakpoint("demo_prepare")
        line = kgdb.breakpoint("add.c:8")
        assert waiting.address is None
        kgdb.type("insmod /run/demo.ko answer=3")
        stop = kgdb.cont()
        assert stop.breakpoint is waiting
        assert stop.frame.args["amount"] == 3
        assert waiting.address == stop.frame.address
        assert kgdb.cont().breakpoint is line

    def test_waits_for_one_of_the_guests_if_asked_to(self, kgdb) -> None:
        with pytest.raises(KgdbError, match="not defined"):
            kgdb.breakpoint("dummy_validate")
        with kgdb.breakpoint("dummy_setup", pending=True) as waiting:
            kgdb.type("modprobe dummy")
            stop = kgdb.cont()
            assert stop.breakpoint is waiting
        assert stop.reason == "breakpoint"

    def test_a_condition_and_a_temporary_one(self, kgdb) -> None:
        kgdb.modules.load(DEMO).unload()
        never = kgdb.breakpoint("demo_add", condition="amount == 100")
        once = kgdb.breakpoint("demo_add", condition="amount == 7", temporary=True)
        kgdb.type("for n in 1 6; do insmod /run/demo.ko answer=$n; rmmod demo; done; echo done")
        stop = kgdb.cont()
        assert stop.breakpoint is once
        assert stop.frame.args["amount"] == 7
        kgdb.resume()
        kgdb.console.expect_exact("done\r\n", timeout=30)
        assert (never.hits, once.hits) == (0, 1)

    def test_one_of_the_tests_where_ours_are(self, kgdb) -> None:
        kgdb.modules.load(DEMO).unload()
        kgdb.breakpoint("demo_prepare")  # ours are inserted for it
        with kgdb.breakpoint("*do_init_module") as theirs:
            kgdb.type("insmod /run/demo.ko")
            stop = kgdb.cont()
            assert stop.breakpoint is theirs
            assert kgdb.evaluate("(char *)((struct module *)$rdi)->name").string() == "demo"
        assert kgdb.cont().frame.function == "demo_prepare"

    def test_a_step_is_not_ended_by_them(self, kgdb) -> None:
        kgdb.modules.load(DEMO).unload()
        kgdb.breakpoint("demo_prepare")
        with kgdb.breakpoint("load_module"):
            kgdb.type("insmod /run/demo.ko")
            assert kgdb.cont().frame.function == "load_module"
        stop = kgdb.finish()
        assert stop.reason == "finished"
        assert stop.return_value == 0
        assert kgdb.evaluate("demo_total") == 9

    def test_a_name_that_it_does_not_have(self, kgdb) -> None:
        kgdb.modules.known(DEMO)
        with pytest.raises(KgdbError, match=r"did you mean demo_prepare"):
            kgdb.breakpoint("demo_prepares")

    @pytest.mark.parametrize(
        "location",
        [
            "masked",  # masked.constprop.0
            "summed",  # summed.part.0, and what is inlined in one() and two()
            "main.c:masked",
            "other.c:other_step",
            "clones.h:13",  # in both files
            "clones/other.c:6",
        ],
    )
    def test_whatever_gdb_finds_once_it_is_loaded(self, kgdb, location) -> None:
        kgdb.modules.known(CLONES)
        with kgdb.breakpoint(location) as waiting:
            assert waiting.address is None
            kgdb.modules.load(CLONES)
            places = kgdb.execute(f"info breakpoints {waiting.number}")
            assert "<PENDING>" not in places
            kgdb.type("for n in 1 2 5; do echo $n > /sys/module/clones/parameters/step; done")
            assert kgdb.cont().breakpoint is waiting

    @pytest.mark.parametrize("loaded", [False, True])
    def test_a_line_that_does_not_exist(self, kgdb, loaded) -> None:
        kgdb.modules.known(CLONES)
        if loaded:
            kgdb.modules.load(CLONES)
        for name in ("other.c", "clones.h"):
            with pytest.raises(
                KgdbError, match=rf"(?s){name} has no code at line 99999.*last line.*clones: \d+"
            ) as error:
                kgdb.breakpoint(f"{name}:99999")
            last = int(str(error.value).rpartition(" ")[2])
            assert kgdb.breakpoint(f"{name}:{last}").enabled
            with pytest.raises(KgdbError, match=rf"{name} has no code at line {last + 1}, nor"):
                kgdb.breakpoint(f"{name}:{last + 1}")

    def test_instruments_do_not_wait(self, kgdb) -> None:
        kgdb.modules.known(CLONES)
        refused = r"(?s)no {} on masked: module clones has it, and is not loaded.*load_stopped\(\)"
        with pytest.raises(KgdbError, match=refused.format("spy")):
            kgdb.spy("masked")
        with pytest.raises(KgdbError, match=refused.format("override")):
            kgdb.override("masked", 3)
        kgdb.modules.load_stopped(CLONES)
        assert kgdb.spy("masked").active

    def test_a_condition_in_the_location(self, kgdb) -> None:
        kgdb.modules.known(DEMO)
        with pytest.raises(
            KgdbError, match=r"(?s)not part of.*\(\"demo_add\", condition=\"total\""
        ):
            kgdb.breakpoint("demo_add if total")

    def test_a_breakpoint_that_was_deleted_meanwhile(self, kgdb) -> None:
        kgdb.modules.load(DEMO).unload()
        with kgdb.breakpoint("demo_prepare"):
            pass
        assert kgdb.run("insmod /run/demo.ko").status == 0
        assert kgdb.evaluate("demo_total") == 9


class TestRestore:
    def test_to_a_point_of_the_tests_own(self, kgdb) -> None:
        kgdb.modules.begin(DEMO, answer=20)
        prepare = kgdb.breakpoint("demo_prepare")
        kgdb.snapshot("before-init")
        for _ in range(2):
            stop = kgdb.cont()
            assert stop.breakpoint is prepare
            assert stop.frame.args["amount"] == 20
            assert kgdb.run("true").status == 0
            assert kgdb.evaluate("demo_total") == 28
            kgdb.restore("before-init")
            assert kgdb.evaluate("demo_total") == 7
        kgdb.snapshot("again")
        kgdb.cont()
        kgdb.run("rmmod demo")
        with pytest.raises(KgdbError, match="No symbol"):
            kgdb.evaluate("demo_total")
        kgdb.restore("again")
        assert kgdb.cont().breakpoint is prepare
        assert kgdb.evaluate("demo_total") == 7

    def test_out_of_a_step_that_timed_out(self, kgdb) -> None:
        """Internal breakpoints are disabled around one: the next module would come unseen."""
        kgdb.modules.load(DEMO).unload()
        prepare = kgdb.breakpoint("demo_prepare")
        kgdb.snapshot("before")
        kgdb.breakpoint("hrtimer_nanosleep", temporary=True)
        kgdb.type("sleep 100")
        kgdb.cont()
        with pytest.raises(TimeoutError):
            kgdb.finish(timeout=0.1)
        kgdb.restore("before")
        kgdb.type("insmod /run/demo.ko")
        assert kgdb.cont().breakpoint is prepare

    def test_leaves_one_behind(self, kgdb) -> None:
        kgdb.modules.load(DEMO)
        kgdb.breakpoint("demo_add")

    def test_knows_nothing_of_it(self, kgdb) -> None:
        assert not list(kgdb.modules)
        with pytest.raises(KgdbError, match="No symbol"):
            kgdb.evaluate("demo_total")
        assert kgdb.execute("info breakpoints") in (
            "No breakpoints or watchpoints.\n",
            "No breakpoints, watchpoints, tracepoints, or catchpoints.\n",  # gdb 16
        )


class TestReport:
    """What the test did, as a failed one shows it."""

    @staticmethod
    def did(kgdb) -> list[str]:
        return [re.sub(r"^ *\d+ ms  ", "", line) for line in kgdb._actions.lines()]

    def test_calls_and_no_stop_within_them(self, kgdb) -> None:
        demo = kgdb.modules.load(DEMO, answer=3)
        kgdb.resume()
        kgdb.modules.unload(demo)
        kgdb.interrupt()
        with pytest.raises(GuestCommandError):
            kgdb.modules.load(DEMO, fail=5)
        kgdb.modules.load_stopped(DEMO)
        load, resume, unload, interrupt, stop, failed, stopped = self.did(kgdb)
        assert (load, resume, unload) == (
            *(f"modules.load {DEMO}, answer=3", "resume", "modules.unload demo"),
        )
        assert interrupt == "interrupt"
        assert stop.startswith("  interrupt, ")
        assert failed.startswith(f"modules.load {DEMO}, fail=5 → GuestCommandError: loading demo ")
        assert stopped == f"modules.load_stopped {DEMO}"

    def test_stops_within_them_that_are_the_tests(self, kgdb) -> None:
        kgdb.modules.known(DEMO)
        kgdb.breakpoint("demo_prepare")
        with pytest.raises(GuestCommandError):
            kgdb.modules.load(DEMO)
        known, _, load, stop = self.did(kgdb)
        assert known == f"modules.known {DEMO}"
        assert load.startswith(f"modules.load {DEMO} → GuestCommandError: ")
        assert re.match(r"  breakpoint \d+ in demo_prepare \(", stop)

    def test_a_breakpoint_that_is_deleted_while_the_kernel_runs(self, kgdb) -> None:
        unused = kgdb.breakpoint("do_init_module")
        kgdb.resume()
        unused.delete()
        assert self.did(kgdb) == ["breakpoint do_init_module", "resume"]
