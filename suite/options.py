"""Options of plug-ins: read from ``option=value``, into the dataclass that declares them, and checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, make_dataclass
from typing import Any, get_type_hints

from suite.errors import BitcertError, unknown_name


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a plug-in that has none."""


def parse_options(given: Sequence[str], noun: str) -> dict[str, Any]:
    """Read ``option=value`` texts; values are JSON if they parse, else text.

    Raises:
        BitcertError: If an item is not NAME=VALUE, or an option is given twice.
    """
    options: dict[str, Any] = {}
    for item in given:
        option, separator, value = item.partition("=")
        if not separator or not option or option in options:
            raise BitcertError(f"options of a {noun} are given as NAME=VALUE, each once, got {item!r}")
        try:
            options[option] = json.loads(value)
        except (ValueError, RecursionError):
            options[option] = value
    return options


def required_options(options: type) -> list[str]:
    """Names of the options that have no default."""
    return [field.name for field in fields(options) if field.init and field.default is field.default_factory is MISSING]


def read_options(what: str, options: type, given: Mapping[str, Any]) -> Any:
    """Build the dataclass ``options`` from given values, checking names and types.

    Raises:
        BitcertError: On an unknown option (the known ones are listed), a value of the wrong type, or one that the dataclass
            itself refuses.
    """
    known = [field.name for field in fields(options) if field.init] if is_dataclass(options) else []
    for option in given:
        if option not in known:
            raise unknown_name(f"option of {what}", option, known)
    if not is_dataclass(options):
        return NoOptions()
    if missing := [option for option in required_options(options) if option not in given]:
        raise BitcertError(f"{what} needs the option {missing[0]!r}; give {missing[0]}=VALUE")
    if not given:
        return options()
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(options).validate_json(json.dumps(dict(given)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        if not where:
            raise BitcertError(reason) from None
        reason = reason.replace("Input should be", "must be", 1)
        raise BitcertError(f"{where} of {what} {reason}, got {first['input']!r}") from None
    except TypeError as error:
        raise BitcertError(f"options of {what} must be JSON values: {error}") from None


def read_values(what: str, make: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Given values of arguments of a class or function as the types it declares for them; without a type, as they are.

    Raises:
        BitcertError: On a value of another type.
    """
    try:
        kinds = get_type_hints(make.__init__ if isinstance(make, type) else make)  # type: ignore[misc]
    except NameError:  # imported for type checking only
        kinds = {}
    chosen = [(name, kinds.get(name, Any)) for name in given]
    return dict(vars(read_options(what, make_dataclass("Arguments", chosen), given))) if given else {}


def check_counts(options: object, **least: int) -> None:
    """Raise BitcertError unless each named option is None or an integer >= its minimum."""
    for name, value in _given(options, least):
        if type(value) is not int or value < least[name]:
            raise BitcertError(f"{name} must be an integer >= {least[name]}, got {value!r}")


def check_positive(options: object, *names: str) -> None:
    """Raise BitcertError unless each named option is None or a finite number > 0."""
    for name, value in _given(options, names):
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise BitcertError(f"{name} must be a positive number, got {value!r}")


def check_probabilities(options: object, *names: str) -> None:
    """Raise BitcertError unless each named option is None or a number in 0..1."""
    for name, value in _given(options, names):
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise BitcertError(f"{name} must lie in 0..1, got {value!r}")


def _given(options: object, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(options, name)) for name in names if getattr(options, name) is not None)
