"""Answers about thousands of nodes as bytes: joined from names that were encoded once.

Nodes with the same fate (a reason, a score) differ in nothing but their names, so that what stands
between two names is the separator of one join.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from threading import Lock

import msgspec
import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import INFEASIBLE, Engine
from scheduler.core.model import PodRequest, Reason
from scheduler.core.ranking import ranks
from scheduler.core.state import ClusterState
from scheduler.webhook.name_index import Listed, NameIndex
from scheduler.webhook.protocol import FilterArgs

__all__ = [
    "WINNER",
    "NodeFragments",
    "NodeNames",
    "Ranking",
    "Verdicts",
    "encode_error",
    "encode_filter",
    "encode_ranking",
    "named_shortages",
    "prefer",
    "ranked",
]

IntArray = NDArray[np.int64]

WINNER = 10
"""Score of the node that the pod should go to; nobody else has it."""

_RECENT_LISTS = 8
_KEPT_ANSWERS = 64
_BLOCK = 64
_NOT_NAMED = 1  # the fate of a node that passes and goes unmentioned
_encoder = msgspec.json.Encoder()
_TEXTS = [b":" + _encoder.encode(Reason.of(code).text) for code in range(len(Reason))]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """A filter answer about R nodes.

    Attributes
    ----------
    nodes
        The nodes asked about.
    codes : (R,) int8
        Reason codes, 0 passes.
    curable : (R,) bool
        Whether a rejected node goes to ``FailedNodes`` (eviction may help) or to
        ``FailedAndUnresolvableNodes``.
    message : str
        Replaces the reason's text if not empty.
    named : (K,) int64, optional
        Positions of the passing nodes to name; None names all of them. The others are neither
        among those that pass nor among those that failed.
    resources : tuple of str
        Counted resources that the pod asks for.
    short : (R,) int64, optional
        Position in ``resources`` of the one that a node has too little of, -1 for other reasons.
    """

    nodes: Listed
    codes: NDArray[np.int8]
    curable: NDArray[np.bool_]
    message: str = ""
    named: IntArray | None = None
    resources: tuple[str, ...] = ()
    short: IntArray | None = None

    def fates(self) -> NDArray[np.int16]:
        """What becomes of each node and why in one number, (R,): 0 if it passes and is named.

        Even if final, odd if an eviction may help; half of it is an index of :meth:`texts`.
        """
        why = self.codes.astype(np.int16)
        if self.short is not None:
            left = self.codes == Reason.INSUFFICIENT_RESOURCE.code
            why = np.where(self.short >= 0, len(Reason) + 2 * self.short + left, why)
        fates: NDArray[np.int16] = (why * 2 + self.curable).astype(np.int16)
        fates[self.codes == 0] = 0 if self.named is None else _NOT_NAMED
        if self.named is not None:
            fates[self.named] = 0
        return fates

    def texts(self) -> list[bytes]:
        """What a fate is called, as the value of a JSON object with the colon before it."""
        pair = (Reason.RESOURCE_MISSING, Reason.INSUFFICIENT_RESOURCE)
        named = [f"{reason.text}: {name}" for name in self.resources for reason in pair]
        return _TEXTS + [b":" + _encoder.encode(text) for text in named]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A prioritize answer: R nodes and their scores 0..10, (R,) int64."""

    nodes: Listed
    scores: IntArray


@dataclass(slots=True)
class _Kept:
    """The latest answer about every node to one question.

    ``blocks`` are its parts, made once an answer differs from the one before in a few nodes only:
    passing names, curable and final failures of ``_BLOCK`` nodes each.
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
        self.everything = Listed(np.array(occupied, dtype=np.int64), {})
        self._in_order: list[bytes] = self._quoted[self.everything.rows].tolist()
        self._index: NameIndex | None = None
        self._recent: tuple[tuple[bytes, Listed], ...] = ()
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._lock = Lock()

    def find(self, names: bytes) -> Listed | None:
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
        return Listed(rows, {})

    def remember(self, names: bytes, listed: Listed) -> None:
        """Recognise this very array next time: kube-scheduler sends our answers back."""
        self._recent = ((names, listed), *self._recent[: _RECENT_LISTS - 1])

    def joined(self, nodes: Listed, positions: IntArray, between: bytes) -> bytes:
        """Names of some of the nodes, quoted, with something between each two."""
        rows = nodes.rows[positions]
        pieces: list[bytes] = (
            self._quoted[rows].tolist() if len(self._quoted) else [b""] * len(rows)
        )
        if nodes.unknown:
            for place in np.flatnonzero(rows < 0).tolist():
                pieces[place] = _encoder.encode(nodes.unknown[int(positions[place])])
        return between.join(pieces)

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
        passing, curable, final = (b",".join(filter(None, parts)) for parts in zip(*blocks))  # noqa: B905 - all are triples
        kept.fates, kept.passing = fates, b"[" + passing + b"]"
        kept.answer = _filter_result(b'{"Nodes":null,"NodeNames":' + kept.passing, curable, final)

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
    """Names of the nodes of a cluster as nodes come and go.

    Parameters
    ----------
    state
        The cluster. Whoever may use it may use this.
    """

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._epoch = -1
        self._fragments = NodeFragments(())

    def fragments(self) -> NodeFragments:
        """The names as they are now."""
        state = self._state
        if self._epoch != state.node_epoch:
            names = [node.name if node else None for node in state.nodes]
            if names != self._fragments.names:  # else a node has changed, not its name
                self._fragments = NodeFragments(names)
            self._epoch = state.node_epoch
        return self._fragments

    def listed(self, args: FilterArgs) -> Listed:
        """The nodes of a call, without decoding their names where that can be avoided."""
        found = self.fragments().find(args.names) if args.names else None
        if found is not None:
            return found
        names = args.node_names()
        rows = self._state.rows_of(names)
        seen = np.bincount(rows + 1, minlength=1)  # the first bin counts unknown names
        if seen[0] or seen.max(initial=0) > 1:
            names = list(dict.fromkeys(names))
            rows = self._state.rows_of(names)
        return Listed(rows, {i: names[i] for i in np.flatnonzero(rows < 0).tolist()})

    def name(self, nodes: Listed, position: int) -> str:
        """Name of one node of a call."""
        row = int(nodes.rows[position])
        node = self._state.nodes[row] if row >= 0 else None
        return nodes.unknown[position] if node is None else node.name


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


def _filter_result(head: bytes, curable: bytes, final: bytes) -> bytes:
    return b'%b,"FailedNodes":{%b},"FailedAndUnresolvableNodes":{%b},"Error":""}' % (
        head,
        curable,
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
    fates, texts = verdicts.fates(), verdicts.texts()
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
    final, curable = (b",".join(parts) for parts in failed)
    answer = _filter_result(head, curable, final)
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


def ranked(
    engine: Engine, request: PodRequest, nodes: Listed, *, passed: bool = False
) -> tuple[Ranking, IntArray]:
    """Scores 0..10 of these nodes, and the engine's own scores behind them.

    ``passed`` as in :meth:`Engine.filter`.
    """
    rows = nodes.rows
    scores = np.where(rows >= 0, engine.scores(request, rows, passed=passed), INFEASIBLE)
    feasible = scores != INFEASIBLE
    if feasible.all():
        return Ranking(nodes, ranks(scores, rows)), scores
    places = np.zeros(len(rows), dtype=np.int64)
    places[feasible] = ranks(scores[feasible], rows[feasible])
    return Ranking(nodes, places), scores


def prefer(
    ranking: Ranking, scores: IntArray, position: int, *, joint: bool
) -> tuple[Ranking, IntArray]:
    """The ranking with a planned node as its winner; a gang's member has no second choice."""
    ranked = np.zeros_like(ranking.scores) if joint else np.minimum(ranking.scores, WINNER - 1)
    order = np.full_like(scores, INFEASIBLE) if joint else scores.copy()
    if position >= 0:
        ranked[position] = WINNER
        order[position] = np.iinfo(np.int64).max
    return Ranking(ranking.nodes, ranked), order


def named_shortages(
    engine: Engine,
    request: PodRequest,
    rows: IntArray,
    codes: NDArray[np.int8],
    *,
    passed: bool = False,
) -> tuple[tuple[str, ...], IntArray | None]:
    """``resources`` and ``short`` of :class:`Verdicts`; ``passed`` as in :meth:`Engine.filter`."""
    if not request.counted:
        return (), None
    names = tuple(name for name, _ in request.counted)
    return names, engine.short_of(request, rows, codes, passed=passed)
