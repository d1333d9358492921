"""Answers about thousands of nodes as bytes: joined from names that were encoded once.

Nodes with the same fate (a reason, a score) differ in nothing but their names, so that what stands
between two names is the separator of one join.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from scheduler.cluster.dryruns import Look
from scheduler.cluster.ledger import Cluster
from scheduler.cluster.verdicts import Ranking, RequestedNodes, Verdicts
from scheduler.core.model import PodRequest, Reason
from scheduler.webhook.name_index import NameIndex
from scheduler.webhook.protocol import FilterArgs

__all__ = [
    "NodeFragments",
    "NodeNames",
    "encode_error",
    "encode_filter",
    "encode_look",
    "encode_ranking",
]

IntArray = NDArray[np.int64]

_RECENT_LISTS = 8
_KEPT_ANSWERS = 64
_BLOCK = 64
_NOT_NAMED = 1  # the fate of a node that passes and goes unmentioned
_encoder = msgspec.json.Encoder()
_TEXTS = [b":" + _encoder.encode(Reason.of(code).text) for code in range(len(Reason))]


@dataclass(slots=True)
class _Kept:
    """The latest answer about every node to one question.

    ``blocks`` are its parts, made once an answer differs from the one before in a few nodes only:
    passing names, preemptible and final failures of ``_BLOCK`` nodes each.
    """

    fates: NDArray[np.int16]
    answer: bytes
    passing: bytes
    blocks: list[tuple[bytes, bytes, bytes]] | None = None


class NodeFragments:
    """Names of the nodes of one node epoch: encoded, recognised in requests, joined in answers.

    Parameters
    ----------
    names
        Name of each row; None for an empty row.
    """

    def __init__(self, names: Sequence[str | None]) -> None:
        self.names = list(names)
        pieces = [b"" if name is None else _encoder.encode(name) for name in names]
        self._quoted: NDArray[np.object_] = np.empty(len(pieces), dtype=object)
        self._quoted[:] = pieces
        occupied = [row for row, name in enumerate(names) if name is not None]
        self.everything = RequestedNodes(np.array(occupied, dtype=np.int64), {})
        self._in_order: list[bytes] = self._quoted[self.everything.rows].tolist()
        self._index: NameIndex | None = None
        self._recent: tuple[tuple[bytes, RequestedNodes], ...] = ()
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._lock = Lock()

    def find(self, names: bytes) -> RequestedNodes | None:
        """The nodes of a JSON array of names, each once; None if that takes decoding them."""
        for known, listed in self._recent:
            if known == names:
                return listed
        if self._index is None:
            self._index = NameIndex(self._quoted)
        rows = self._index.rows(names)
        if rows is None or np.bincount(rows).max(initial=0) > 1:
            return None
        if len(rows) == len(self.everything.rows):
            return self.everything  # every node, in whatever order
        return RequestedNodes(rows, {})

    def remember(self, names: bytes, listed: RequestedNodes) -> None:
        """Recognise this very array next time: kube-scheduler sends our answers back."""
        self._recent = ((names, listed), *self._recent[: _RECENT_LISTS - 1])

    def joined(self, nodes: RequestedNodes, positions: IntArray, between: bytes) -> bytes:
        """Names of some of the nodes, quoted, with something between each two."""
        rows = nodes.rows[positions]
        pieces: list[bytes] = (
            self._quoted[rows].tolist() if len(self._quoted) else [b""] * len(rows)
        )
        if nodes.unknown:
            for place in np.flatnonzero(rows < 0).tolist():
                pieces[place] = _encoder.encode(nodes.unknown[int(positions[place])])
        return between.join(pieces)

    def name(self, nodes: RequestedNodes, position: int) -> str:
        """Name of one node of a call."""
        row = int(nodes.rows[position])
        name = self.names[row] if row >= 0 else None
        return nodes.unknown[position] if name is None else name

    def kept(
        self, question: Hashable, fates: NDArray[np.int16], texts: Sequence[bytes]
    ) -> tuple[bytes, bytes] | None:
        """The answer to this question about every node, if most fates are those of last time."""
        with self._lock:
            kept = self._kept.get(question)
            if kept is None:
                return None
            changed = np.flatnonzero(kept.fates != fates)
            if len(changed):
                touched = np.unique(changed // _BLOCK).tolist()
                if len(touched) > len(fates) // (4 * _BLOCK):
                    return None
                self._patch(kept, fates, texts, touched)
            self._kept.move_to_end(question)
            return kept.answer, kept.passing

    def _patch(
        self, kept: _Kept, fates: NDArray[np.int16], texts: Sequence[bytes], touched: list[int]
    ) -> None:
        blocks = kept.blocks
        if blocks is None:
            touched = list(range(-(-len(fates) // _BLOCK)))
            blocks = kept.blocks = [(b"", b"", b"")] * len(touched)
        for number in touched:
            part = slice(number * _BLOCK, (number + 1) * _BLOCK)
            blocks[number] = _block(self._in_order[part], fates[part].tolist(), texts)
        passing, preemptible, final = (b",".join(filter(None, parts)) for parts in zip(*blocks))  # noqa: B905 - all are triples
        kept.fates, kept.passing = fates, b"[" + passing + b"]"
        kept.answer = _filter_result(
            b'{"Nodes":null,"NodeNames":' + kept.passing, preemptible, final
        )

    def keep(
        self, question: Hashable, fates: NDArray[np.int16], answer: bytes, passing: bytes
    ) -> None:
        """Keep an answer for :meth:`kept`."""
        with self._lock:
            self._kept[question] = _Kept(fates, answer, passing)
            self._kept.move_to_end(question)
            if len(self._kept) > _KEPT_ANSWERS:
                self._kept.popitem(last=False)


class NodeNames:
    """Names of the nodes of a cluster as nodes come and go. Used with its lock held."""

    def __init__(self) -> None:
        self._epoch = -1
        self._fragments = NodeFragments(())

    def fragments(self, cluster: Cluster) -> NodeFragments:
        """The names as they are now."""
        state = cluster.engine.state
        if self._epoch != state.node_epoch:
            names = [node.name if node else None for node in state.nodes]
            if names != self._fragments.names:  # else a node has changed, not its name
                self._fragments = NodeFragments(names)
            self._epoch = state.node_epoch
        return self._fragments

    def listed(self, cluster: Cluster, args: FilterArgs) -> RequestedNodes:
        """The nodes of a call, without decoding their names where that can be avoided."""
        found = self.fragments(cluster).find(args.names) if args.names else None
        if found is not None:
            return found
        state, names = cluster.engine.state, args.node_names()
        rows = state.rows_of(names)
        seen = np.bincount(rows + 1, minlength=1)  # the first bin counts unknown names
        if seen[0] or seen.max(initial=0) > 1:
            names = list(dict.fromkeys(names))
            rows = state.rows_of(names)
        return RequestedNodes(rows, {i: names[i] for i in np.flatnonzero(rows < 0).tolist()})

    def listed_again(
        self, cluster: Cluster, args: FilterArgs, fragments: NodeFragments, nodes: RequestedNodes
    ) -> tuple[NodeFragments, RequestedNodes]:
        """The same after the lock was given back: these two, unless nodes have come or gone."""
        now = self.fragments(cluster)
        return (now, nodes) if now is fragments else (now, self.listed(cluster, args))


def _fates(verdicts: Verdicts) -> NDArray[np.int16]:
    """What becomes of each node and why in one number, (R,): 0 if it passes and is named.

    Even if final, odd if an eviction may help; half of it is an index of :func:`_texts_of`.
    """
    why: NDArray[np.integer[Any]] = verdicts.codes
    if verdicts.short is not None:
        left = verdicts.codes == Reason.INSUFFICIENT_RESOURCE.code
        why = np.where(verdicts.short >= 0, len(Reason) + 2 * verdicts.short + left, why)
    fates: NDArray[np.int16] = np.multiply(why, 2, dtype=np.int16, casting="unsafe")
    fates += verdicts.preemptible
    fates[verdicts.codes == 0] = 0 if verdicts.named is None else _NOT_NAMED
    if verdicts.named is not None:
        fates[verdicts.named] = 0
    return fates


def _texts_of(verdicts: Verdicts) -> list[bytes]:
    """What a fate is called, as the value of a JSON object with the colon before it."""
    pair = (Reason.RESOURCE_MISSING, Reason.INSUFFICIENT_RESOURCE)
    named = [f"{reason.text}: {name}" for name in verdicts.resources for reason in pair]
    return [*_TEXTS, *(b":" + _encoder.encode(text) for text in named)] if named else _TEXTS


def _block(
    names: list[bytes], fates: list[int], texts: Sequence[bytes]
) -> tuple[bytes, bytes, bytes]:
    by_fate: defaultdict[int, list[bytes]] = defaultdict(list)
    for name, fate in zip(names, fates, strict=True):
        by_fate[fate].append(name)
    passing = b",".join(by_fate.pop(0, ()))
    by_fate.pop(_NOT_NAMED, None)
    failed: tuple[list[bytes], list[bytes]] = ([], [])
    for fate, alike in sorted(by_fate.items()):
        text = texts[fate // 2]
        failed[fate % 2].append((text + b",").join(alike) + text)
    return passing, b",".join(failed[1]), b",".join(failed[0])


def _filter_result(head: bytes, preemptible: bytes, final: bytes) -> bytes:
    return b'%b,"FailedNodes":{%b},"FailedAndUnresolvableNodes":{%b},"Error":""}' % (
        head,
        preemptible,
        final,
    )


def encode_error(message: str) -> bytes:
    """An ``ExtenderFilterResult`` without verdicts: nobody is evicted, and we are asked again."""
    return (
        b'{"Nodes":null,"NodeNames":null,"FailedNodes":{},"FailedAndUnresolvableNodes":{},"Error":'
        + _encoder.encode(message)
        + b"}"
    )


def encode_filter(
    verdicts: Verdicts,
    fragments: NodeFragments,
    raw_nodes: Sequence[msgspec.Raw] | None = None,
    *,
    question: Hashable = None,
) -> tuple[bytes, bytes]:
    """An ``ExtenderFilterResult``, and in it the JSON array of the passing names.

    ``Error`` stays empty: "does not fit" is not an error.

    Parameters
    ----------
    verdicts, fragments
        The answer, and the nodes' names.
    raw_nodes
        The nodes as they came, if the passing ones are to go back whole.
    question
        Stands for what was asked, such as the pod's shape: where all nodes were asked about, the
        answer is the last one to this question, rewritten where verdicts differ.
    """
    fates, texts = _fates(verdicts), _texts_of(verdicts)
    keep = question is not None and verdicts.nodes is fragments.everything and not verdicts.message
    if keep:
        kept = fragments.kept(question, fates, texts)
        if kept is not None:
            return kept
    passing = np.flatnonzero(fates == 0)
    listed = b"[" + fragments.joined(verdicts.nodes, passing, b",") + b"]"
    if raw_nodes is None:
        head = b'{"Nodes":null,"NodeNames":' + listed
    else:
        items = _encoder.encode([raw_nodes[position] for position in passing.tolist()])
        head = b'{"Nodes":{"metadata":{},"items":' + items + b'},"NodeNames":null'
    failed: tuple[list[bytes], list[bytes]] = ([], [])
    for fate in np.flatnonzero(np.bincount(fates)).tolist():
        if fate > _NOT_NAMED:
            message = verdicts.message
            text = b":" + _encoder.encode(message) if message else texts[fate // 2]
            nodes = fragments.joined(verdicts.nodes, np.flatnonzero(fates == fate), text + b",")
            failed[fate % 2].append(nodes + text)
    final, preemptible = (b",".join(parts) for parts in failed)
    answer = _filter_result(head, preemptible, final)
    if keep:
        fragments.keep(question, fates, answer, listed)
    return answer, listed


def encode_ranking(ranking: Ranking, fragments: NodeFragments) -> bytes:
    """A ``HostPriorityList``: a bare array, integers only, best first."""
    parts = []
    for score in np.flatnonzero(np.bincount(ranking.scores)).tolist()[::-1]:
        end = b',"Score":%d}' % score
        positions = np.flatnonzero(ranking.scores == score)
        hosts = fragments.joined(ranking.nodes, positions, end + b',{"Host":')
        parts.append(b'{"Host":' + hosts + end)
    return b"[" + b",".join(parts) + b"]"


def encode_look(
    nodes: RequestedNodes,
    found: Look,
    request: PodRequest,
    fragments: NodeFragments,
    raw_nodes: Sequence[msgspec.Raw] | None,
) -> bytes:
    """An ``ExtenderFilterResult`` that says besides what it could not take into account."""
    resources = tuple(name for name, _ in request.counted)
    final = np.zeros(len(found.codes), dtype=bool)
    verdicts = Verdicts(
        nodes, found.codes, final, found.message, resources=resources, short=found.short
    )
    answer = encode_filter(verdicts, fragments, raw_nodes)[0]
    if not found.omissions:
        return answer
    named = _encoder.encode([omission.to_json() for omission in found.omissions])
    return answer[:-1] + b',"NotConsidered":' + named + b"}"
