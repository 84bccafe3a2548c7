"""`khata dev`: the whole product on this machine, for as long as one needs it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import typer
import yaml

from cli.catalogue import CatalogueSettings, apply_file
from cli.stack.running import default_home, plan_of_running, running
from cli.stack.services import Plan
from devstack import stack as devstack
from devstack.home import Home, write_private
from devstack.record import services_supervisor
from devstack.supervisor import services_of
from shared.catalogue.file import parse_catalogue
from shared.domain.errors import Fatal, Usage
from shared.runtime import failpoints
from shared.runtime.output import Output, OutputOption, show, stderr
from shared.runtime.settings import load

app = typer.Typer(help="A whole stack on this machine: Kafka, Postgres and every service as plain processes.")

KEYS = "keys.yaml"
DETACHED_READY_S = 180.0

# What a developer needs to send a first event.
CATALOGUE = """
seller:
  name: Khata Demo Private Limited
  gstin: 29AABCU9603R1ZJ
  address: 4th Floor, 12 Residency Road, Bengaluru 560025
  series: KH
organisations: [{id: example, name: Example Customer, state_code: "29"}]
projects: [{id: example-project, organisation: example}]
meters: [{id: example_requests, name: API requests, event_type: example.request, aggregation: count, unit: request}]
keys: [{name: first, project: example-project}]
prices: [{meter: example_requests, per_unit: {amount: "0.05"}, description: API requests}]
"""


@app.callback(invoke_without_command=True)
def dev(
    context: typer.Context,
    detach: bool = typer.Option(False, "--detach", help="go on in the background; `khata dev stop` ends it"),
    background: bool = typer.Option(False, "--background", hidden=True, help="what --detach starts"),
) -> None:
    """Start everything, print where it answers, and run until Ctrl-C."""
    if context.invoked_subcommand is not None:
        return
    home = default_home()
    if detach:
        _detach(home)
        return
    with running(home, _report) as stack:
        if not background:  # its output is a log, and a log holds no key
            _welcome(stack.plan)
        if stack.shared:
            return
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        stderr.print("Running. Ctrl-C ends it and keeps the data.")
        ended.wait()
        stderr.print("Stopping.")


@app.command("stop")
def stop() -> None:
    """End the stack that runs in the background; the data stays."""
    home = Home.at(default_home())
    supervisor = services_supervisor(home)
    if supervisor is None:
        stderr.print("nothing runs here")
        return
    os.kill(supervisor.pid, signal.SIGTERM)
    end = time.monotonic() + 60
    while supervisor.alive():
        if time.monotonic() > end:
            raise Fatal(f"process {supervisor.pid} has not ended after 60 s; see the logs in {home.logs}")
        time.sleep(0.1)
    stderr.print("stopped; the data is kept (khata dev reset wipes it)")


@app.command("reset")
def reset(yes: bool = typer.Option(False, "--yes", help="do not ask")) -> None:
    """Wipe all data of this home: events, invoices, payments, keys."""
    home = default_home()
    if home.exists() and services_supervisor(Home.at(home)) is not None:
        raise Usage("a stack runs here: end it first with `make down` (khata dev stop)")
    if not yes and not typer.confirm(f"Wipe everything in {home}?"):
        raise Usage("nothing was wiped")
    devstack.reset(home)
    stderr.print(f"wiped {home}")


def _welcome(plan: Plan) -> None:
    key = _first_key(plan)
    print(f"""
ingest     {plan.ingest_url}/v1/events (documented at {plan.ingest_url}/docs)
console    {plan.console_url}/v1/meters/<meter>/usage (keys of the scope usage:read)
receiver   {plan.receiver_url}/webhooks/razorpay
sandbox    {plan.sandbox_url}
kafka      {plan.addresses.kafka_bootstrap}
postgres   127.0.0.1 (khata commands in this folder find it; for other programs: eval "$(khata dev env)")
key        {key}

curl -w '\\n' {plan.ingest_url}/v1/events -H 'Authorization: Bearer {key}' \\
  -H 'Content-Type: application/cloudevents+json' \\
  -d '{{"specversion":"1.0","id":"1","source":"curl","type":"example.request","subject":"me","data":{{}}}}'
""")


@app.command("env")
def env() -> None:
    """Print the environment of the running stack as export lines (it holds secrets of this machine)."""
    plan = plan_of_running(default_home())
    if plan is None:
        raise Usage("nothing runs here: start it with `make up` or `khata dev`")
    for name, value in (plan.environment() | {"KHATA_INGEST_URL": plan.ingest_url}).items():
        print(f"export {name}='{value}'")


@app.command("failpoints")
def list_failpoints(output: Output = OutputOption) -> None:
    """List the places where a process can be held and killed (see shared/runtime/failpoints.py)."""
    show([{"name": name, "open": what} for name, what in sorted(failpoints.POINTS.items())], output)


def _first_key(plan: Plan) -> str:
    """The key of the example project; this machine keeps it, so that it can be shown again."""
    path = plan.home / KEYS
    os.environ.update(plan.environment())
    outcome = asyncio.run(
        apply_file(load(CatalogueSettings), parse_catalogue(yaml.safe_load(CATALOGUE), "the example catalogue"))
    )
    if outcome.secrets:
        write_private(path, yaml.safe_dump({"keys": outcome.secrets}))
    found = yaml.safe_load(path.read_text()) if path.exists() else {"keys": {}}
    return str(found["keys"].get("example-project/first", "(made by another home; see `khata catalogue apply`)"))


def _report(text: str) -> None:
    stderr.print(text, highlight=False, soft_wrap=True)


def _detach(home: Path) -> None:
    already = plan_of_running(home) is not None
    if not already:
        _start_in_background(Home.at(home))
    plan = plan_of_running(home)
    assert plan is not None, "it was ready a moment ago"
    for name, state in sorted(services_of(plan.home).items()):
        _report(f"{name}: log {state.log}")
    _welcome(plan)
    stderr.print("It runs already." if already else "Running in the background. `make down` ends it.")


def _start_in_background(home: Home) -> None:
    home.logs.mkdir(exist_ok=True)
    log = home.log("dev")
    with log.open("wb") as out:
        child = subprocess.Popen(  # noqa: S603 - our own command, again
            [sys.executable, "-m", "cli", "dev", "--background"],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    end = time.monotonic() + DETACHED_READY_S
    while b"Running." not in log.read_bytes():
        if child.poll() is not None:
            raise Fatal(f"it did not start:\n{log.read_text()[-2000:]}")
        if time.monotonic() > end:
            raise Fatal(f"it is not ready after {DETACHED_READY_S:g} s; see {log}")
        time.sleep(0.2)
