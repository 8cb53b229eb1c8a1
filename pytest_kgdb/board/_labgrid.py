"""A board as labgrid has it: its serial ports, and its power."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import BootError, ConfigError
from ..settings import LabgridTarget, SerialLine
from ._access import BoardAccess, Reset

if TYPE_CHECKING:
    from ..settings import Settings

__all__ = ["labgrid_access"]

_KGDB: Final = "kgdb"
_CONSOLE: Final = "console"
_DOCS: Final = "docs/board.md has an example"


def labgrid_access(settings: Settings, environment: Any) -> BoardAccess:
    """Return a board as labgrid reaches it.

    :param settings: with labgrid's target.
    :param environment: labgrid's `Environment`; None where there is none.
    :raises ConfigError: there is no such target, or it lacks what the settings need.
    """
    assert isinstance(settings.target, LabgridTarget)
    name, origin = settings.target.name, settings.origin("target")
    if environment is None:
        raise ConfigError(
            f"{origin}: labgrid has no environment",
            hint="name it as for labgrid's own tests: --lg-env=FILE, or LG_ENV=FILE",
        )
    targets = environment.config.get_targets()
    if name not in targets:
        raise ConfigError(
            f"{origin}: labgrid's environment has no target {name!r}",
            hint=f"there are: {', '.join(targets)}" if targets else _DOCS,
        )
    try:
        target = environment.get_target(name)
        ports = _serial_ports(target)
        target.await_resources(list(ports), timeout=settings.timeout)
        kgdb, console = _chosen(ports, name, origin)
        power = _power(target, name, origin)
        if power is None and settings.isolation == "reboot":
            raise ConfigError(
                f"{origin}: labgrid's target {name!r} has no driver with a PowerProtocol, so the "
                "board cannot be reset before each test",
                hint="give it one; with --kgdb-isolation=none, each test finds what the last one "
                "left",
            )
        return BoardAccess(kgdb, console, (origin, origin), power)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{origin}: labgrid cannot have the target {name!r}: {_words(error)}",
            hint="`labgrid-client` or a test with labgrid's own fixture `target` says more",
        ) from error


def _serial_ports(target: Any) -> list[Any]:
    from labgrid.resource.base import SerialPort
    from labgrid.resource.serialport import NetworkSerialPort

    return [one for one in target.resources if isinstance(one, (SerialPort, NetworkSerialPort))]


def _chosen(ports: list[Any], name: str, origin: str) -> tuple[SerialLine, SerialLine | None]:
    """Return kgdb's line and the console's: by their names, where there are two."""
    if len(ports) == 1:
        return _line(ports[0]), None
    kgdb = [port for port in ports if port.name == _KGDB]
    others = [port for port in ports if port.name != _KGDB]
    console = [port for port in others if port.name == _CONSOLE] or others
    if len(kgdb) != 1 or len(console) != 1:
        names = ", ".join(f"{type(port).__name__} {port.name!r}" for port in ports)
        raise ConfigError(
            f"{origin}: which serial port of labgrid's target {name!r} is kgdb's is not known; "
            f"it has {names or 'none'}",
            hint=f"name kgdb's {_KGDB!r}, and the console's {_CONSOLE!r}; {_DOCS}",
        )
    return _line(kgdb[0]), _line(console[0])


def _line(port: Any) -> SerialLine:
    if not hasattr(port, "host"):
        return SerialLine(str(Path(port.port).absolute()), port.speed)
    from labgrid.util.proxy import proxymanager

    host, number = proxymanager.get_host_and_port(port)
    if port.protocol == "raw":
        return SerialLine(f"tcp:{host}:{number}")
    return SerialLine(f"rfc2217://{host}:{number}", port.speed)


def _power(target: Any, name: str, origin: str) -> Reset | None:
    from labgrid.exceptions import NoDriverFoundError

    try:
        driver = target.get_driver("PowerProtocol", activate=False)
    except NoDriverFoundError:
        return None

    def cycle(log: Path, _seconds: float) -> None:
        try:
            target.activate(driver)
            driver.cycle()
        except Exception as error:
            words = f"{type(driver).__name__}.cycle(): {_words(error)}"
            log.write_text(f"{words}\n")
            raise BootError(
                f"{origin}: the power of labgrid's target {name!r} could not be cycled: {words}",
                log=log,
            ) from error

    return cycle


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
