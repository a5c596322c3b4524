"""Who can still go on: the fixpoint against a slow and obvious rival, and the shapes that matter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sqla_poolguard._waitgraph import WaitGraph


def test_holder_that_waits_for_its_own_pool():
    """One connection, and its holder wants another."""
    assert WaitGraph(queues={"a": "p"}, holders={"p": [["a"]]}).stuck("p")


def test_one_free_holder_is_enough():
    """Of two holders one is not known to wait."""
    assert not WaitGraph(queues={"a": "p"}, holders={"p": [["a"], ["b"]]}).stuck("p")


def test_holder_that_is_not_known():
    """A connection of which nobody knows who has it may come back."""
    assert not WaitGraph(queues={"a": "p"}, holders={"p": [["a"], []]}).stuck("p")


def test_children():
    """A holder that joins children is stuck when all of them are; one that can end, or fail, frees it."""
    queues, holders = {"c": "p", "d": "p"}, {"p": [["a"]]}
    assert WaitGraph(joins={"a": ["c", "d"]}, queues=queues, holders=holders).stuck("p")
    assert not WaitGraph(joins={"a": ["c", "d", "e"]}, queues=queues, holders=holders).stuck("p")
    assert WaitGraph(joins={"a": ["b"], "b": ["c"]}, queues={"c": "p"}, holders=holders).stuck("p")


def test_two_pools():
    """Two pools whose holders want each other's connections are both stuck; with one to spare, neither is."""
    queues = {"a": "q", "b": "p"}
    crossed = WaitGraph(queues=queues, holders={"p": [["a"]], "q": [["b"]]})
    assert crossed.stuck("p")
    assert crossed.stuck("q")
    assert not WaitGraph(queues=queues, holders={"p": [["a"]]}).stuck("p"), "q has a connection to give"


def test_pool_that_is_not_exhausted():
    """A pool that is not listed has a connection to give."""
    assert not WaitGraph().stuck("p")


TASKS, POOLS = "abcdef", "pq"


@st.composite
def graphs(draw):
    """Draw a graph in which every task runs, queues or joins."""
    joins, queues = {}, {}
    for task in TASKS:
        kind = draw(st.sampled_from(["runs", "queues", "queues", "joins"]))
        if kind == "queues":
            queues[task] = draw(st.sampled_from(POOLS))
        elif kind == "joins":
            joins[task] = draw(st.lists(st.sampled_from(TASKS), min_size=1, max_size=3))
    names = draw(st.sets(st.sampled_from(POOLS)))
    owners = st.lists(st.sampled_from(TASKS), max_size=2)
    holders = {name: draw(st.lists(owners, min_size=1, max_size=3)) for name in names}
    return WaitGraph(joins=joins, queues=queues, holders=holders)


def simulate(graph):
    """Let whoever can go on end, one after the other, and tell which pools ever had a connection to give."""
    ended, free = set(), {pool for pool in POOLS if pool not in graph.holders}
    for _ in range(len(TASKS) + len(POOLS) + 1):
        for task in TASKS:
            joined, queue = graph.joins.get(task), graph.queues.get(task)
            if (joined is None or ended & set(joined)) and (queue is None or queue in free):
                ended.add(task)
        for pool, connections in graph.holders.items():
            if any(not tasks or ended & set(tasks) for tasks in connections):
                free.add(pool)
    return free


@given(graphs())
def test_equals_a_simulation(graph):
    """A pool is stuck exactly if letting everybody go on who can never frees one of its connections."""
    free = simulate(graph)
    assert {pool for pool in POOLS if graph.stuck(pool)} == set(POOLS) - free
