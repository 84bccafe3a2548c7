"""Where a database server that may not run as root keeps its files, and whether its account can get there."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from devstack.home import Home
from shared.domain.errors import Misconfigured

LASTING = Path("/var/lib/khata")


def remembered(home: Home) -> Path:
    """The folder that holds, or would hold, this home's database."""
    note = _note(home)
    return Path(note.read_text().strip()) if note.exists() else home.root / "postgres"


def settle(home: Home, account: str | None, report: Callable[[str], None]) -> Path:
    """The folder for this home's database, made for `account` and reachable by it; kept for the next start.

    Raises Misconfigured when data is already there that this account cannot read."""
    folder = remembered(home)
    if folder.joinpath("data").exists():
        _check_data(folder, account)
        return folder
    if account is None or _prepare(folder, account):
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder
    elsewhere = _elsewhere(home)
    report(f"the account `{account}` cannot enter {folder}; the database's files are in {elsewhere}")
    _clear(elsewhere, account)
    if not _prepare(elsewhere, account):
        raise Misconfigured(
            f"the account `{account}` can enter neither {folder} nor {elsewhere}; choose a home that it can reach"
        )
    _note(home).write_text(f"{elsewhere}\n")
    return elsewhere


def forget(home: Home) -> None:
    """Remove the database's files wherever they are."""
    folder = remembered(home)
    if folder.exists():
        shutil.rmtree(folder)
    _note(home).unlink(missing_ok=True)


def _note(home: Home) -> Path:
    return home.root / "postgres-is-in"


def _elsewhere(home: Home) -> Path:
    """A folder of this home's own: beside other passing things for a passing home, else in /var/lib."""
    key = hashlib.sha256(os.fsencode(home.root)).hexdigest()[:12]
    temporary = Path(tempfile.gettempdir()).resolve()
    if home.root.is_relative_to(temporary):
        return temporary / f"khata-postgres-{key}"
    return LASTING / key


def _prepare(folder: Path, account: str) -> bool:
    """Make `folder` the account's own; False when it cannot be handed over or the account cannot enter it."""
    entry = pwd.getpwnam(account)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    except PermissionError:  # some network file systems keep root from this
        return False
    if _can_enter(folder, entry):
        return True
    with suppress(OSError):  # not empty: the rest of an interrupted start, which nobody can use
        folder.rmdir()
    return False


def _can_enter(folder: Path, account: pwd.struct_passwd) -> bool:
    """Trying is the only answer that knows about access lists, mount options and the modes of all parents."""
    entered = subprocess.run(
        ["sh", "-c", 'cd "$1"', "sh", str(folder)],
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        check=False,
    )
    return entered.returncode == 0


def _clear(folder: Path, account: str) -> None:
    """Remove what an earlier home of the same path left: its Kafka is gone, so its database must not come back.

    In a folder that all may write to, someone else may have put something under our name: never follow that."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), pwd.getpwnam(account).pw_uid):
        raise Misconfigured(f"{folder} belongs to someone else; remove it or choose another home")
    shutil.rmtree(folder)


def _check_data(folder: Path, account: str | None) -> None:
    uid = pwd.getpwnam(account).pw_uid if account else os.geteuid()
    owner = folder.joinpath("data").stat().st_uid
    if owner != uid:
        raise Misconfigured(
            f"the database in {folder} belongs to the account {_name(owner)} and we would run it as {_name(uid)}; "
            "start as the one who made it, or choose another home"
        )
    if account and not _can_enter(folder, pwd.getpwnam(account)):
        raise Misconfigured(
            f"the account `{account}` can no longer enter {folder}, where the database's files are; "
            f"give it the way back (chmod o+x on the folders above) or wipe this home"
        )


def _name(uid: int) -> str:
    try:
        return f"`{pwd.getpwuid(uid).pw_name}`"
    except KeyError:
        return str(uid)
