"""Which key a command of `khata events` uses: typed, from the environment, or from a keys file."""

from __future__ import annotations

from pathlib import Path

import typer
import yaml

from shared.domain.errors import Usage

URL = typer.Option(None, envvar="KHATA_INGEST_URL", help="address of ingest; default: the stack of this folder")
KEY = typer.Option(None, envvar="KHATA_API_KEY", help="API key (better in the environment)")
KEYS_FILE = typer.Option(None, help="what `khata catalogue apply --keys-out` wrote")
PROJECT = typer.Option(None, help="which project's key of the keys file")


def address(url: str | None) -> str:
    """Where ingest answers. Raises Usage: a key is never sent to a guessed address."""
    if url is None:
        raise Usage("nothing runs in this folder: start it with `make up`, or name ingest with KHATA_INGEST_URL")
    return url


def choose(key: str | None, keys_file: str | None, project: str | None) -> str:
    """The key itself, or the one key of the file that fits. Raises Usage."""
    if key is not None:
        return key
    if keys_file is None:
        raise Usage("give a key: KHATA_API_KEY, --key, or --keys-file")
    try:
        document = yaml.safe_load(Path(keys_file).read_text())
        keys: dict[str, str] = dict(document["keys"])
    except OSError as error:
        raise Usage(f"{keys_file}: {error.strerror}") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise Usage(f"{keys_file} is no keys file of `khata catalogue apply --keys-out`") from None
    fitting = {label: text for label, text in keys.items() if project in (None, label.partition("/")[0])}
    if len(fitting) != 1:
        raise Usage(
            f"{keys_file} has {len(fitting)} keys that fit ({', '.join(sorted(keys))}): name one with --project"
        )
    return fitting.popitem()[1]
