"""What settings are made of: pydantic models whose mistakes say which setting they are in, and names of plug-ins as values."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from suite import plugins
from suite.errors import BitcertError, unknown_name

Key = tuple[str | int, ...]
"""Where a setting stands, such as ``("problem", "budget")``."""

Model = TypeVar("Model", bound=BaseModel)

_EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "model": "a mapping of settings",
}


class SettingError(BitcertError):
    """A mistake in one setting.

    Args:
        key: The setting, or the group it is in.
        message: As for every BitcertError.
    """

    def __init__(self, key: Key, message: str) -> None:
        super().__init__(message)
        self.key = key


class Group(BaseModel):
    """Base of all settings: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def setting(
    default: Any,
    description: str,
    *,
    flag: str | None = None,
    metavar: str | None = None,
    expert: bool = False,
    repeat: bool = False,
    **constraints: Any,
) -> Any:
    """Declare a setting.

    Args:
        default: Its default; ``...`` if it must be given.
        description: For help texts; the default is added where there is one.
        flag: Its option on the command line; ``--`` and its name if None.
        metavar: What its value is called in help texts.
        expert: Whether only ``--help-all`` shows it.
        repeat: Whether the option may be repeated, one value each time.
        **constraints: pydantic's, such as ``ge``.
    """
    extra: dict[str, Any] = {"flag": flag, "metavar": metavar, "expert": expert, "repeat": repeat}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def validate(model: type[Model], tree: Mapping[str, Any]) -> Model:
    """Build settings from a tree of JSON values; nothing is coerced.

    Raises:
        SettingError: On the first setting that is wrong.
    """
    try:
        return model.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key: Key = first["loc"]
        raise SettingError(key, _reason(model, key, first)) from None


@contextmanager
def keyed(*key: str | int) -> Iterator[None]:
    """Report a mistake as one in this setting, or in the field of this group that the message names."""
    try:
        yield
    except SettingError:
        raise
    except BitcertError as error:
        raise SettingError(key, str(error)) from None


def _reason(model: type[BaseModel], key: Key, error: Mapping[str, Any]) -> str:
    """What pydantic found, in words."""
    name, given, kind = str(key[-1]) if key else "", json.dumps(error["input"]), error["type"]
    if kind == "extra_forbidden":
        for part in key[:-1]:
            model = model.model_fields[str(part)].annotation  # type: ignore[assignment]
        return str(unknown_name("key", name, tuple(model.model_fields)))
    if kind == "missing":
        return f"{name} is missing"
    if kind == "greater_than_equal":
        least = error["ctx"]["ge"]
        return f"{name} must {f'be at least {least}' if least else 'not be negative'}, got {given}"
    if kind == "literal_error":
        return f"unknown {name} {given}; known: {error['ctx']['expected']}"
    if expected := _EXPECTED.get(kind.partition("_")[0]):
        return f"{name} must be {expected}, got {given if len(given) < 80 else given[:76] + ' ...'}"
    return str(error["msg"]).removeprefix("Value error, ")


def _named(given: object) -> object:
    """Text of a name with options, also where it is written as a mapping: ``{name: arq, episodes: 64}``."""
    if not isinstance(given, dict):
        return given
    options = dict(given)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise BitcertError(f"a plug-in with options is written as {{name: NAME, option: value}}, got {given}")
    return f"{name}:{_variant(options)}" if options else name


def _variant(given: object) -> object:
    """Text of options, also where they are written as a mapping: ``{relabel: true, updates: 4}``."""
    if not isinstance(given, dict):
        return given
    texts = {option: value if isinstance(value, str) else json.dumps(value) for option, value in given.items()}
    for option, text in texts.items():
        if ":" in text:
            raise BitcertError(f"the value of option {option} must not contain a colon, got {text}")
    return ":".join(f"{option}={text}" for option, text in texts.items())


def _named_list(given: object) -> object:
    if isinstance(given, str):
        return plugins.split_names(given)
    if isinstance(given, dict):
        return (_named(given),)
    return tuple(_named(item) for item in given) if isinstance(given, list) else given


def _texts(given: object) -> object:
    if isinstance(given, str):
        return tuple(given.split(","))
    return tuple(str(item) if isinstance(item, int) else item for item in given) if isinstance(given, list) else given


def _integers(given: object, noun: str = "seeds") -> object:
    if not isinstance(given, str):
        return tuple(given) if isinstance(given, list) else given
    if not re.fullmatch(r"-?\d{1,20}(,-?\d{1,20})*", given, re.ASCII):
        raise BitcertError(f"{noun} are integers separated by commas, got {given!r}")
    return tuple(int(part) for part in given.split(","))


def _seeds(given: tuple[int, ...]) -> tuple[int, ...]:
    if not given or len(set(given)) < len(given) or min(given) < 0:
        raise BitcertError(f"seeds are one or more integers >= 0 without repetition, got {list(given)}")
    return given


def known(kind: plugins.Kind) -> AfterValidator:
    """Check that a name, options after it or not, is one of a kind of plug-in."""

    def check(text: str) -> str:
        name, _ = kind.parse(text)
        if ":" not in name and name not in kind.names():
            raise unknown_name(kind.noun, name, kind.names())
        return text

    return AfterValidator(check)


Searcher = Annotated[str, BeforeValidator(_named), known(plugins.SEARCHERS)]
Searchers = Annotated[tuple[Annotated[str, known(plugins.SEARCHERS)], ...], BeforeValidator(_named_list)]
PostStepName = Annotated[str, BeforeValidator(_named), known(plugins.POST_STEPS)]
PostStepNames = Annotated[tuple[Annotated[str, known(plugins.POST_STEPS)], ...], BeforeValidator(_named_list)]
ProblemName = Annotated[str, known(plugins.PROBLEMS)]
ProtocolName = Annotated[str, known(plugins.PROTOCOLS)]
ProtocolNames = Annotated[tuple[ProtocolName, ...], BeforeValidator(_named_list)]
Certifier = Annotated[str, known(plugins.CERTIFIERS)]
ExecutorName = Annotated[str, known(plugins.EXECUTORS)]
Variants = tuple[Annotated[str, BeforeValidator(_variant)], ...]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_integers), AfterValidator(_seeds)]
Choices = Annotated[tuple[int, ...], BeforeValidator(functools.partial(_integers, noun="choices"))]
Integers = Annotated[tuple[int, ...], BeforeValidator(functools.partial(_integers, noun="values"))]
BudgetTexts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
PolicyText = Annotated[str, BeforeValidator(lambda given: json.dumps(given) if isinstance(given, dict) else given)]
