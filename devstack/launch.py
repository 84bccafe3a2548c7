"""The first program of every child: bind its life to ours, take its account, become it.

Run by file name in an isolated interpreter, so it imports nothing of Khata:

    python -I -S launch.py PARENT_PID ORPHAN_SIGNAL ACCOUNT|- GUARD_FD|- PROGRAM [ARGUMENT...]

    1  load what is needed while we may still read it (the account may not enter our folders)
    2  take the account's groups and ids
    3  ask for ORPHAN_SIGNAL when the parent's thread ends; after 2, because a change of ids clears it
    4  the parent may have ended before 3: then nobody would tell us, so leave
    5  become the program; the request of 3 stays in force

Doing this in a fresh program instead of between fork and exec keeps us clear of locks that another
thread of the parent held at the fork.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)
CANNOT_START = 127  # what a shell answers for a program that cannot be started


def main(arguments: list[str]) -> int:
    parent, orphan_signal, account, guard, *argv = arguments
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if account != "-":
        take_account(account)
    if libc is not None and guard == "-":
        if libc.prctl(PR_SET_PDEATHSIG, int(orphan_signal), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != int(parent):
            return CANNOT_START
    elif guard != "-":
        # One short write is atomic (PIPE_BUF): the guard knows us before we become the program.
        os.write(int(guard), f"+{os.getpid()} {orphan_signal}\n".encode())
        os.close(int(guard))
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - becoming the program, without a shell, is the purpose
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror}", file=sys.stderr)
        return CANNOT_START


def take_account(name: str) -> None:
    """Become the OS account `name` for good; the account's own home and name go into the environment."""
    import pwd

    entry = pwd.getpwnam(name)
    os.initgroups(name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ.update(HOME=entry.pw_dir, USER=name, LOGNAME=name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
