"""Reader of the openb production trace (Alibaba cluster-trace-gpu-v2023).

Nodes: ``sn,cpu_milli,memory_mib,gpu,model``. Pods: ``name,cpu_milli,memory_mib,num_gpu,gpu_milli``
and, in most lists, ``gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time``. A pod of
one GPU and fewer than 1000 milli-GPU shares a device; ``gpu_spec`` lists allowed models,
separated by ``|``. The trace states neither device memory nor a limit of pods per node.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from scheduler.core.errors import InvalidInput
from scheduler.core.model import DEVICE_MILLI, MAX_DEVICES, Device, GpuRequest, Node, PodRequest
from scheduler.core.reading import LARGEST_WORKLOAD, read_text
from scheduler.files.workload import MOST_NODES, MOST_PODS, Arrival

__all__ = ["PODS_PER_NODE", "PRODUCT_LABEL", "lists_pods", "read_nodes", "read_pods"]

PODS_PER_NODE = 10_000
"""The trace has no limit of pods per node; this one is never reached."""

PRODUCT_LABEL = "nvidia.com/gpu.product"

_MOST = 1 << 31
_LONGEST_NUMBER = 10
_MOST_SECONDS = 1e10

_NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
_POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")


class _Row:
    """One line of a file; every complaint names file, line and field."""

    def __init__(self, path: Path, line: int, values: dict[str, str]) -> None:
        self._where = f"{path}:{line}"
        self._values = values

    def text(self, field: str) -> str:
        return self._values.get(field) or ""

    def integer(self, field: str, most: int = _MOST) -> int:
        value = self.text(field)
        if not (value.isascii() and value.isdecimal()):
            raise self.fail(field, f"{value[:40]!r} is not a whole number", "use 0 or more")
        if len(value.lstrip("0")) > _LONGEST_NUMBER or int(value) > most:
            raise self.fail(field, f"is {value[:40]}", f"use 0..{most}")
        return int(value)

    def seconds(self, field: str) -> float | None:
        value = self.text(field)
        if not value:
            return None
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not 0 <= found <= _MOST_SECONDS:
            raise self.fail(field, f"{value[:40]!r} is not a time", "use seconds or leave it empty")
        return found

    def fail(self, field: str, problem: str, remedy: str) -> InvalidInput:
        return InvalidInput(f"{self._where}:{field}", problem, remedy)


def _rows(path: Path, required: tuple[str, ...], most: int) -> Iterator[_Row]:
    """Lines of a file after its header; complaints name the line."""
    text = read_text(path, LARGEST_WORKLOAD)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [name for name in required if name not in (reader.fieldnames or ())]
        if missing:
            raise InvalidInput(
                f"{path}:1", f"misses the column {missing[0]!r}", f"needs {','.join(required)}"
            )
        for number, values in enumerate(reader):
            if None in values or None in values.values():
                raise InvalidInput(
                    f"{path}:{reader.line_num}", "has not as many fields as the header"
                )
            if number >= most:
                raise InvalidInput(str(path), f"has more than {most:,} lines")
            yield _Row(path, reader.line_num, values)
    except csv.Error as error:
        raise InvalidInput(f"{path}:{reader.reader.line_num}", f"is not CSV: {error}") from error


def lists_pods(path: Path) -> bool:
    """Whether a file is a list of pods by its header; raises as the readers do."""
    head = read_text(path, LARGEST_WORKLOAD).split("\n", 1)[0]
    columns = {name.strip().strip('"') for name in head.split(",")}
    return "sn" not in columns and not columns.isdisjoint({"name", "num_gpu"})


def read_nodes(path: Path) -> tuple[Node, ...]:
    """Nodes in file order; :class:`InvalidInput` names file, line and field."""
    nodes = []
    seen = set()
    for row in _rows(path, _NODE_COLUMNS, MOST_NODES):
        name, model, count = row.text("sn"), row.text("model"), row.integer("gpu", MAX_DEVICES)
        if not name or name in seen:
            raise row.fail("sn", f"{name!r} is empty or repeated", "name every node once")
        seen.add(name)
        if count and not model:
            raise row.fail("model", "is empty on a node with GPUs", "state the model")
        nodes.append(
            Node(
                name,
                row.integer("cpu_milli"),
                row.integer("memory_mib") << 20,
                PODS_PER_NODE,
                (Device(model),) * count,
                {PRODUCT_LABEL: model} if count else {},
            )
        )
    return tuple(nodes)


def read_pods(path: Path) -> tuple[Arrival, ...]:
    """Pods in file order; :class:`InvalidInput` names file, line and field."""
    arrivals = []
    seen = set()
    for row in _rows(path, _POD_COLUMNS, MOST_PODS):
        name = row.text("name")
        if not name or name in seen:
            raise row.fail("name", f"{name!r} is empty or repeated", "name every pod once")
        seen.add(name)
        request = PodRequest(
            uid=name,
            namespace="openb",
            name=name,
            cpu_milli=row.integer("cpu_milli"),
            memory_bytes=row.integer("memory_mib") << 20,
            gpu=_gpu(row),
        )
        created, deleted = row.seconds("creation_time"), row.seconds("deletion_time")
        duration = None if created is None or deleted is None else deleted - created
        if duration is not None and duration < 0:
            raise row.fail("deletion_time", "is before creation_time", "swap or drop them")
        arrivals.append(Arrival(request, created or 0.0, duration))
    return tuple(arrivals)


def _gpu(row: _Row) -> GpuRequest:
    count, milli = row.integer("num_gpu", MAX_DEVICES), row.integer("gpu_milli")
    products = tuple(part for part in row.text("gpu_spec").split("|") if part)
    if count == 0:
        return GpuRequest()
    if count == 1 and 0 < milli < DEVICE_MILLI:
        return GpuRequest(milli=milli, products=products)
    if milli != DEVICE_MILLI:
        raise row.fail("gpu_milli", f"is {milli} for {count} GPUs", "use 1000, or 1..999 for one")
    return GpuRequest(count=count, products=products)
