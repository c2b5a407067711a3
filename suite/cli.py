"""The command line: one parser for all verbs, built from the settings of the one that was asked for."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_origin

from suite import plugins
from suite.errors import BitcertError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from suite.studies.study import Study

EXIT_OK, EXIT_FAILED, EXIT_MISTAKE, EXIT_INTERRUPTED = 0, 1, 2, 130
SHELLS = ("bash", "zsh", "fish")

_DESCRIPTION = (
    "Search each layer's bit width for the best certified robustness within a budget of bit operations (BOPs)."
)
_EPILOG = """exit status: 0 done, 1 something failed on the way, 2 a mistake in what was asked for, 130 interrupted
(run the same command again to resume)."""
_OWN = {"run": "run an experiment file", "completion": "print a completion script for bash, zsh or fish"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except BitcertError as error:
        print(f"bitcert: {error}", file=sys.stderr)
        return EXIT_MISTAKE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        print(f"bitcert: {error}", file=sys.stderr)
        misplaced = isinstance(error, (NotADirectoryError, IsADirectoryError, FileExistsError))
        return EXIT_MISTAKE if misplaced else EXIT_FAILED
    except KeyboardInterrupt:
        print("bitcert: interrupted; run the same command again to resume", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else ""
    if not verb or verb.startswith("-"):
        _help_parser().parse_args(arguments)
        print(_help_parser().format_help(), end="")
        return EXIT_MISTAKE
    if verb == "run":
        return _run_file(arguments[1:])
    if verb == "completion":
        return _print_completion(arguments[1:])
    if verb not in plugins.STUDIES.names():
        raise BitcertError(_unknown("command", verb, [*plugins.STUDIES.names(), *_OWN]) + "; see 'bitcert --help'")
    from suite.studies.experiment import Document
    from suite.studies.settings import validate
    from suite.studies.study import load_study

    kind = load_study(verb)
    document, given = _parse(_verb_parser(verb, kind, "--help-all" in arguments), kind, arguments[1:])
    study = kind(validate(kind.Settings, document.over(Document({}, {})).content))
    return study.answer(study.run(quiet=given.json), as_json=given.json)


def _run_file(arguments: list[str]) -> int:
    """``bitcert run FILE``: the options are those of the study that the file names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"usage: bitcert run FILE [options]\n\n{_OWN['run']}; 'bitcert run FILE --help' shows the options\n\n{_EPILOG}"
        )
        return EXIT_OK if arguments else EXIT_MISTAKE
    if arguments[0].startswith("-"):
        raise BitcertError(f"name the experiment file first: bitcert run FILE [options], got {arguments[0]}")
    from suite.studies.experiment import print_plan, read_document, read_experiments, run_all, study_of
    from suite.studies.study import load_study

    file, verb = arguments[0], study_of(read_document(arguments[0]))
    kind = load_study(verb)
    parser = _verb_parser(f"run {file}", kind, "--help-all" in arguments, positional=())
    parser.add_argument("--dry-run", action="store_true", help="print what it will cost; run nothing, write nothing")
    overrides, given = _parse(parser, kind, arguments[1:])
    runs = read_experiments(file, overrides)
    return print_plan(runs, as_json=given.json) if given.dry_run else run_all(runs, as_json=given.json)


def _print_completion(arguments: list[str]) -> int:
    parser = _Parser(prog="bitcert completion", description=_OWN["completion"], epilog=_EPILOG)
    parser.add_argument("shell", choices=SHELLS)
    shell = parser.parse_args(arguments).shell
    import shtab

    from suite.studies.study import load_study

    if shell not in shtab.SUPPORTED_SHELLS:
        raise BitcertError(
            f"the installed shtab has no completion for {shell}; upgrade it: pip install --upgrade shtab"
        )
    root = argparse.ArgumentParser(prog="bitcert")
    verbs = root.add_subparsers()
    for name in plugins.STUDIES.names():
        verb = verbs.add_parser(name, help=plugins.STUDIES.summary(name))
        _add_flags(verb, load_study(name), everything=True)
    run = verbs.add_parser("run", help=_OWN["run"])
    run.add_argument("file").complete = shtab.FILE  # type: ignore[attr-defined]
    for option in ("--dry-run", "--json", "--help-all"):
        run.add_argument(option, action="store_true")
    verbs.add_parser("completion", help=_OWN["completion"]).add_argument("shell", choices=SHELLS)
    print(shtab.complete(root, shell=shell))
    return EXIT_OK


@dataclass(frozen=True, slots=True)
class _Flag:
    """A setting on the command line: where it belongs, its option, and what kind of value it takes."""

    key: tuple[str, ...]
    option: str
    kind: type
    listed: bool
    required: bool
    extra: dict[str, Any]
    help: str


def _flags(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[_Flag]:
    from pydantic import BaseModel

    for name, field in model.model_fields.items():
        key, kinds = (*above, name), list(_kinds(field.annotation))
        if issubclass(kinds[0], BaseModel):
            yield from _flags(kinds[0], key)
            continue
        extra: dict[str, Any] = field.json_schema_extra  # type: ignore[assignment]
        default = field.get_default()
        if isinstance(default, tuple):
            default = ",".join(map(str, default))
        shown = "" if field.is_required() or default in (None, "", False) else f" (default: {default})"
        option = extra["flag"] or f"--{name.replace('_', '-')}"
        text = f"{field.description}{shown}".replace("%", "%%")
        yield _Flag(key, option, kinds[-1], tuple in kinds, field.is_required(), extra, text)


def _kinds(annotation: Any) -> Iterator[type]:
    """What an annotation comes down to: ``tuple`` if it is one, then the type of a value."""
    if get_origin(annotation) is tuple:
        yield tuple
    if isinstance(annotation, type) and get_origin(annotation) is None:
        yield annotation
    elif get_args(annotation):
        yield from _kinds(get_args(annotation)[0])
    else:
        yield type(annotation)  # a value of a Literal


def _add_flags(
    parser: argparse.ArgumentParser,
    study: type[Study[Any, Any]],
    *,
    everything: bool,
    positional: Sequence[str] | None = None,
) -> None:
    """Give a parser the settings of a study; those that are not given do not appear in the result."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output, nothing else")
    parser.add_argument("--help-all", action="store_true", help="show rarely needed options, too")
    groups: dict[str, Any] = {}
    by_position = study.positional if positional is None else positional
    for flag in _flags(study.Settings):
        title, dotted = "".join(flag.key[:-1]), ".".join(flag.key)
        if title and title not in groups:
            groups[title] = parser.add_argument_group(title)
        given: dict[str, Any] = {"help": argparse.SUPPRESS if flag.extra["expert"] and not everything else flag.help}
        if flag.kind is bool:
            given["action"] = "store_true"
        else:
            given |= {"type": flag.kind, "metavar": flag.extra["metavar"] or flag.key[-1].upper()}
        if dotted in by_position:
            parser.add_argument(dotted, nargs="+" if flag.listed else None if flag.required else "?", **given)
            continue
        if flag.extra["repeat"]:
            given["action"] = "append"
        elif flag.listed:
            given["type"] = str
        required = flag.required and positional is None
        groups.get(title, parser).add_argument(
            flag.option, dest=dotted, required=required, default=argparse.SUPPRESS, **given
        )


def _parse(
    parser: argparse.ArgumentParser, study: type[Study[Any, Any]], arguments: list[str]
) -> tuple[Any, argparse.Namespace]:
    """Read options as a document of settings; the rest of the namespace are the options of all verbs."""
    from suite.studies.experiment import Document

    if "--help-all" in arguments:
        parser.print_help()
        raise SystemExit(EXIT_OK)
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise BitcertError(_unknown("option", unknown[0].partition("=")[0], list(parser._option_string_actions)))
    content: dict[str, Any] = {}
    places: dict[tuple[str | int, ...], str] = {}
    for flag in _flags(study.Settings):
        value = getattr(given, ".".join(flag.key), None)
        if value is not None:
            group = content
            for part in flag.key[:-1]:
                group = group.setdefault(part, {})
            group[flag.key[-1]], places[flag.key] = value, flag.option
    return Document(content, places), given


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise BitcertError(message)


def _verb_parser(
    name: str, study: type[Study[Any, Any]], everything: bool, positional: Sequence[str] | None = None
) -> argparse.ArgumentParser:
    described = inspect.cleandoc(study.__doc__ or "").partition("\n\n")
    parser = _Parser(
        prog=f"bitcert {name}", description=described[2] or described[0], epilog=_EPILOG, allow_abbrev=False
    )
    _add_flags(parser, study, everything=everything, positional=positional)
    return parser


def _help_parser() -> argparse.ArgumentParser:
    """What ``bitcert --help`` shows; no study is imported for it."""
    summaries = {name: plugins.STUDIES.summary(name) for name in plugins.STUDIES.names()} | _OWN
    width = max(map(len, summaries))
    listed = "\n".join(f"  {name:<{width}}  {text.rstrip('.')}" for name, text in summaries.items())
    parser = _Parser(
        prog="bitcert",
        usage="bitcert COMMAND [options]",
        description=_DESCRIPTION,
        epilog=f"commands:\n{listed}\n\n'bitcert COMMAND --help' explains one.\n\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bitcert {metadata.version('bitcert')}")
    return parser


def _unknown(what: str, given: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(given, known, n=1, cutoff=0.0)
    return f"unknown {what} {given!r}; the nearest is {nearest[0]}"


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    print(f"bitcert: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
