"""Fields of configurations: what is taken, what is refused, and how it is said."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_msa.system.errors import UserError
from cola_msa.values.fields import check_fields, within


@dataclasses.dataclass(frozen=True)
class Part:
    share: float = within(0.5, 0.0, 1.0)

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Fields:
    rate: float = within(dataclasses.MISSING, 1e-12, 10.0)
    count: int = within(2, 1)
    steps: tuple[int, ...] = within((1, 2), 0, 99)
    triple: tuple[int, int, int] = (1, 2, 3)
    pairs: tuple[tuple[str, str], ...] = ()
    name: str | None = None
    is_on: bool = False
    free: float = 0.0
    part: Part = Part()

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": -1}, "Fields: rate is -1; it must be a finite number from 1e-12 to"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"rate": float("inf")}, "rate is inf"),
        ({"rate": True}, "rate is True"),
        ({"rate": "1"}, "rate is '1'"),
        ({"rate": np.float32("nan")}, "rate is nan"),
        ({"free": float("nan")}, "free is nan; it must be a finite number$"),
        ({"free": -float("inf")}, "free is -inf"),
        ({"free": 10**400}, "free is 1000"),
        ({"count": 0}, "count is 0; it must be a whole number of 1 or more"),
        ({"count": 1.5}, "count is 1.5"),
        ({"count": 10**10000}, "count is a int"),
        ({"count": None}, "count is None"),
        ({"steps": (1, 100)}, r"steps is \(1, 100\); it must be a tuple, each item a"),
        ({"steps": ("1",)}, "steps is"),
        ({"steps": 3}, "steps is 3"),
        ({"triple": (1, 2)}, r"triple is \(1, 2\)"),
        ({"pairs": (("a",),)}, "pairs is"),
        ({"name": 3}, "name is 3; it must be text or NoneType"),
        ({"is_on": 1}, "is_on is 1; it must be true or false"),
        ({"part": None}, "part is None; it must be Part"),
        ({"name": "x", "count": -(10**30)}, "count is -1000"),
    ],
)
def test_what_cannot_be_meant_is_named(fields, message):
    with pytest.raises(UserError, match=message) as found:
        Fields(**{"rate": 1.0, **fields})
    assert "\n" not in str(found.value) and len(str(found.value)) < 200


def test_numbers_become_pythons_and_lists_tuples():
    found = Fields(
        np.float32(0.5), np.int64(3), steps=[np.int32(4)], pairs=[["a", "b"]]
    )
    assert found == Fields(0.5, 3, steps=(4,), pairs=(("a", "b"),))
    assert [type(value) for value in (found.rate, found.count, found.steps[0])] == [
        float,
        int,
        int,
    ]
    # A whole number stands for itself: hashes of configurations stay.
    assert type(Fields(1).rate) is int


def test_deep_nesting_is_refused_too():
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(UserError, match="steps is a tuple"):
        Fields(1.0, steps=value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner, inner),
    max_leaves=8,
)


@given(st.sampled_from([field.name for field in dataclasses.fields(Fields)]), ANYTHING)
def test_any_value_is_taken_or_refused(name, value):
    try:
        found = Fields(**{"rate": 1.0, name: value})
    except UserError as error:
        assert name in str(error)
    else:
        assert dataclasses.replace(found) == found
