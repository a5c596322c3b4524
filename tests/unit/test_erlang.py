"""Erlang's formulas against figures that others have published."""

from __future__ import annotations

import math

import pytest

from sqla_poolguard._erlang import erlang_b, erlang_c, least_servers, wait_above

ONE_PERCENT = [(1, 0.0101), (2, 0.153), (3, 0.455), (5, 1.36), (10, 4.46), (20, 12.0), (30, 20.3), (50, 37.9), (100, 84.1)]
"""ITU-D, Teletraffic Engineering Handbook (V. B. Iversen), Erlang-B tables: the load, to three digits, at which 1 % are blocked."""


@pytest.mark.parametrize(("servers", "load"), ONE_PERCENT)
def test_blocking_is_that_of_the_tables(servers, load):
    """At the load of the table, to its three digits, one in a hundred finds all of them busy."""
    digit = 10 ** (math.floor(math.log10(load)) - 2) / 2
    assert erlang_b(servers, load - digit) < 0.01 < erlang_b(servers, load + digit)


def test_three_tellers():
    """HP 12C Solutions Handbook, "Queuing and Waiting Theory": 1.2 customers a minute, three tellers of 0.5 a minute each.

    A mean wait of 1.079 mean services, from R. E. Trueman, An Introduction to Quantitative Methods for Decision Making, 1977,
    table 12.2; 2.16 min, and 2.59 customers in the line.
    """
    delayed = erlang_c(3, 2.4)
    assert delayed / (3 - 2.4) == pytest.approx(1.079, abs=0.0005)
    assert delayed * 2 / (3 - 2.4) == pytest.approx(2.16, abs=0.005)
    assert 2.4 * delayed / (3 - 2.4) == pytest.approx(2.59, abs=0.005)


def test_three_machines():
    """R. Bronson, Operations Research, 1982, problem 24.6: 300 a year, three servers, two days each: 0.352 wait on average."""
    load = 300 / 182.5
    assert load * erlang_c(3, load) / (3 - load) == pytest.approx(0.352, abs=0.0005)


def test_one_server_waits_as_often_as_it_is_busy():
    """M/M/1: P(W > t) = rho exp(-(1 - rho) t / h). Source: Kleinrock, Queueing Systems, volume 1, section 3.2."""
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert wait_above(0.2, 1, 0.7, 0.05) == pytest.approx(0.7 * math.exp(-0.3 * 4))


def test_sum_of_the_textbook():
    """The closed form with factorials, which overflows beyond about 170, agrees where it can be computed."""
    for servers, load in ((2, 1.5), (10, 7.0), (40, 33.0), (120, 100.0)):
        last = load**servers / math.factorial(servers) * servers / (servers - load)
        closed = last / (sum(load**number / math.factorial(number) for number in range(servers)) + last)
        assert erlang_c(servers, load) == pytest.approx(closed, rel=1e-9)


@pytest.mark.parametrize(("servers", "load"), [(1000, 990.0), (100_000, 99_000.0), (1000, 1.0), (5000, 4999.999)])
def test_large_numbers_stay_probabilities(servers, load):
    """No overflow, no division by zero."""
    assert 0 <= erlang_c(servers, load) <= 1
    assert 0 <= wait_above(0.05, servers, load, 0.03) <= 1


def test_too_much_load_makes_everybody_wait():
    """There is no steady state; every request waits, and for ever longer."""
    assert erlang_c(5, 5.0) == erlang_c(5, 7.0) == wait_above(100.0, 5, 5.0, 0.03) == 1.0


@pytest.mark.parametrize(("rate", "hold", "size"), [(100, 0.03, 5), (100, 0.43, 56), (2, 60.0, 148), (0.001, 0.001, 1)])
def test_least_number(rate, hold, size):
    """The examples of the how-to: at most 1 % wait for longer than 50 ms."""
    assert least_servers(rate * hold, hold, 0.05, 0.01) == size
    assert wait_above(0.05, size, rate * hold, hold) <= 0.01
    assert size == 1 or wait_above(0.05, size - 1, rate * hold, hold) > 0.01
