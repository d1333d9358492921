"""Does anything give way in an hour in which everything goes wrong at once?

The real server follows an API server over HTTP (`testbed/fake_api.py`), and a kube-scheduler asks
it pod by pod. A hostile tenant creates, patches, finishes and deletes pods that contradict
themselves (annotations and labels of everybody, right and wrong; patches after binding, namesakes,
pods that name their node themselves), beside honest ones. Meanwhile watches are cut in every way
and versions compacted, and the planner process is killed, or stopped without a word. A validator
that knows requests and the Bindings as they were posted judges each placement; honest pods that fit
beyond doubt have to be served within 30 s; drift is 0; resident memory is sampled, and its slope
fitted after the warm-up. `--guarded` refuses changes of records to the tenant, as the admission
policy does. Exit code 1 if a device was given twice, an honest pod was not served, or the account
of the server was not that of the API.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from bench.figures import slope
from bench.report import Report, benchmark
from testbed import hostile
from testbed.fake_api import FakeApi, serving
from testbed.hostile import MEMORY, MILLI, WHOLE
from testbed.hostile_cluster import HostileCluster, Pod
from testbed.live import LiveServer

__all__ = ["Siege", "command"]

_DEVICES = {
    **{f"whole-{number}": 8 for number in range(3)},
    **{f"part-{number}": 4 for number in range(4)},
    **{f"both-{number}": 4 for number in range(3)},
}
_HONEST: tuple[dict[str, str], ...] = (
    {MILLI: "300"}, {MILLI: "600"}, {MILLI: "900"}, {MILLI: "1000"}, {WHOLE: "1"}, {WHOLE: "2"},
    {MEMORY: "20000"}, {},
)  # fmt: skip
_MOST_ALIVE = 40  # of each side
_SERVED_WITHIN_S = 30.0


@benchmark("siege")
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--warm-up", default=5.0, show_default=True, help="Minutes that do not count.")
@click.option("--every", default=10.0, show_default=True, help="Seconds between samples.")
@click.option("--seed", default=0, show_default=True)
@click.option("--guarded", is_flag=True, help="An admission policy keeps records from the tenant.")
def command(
    report: Report, minutes: float, warm_up: float, every: float, seed: int, *, guarded: bool
) -> None:
    """One row; what was done how often is told beside it."""
    report.title = f"Siege of {minutes:g} minutes, seed {seed}"
    with tempfile.TemporaryDirectory() as folder, serving() as api:
        server = LiveServer(
            api, Path(folder), policy="priced", planner="true", reservation_ttl_s=0.5, gang_ttl_s=1,
            recount_s=10, requeue_after_s=5,
        )  # fmt: skip
        try:
            siege = Siege(api, server, random.Random(seed), guarded=guarded)
            try:
                siege.last(60 * minutes, every, report)
            finally:
                _judge(report, siege, 60 * warm_up)
        finally:
            server.stop()


def _judge(report: Report, siege: Siege, warm_up_s: float) -> None:
    """What has come of it, also if it was ended before its time."""
    figures, report.facts["done"], wrong = siege.outcome()
    counted = [sample for sample in siege.samples if sample[0] >= warm_up_s] or siege.samples
    memory = [mib for _, mib in counted]
    report.add(
        minutes=round(siege.samples[-1][0] / 60, 1) if siege.samples else 0.0,
        deeds=sum(siege.done.values()),
        **figures,
        samples=len(counted),
        mib_per_hour=slope([seconds for seconds, _ in counted], memory),
        mib_first=round(memory[0], 1) if memory else None,
        mib_last=round(memory[-1], 1) if memory else None,
    )
    report.failures += wrong
    if figures["tracebacks"]:
        report.failures.append(f"{figures['tracebacks']} tracebacks in the log of the server")


class Siege:
    """One cluster under attack.

    Parameters
    ----------
    api, server
        What the server follows, and the server.
    chance
        Decides everything.
    guarded
        Whether the tenant's changes of records are refused.

    Attributes
    ----------
    done
        How often what was done.
    wrong
        What must not be, as text.
    samples
        Seconds since the beginning, and resident memory in MiB.
    """

    def __init__(
        self, api: FakeApi, server: LiveServer, chance: random.Random, *, guarded: bool
    ) -> None:
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.samples: list[tuple[float, float]] = []
        self._api, self._server, self._chance, self._guarded = api, server, chance, guarded
        self._cluster = HostileCluster(api, server, _DEVICES)
        self._pods = self._cluster.validator.pods
        self._over = threading.Event()
        self._waits: dict[str, float] = {}
        self._longest_wait_s = 0.0

    def last(self, seconds: float, every: float, report: Report) -> None:
        """Go on for so long, with a sample every so many seconds."""
        disturber = threading.Thread(target=self._disturb, args=(self._chance.random(),))
        disturber.start()
        begun = time.monotonic()
        try:
            while (now := time.monotonic() - begun) < seconds:
                self._turn()
                report.progress(int(now), int(seconds))
                if now >= every * len(self.samples):
                    self._look()
                    self.samples.append((now, self._server.memory_mib()))
                    report.say(
                        f"{now:.0f} s, {self.samples[-1][1]:.0f} MiB,"
                        f" {sum(self.done.values())} deeds, {len(self.wrong)} wrong"
                    )
        finally:
            self._over.set()
            disturber.join()

    def outcome(self) -> tuple[dict[str, Any], dict[str, int], list[str]]:
        """Figures, what was done how often, and what is wrong, once every pod is gone."""
        self._cluster.clear()
        self._cluster.settle()
        self._look()
        metric = self._server.metric
        figures = {
            "wrong": len(self.wrong),
            "longest_wait_of_an_honest_pod_s": round(self._longest_wait_s, 2),
            "drifts": int(metric("snugfit_drifts_total")),
            "faults": int(metric("snugfit_watch_faults_total")),
            "tracebacks": self._server.text().count("Traceback"),
        }
        return figures, dict(sorted(self.done.items())), self.wrong[:20]

    # -- the tenant and the others -----------------------------------------------------------

    def _turn(self) -> None:
        deed = self._chance.choice(
            (self._evil_comes, self._evil_comes, self._evil_patches, self._evil_ends,
             self._evil_retries, self._honest_comes, self._honest_comes, self._honest_goes,
             self._honest_retries)
        )  # fmt: skip
        deed()
        self.done[deed.__name__.strip("_")] += 1

    def _evil_comes(self) -> None:
        mine, chance = self._of(honest=False), self._chance
        if len(mine) >= _MOST_ALIVE:
            return
        name = f"evil-{self.done['evil_comes']}"
        if mine and chance.random() < 0.3:
            name = chance.choice(mine)
            self._cluster.delete(name)
        past = chance.choice(self._cluster.nodes) if chance.random() < 0.3 else ""
        pod = self._cluster.create(
            name, hostile.TENANT, hostile.some_requests(chance), node=past,
            annotations=hostile.some_annotations(chance), labels=hostile.some_labels(chance),
        )  # fmt: skip
        if not past:
            self._cycle(pod)

    def _evil_patches(self) -> None:
        for name in self._some(honest=False):
            written = hostile.some_annotations(self._chance)
            if not self._guarded and self._chance.random() < 0.5:
                milli = self._pods[name].asks.get(MILLI, 0)
                written["snugfit.io/devices"] = hostile.other_record(self._chance, milli)
            if self._guarded:
                written = {k: v for k, v in written.items() if k not in hostile.GUARDED}
            self._cluster.change(name, annotations=written)
            if self._chance.random() < 0.2:
                self._cluster.change(name, status=hostile.some_status(self._chance))

    def _evil_ends(self) -> None:
        for name in self._some(honest=False):
            if self._pods[name].node and self._chance.random() < 0.4:
                self._cluster.finish(name, self._chance.choice(("Succeeded", "Failed")))
            else:
                self._cluster.delete(name)

    def _evil_retries(self) -> None:
        for name in self._some(honest=False):
            self._cycle(self._pods[name])

    def _honest_comes(self) -> None:
        if len(self._of(honest=True)) < _MOST_ALIVE:
            name = f"honest-{self.done['honest_comes']}"
            self._cycle(self._cluster.create(name, "honest", self._chance.choice(_HONEST)))

    def _honest_goes(self) -> None:
        for name in self._some(honest=True):
            self._cluster.delete(name)
            self._waits.pop(name, None)

    def _honest_retries(self) -> None:
        for name in self._some(honest=True, most=5):
            self._cycle(self._pods[name])

    def _cycle(self, pod: Pod) -> None:
        """One question of kube-scheduler; an honest pod that fits has waited for how long?"""
        fits = pod.honest and not pod.node and self._cluster.validator.has_room_beyond_doubt(pod)
        self.wrong += self._cluster.schedule(pod)
        if pod.node or not fits:
            self._waits.pop(pod.name, None)
            return
        waited = time.monotonic() - self._waits.setdefault(pod.name, time.monotonic())
        self._longest_wait_s = max(self._longest_wait_s, waited)
        if waited > _SERVED_WITHIN_S:
            self.wrong.append(f"{pod} has waited for {waited:.0f} s")
            self._waits[pod.name] = time.monotonic()

    def _look(self) -> None:
        """The server's own account against the API's."""
        self._cluster.settle()
        detail = self._server.get("/readyz")
        if detail["drift"]:
            self.wrong.append(f"drift: {detail}")
        for node, said in self._cluster.state().items():
            known = {pod["uid"] for pod in said["pods"] if not pod["reserved"]}
            real = (
                {pod.uid for pod in self._cluster.validator.on(node)} if node in _DEVICES else known
            )
            if known != real:
                self.wrong.append(f"{node}: {sorted(known ^ real)} are known to one side only")
        self._api.calls.clear()
        self._api.bindings.clear()

    def _of(self, *, honest: bool) -> list[str]:
        return [name for name, pod in self._pods.items() if pod.honest == honest]

    def _some(self, *, honest: bool, most: int = 2) -> list[str]:
        names = self._of(honest=honest)
        return self._chance.sample(names, min(most, len(names)))

    # -- what else goes wrong ----------------------------------------------------------------

    def _disturb(self, seed: float) -> None:
        chance = random.Random(seed)
        while not self._over.wait(chance.uniform(0.5, 6.0)):
            how = chance.choice(("orderly", "broken", "mid line", "compact", "kill", "stop"))
            if how in ("kill", "stop"):
                number = signal.SIGKILL if how == "kill" else signal.SIGSTOP
                for child in self._server.planners():
                    with suppress(ProcessLookupError):
                        os.kill(child, number)
            elif how == "compact":
                with self._api.changed:  # nobody may miss events without being told
                    self._api.compact()
                    self._api.cut("broken")
            else:
                self._api.cut(how)
            self.done[f"planner {how}" if how in ("kill", "stop") else f"watches {how}"] += 1
