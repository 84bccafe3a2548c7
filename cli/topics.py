"""`khata topics apply`: create and check the topics of the list."""

from __future__ import annotations

import typer

from shared.catalogue import own_topics
from shared.kafka import topics
from shared.runtime.output import Output, OutputOption, show, wait_for
from shared.runtime.settings import KafkaSettings, ProcessSettings, load

app = typer.Typer(help="Kafka topics.", no_args_is_help=True)


class TopicsSettings(ProcessSettings, KafkaSettings):
    """What the command needs."""


@app.callback()
def group() -> None:
    """Kafka topics."""


@app.command("apply")
def apply(
    dry_run: bool = typer.Option(False, "--dry-run", help="say what would be done"), output: Output = OutputOption
) -> None:
    """Create what is missing and tell what differs; never shrinks or deletes."""
    settings = load(TopicsSettings)
    states = wait_for(_apply(settings, dry_run))
    show(
        [
            {
                "topic": state.name,
                "partitions": state.partitions,
                "outcome": state.outcome,
                "differences": "; ".join(state.differences),
            }
            for state in states
        ],
        output,
    )
    if any(state.outcome == "differs" for state in states):
        raise typer.Exit(1)


async def _apply(settings: TopicsSettings, dry_run: bool) -> list[topics.TopicState]:
    """The list, and the raw topics of projects that have their own (as catalogue.v1 says)."""
    projects = await own_topics.published(settings)
    return await topics.apply(settings, dev=settings.dev, dry_run=dry_run, projects=projects)
