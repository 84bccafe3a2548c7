"""One Apache Kafka node (broker and controller in one JVM, KRaft) on 127.0.0.1."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import struct
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.home import Home
from devstack.prerequisites import POM, KafkaTools
from devstack.processes import Child, ChildEnded, Command, fresh_log, last_lines, run, spawn
from shared.domain.errors import Fatal, Misconfigured

NAME = "kafka"
PORTS = ("kafka", "kafka_controller")
FETCH_S = 900.0  # the first start downloads about 60 MB of jars
FORMAT_S = 60.0
READY_S = 120.0  # after a kill the broker first checks the segments it had not flushed
STOP_SIGNAL = signal.SIGTERM  # also for an orphan: a killed broker costs the next start the 3 s of its session
HEAP = ("-Xmx512m", "-Xms256m")
# Measured on 2 cores, start to first answer: 1.3 s with these, 2.1 s without (G1, all compiler tiers).
# Kafka's own variable KAFKA_JVM_PERFORMANCE_OPTS replaces them, for long runs under load.
FAST_START = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}

# A topic that a typing error named must fail, not appear.
auto.create.topics.enable=false
# Windows and lateness are judged by when the log took the record, not by the sender's clock.
log.message.timestamp.type=LogAppendTime

# One node: there is nobody to replicate to.
default.replication.factor=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

# After a kill the controller, which came back with the broker, refuses it until the killed one's session is over.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500

# Groups form at once, and a killed consumer's partitions move within seconds.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000

# A small machine: few partitions of internal topics, few threads, little memory set aside.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=1
num.network.threads=2
num.io.threads=4
background.threads=2
group.coordinator.threads=1
num.recovery.threads.per.data.dir=2
log.cleaner.dedupe.buffer.size=33554432

# A week of log; small segments are quick to check after a kill; deleted topics give their space back soon.
log.retention.hours=168
log.segment.bytes=134217728
log.segment.delete.delay.ms=5000
"""


@dataclass(frozen=True, slots=True)
class Kafka:
    """What this home's broker is made of: `folder` holds its data, its settings and its cluster id."""

    tools: KafkaTools
    folder: Path
    log: Path
    environ: Mapping[str, str]

    @classmethod
    def of(cls, home: Home, tools: KafkaTools, environ: Mapping[str, str]) -> Kafka:
        return cls(tools, home.root / "kafka", home.log(NAME), environ)

    def launch(self, ports: Mapping[str, int], report: Callable[[str], None]) -> Child:
        """Start the broker: fetch its jars and format its storage where that has not been done.

        Raises Misconfigured when the jars cannot be fetched, ChildEnded when the storage cannot be formatted."""
        fresh_log(self.log)
        self.folder.mkdir(exist_ok=True)
        if not self.tools.libs.is_dir():
            self._fetch_jars(report)
        self._properties.write_text(
            PROPERTIES.format(
                port=ports["kafka"], controller_port=ports["kafka_controller"], data=self.folder.as_posix() + "/data"
            )
        )
        if not self._cluster_id.exists():
            self._format()
        return spawn(self._java(NAME, "kafka.Kafka", str(self._properties), orphan_signal=STOP_SIGNAL))

    def wait_ready(self, child: Child, port: int) -> None:
        """Until the broker lists itself as part of its cluster. Raises ChildEnded when it ends, Fatal after
        `READY_S`."""
        deadline = time.monotonic() + READY_S
        while not lists_a_broker(port):
            if child.exit_code is not None:
                raise child.ended()
            if time.monotonic() > deadline:
                raise Fatal(f"Kafka did not answer within {READY_S:.0f} s.\n{last_lines(self.log)}")
            time.sleep(0.02)

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _cluster_id(self) -> Path:
        return self.folder / "cluster-id"

    def _format(self) -> None:
        """Write the storage's first records. The cluster id is kept only once that is whole: storage without
        one is the rest of an interrupted format, in which no broker has run yet."""
        data = self.folder / "data"
        if data.exists():
            shutil.rmtree(data)
        cluster_id = new_cluster_id()
        tool = ("kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", str(self._properties))
        run(self._java("kafka storage format", *tool), FORMAT_S)
        self._cluster_id.write_text(cluster_id)

    def _java(self, name: str, *arguments: str, orphan_signal: signal.Signals = signal.SIGKILL) -> Command:
        tuning = self.environ.get("KAFKA_JVM_PERFORMANCE_OPTS", "").split() or FAST_START
        logging = f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.xml').as_uri()}"
        classpath = str(self.tools.libs / "*")
        return Command(
            name=name,
            argv=(
                *(self.tools.java, *HEAP, *tuning, "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true", logging),
                *("-cp", classpath, *arguments),
            ),
            log=self.log,
            env={key: value for key, value in self.environ.items() if key != "CLASSPATH"},
            cwd=self.folder,
            orphan_signal=orphan_signal,
        )

    def _fetch_jars(self, report: Callable[[str], None]) -> None:
        if self.tools.maven is None:
            raise Misconfigured(f"{self.tools.libs} is gone and there is no Maven to fetch Kafka's jars again")
        report("fetching Apache Kafka with Maven (once)")
        self.tools.libs.parent.mkdir(parents=True, exist_ok=True)
        partial = self.tools.libs.with_name(f"{self.tools.libs.name}.partial-{os.getpid()}")
        goal = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={partial}")
        fetch = Command(
            name="maven",
            argv=(self.tools.maven, "-q", "-B", "-f", str(POM), *goal),
            log=self.log,
            env=self.environ,
            cwd=self.folder,
        )
        try:
            run(fetch, FETCH_S)
            self._keep(partial)
        except ChildEnded as error:
            raise Misconfigured(
                "Maven could not fetch Apache Kafka; see to the network (or Maven's mirror settings), or set "
                f"KAFKA_HOME to an unpacked Apache Kafka.\n{error}"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _keep(self, partial: Path) -> None:
        """The folder of jars appears whole or not at all."""
        try:
            partial.rename(self.tools.libs)
        except OSError:
            if not self.tools.libs.is_dir():  # else another home fetched the same jars meanwhile
                raise


def new_cluster_id() -> str:
    """A Kafka uuid: 16 random bytes in URL-safe base64; a leading `-` would read as an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def lists_a_broker(port: int) -> bool:
    """One Metadata request for no topics (Kafka protocol: key 3, version 1) is answered with at least one broker.

    A broker answers requests a moment before the controller lets it serve; until then it lists none."""
    client = b"khata"
    request = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.settimeout(5)
            connection.sendall(struct.pack(">i", len(request)) + request)
            head = connection.recv(12, socket.MSG_WAITALL)  # size, correlation id, count of brokers
    except OSError:
        return False
    return len(head) == 12 and int(struct.unpack(">iii", head)[2]) > 0
