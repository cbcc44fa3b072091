"""`hvtx metrics`: numbers in Prometheus' text format, for a scrape or a textfile collector."""

from __future__ import annotations

from collections.abc import Iterable

import click

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.common import Written, as_json, complete_file, host_of
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx import Gauge


@click.command()
@click.option(
    "--textfile",
    type=Written(),
    metavar="FILE",
    shell_complete=complete_file,
    help="Write to this file, atomically, for node_exporter's collector; with --json, print too.",
)
@as_json
@click.pass_context
def metrics(ctx: click.Context, textfile: str | None, json_: bool) -> None:
    """Print how many VMs, resources and interrupted operations there are, and what gc would do."""
    found = host_of(ctx).metrics()
    if textfile is not None:
        _write(found, textfile)
    if json_:
        with render.beside(textfile):
            render.emit_json(documents.metrics.document(found))
    elif textfile is None:
        from prometheus_client import generate_latest

        render.write(generate_latest(_registry(found)).decode())


def _registry(found: Iterable[Gauge]) -> Any:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector

    class Gauges(Collector):
        def collect(self) -> Iterable[Any]:
            for gauge in found:
                family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
                for labels, value in gauge.values.items():
                    family.add_metric(labels, value)
                yield family

    registry = CollectorRegistry()
    registry.register(Gauges())
    return registry


def _write(found: Iterable[Gauge], path: str) -> None:
    from prometheus_client import generate_latest

    from hvtx.api.terminal import write_for_all

    write_for_all(path, generate_latest(_registry(found)).decode())
