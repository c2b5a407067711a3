"""What the commands do, each a function from parsed arguments to an exit status."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.contract.trial import Fidelity
from suite.errors import BitcertError, unknown_name

if TYPE_CHECKING:
    from suite.problems.vision import SmoothedProblem
    from suite.report.table import Table
    from suite.run.records import Run


def run_list(arguments: argparse.Namespace) -> int:
    """List what can be named."""
    from suite.networks import shipped_sigmas
    from suite.problems import DEFINITIONS, FOLDER
    from suite.problems.definition import CERTIFICATION_METHODS
    from suite.run.post_step import POST_STEPS
    from suite.run.registry import searcher_class, searcher_names

    problems = {}
    for name, definition in DEFINITIONS.items():
        trained = ", ".join(f"{sigma:g}" for sigma in shipped_sigmas(definition.trained_as or name))
        comes = f"trained for sigma {trained}" if trained else "needs --checkpoint"
        problems[name] = f"{definition.summary} ({comes}; default {definition.sigma:g})"
    problems[FOLDER.name] = FOLDER.summary
    problems["separable"] = "a formula instead of a network: for trying searchers and measuring overhead"
    searchers = {name: _first_line(searcher_class(name)) for name in searcher_names()}
    networks = sorted({definition.network for definition in DEFINITIONS.values()})
    listed = {
        "problems": problems,
        "searchers": searchers,
        "networks": networks,
        "certification_methods": list(CERTIFICATION_METHODS),
        "post_steps": list(POST_STEPS),
    }
    if arguments.json:
        print(json.dumps(listed, indent=2))
        return 0
    for title, rows in (("problems", problems), ("searchers and baselines", searchers)):
        print(f"{title}:")
        width = max(len(name) for name in rows)
        for name, summary in rows.items():
            print(f"  {name:<{width}}  {summary}")
    print(f"networks: {', '.join(networks)}")
    print(f"certification methods: {', '.join(CERTIFICATION_METHODS)}")
    print(f"post-steps: {', '.join(POST_STEPS)}")
    return 0


def run_train(arguments: argparse.Namespace) -> int:
    """Train a problem's float network."""
    from dataclasses import replace

    from suite.data import load_dataset
    from suite.problems import DEFINITIONS, FOLDER
    from suite.report.progress import Progress
    from suite.train.recipe import make_checkpoint, recipe_for

    if arguments.problem not in DEFINITIONS:
        if arguments.problem == FOLDER.name:
            raise BitcertError("networks of your own are trained elsewhere; bitcert trains those of its named problems")
        raise unknown_name("problem", arguments.problem, DEFINITIONS)
    definition = DEFINITIONS[arguments.problem]
    sigma = definition.sigma if arguments.sigma is None else arguments.sigma
    if sigma <= 0:
        raise BitcertError(f"sigma must be positive, got {sigma}; it is the standard deviation of the smoothing noise")
    recipe = replace(recipe_for(definition.dataset), network=definition.network)
    command = f"bitcert train {definition.name} --sigma {sigma:g} --seed {arguments.seed}"
    if arguments.epochs is not None:
        command += f" --epochs {arguments.epochs}"
        recipe = replace(recipe, settings=replace(recipe.settings, epochs=arguments.epochs))
    out = Path(arguments.out or f"{definition.name}-sigma{sigma:g}.safetensors")
    if out.exists():
        raise BitcertError(f"{out} exists; choose another --out, or remove it to train again")
    dataset = load_dataset(definition.dataset, arguments.data, download=arguments.download)
    with Progress(quiet=arguments.json) as progress:
        progress.add("training", recipe.settings.epochs)
        progress.show()

        def watch(epoch: int, _: int, loss: float, accuracy: float) -> None:
            progress.update("training", epoch, state=f"loss {loss:.3f}  accuracy under noise {accuracy:.3f}")

        record = make_checkpoint(
            dataset, recipe, out, sigma=sigma, seed=arguments.seed, command=command, progress=watch
        )
    if arguments.json:
        print(json.dumps({"checkpoint": str(out), **record}))
    else:
        print(f"wrote {out}; use it with --checkpoint {out}")
    return 0


def run_search(arguments: argparse.Namespace) -> int:
    """Run one searcher."""
    from suite.report.progress import Progress, SearchBars
    from suite.run.loop import check_pace
    from suite.run.registry import make_searcher, parse_options
    from suite.studies.compare.run import searcher_slug
    from suite.studies.search.run import search

    problem = _problem(arguments)
    searcher = make_searcher(arguments.searcher, problem, arguments.seed, **parse_options(arguments.option))
    directory = arguments.directory or (
        f"runs/{problem.name}-{_slug(problem)}-{searcher_slug(arguments.searcher)}-{arguments.seed}"
    )
    limits = _limits(arguments)
    resources, fidelity = _resources(arguments, directory), _fidelity(arguments, problem)
    rungs = _rungs(arguments, fidelity)
    rungs.up_to(fidelity)  # mistakes come out before anything is shown
    check_pace(arguments.parallel, arguments.retries)
    with Progress(quiet=arguments.json) as progress:
        watcher = SearchBars(progress, problem.objective, [(searcher.name, searcher.seed)], limits)
        run = search(
            problem,
            searcher,
            evaluations=limits.evaluations,
            forward_passes=limits.forward_passes,
            seconds=limits.seconds,
            directory=directory,
            executor=arguments.executor,
            fidelity=fidelity,
            parallel=arguments.parallel,
            finalists=arguments.finalists,
            retries=arguments.retries,
            rungs=rungs,
            resources=resources,
            on_trial=lambda trial: watcher.trial(searcher.name, searcher.seed, trial),
        )
    if run.best is None or run.best.metrics is None:
        reason = run.trials[0].failure if run.trials else "the searcher proposed nothing"
        print(f"bitcert: no trial succeeded; the first failure: {reason}", file=sys.stderr)
        return 1
    result: dict[str, Any] = {
        "directory": str(directory),
        "searcher": run.searcher,
        "seed": run.seed,
        "trials": len(run.trials),
        "failed": sum(trial.failure is not None for trial in run.trials),
        "stopped": run.stopped,
        "forward_passes": run.forward_passes,
        "best": {
            "trial": run.best.number,
            "search_score": run.score(run.best),
            "metrics": run.best.metrics.to_dict(),
            "policy": run.best.policy.to_dict(),
        },
        "front": [
            {"trial": trial.number, "search_score": run.score(trial), "bops": trial.metrics.bops}
            for trial in run.front
            if trial.metrics is not None
        ],
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(
            f"{len(run.trials)} trials, {run.forward_passes:,} forward passes; stopped by: {run.stopped}; journal in {directory}"
        )
        print(
            f"best search score ({problem.objective.text}) {run.score(run.best):.4f} at {run.best.metrics.bops:,} BOPs:"
        )
        print(f"  {run.best.policy.to_json()}")
        print("a search score is an estimate on search images; examine the winner with:")
        again = [f" --{name} {getattr(arguments, name)}" for name in ("checkpoint", "data") if getattr(arguments, name)]
        print(f"  bitcert examine --run {directory}{''.join(again)}")
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    """Run searchers under equal spend, examine winners, report."""
    from suite.run.registry import searcher_class, searcher_names, split_searchers

    problem = _problem(arguments)
    names = split_searchers(arguments.searchers) if arguments.searchers else searcher_names()
    if arguments.searchers is None and problem.objective.pareto:
        names = tuple(name for name in names if searcher_class(name).supports_pareto)
    directory = Path(arguments.directory or f"runs/{problem.name}-{_slug(problem)}")
    return _compare(arguments, problem, names, directory, against=arguments.against)


def run_ablate(arguments: argparse.Namespace) -> int:
    """Compare a searcher with variants of itself."""
    from suite.studies.compare.run import searcher_slug

    problem, searcher = _problem(arguments), arguments.searcher
    names = (searcher, *(f"{searcher}:{variant}" for variant in arguments.vary))
    default = f"runs/{problem.name}-{_slug(problem)}-{searcher_slug(searcher)}-ablation"
    return _compare(arguments, problem, names, Path(arguments.directory or default), against=searcher)


def _compare(
    arguments: argparse.Namespace, problem: Problem, names: tuple[str, ...], directory: Path, *, against: str | None
) -> int:
    from suite.problems.vision import SmoothedProblem
    from suite.report.progress import Progress, SearchBars
    from suite.run.exam import exam_images
    from suite.run.loop import check_pace
    from suite.run.registry import make_searcher
    from suite.studies.compare.run import Batch, ComparisonSettings, load_comparison, run_batch

    if not isinstance(problem, SmoothedProblem):
        raise BitcertError(f"{problem.name} has no images to hold an exam on; search it with 'bitcert search'")
    reference = _against(against, names)
    for name in names:
        make_searcher(name, problem)  # mistakes come out before anything is shown or written
    fidelity = _fidelity(arguments, problem)
    settings = ComparisonSettings(
        searchers=names,
        seeds=_seeds(arguments.seeds),
        limits=_limits(arguments),
        fidelity=fidelity,
        post_step=_post_step(arguments),
        exam=_exam(arguments, problem),
        finalists=arguments.finalists,
        rungs=_rungs(arguments, fidelity),
    )
    exam_images(problem, settings.exam)  # the same
    settings.rungs.up_to(settings.fidelity)
    check_pace(1, arguments.retries)
    batch = Batch() if arguments.batch is None else Batch.parse(arguments.batch)
    resources = _resources(arguments, directory)
    with Progress(quiet=arguments.json) as progress:
        watcher = SearchBars(progress, problem.objective, batch.of(settings), settings.limits)
        run_batch(
            problem,
            settings,
            directory,
            batch,
            executor=arguments.executor,
            retries=arguments.retries,
            resources=resources,
            watcher=watcher,
        )
    if batch.count > 1:
        done = {"directory": str(directory), "batch": arguments.batch, "searches": len(batch.of(settings))}
        print(json.dumps(done) if arguments.json else f"batch {arguments.batch} is done: {done['searches']} searches")
        return 0
    return _report(load_comparison(directory), directory / "report", against=reference, as_json=arguments.json)


def run_sensitivity(arguments: argparse.Namespace) -> int:
    """Probe a network layer by layer, and compare predictions with measurements."""
    from baselines import SENSITIVITY
    from suite.problems.vision import SmoothedProblem
    from suite.report.progress import Progress
    from suite.run.registry import split_searchers
    from suite.studies.sensitivity.report import method_table, write_sensitivity
    from suite.studies.sensitivity.run import analyse_sensitivity, make_methods

    problem = _problem(arguments)
    if not isinstance(problem, SmoothedProblem):
        raise BitcertError(f"{problem.name} has no network to probe: its losses are a formula")
    methods = split_searchers(arguments.methods) if arguments.methods else SENSITIVITY
    make_methods(problem, methods)  # mistakes come out before anything is shown or written
    directory = Path(arguments.directory or f"runs/{problem.name}-{_slug(problem)}-sensitivity")
    resources = _resources(arguments, directory)
    with Progress(quiet=arguments.json) as progress:
        progress.add("policies", arguments.policies)
        progress.add("methods", len(methods))
        probed = itertools.count()
        found = analyse_sensitivity(
            problem,
            directory / "policies",
            methods=methods,
            policies=arguments.policies,
            seed=arguments.seed,
            fidelity=_fidelity(arguments, problem),
            executor=arguments.executor,
            resources=resources,
            on_trial=lambda _: progress.advance("policies"),
            on_method=lambda method: progress.update("methods", next(probed), state=f"probing for {method}"),
        )
        progress.update("methods", len(methods), state="")
    written = write_sensitivity(found, directory / "report")
    return _written(arguments, written, "sensitivity.json", method_table(found))


def run_examine(arguments: argparse.Namespace) -> int:
    """Certify one policy, or the float network, on exam images."""
    from suite.problems.vision import SmoothedProblem
    from suite.report.progress import Progress
    from suite.run.exam import exam_forward_passes, examine, write_outcome

    policy, run = None, None
    if arguments.run:
        run = _recorded_run(arguments)
        policy = run.best.policy if run.best else None
    elif arguments.policy:
        policy = _policy(arguments.policy)
    problem = _problem(arguments)
    if not isinstance(problem, SmoothedProblem):
        raise BitcertError(f"{problem.name} has no images to hold an exam on")
    if run is not None:
        _check_run(run, problem)
    exam, post_step = _exam(arguments, problem), _post_step(arguments)
    steps = 0 if policy is None or post_step.name == "none" else post_step.steps
    with Progress(quiet=arguments.json) as progress:
        progress.add("post-step", steps)
        progress.add("exam", exam_forward_passes(problem, exam))
        outcome = examine(
            problem,
            policy,
            post_step,
            exam=exam,
            finetune_steps=None if run is None else run.provenance["fidelity"]["finetune_steps"],
            progress=lambda passes: progress.advance("exam", passes),
            on_step=lambda step: progress.update("post-step", step),
        )
    if arguments.out:
        write_outcome(outcome, Path(arguments.out))
    if arguments.json:
        print(
            json.dumps(
                {"post_step": outcome.post_step, "metrics": outcome.metrics.to_dict(), "provenance": outcome.provenance}
            )
        )
        return 0
    metrics = outcome.metrics
    print(f"{'float network' if policy is None else policy.to_json()}")
    print(
        f"  exam of {len(outcome.labels)} images, n = {exam.n}, alpha = {exam.alpha:g}, post-step {outcome.post_step}"
    )
    print(f"  ACR {metrics.acr:.4f}   clean accuracy {metrics.clean_accuracy:.4f}   {metrics.bops:,} BOPs")
    print(
        "  certified accuracy "
        + "  ".join(f"{share:.3f} at {radius:g}" for radius, share in metrics.certified_accuracy.items())
    )
    return 0


def run_post_steps(arguments: argparse.Namespace) -> int:
    """Finetune the same policies in several ways, and examine what comes out."""
    from suite.problems.vision import SmoothedProblem
    from suite.report.progress import Progress
    from suite.run.registry import split_searchers
    from suite.studies.post_steps.report import post_step_table, write_post_steps
    from suite.studies.post_steps.run import PostStepSettings, compare_post_steps, sample_policies

    problem = _problem(arguments)
    if not isinstance(problem, SmoothedProblem):
        raise BitcertError(f"{problem.name} has no network to finetune: its scores are a formula")
    policies = tuple(_policy(given) for given in arguments.policy)
    settings = PostStepSettings(
        post_steps=split_searchers(arguments.post_steps),
        policies=policies or sample_policies(problem, arguments.policies),
        seeds=_seeds(arguments.seeds),
        exam=_exam(arguments, problem),
        steps=arguments.steps,
    )
    directory = Path(arguments.directory or f"runs/{problem.name}-{_slug(problem)}-post-steps")
    resources = _resources(arguments, directory)
    with Progress(quiet=arguments.json) as progress:
        progress.add("exams")
        comparison = compare_post_steps(
            problem,
            settings,
            directory,
            executor=arguments.executor,
            resources=resources,
            on_start=lambda exams: progress.update("exams", total=exams),
            on_exam=lambda _: progress.advance("exams"),
        )
    written = write_post_steps(comparison, directory / "report")
    return _written(arguments, written, "post_steps.json", post_step_table(comparison))


def run_plane(arguments: argparse.Namespace) -> int:
    """Map the loss around the captures of a run's best policy."""
    from suite.problems.vision import SmoothedProblem
    from suite.report.progress import Progress
    from suite.studies.plane.report import mark_table, write_plane
    from suite.studies.plane.run import map_plane

    run = _recorded_run(arguments)
    problem = _problem(arguments)
    if not isinstance(problem, SmoothedProblem):
        raise BitcertError(f"{problem.name} has no network to finetune: its scores are a formula")
    _check_run(run, problem)
    assert run.best is not None
    step = _post_step(arguments)
    directory = Path(arguments.directory or f"{arguments.run.rstrip('/')}-plane")
    with Progress(quiet=arguments.json) as progress:
        progress.add("finetuning", step.steps)
        progress.add("points", arguments.size**2 + 5)

        def on_point(count: int) -> None:
            progress.update("finetuning", step.steps)
            progress.update("points", count)

        plane = map_plane(
            problem,
            run.best.policy,
            directory,
            post_step=step,
            size=arguments.size,
            fidelity=_fidelity(arguments, problem),
            on_step=lambda step: progress.update("finetuning", step),
            on_point=on_point,
        )
    written = write_plane(plane, directory / "report")
    return _written(arguments, written, "plane.json", mark_table(plane))


def run_report(arguments: argparse.Namespace) -> int:
    """Write leaderboard, tables and plots of a finished comparison."""
    from suite.studies.compare.run import load_comparison

    comparison = load_comparison(*arguments.directory)
    out = Path(arguments.out) if arguments.out else Path(arguments.directory[0]) / "report"
    names = list(dict.fromkeys(entry.run.searcher for entry in comparison.entries))
    against = _against(arguments.against, names)
    return _report(comparison, out, against=against, as_json=arguments.json)


def run_table(arguments: argparse.Namespace) -> int:
    """Put certificates of several classifiers side by side."""
    from rich.console import Console

    from suite.contract.objective import parse_radii
    from suite.studies.table.report import RADII, certificate_table, read_named, summary, write_tables

    radii = RADII if arguments.radii is None else parse_radii(arguments.radii)
    if arguments.out and Path(arguments.out).exists() and not Path(arguments.out).is_dir():
        raise BitcertError(f"--out {arguments.out} is a file; give a folder")
    tables = [read_named(given) for given in arguments.files]
    names = [table.name for table in tables]
    if len(set(names)) < len(names):
        raise BitcertError(f"every table needs a name of its own, given as NAME=FILE; got {', '.join(names)}")
    written = write_tables(tables, Path(arguments.out), radii) if arguments.out else []
    frame = summary(tables, radii)
    if arguments.json:
        print(frame.to_json(orient="records", indent=2, double_precision=15))
        return 0
    certificate_table(frame).print(Console())
    if written:
        print(f"{len(written)} files in {arguments.out}")
    return 0


def _written(arguments: argparse.Namespace, files: list[Path], result: str, table: Table) -> int:
    """Print the JSON among the files of a report, or else its table and where they are."""
    from rich.console import Console

    if arguments.json:
        print(next(file for file in files if file.name == result).read_text(encoding="utf-8"))
        return 0
    table.print(Console())
    print(f"{len(files)} files in {files[0].parent}")
    return 0


def _against(asked: str | None, names: Sequence[str]) -> str:
    """The method that all others are tested against; random need not be there unless it is asked for."""
    if asked is not None and asked not in names:
        raise unknown_name("searcher of this comparison", asked, names)
    return asked or "random"


def _report(comparison: Any, directory: Path, *, against: str, as_json: bool) -> int:
    from rich.console import Console

    from suite.report import leaderboard, leaderboard_table, write_report

    written = write_report(comparison, directory, against)
    if as_json:
        print((directory / "leaderboard.json").read_text(encoding="utf-8"))
        return 0
    leaderboard_table(leaderboard(comparison, against)).print(Console())
    print(f"{len(written)} files in {directory}; begin with {directory / 'index.html'}")
    return 0


def _recorded_run(arguments: argparse.Namespace) -> Run:
    """The run that was named, with a best policy; its problem is filled in where no option says otherwise."""
    from suite.run.loop import load_run

    run = load_run(arguments.run)
    if run.best is None:
        raise BitcertError(f"the run in {arguments.run} has no successful trial")
    recorded = dict(run.provenance)
    if "based_on" in recorded and getattr(arguments, "problem", None) is None:
        recorded["problem"] = recorded["based_on"]
    else:
        recorded |= {"network": None, "image_size": None}
    for option in ("problem", "network", "image_size", "budget", "sigma"):
        if getattr(arguments, option, None) is None:
            setattr(arguments, option, recorded.get(option))
    if arguments.budget != recorded["budget"]:
        raise BitcertError(
            f"the budget of the run is {recorded['budget']}, {arguments.budget} given; leave --budget out"
        )
    arguments.objective, arguments.problem_seed = run.provenance["objective"], run.provenance.get("problem_seed", 0)
    arguments.recalibrate = run.provenance.get("recalibrate", False)
    return run


def _check_run(run: Run, problem: SmoothedProblem) -> None:
    """Raise BitcertError if the network or the images are not those of the run whose policy is looked at."""
    found = problem.provenance()
    for key, what in (("network_sha256", "network"), ("data_sha256", "images")):
        if run.provenance[key] != found[key]:
            raise BitcertError(
                f"the run was made with another {what}; give the options of the search again (--checkpoint, --data, --sigma)"
            )


def _problem(arguments: argparse.Namespace) -> Problem:
    from suite.problems import FOLDER, load_problem
    from suite.train.finetune import FinetuneSettings

    if arguments.problem is None and arguments.network is None:
        raise BitcertError("name a problem, or bring your network with --network MODULE:FUNCTION; see 'bitcert list'")
    problem = load_problem(
        arguments.problem or FOLDER.name,
        network=arguments.network,
        image_size=arguments.image_size,
        budget=arguments.budget,
        sigma=arguments.sigma,
        seed=arguments.problem_seed,
        objective=arguments.objective,
        certify=arguments.certify,
        bases=[_policy(given) for given in arguments.base],
        alpha=arguments.alpha,
        data=arguments.data,
        download=arguments.download,
        checkpoint=arguments.checkpoint,
        finetuning=FinetuneSettings(quantizer=arguments.quantizer),
        recalibrate=arguments.recalibrate,
        device=arguments.device,
    )
    bits = problem.space.choices[-1]
    most = problem.bops(problem.space.uniform(bits))
    if problem.budget.limit > most:
        raise BitcertError(
            f"budget {problem.budget.text} ({problem.budget.limit:,} BOPs) is above the most expensive policy ({most:,} BOPs at "
            f"{bits}/{bits} bits) and limits nothing; give w{bits}a{bits} to search without a limit"
        )
    return problem


def _policy(given: str) -> Policy:
    """A policy from JSON, or from a file that holds it."""
    if "{" in given:
        return Policy.from_json(given)
    try:
        return Policy.from_json(Path(given).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BitcertError(
            f"no policy can be read from {given!r}: {error}; give JSON or a file that holds it"
        ) from None


def _fidelity(arguments: argparse.Namespace, problem: Problem) -> Fidelity:
    from dataclasses import replace

    from suite.problems.definition import protocol_steps
    from suite.problems.vision import SmoothedProblem

    asked = {name: getattr(arguments, name, None) for name in ("images", "noise", "finetune_steps")}
    protocol = getattr(arguments, "protocol", None)
    if protocol is not None:
        asked["finetune_steps"] = protocol_steps(protocol, asked["finetune_steps"])
    if asked["images"] is None and isinstance(problem, SmoothedProblem):
        asked["images"] = min(problem.fidelity.images, len(problem.dataset.splits["search"]))  # a folder may be small
    return replace(problem.fidelity, **{name: value for name, value in asked.items() if value is not None})


def _limits(arguments: argparse.Namespace) -> Any:
    from suite.run.loop import Limits

    evaluations = arguments.evaluations
    if evaluations is None and arguments.forward_passes is None and arguments.seconds is None:
        evaluations = 64
    return Limits(evaluations, arguments.forward_passes, arguments.seconds)


def _rungs(arguments: argparse.Namespace, top: Fidelity) -> Any:
    from suite.run.rungs import Rungs

    if arguments.rungs is None:
        return Rungs()
    return Rungs.parse(arguments.rungs, arguments.reduction, top.finetune_steps)


def _post_step(arguments: argparse.Namespace) -> Any:
    from suite.run.post_step import parse_post_step

    return parse_post_step(arguments.post_step, arguments.post_step_steps)


def _exam(arguments: argparse.Namespace, problem: Any) -> Any:
    from suite.problems.definition import ExamSettings
    from suite.run.exam import default_exam

    split = getattr(arguments, "split", "exam")
    images = default_exam(problem, split).images if arguments.exam_images is None else arguments.exam_images
    return ExamSettings(
        images,
        arguments.exam_n0,
        arguments.exam_n,
        arguments.exam_alpha,
        arguments.exam_certify,
        split,
    )


def _resources(arguments: argparse.Namespace, directory: str | Path) -> Any:
    from suite.execute.inline import Resources

    loggers = tuple(getattr(arguments, "log", ()))
    if loggers and arguments.executor != "ray":
        raise BitcertError(f"--log needs --executor ray, whose callbacks it uses; got {arguments.executor}")
    return Resources(
        arguments.workers,
        arguments.cpus_per_trial,
        arguments.gpus_per_trial,
        arguments.address,
        loggers,
        Path(directory) / "tune",
    )


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BitcertError(f"seeds are integers separated by commas, got {text!r}") from None


def _slug(problem: Problem) -> str:
    return problem.budget.text.replace("/", "-of-")


def _first_line(documented: type) -> str:
    return (documented.__doc__ or "").strip().splitlines()[0]
