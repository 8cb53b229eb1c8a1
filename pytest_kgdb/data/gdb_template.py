"""A gdb that serves as the template of others: it reads the symbols once, and forks.

A part of the agent: gdb runs this file in the same namespace as gdb_agent.py, behind it. Only a
gdb that is to be a template calls :func:`serve_forks`.
"""

import array
import contextlib
import ctypes
import os
import signal
import socket
import sys

import gdb

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
# Their debug info is read before the first fork: what every stop shows.
READ_BEFORE = ("kgdb_breakpoint", "__handle_sysrq", "init_task", "system_state", "linux_banner")


def serve_forks(path):
    """Fork whenever asked to; return in the child only, with the pipes that came with it."""
    # A thread is not there in a forked process, and its work would be waited for.
    gdb.execute("maintenance set worker-threads 0")
    for name in READ_BEFORE:
        with contextlib.suppress(gdb.error, RuntimeError):
            gdb.decode_line(name) if name.islower() else None
            gdb.execute("whatis " + name, to_string=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(4)
    while True:
        with contextlib.suppress(OSError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        connection, _ = listener.accept()
        fds = array.array("i")
        _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(3 * fds.itemsize))
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if len(fds) != 3:
            connection.close()
            continue
        gdb.flush()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            for number, descriptor in enumerate(fds):
                os.dup2(descriptor, number)
                os.close(descriptor)
            connection.close()
            listener.close()
            return
        for descriptor in fds:
            os.close(descriptor)
        connection.sendall(str(child).encode())
        connection.close()
