"""The command line: one parser for all verbs, built from the settings of the one that was asked for."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_origin

from suite import plugins
from suite.errors import BitcertError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from suite.studies.experiment import Document
    from suite.studies.study import Study

EXIT_OK, EXIT_FAILED, EXIT_MISTAKE, EXIT_SLICE_OVER, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
SHELLS = ("bash", "zsh", "fish")

_EPILOG = """exit status: 0 done, 1 something failed on the way, 2 a mistake in what was asked for, 3 the time of a --slice is over,
130 interrupted (after both, run the same command again to resume)."""
_OWN = {"run": "run an experiment file", "completion": "print a completion script for bash, zsh or fish"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (BitcertError, OSError) as error:
        print(f"bitcert: {error}", file=sys.stderr)
        mistakes = (BitcertError, NotADirectoryError, IsADirectoryError, FileExistsError)
        return EXIT_MISTAKE if isinstance(error, mistakes) else EXIT_FAILED
    except KeyboardInterrupt:
        print("bitcert: interrupted; run the same command again to resume", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else ""
    if not verb or verb.startswith("-"):
        _print_help(arguments)
        return EXIT_MISTAKE
    if verb == "run":
        return _run_file(arguments[1:])
    if verb == "completion":
        return _print_completion(arguments[1:])
    if verb not in plugins.STUDIES.names():
        raise BitcertError(_unknown("command", verb, [*plugins.STUDIES.names(), *_OWN]) + "; see 'bitcert --help'")
    from suite.studies.model import validate

    kind: type[Study[Any, Any]] = plugins.STUDIES.load(verb)
    document, given = _parse(verb, kind, arguments[1:])
    study = kind(validate(kind.Settings, document.content))
    return study.answer(study.start(quiet=given.json), as_json=given.json)


def _run_file(arguments: list[str]) -> int:
    """``bitcert run FILE``: the options are those of the study that the file names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        usage, more = "usage: bitcert run FILE [options]", "; 'bitcert run FILE --help' shows the options"
        print(f"{usage}\n\n{_OWN['run']}{more}\n\n{_EPILOG}")
        return EXIT_OK if arguments else EXIT_MISTAKE
    if arguments[0].startswith("-"):
        raise BitcertError(f"name the experiment file first: bitcert run FILE [options], got {arguments[0]}")
    from suite.studies.experiment import print_plan, read_document, read_experiments, run_all, study_of
    from suite.studies.slices import SliceOver, parse_duration, time_slice

    file = arguments[0]
    kind = plugins.STUDIES.load(study_of(read_document(file)))
    overrides, given = _parse(f"run {file}", kind, arguments[1:], file=True)
    runs = read_experiments(file, overrides)
    seconds = None if given.slice is None else parse_duration(given.slice)
    if given.dry_run:
        return print_plan(runs, as_json=given.json)
    try:
        with time_slice(seconds):
            return run_all(runs, as_json=given.json)
    except SliceOver:
        print(f"bitcert: the slice of {given.slice} is over; run the same command again to go on", file=sys.stderr)
        return EXIT_SLICE_OVER


def _print_completion(arguments: list[str]) -> int:
    parser = _Parser(prog="bitcert completion", description=_OWN["completion"], epilog=_EPILOG)
    parser.add_argument("shell", choices=SHELLS)
    shell = parser.parse_args(arguments).shell
    import shtab

    if shell not in shtab.SUPPORTED_SHELLS:
        raise BitcertError(f"the installed shtab has no completion for {shell}; run pip install --upgrade shtab")
    root = argparse.ArgumentParser(prog="bitcert")
    verbs = root.add_subparsers()
    for name in plugins.STUDIES.names():
        verb = verbs.add_parser(name, help=plugins.STUDIES.summary(name))
        _add_flags(verb, plugins.STUDIES.load(name), everything=True)
    run = verbs.add_parser("run", help=_OWN["run"])
    run.add_argument("file").complete = shtab.FILE  # type: ignore[attr-defined]
    for option in ("--dry-run", "--json", "--help-all"):
        run.add_argument(option, action="store_true")
    run.add_argument("--slice", metavar="TIME")
    verbs.add_parser("completion", help=_OWN["completion"]).add_argument("shell", choices=SHELLS)
    print(shtab.complete(root, shell=shell))
    return EXIT_OK


def _fields(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo, Any]]:
    """Key, field, and what it declares for the command line, of every setting, those in groups included."""
    for name, field in model.model_fields.items():
        kind = next(_kinds(field.annotation))
        if hasattr(kind, "model_fields"):
            yield from _fields(kind, (*above, name))
        else:
            yield (*above, name), field, field.json_schema_extra


def _option(key: tuple[str, ...], extra: dict[str, Any]) -> str:
    return extra["flag"] or f"--{key[-1].replace('_', '-')}"


def _kinds(annotation: Any) -> Iterator[Any]:
    """What an annotation comes down to: ``tuple`` if it is one, then the type of a value."""
    if get_origin(annotation) is tuple:
        yield tuple
    if isinstance(annotation, type):
        yield annotation
    elif get_args(annotation):
        yield from _kinds(get_args(annotation)[0])
    else:
        yield type(annotation)  # a value of a Literal


def _add_flags(
    parser: argparse.ArgumentParser, study: type[Study[Any, Any]], *, everything: bool, file: bool = False
) -> None:
    """Add a study's settings to a parser, none of them required beside a file; those not given are absent from the result."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output, nothing else")
    parser.add_argument("--help-all", action="store_true", help="show rarely needed options, too")
    groups: dict[str, Any] = {"": parser}
    for key, field, extra in _fields(study.Settings):
        title, dotted, kinds = "".join(key[:-1]), ".".join(key), list(_kinds(field.annotation))
        default, required, listed = field.get_default(), field.is_required(), tuple in kinds
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        ending = "" if required or shown in (None, "", False) else f" (default: {shown})"
        text = f"{field.description}{ending}".replace("%", "%%")
        given: dict[str, Any] = {"help": argparse.SUPPRESS if extra["expert"] and not everything else text}
        if kinds[-1] is bool:
            given["action"] = "store_true"
        else:
            given |= {"type": kinds[-1], "metavar": extra["metavar"] or key[-1].upper()}
        if dotted in study.positional and not file:
            parser.add_argument(dotted, nargs="+" if listed else None if required else "?", **given)
            continue
        if extra["repeat"]:
            given["action"] = "append"
        elif listed:
            given["type"] = str
        given |= {"dest": dotted, "default": argparse.SUPPRESS, "required": required and not file}
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(_option(key, extra), **given)


def _parse(
    name: str, study: type[Study[Any, Any]], arguments: list[str], *, file: bool = False
) -> tuple[Document, argparse.Namespace]:
    """Read options as a document of settings; the rest of the namespace are the options of all verbs."""
    from suite.studies.experiment import Document

    summary, _, description = inspect.cleandoc(study.__doc__ or "").partition("\n\n")
    parser = _Parser(prog=f"bitcert {name}", description=description or summary, epilog=_EPILOG, allow_abbrev=False)
    _add_flags(parser, study, everything="--help-all" in arguments, file=file)
    if file:
        parser.add_argument("--dry-run", action="store_true", help="print what it will cost, run and write nothing")
        text = "stop after this time, such as 90s, 10m or 1.5h, with exit status 3; the same command goes on"
        parser.add_argument("--slice", metavar="TIME", help=text)
    if "--help-all" in arguments:
        parser.print_help()
        raise SystemExit(EXIT_OK)
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise BitcertError(_unknown("option", unknown[0].partition("=")[0], list(parser._option_string_actions)))
    document = Document({}, {})
    for key, _, extra in _fields(study.Settings):
        value = getattr(given, ".".join(key), None)
        if value is not None:
            document = Document.at(key, value, _option(key, extra)).over(document)
    return document, given


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise BitcertError(message)


def _print_help(arguments: list[str]) -> None:
    """What ``bitcert --help`` shows; no study is imported for it."""
    summaries = {name: plugins.STUDIES.summary(name) for name in plugins.STUDIES.names()} | _OWN
    width = max(map(len, summaries))
    listed = "\n".join(f"  {name:<{width}}  {text.rstrip('.')}" for name, text in summaries.items())
    parser = _Parser(
        prog="bitcert",
        usage="bitcert COMMAND [options]",
        description="Search each layer's bit width for the best certified robustness within a budget of bit operations (BOPs).",
        epilog=f"commands:\n{listed}\n\n'bitcert COMMAND --help' explains one.\n\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bitcert {metadata.version('bitcert')}")
    parser.parse_args(arguments)
    parser.print_help()


def _unknown(what: str, given: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(given, known, n=1, cutoff=0.0)
    return f"unknown {what} {given!r}; the nearest is {nearest[0]}"


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    print(f"bitcert: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
