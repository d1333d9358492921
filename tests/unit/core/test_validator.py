"""The validator finds every kind of cheating, and agrees with an honest engine."""

from __future__ import annotations

import pytest

from scheduler.core.model import Device, DeviceShare, Placement
from scheduler.core.validator import Validator, Violation, verify
from tests.builders import node, pod

PLAIN = node("n0", gpus=2, cpu=4000, memory=4096, pods=3, gpu_memory=16_000)
A100 = node("n0", devices=(Device("A100", mig="A100-40"),))
FIXED = node("n0", devices=(Device("A100", mig="A100-40", mig_layout=(("3g.20gb", 0),)),))
SLICED = node("n0", devices=(Device("T4", replicas=2),))
SICK = node("n0", devices=(Device("T4", healthy=False),))


def _shares(*shares: tuple[int, ...]) -> tuple[DeviceShare, ...]:
    return tuple(DeviceShare(*share) for share in shares)


@pytest.mark.parametrize(
    ("one_node", "placements", "word"),
    [
        (PLAIN, [(pod("a", cpu=5000), ())], "over-commits cpu"),
        (PLAIN, [(pod("a", memory=5000), ())], "over-commits memory"),
        (PLAIN, [(pod(f"p{i}", cpu=1, memory=1), ()) for i in range(4)], "over-commits pods"),
        (PLAIN, [(pod("a"), ()), (pod("a"), ())], "placed twice"),
        (PLAIN, [(pod("a", count=1), _shares((5, 1000)))], "does not have"),
        (PLAIN, [(pod("a", count=2), _shares((0, 1000), (0, 1000)))], "lists a device twice"),
        (PLAIN, [(pod("a", count=2), _shares((0, 1000)))], "did not get"),
        (PLAIN, [(pod("a", count=1), _shares((0, 500)))], "did not get"),
        (PLAIN, [(pod("a", milli=500), _shares((0, 400)))], "did not get"),
        (PLAIN, [(pod("a", milli=500), _shares((0, 500), (1, 500)))], "did not get"),
        (PLAIN, [(pod("a", memory_mib=900), _shares((0, 1, 800)))], "did not get"),
        (PLAIN, [(pod("a"), _shares((0, 100)))], "asked for no device"),
        (PLAIN, [(pod("a", count=1, products=("A10",)), _shares((0, 1000)))], "does not allow"),
        (PLAIN, [(pod("a", count=1, resource="amd.com/gpu"), _shares((0, 1000)))], "asked for amd"),
        (PLAIN, [(pod(f"p{i}", milli=600), _shares((0, 600))) for i in range(2)], "over-commits"),
        (
            PLAIN,
            [(pod(f"p{i}", memory_mib=9000), _shares((0, 400, 9000))) for i in range(2)],
            "MiB",
        ),
        (SICK, [(pod("a", count=1), _shares((0, 1000)))], "unhealthy"),
        (SLICED, [(pod("a", replicas=3), _shares((0, 1500, 0, 3)))], "replicas"),
        (SLICED, [(pod("a", replicas=2), _shares((0, 500, 0, 1)))], "did not get"),
        (SLICED, [(pod("a", count=1), _shares((0, 1000)))], "did not get"),
        (A100, [(pod("a", mig=(("1g.5gb", 1),)), _shares((0, 125, 0, 1 << 7)))], "did not get"),
        (A100, [(pod("a", mig=(("2g.10gb", 1),)), _shares((0, 250, 0, 0b110)))], "did not get"),
        (A100, [(pod("a", mig=(("1g.5gb", 1),)), _shares((0, 250, 0, 0b11)))], "did not get"),
        (A100, [(pod("a", mig=(("1g.6gb", 1),)), _shares((0, 125, 0, 1)))], "did not get"),
        (PLAIN, [(pod("a", mig=(("1g.5gb", 1),)), _shares((0, 125, 0, 1)))], "did not get"),
        (
            A100,
            [(pod(f"p{i}", mig=(("1g.5gb", 1),)), _shares((0, 125, 0, 1))) for i in range(2)],
            "slots of device 0 of n0 that are taken",
        ),
        (FIXED, [(pod("a", mig=(("3g.20gb", 1),)), _shares((0, 500, 0, 0xF0)))], "did not get"),
    ],
)
def test_cheating_is_found(one_node, placements, word: str) -> None:
    problems = verify([one_node], [Placement(p, "n0", shares) for p, shares in placements])
    assert len(problems) == 1 and word in problems[0]


def test_honest_placements_pass() -> None:
    honest = [
        Placement(pod("a", milli=400), "n0", _shares((0, 400, 6400))),
        Placement(pod("b", milli=600, memory_mib=9000), "n0", _shares((0, 600, 9000))),
        Placement(pod("c", count=1), "n0", _shares((1, 1000, 16_000))),
    ]
    assert verify([PLAIN], honest) == []
    mig = Placement(pod("m", mig=(("1g.5gb", 1), ("3g.20gb", 1))), "n0", _shares((0, 625, 0, 0xF1)))
    assert verify([A100], [mig]) == []
    fixed = Placement(pod("f", mig=(("3g.20gb", 1),)), "n0", _shares((0, 500, 0, 0x0F)))
    assert verify([FIXED], [fixed]) == []


def test_unknown_nodes_are_found() -> None:
    assert "does not exist" in verify([PLAIN], [Placement(pod("a"), "elsewhere")])[0]


def test_a_log_is_followed_through_releases() -> None:
    validator = Validator([PLAIN, *()])
    whole = _shares((0, 1000, 16_000))
    for i in range(5):
        validator.place(Placement(pod(f"p{i}", count=1), "n0", whole))
        assert validator.placed == 1 and validator.allocated_milli == 1000
        validator.release(f"p{i}")
    with pytest.raises(Violation, match="without having been placed"):
        validator.release("p0")
    sliced = Validator([SLICED])
    for i in range(3):
        sliced.place(Placement(pod(f"s{i}", replicas=2), "n0", _shares((0, 1000, 0, 2))))
        sliced.release(f"s{i}")
    mig = Validator([A100])
    for i in range(3):
        mig.place(Placement(pod(f"m{i}", mig=(("7g.40gb", 1),)), "n0", _shares((0, 1000, 0, 0xFF))))
        mig.release(f"m{i}")


def test_an_over_full_node_takes_a_pod_that_asks_for_none_of_it() -> None:
    validator = Validator([node(cpu=1000, memory=1024, pods=3)])
    validator.place(Placement(pod("a", cpu=1000), "n0"))
    with pytest.raises(Violation, match="cpu"):
        validator.place(Placement(pod("b", cpu=1, memory=0), "n0"))
    validator.place(Placement(pod("c", cpu=0, memory=0), "n0"))
