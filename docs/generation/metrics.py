"""The page of metrics, from the Prometheus objects of every module named `metrics`."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

import troupe
from generation.markdown import code, table
from troupe.llm_sim.metrics import Metrics

OWNERS = {"chassis": "Every process", "broker": "Broker", "controlplane": "Control plane", "dataplane": "Worker"}

INTRODUCTION = """# Metrics

Prometheus metrics at `metrics_listen` (`http://127.0.0.1:9464/metrics` unless a setting says otherwise), in base units.
No label holds a session. `troupe up` is one process: all of its services are at its one endpoint, but for the
simulator's. A counter's name ends in `_total` where it is scraped. Python's own `process_*` and `python_*` come along.

"""

SIMULATOR = """
## Simulator

At `/metrics` of its own port (7072), under vLLM's names, labels and buckets. Every series has the labels `model_name`
and `engine`.

"""


def page() -> str:
    """One table per package that counts something."""
    parts = [INTRODUCTION]
    for package, title in OWNERS.items():
        rows = sorted(row for collector in _collectors(package) for row in _rows(collector))
        parts.append(f"## {title}\n\n{table(['metric', 'type', 'labels', 'meaning'], rows)}\n")
    return "".join(parts).rstrip("\n") + "\n" + SIMULATOR + table(["metric", "type", "labels", "meaning"], _simulated())


def _collectors(package: str) -> Iterator[MetricWrapperBase]:
    paths = [f"{path}/{package}" for path in troupe.__path__]
    for found in pkgutil.walk_packages(paths, f"troupe.{package}."):
        if found.name.rpartition(".")[2] == "metrics":
            for value in vars(importlib.import_module(found.name)).values():
                if isinstance(value, MetricWrapperBase):
                    yield value


def _rows(collector: Any) -> Iterator[list[str]]:
    for family in collector.describe():
        labels = ", ".join(code(one) for one in collector._labelnames)
        yield [code(_scraped(family)), family.type, labels, family.documentation]


def _simulated() -> Iterator[list[str]]:
    metrics = Metrics()
    metrics.of("sim")
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        if family.name.endswith("_created"):
            continue
        labels = {name for sample in family.samples for name in sample.labels} - {"model_name", "engine", "le"}
        yield [code(_scraped(family)), family.type, ", ".join(map(code, sorted(labels))), family.documentation]


def _scraped(family: Any) -> str:
    return f"{family.name}_total" if family.type == "counter" else str(family.name)
