"""The states of a gang, drawn from the table by which the code moves between them."""

from __future__ import annotations

from collections import defaultdict

from docs.generate.drawing import Box, Canvas
from docs.generate.markdown import code, table
from scheduler.core.gangs.states import HOLDING, LIFE, Event, Life

__all__ = ["drawing", "page"]

_WIDTH, _HEIGHT = 920.0, 480.0
_BOX = (176.0, 52.0)
_SEATS = ((20, 190), (230, 30), (640, 30), (724, 190), (640, 350), (230, 350))
_FEW = 4
"""An event that leads to one state from more states than this is told in words, not drawn."""

_HEAD = """# States of a gang

A gang that has pending members is in one of {count} states. The table and the drawing are made from
the table by which the code moves between the states; an event that a state does not list cannot
happen there.

![States of a gang and the events between them](gang-states.svg)

{summary}

Places are reserved in two states only, which are filled in the drawing: {holding}. Both end by
themselves, so that no gang keeps devices for good without being bound.

## Events

"""


def _summarised() -> dict[Event, Life]:
    """Events that lead to one and the same state from nearly everywhere."""
    targets: dict[Event, set[Life]] = defaultdict(set)
    sources: dict[Event, int] = defaultdict(int)
    for (_, event), after in LIFE.items():
        targets[event].add(after)
        sources[event] += 1
    return {
        event: next(iter(ends)) for event, ends in targets.items()
        if len(ends) == 1 and sources[event] > _FEW
    }  # fmt: skip


def drawing() -> str:
    """States and the events that are not told in words."""
    canvas = Canvas(_WIDTH, _HEIGHT, "States of a gang and the events between them")
    boxes = {
        state: Box(x, y, *_BOX, (state.value,), fill="#c7d2fe" if state in HOLDING else "#eef2ff")
        for state, (x, y) in zip(Life, _SEATS, strict=True)
    }
    labels: dict[tuple[Life, Life], list[str]] = defaultdict(list)
    told = _summarised()
    for (before, event), after in LIFE.items():
        if before is not after and event not in told:
            labels[before, after].append(event.name.lower())
    for (before, after), events in labels.items():
        canvas.arrow(boxes[before], boxes[after], bend=22.0, label=", ".join(events))
    for box in boxes.values():
        canvas.box(box)
    for number, (event, after) in enumerate(told.items()):
        words = f"{event.name.lower()}: from every state that knows it to {after.value}"
        canvas.text(20, _HEIGHT - 14 - 16 * number, words, size=12, anchor="start")
    return canvas.svg()


def page() -> str:
    """Drawing, events, and the table itself."""
    told = _summarised()
    summary = (
        "Not drawn: "
        + "; ".join(
            f"`{event.name.lower()}` leads to *{after.value}* from every state that knows it"
            for event, after in told.items()
        )
        + "."
    )
    head = _HEAD.format(
        count=len(Life),
        summary=summary if told else "",
        holding=" and ".join(f"*{state.value}*" for state in Life if state in HOLDING),
    )
    events = table(("event", "what has happened"), ((code(e.name.lower()), e.value) for e in Event))
    moves = table(
        ("state", *(code(event.name.lower()) for event in Event)),
        ((state.value, *(_cell(state, event) for event in Event)) for state in Life),
    )
    return f"{head}{events}\n\n## From each state\n\n{moves}\n"


def _cell(state: Life, event: Event) -> str:
    after = LIFE.get((state, event))
    if after is None:
        return ""
    return "stays" if after is state else after.value
