"""The shares of the splits that prepare makes, and others that a message may suggest."""

from typing import NamedTuple

ROUND_SHARES = tuple(round(0.05 * i, 2) for i in range(1, 11))


class Shares(NamedTuple):
    """``prepare.test`` and ``prepare.validation``, each in (0, 1); None where the source has the split itself."""

    test: float | None
    validation: float | None


def describe_changes(shares: Shares, given: Shares) -> str:
    """The settings that differ from the given ones, for a message."""
    triples = zip(Shares._fields, shares, given, strict=True)
    return " and ".join(f"prepare.{name}: {value:g}" for name, value, before in triples if value != before)


def candidate_shares(given: Shares) -> list[Shares]:
    """Round shares by their distance from the given ones; those that change one share come before those with both."""
    tests, validations = ((share, *(() if share is None else ROUND_SHARES)) for share in given)
    candidates = [Shares(test, validation) for test in tests for validation in validations]

    def distance(shares: Shares) -> tuple[int, float]:
        changes = [abs((new or 0) - (old or 0)) for new, old in zip(shares, given, strict=True)]
        return sum(change > 0 for change in changes), sum(changes)

    return sorted((shares for shares in candidates if shares != given), key=distance)
