"""Bit operations of one multiply-accumulate: a table by weight bits and input bits, where the product is not the rule.

One operation is a bitwise operation and a population count on one bit of each operand. Integers of w by a bits take w x a of
them. Binary by binary takes one, ``2 pc(~(s_w ^ s_x)) - N``, and so does the product. Ternary by ternary takes two,
``2 pc(~(s_w ^ s_x) & m) - pc(m)`` with ``m = m_w & m_x``, where four levels by four levels take four (Chen, Zhuang and Shen,
FATNN: Fast and accurate ternary neural networks, ICCV 2021, section 3).
"""

from __future__ import annotations

from suite.errors import BitcertError

MIN_BITS, MAX_BITS = 1, 8

PerMac = tuple[tuple[int, ...], ...]
"""Cost of one multiply-accumulate: row w - 1, column a - 1 for w weight bits and a input bits."""

TERNARY: PerMac = tuple(
    tuple(2 if weight == activation == 2 else weight * activation for activation in range(MIN_BITS, MAX_BITS + 1))
    for weight in range(MIN_BITS, MAX_BITS + 1)
)
"""The product, except that ternary weights (2 bits) by ternary inputs (2 bits) take 2 operations, not 4.

Ternary by binary, which takes 1, is counted as 2: the cost of ternary weights does not rise with the bits of the inputs there.
"""


def check_per_mac(table: PerMac) -> None:
    """Raise BitcertError unless a table has integers >= 0 for 1..8 by 1..8 bits that never fall when bits are raised."""
    sizes = [len(row) for row in table]
    if sizes != [MAX_BITS] * MAX_BITS or not all(type(cost) is int and cost >= 0 for row in table for cost in row):
        raise BitcertError(
            f"a table of costs per MAC has {MAX_BITS} rows of {MAX_BITS} integers >= 0, for {MIN_BITS}..{MAX_BITS} weight "
            f"bits by {MIN_BITS}..{MAX_BITS} input bits; got {str(table)[:80]}"
        )
    for weight in range(MAX_BITS):
        for activation in range(MAX_BITS):
            for more in ((weight + 1, activation), (weight, activation + 1)):
                if max(more) < MAX_BITS and table[more[0]][more[1]] < table[weight][activation]:
                    raise BitcertError(
                        f"a MAC of w{more[0] + 1}a{more[1] + 1} costs {table[more[0]][more[1]]}, less than one of "
                        f"w{weight + 1}a{activation + 1} ({table[weight][activation]}); costs must not fall when bits are raised"
                    )
