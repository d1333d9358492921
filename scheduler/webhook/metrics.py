"""What Prometheus sees. kube-scheduler hides most failures of an extender, so we show them."""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Iterator

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scheduler import __version__
from scheduler.cluster.follow import LiveCluster
from scheduler.cluster.ledger import Ledger
from scheduler.cluster.readiness import read_in_part
from scheduler.cluster.view import Figures
from scheduler.cluster.worker.planning import PlannerLoop, decided_by
from scheduler.core.model import Reason
from scheduler.webhook.decision_log import DecisionLog

__all__ = ["ExtenderMetrics"]

_BUCKETS = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.006, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class ExtenderMetrics:
    """Counters and histograms of one webhook, in a registry of its own."""

    def __init__(
        self,
        ledger: Ledger,
        decisions: DecisionLog,
        planner: PlannerLoop | None = None,
        live: LiveCluster | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "snugfit_request_seconds",
            "Time to answer a request, without the network",
            ["verb"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.errors = Counter(
            "snugfit_request_errors", "Requests refused", ["verb", "code"], registry=self.registry
        )
        self.registry.register(_ClusterCollector(ledger, decisions))
        if planner is not None:
            self.registry.register(_PlannerCollector(planner))
        if live is not None:
            self.registry.register(_LiveCollector(ledger, live))

    def exposition(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)


class _ClusterCollector(Collector):
    """Figures of the cluster, computed when scraped."""

    def __init__(self, ledger: Ledger, decisions: DecisionLog) -> None:
        self._ledger, self._decisions = ledger, decisions
        self._figures = Figures(ledger)

    def describe(self) -> Iterator[Metric]:
        """Nothing up front: computing it at registration would be work before the first scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One family per figure."""
        figures, pulse = self._figures.latest(), self._ledger.pulse()
        build = GaugeMetricFamily("snugfit_build_info", "Version", labels=["version", "policy"])
        build.add_metric([__version__, self._ledger.config.policy], 1)
        yield build
        decided = GaugeMetricFamily("snugfit_decided_by", "What scores nodes now", labels=["by"])
        now = decided_by(self._ledger)
        for by in sorted({now, *(("prices", "fgd") if now in ("prices", "fgd") else ())}):
            decided.add_metric([by], float(by == now))
        yield decided
        for name, text, value in (
            ("nodes", "Nodes known", figures.nodes),
            ("pods", "Pods with a placement or a reservation", figures.pods),
            ("reservations", "Placements with a time limit", pulse.reservations),
            ("overfull_nodes", "Nodes that gave more than they have", figures.overfull_nodes),
            ("power_watts", "Power that the nodes draw, by the model", figures.power_watts),
            ("state_generation", "Stamp of the latest state change", pulse.generation),
        ):
            yield GaugeMetricFamily(f"snugfit_{name}", text, value=value)
        families = {
            attribute: GaugeMetricFamily(f"snugfit_gpu_{short}_milli", text, labels=["product"])
            for attribute, short, text in (
                ("capacity_milli", "capacity", "Capacity in milli-GPU"),
                ("allocated_milli", "allocated", "Allocated milli-GPU"),
                ("fragmentation_milli", "fragmented", "Free milli-GPU the typical pod cannot use"),
            )
        }
        for product, values in sorted(figures.by_product.items()):
            for attribute, family in families.items():
                family.add_metric([product], getattr(values, attribute))
        yield from families.values()
        stranded = GaugeMetricFamily(
            "snugfit_gpu_stranded_milli", "Fragmented milli-GPU by cause", labels=["cause"]
        )
        for cause, milli in figures.stranded_milli.items():
            stranded.add_metric([cause], milli)
        yield stranded
        gangs = GaugeMetricFamily("snugfit_gangs", "Gangs that are not whole", labels=["state"])
        with self._ledger.locked(chore=True) as cluster:
            counts = cluster.gangs.counts()
        for state in ("planned", "resting", "reserved", "waiting"):
            gangs.add_metric([state], counts[state])
        yield gangs
        yield CounterMetricFamily(
            "snugfit_filters_put_off",
            "Filter calls answered by an error until victims are known to be gone",
            value=self._decisions.put_off,
        )
        yield GaugeMetricFamily("snugfit_pins", "Pods with a planned node", value=counts["pins"])
        verdicts = CounterMetricFamily(
            "snugfit_verdicts", "Verdicts on nodes", labels=["verb", "reason"]
        )
        for verb, by_code in sorted(self._decisions.verdicts().items()):
            for code in np.flatnonzero(by_code).tolist():
                reason = Reason.of(code).name.lower()
                verdicts.add_metric([verb, reason], int(by_code[code]))
        yield verdicts


class _LiveCollector(Collector):
    """How well the cluster is known."""

    def __init__(self, ledger: Ledger, live: LiveCluster) -> None:
        self._ledger, self._live = ledger, live

    def describe(self) -> Iterator[Metric]:
        """Nothing up front."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One family per figure."""
        live, figures = self._live, self._live.figures
        with self._ledger.locked(chore=True) as cluster:
            sync, charges = cluster.live, cluster.live.charges
            unreadable = Counts(key.split(" ")[0] for key in sync.unreadable)
            unreadable.update(read_in_part(live.watches))
            uncertain = len(charges.nodes.uncertain)
            ambiguous = len(charges.protocols.ambiguous_nodes)
            facts, pending = len(sync.pods), len(sync.pending)
            assumed = len(cluster.pods.assumed)
        for name, text, value in (
            ("synced", "Whether the cluster is known completely", float(live.synced)),
            ("active", "Whether verbs are answered", float(live.accepting())),
            ("drift_rows", "Differences of state and facts at the last recount", figures.drift),
            ("pods_running", "Pods that have a node", facts),
            ("pods_pending", "Pods that have none", pending),
            ("bindings_unconfirmed", "Bindings that the watch has not confirmed yet", assumed),
            ("objects_in_doubt", "Objects that are to be read again", live.audit.doubts),
            ("uncertain_nodes", "Nodes where nobody knows what is free", uncertain),
            ("ambiguous_nodes", "Nodes whose pods share in several ways, or unread", ambiguous),
        ):
            yield GaugeMetricFamily(f"snugfit_{name}", text, value=value)
        for name, text, count in (
            ("recounts", "Comparisons of state and facts", figures.recounts),
            ("drifts", "Comparisons that found a difference", figures.drifted),
            ("watch_events", "Events applied", figures.events),
            ("watch_faults", "Events that could not be applied", figures.faults),
            ("rereads", "Objects read again because they were in doubt", figures.rereads),
            ("audits", "Comparisons of what is known with the API", figures.audits),
            ("audit_drifts", "Objects not known as the API has them", figures.mended),
            ("readings", "Pods read because they were overdue", figures.readings),
            ("requeues", "Refused pods that were requeued", figures.requeues),
            (
                "gang_evictions",
                "Members evicted after others of a gang",
                figures.gang_evictions,
            ),
        ):
            yield CounterMetricFamily(f"snugfit_{name}", text, value=count)
        ages = GaugeMetricFamily(
            "snugfit_watch_age_seconds", "Time since a kind was heard of", labels=["resource"]
        )
        for label, age in live.watches.ages().items():
            ages.add_metric([label], age)
        yield ages
        restarts = CounterMetricFamily(
            "snugfit_watch_restarts", "Watch failures", labels=["resource", "cause"]
        )
        for (label, cause), count in sorted(live.watches.restarts().items()):
            restarts.add_metric([label, cause], count)
        yield restarts
        binds = CounterMetricFamily("snugfit_binds", "Bind calls", labels=["result"])
        for result in ("bound", "already", "conflict", "no_room", "refused", "unknown", "fault"):
            binds.add_metric([result], live.binder.results[result])
        yield binds
        chores = CounterMetricFamily(
            "snugfit_chore_faults", "What could not be looked after", labels=["chore"]
        )
        for chore in sorted({*live.caretaker.chores, *figures.chore_faults}):
            chores.add_metric([chore], figures.chore_faults[chore])
        yield chores
        objects = GaugeMetricFamily(
            "snugfit_unreadable_objects", "Objects that cannot be read", labels=["kind"]
        )
        for kind in ("Node", "Pod"):
            objects.add_metric([kind], unreadable[kind])
        yield objects


class _PlannerCollector(Collector):
    """Figures of the planner process."""

    def __init__(self, planner: PlannerLoop) -> None:
        self._planner = planner

    def describe(self) -> Iterator[Metric]:
        """Nothing up front."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One family per figure."""
        figures = self._planner.figures
        up = self._planner.pid is not None
        for name, text, value in (
            ("up", "Whether the planner process runs", float(up)),
            ("busy", "Whether it computes", float(self._planner.state in ("plan", "price"))),
            ("plan_seconds", "Duration of the latest plan", figures.last_seconds),
            ("plan_age_seconds", "Age of the latest plan, -1 without", _age(figures.last_at)),
            ("price_seconds", "Duration of the latest pricing", figures.price_seconds),
            ("price_age_seconds", "Age of the prices, -1 without", _age(figures.priced_at)),
            ("plan_gap", "Gap of the latest plan to its bound", figures.last_gap),
        ):
            yield GaugeMetricFamily(f"snugfit_planner_{name}", text, value=value)
        for name, text, count in (
            ("starts", "Starts of the planner process", figures.restarts),
            ("pods_planned", "Pods that plans had a node for", figures.planned),
            ("pods_adopted", "Planned pods that are answered from the plan", figures.adopted),
        ):
            yield CounterMetricFamily(f"snugfit_planner_{name}", text, value=count)
        for name, text, label, counter in (
            ("plans", "Plans by status", "status", figures.plans),
            ("faults", "Planner processes given up, by cause", "cause", figures.faults),
            ("pods_rejected", "Planned pods not adopted, by cause", "cause", figures.rejected),
        ):
            family = CounterMetricFamily(f"snugfit_planner_{name}", text, labels=[label])
            for key, count in sorted(counter.items()):
                family.add_metric([key], count)
            yield family


def _age(at: float | None) -> float:
    return -1.0 if at is None else time.monotonic() - at
