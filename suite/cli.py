"""The command line: what can be asked for. How it is done stands in ``suite.commands``, imported when a command runs."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata

from suite.errors import BitcertError

EXIT_OK, EXIT_FAILED, EXIT_MISTAKE, EXIT_INTERRUPTED = 0, 1, 2, 130

_EPILOG = """exit status: 0 done, 1 something went wrong on the way, 2 a mistake in what was asked for, 130 interrupted
(run the same command again to resume)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    parsed = _parser().parse_args(arguments)
    if parsed.command is None:
        _parser().print_help()
        return EXIT_MISTAKE
    from suite import commands

    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        return int(getattr(commands, parsed.command)(parsed))
    except BitcertError as error:
        print(f"bitcert: {error}", file=sys.stderr)
        return EXIT_MISTAKE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        print(f"bitcert: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("bitcert: interrupted; run the same command again to resume", file=sys.stderr)
        return EXIT_INTERRUPTED


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    print(f"bitcert: warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bitcert",
        allow_abbrev=False,
        description="Search each layer's number of bits for the best certified robustness within a budget of bit operations.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"bitcert {metadata.version('bitcert')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(command=None)

    def add(name: str, summary: str, description: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=description, epilog=_EPILOG, allow_abbrev=False)
        command.set_defaults(command=f"run_{name.replace('-', '_')}")
        command.add_argument(
            "--json", action="store_true", help="print the result as JSON on standard output, nothing else"
        )
        return command

    add("list", "problems, searchers, networks", "List problems, searchers and baselines, networks and post-steps.")

    train = add(
        "train",
        "train a problem's float network",
        "Train the float network of a problem under Gaussian noise. Resumable: run it again.",
    )
    train.add_argument("problem", help="problem whose network is trained, see 'bitcert list'")
    train.add_argument("--sigma", type=float, help="standard deviation of the noise (default: the problem's)")
    train.add_argument(
        "--seed", type=int, default=0, help="seed of weights, order, noise and augmentation (default: 0)"
    )
    train.add_argument("--epochs", type=int, help="passes over the training images (default: the dataset's)")
    train.add_argument("--out", metavar="FILE", help="checkpoint to write (default: PROBLEM-sigmaS.safetensors here)")
    _add_data(train)

    search = add(
        "search", "run one searcher", "Run one searcher on a problem. A directory that holds the run is resumed."
    )
    _add_problem(search)
    search.add_argument("--searcher", required=True, help="method, see 'bitcert list'")
    search.add_argument("--seed", type=int, default=0, help="seed of the searcher (default: 0)")
    search.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the searcher; may be repeated"
    )
    search.add_argument(
        "--parallel",
        type=int,
        default=1,
        help="most evaluations of this search under way at once; above 1 the order of results matters (default: 1)",
    )
    search.add_argument(
        "--directory", metavar="DIR", help="where the journal goes (default: runs/PROBLEM-BUDGET-SEARCHER-SEED)"
    )
    _add_spend(search)
    _add_executor(search, default="inline")

    compare = add(
        "compare",
        "run many searchers, examine winners, report",
        "Run searchers under equal spend, examine their winners on unseen images, and write leaderboard and plots. "
        "A directory that holds the comparison is resumed, also with further searchers and seeds or higher limits.",
    )
    compare.add_argument(
        "--searchers",
        metavar="A,B,...",
        help="methods (default: all), see 'bitcert list'; options follow a name, as in arq:episodes=64:relabel=true",
    )
    _add_against(compare)
    _add_comparison(compare, "runs/PROBLEM-BUDGET")

    ablate = add(
        "ablate",
        "compare a searcher with variants of itself",
        "Run a searcher and variants of it under equal spend, examine the winners, and test every variant against the searcher "
        "as it stands. A directory that holds the ablation is resumed.",
    )
    ablate.add_argument("--searcher", required=True, metavar="A", help="method, with options after its name if any")
    ablate.add_argument(
        "--vary",
        action="append",
        required=True,
        metavar="NAME=VALUE",
        help="a variant: one option, or several as in relabel=true:updates=4; may be repeated",
    )
    _add_split(ablate, "search", "; those that searches have seen least are taken first")
    _add_comparison(ablate, "runs/PROBLEM-BUDGET-SEARCHER-ablation")

    sensitivity = add(
        "sensitivity",
        "what each layer's bits cost, and how well that predicts",
        "Probe a network layer by layer with every sensitivity method, measure random feasible policies, and write tables and "
        "figures of sensitivities and of how well the methods order the policies. A directory that holds it is resumed.",
    )
    sensitivity.add_argument("problem", nargs="?", help="problem whose network is probed, see 'bitcert list'")
    sensitivity.add_argument(
        "--methods",
        metavar="A,B,...",
        help="sensitivity methods (default: all); options follow a name, as in limpq:epochs=5",
    )
    sensitivity.add_argument(
        "--policies", type=int, default=200, help="random feasible policies that are measured (default: 200)"
    )
    sensitivity.add_argument("--seed", type=int, default=0, help="seed of policies and probes (default: 0)")
    sensitivity.add_argument(
        "--directory", metavar="DIR", help="where everything goes (default: runs/PROBLEM-BUDGET-sensitivity)"
    )
    _add_problem(sensitivity, named=False)
    _add_fidelity(sensitivity.add_argument_group("measurements"))
    _add_executor(sensitivity, default="inline")

    examine = add(
        "examine",
        "certify one policy on exam images",
        "Certify the best policy of a run, a given policy, or the float network on exam images with fresh noise.",
    )
    what = examine.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", metavar="DIR", help="examine the best policy of this run; the problem is the run's")
    what.add_argument(
        "--policy", metavar="JSON", help='examine this policy: {"weights":[...],"activations":[...]} or a file with it'
    )
    what.add_argument("--float", action="store_true", help="examine the float network")
    _add_problem(examine)
    examine.add_argument("--out", metavar="FILE", help="also write the outcome, with one row an image, as JSON")
    _add_exam(examine)

    post_steps = add(
        "post-steps",
        "compare ways of finetuning the same policies",
        "Put the same policies through several post-steps, examine each result, and write a table and a figure of paired "
        "differences. A directory that holds the comparison is resumed.",
    )
    post_steps.add_argument("problem", nargs="?", help="problem whose network is finetuned, see 'bitcert list'")
    post_steps.add_argument(
        "--post-steps",
        default="sqwa,qat,qat-low-lr,swa,none",
        metavar="A,B,...",
        help="what is compared, see 'bitcert list'; the others are measured by the first; options follow a name, as in "
        "sqwa:captures=3:averaged=masters (default: sqwa,qat,qat-low-lr,swa,none)",
    )
    post_steps.add_argument("--steps", type=int, help="optimizer steps of each, where it has no option (default: 400)")
    post_steps.add_argument(
        "--policies",
        type=int,
        default=5,
        help="how many policies: the largest uniform one within the budget, the others random (default: 5)",
    )
    post_steps.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="JSON",
        help="a policy, or a file with it, instead of those; may be repeated",
    )
    post_steps.add_argument(
        "--seeds", default="0,1,2,3,4", metavar="A,B,...", help="seeds of every post-step (default: 0,1,2,3,4)"
    )
    _add_split(post_steps, "exam")
    post_steps.add_argument(
        "--directory", metavar="DIR", help="where everything goes (default: runs/PROBLEM-BUDGET-post-steps)"
    )
    _add_problem(post_steps, named=False)
    _add_certificates(post_steps.add_argument_group("exam"))
    _add_executor(post_steps, default="inline", trials=False)

    plane = add(
        "plane",
        "pictures of the loss around a winner's captures",
        "Put the best policy of a run through SQWA and map the plane through three of its captures: every point is quantized "
        "before its loss and its certified radius are measured. A directory that holds the plane is resumed.",
    )
    plane.add_argument("run", metavar="RUN", help="directory of a search; its best policy, on the run's problem")
    plane.add_argument(
        "--post-step",
        default="sqwa:captures=3",
        help="sqwa, with options after the name; with three captures their average lies in the plane (default: "
        "sqwa:captures=3)",
    )
    plane.add_argument(
        "--post-step-steps", type=int, metavar="STEPS", help="optimizer steps of the post-step (default: 400)"
    )
    plane.add_argument("--size", type=int, default=15, help="points along each axis (default: 15)")
    plane.add_argument("--directory", metavar="DIR", help="where everything goes (default: RUN-plane)")
    _add_problem(plane, named=False)
    _add_fidelity(plane.add_argument_group("certified radii"), finetuning=False)

    report = add(
        "report",
        "leaderboard and plots of a comparison",
        "Write leaderboard, tables and plots of a finished comparison.",
    )
    report.add_argument(
        "directory", metavar="DIR", nargs="+", help="directory of the comparison, or those of all its batches"
    )
    _add_against(report)
    report.add_argument("--out", metavar="DIR", help="where the report goes (default: report/ in the first directory)")

    table = add(
        "table",
        "certificates of several classifiers side by side",
        "Put exams, and the per-image tables of certificates that papers publish, into one table and one figure of certified "
        "accuracy by radius.",
    )
    table.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="an exam (JSON, from 'bitcert examine --out' or exams/ of a comparison), or a table of Cohen's certify.py (TSV); "
        "NAME=FILE gives it a name",
    )
    table.add_argument("--radii", metavar="A,B,...", help="radii of the columns (default: 0,0.25,0.5,0.75,1,1.5)")
    table.add_argument("--out", metavar="DIR", help="also write certificates.csv, .json, .md, .png and .svg there")
    return parser


def _add_comparison(parser: argparse.ArgumentParser, directory: str) -> None:
    _add_problem(parser)
    parser.add_argument("--seeds", default="0,1", metavar="A,B,...", help="seeds of every searcher (default: 0,1)")
    parser.add_argument("--directory", metavar="DIR", help=f"where everything goes (default: {directory})")
    parser.add_argument(
        "--batch",
        metavar="K/N",
        help="run only the K-th of N parts of the searches, on machines that share no cluster; give the directories of all "
        "parts to 'bitcert report'",
    )
    _add_spend(parser)
    _add_exam(parser)
    _add_executor(parser, default="ray")


def _add_split(parser: argparse.ArgumentParser, default: str, more: str = "") -> None:
    parser.add_argument(
        "--split",
        default=default,
        help=f"images that judge: exam, or search to choose settings without seeing the exam{more} (default: {default})",
    )


def _add_against(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against", metavar="A", help="method that all others are tested against (default: random, if it is there)"
    )


def _add_problem(parser: argparse.ArgumentParser, named: bool = True) -> None:
    group = parser.add_argument_group("problem")
    if named:
        group.add_argument("--problem", help="see 'bitcert list'")
    group.add_argument(
        "--network",
        metavar="MODULE:FUNCTION",
        help="your function that returns a network, put in the place of the problem's; without a problem, on your "
        "images (--data); needs --checkpoint",
    )
    group.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="with --network, side of the images made of a folder's (default: 224)",
    )
    group.add_argument(
        "--budget",
        help="limit on BOPs: w3a3 or w2.5a2.5, a share of the float network's such as 1/64, or a number of BOPs (default: the "
        "problem's)",
    )
    group.add_argument(
        "--sigma",
        type=float,
        help="standard deviation of the smoothing noise, images in [0, 1] (default: the problem's)",
    )
    group.add_argument(
        "--objective",
        default="acr",
        help="acr, clean, or certified@0.25,0.5; with +bops, fewer BOPs are a second objective (default: acr)",
    )
    group.add_argument(
        "--certify",
        default="ranking",
        help="how the search measures: ranking (estimates, cheapest), or certificates that are fixed, irs, incremental, "
        "sequential or aggregate; exams always certify, see --exam-certify (default: ranking)",
    )
    group.add_argument(
        "--base",
        action="append",
        default=[],
        metavar="JSON",
        help="with --certify incremental: a further policy, or a file with it, whose recorded predictions may be built on "
        "beside those of the float network and of the largest uniform policy; may be repeated",
    )
    group.add_argument(
        "--alpha",
        type=float,
        default=1e-3,
        help="failure probability of each certificate of the search (default: 0.001)",
    )
    group.add_argument(
        "--problem-seed", type=int, default=0, help="seed of calibration, search and exam noise (default: 0)"
    )
    group.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="trained network, .safetensors or a PyTorch state dict (default: the shipped one)",
    )
    group.add_argument(
        "--quantizer", default="lsq", help="quantizer of finetuning: lsq, fixed, pact or dorefa (default: lsq)"
    )
    group.add_argument(
        "--recalibrate",
        action="store_true",
        help="measure batch-norm statistics anew for every policy that is not finetuned",
    )
    group.add_argument("--device", default="cpu", help="where evaluations run (default: cpu)")
    _add_data(group)


def _add_data(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--data", metavar="DIR", help="folder with the images (default: the environment variable BITCERT_DATA)"
    )
    group.add_argument("--download", action="store_true", help="fetch missing images, for MNIST and CIFAR-10")


def _add_spend(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("spend")
    group.add_argument(
        "--evaluations", type=int, help="most trials of a search (default: 64, or no limit with another one)"
    )
    group.add_argument("--forward-passes", type=int, help="start no further trial once a search has spent these")
    group.add_argument("--seconds", type=float, help="start no further trial after this wall time, sessions added up")
    group.add_argument(
        "--retries",
        type=int,
        default=2,
        help="how often a failed evaluation is tried again before it is recorded as failed (default: 2)",
    )
    _add_fidelity(group)
    group.add_argument(
        "--rungs",
        metavar="AxB,...",
        help="cheaper fidelities, images x noise samples, that a policy must survive first, as in 30x16,60x32; finetuning steps "
        "other than the search's follow a plus, as in 30x16+0 (asynchronous successive halving; default: none)",
    )
    group.add_argument(
        "--reduction", type=float, default=3.0, help="with --rungs, about one policy in this many goes on (default: 3)"
    )
    group.add_argument(
        "--finalists",
        type=int,
        help="best policies that are measured again at the end, with other noise and up to twice the images "
        "(default: 4 with --certify ranking, else none)",
    )


def _add_fidelity(group: argparse._ActionsContainer, *, finetuning: bool = True) -> None:
    group.add_argument("--images", type=int, help="search images of an evaluation (default: the problem's)")
    group.add_argument("--noise", type=int, help="noise samples that count, per image (default: the problem's)")
    if finetuning:
        group.add_argument(
            "--protocol",
            help="ptq: policies are measured as they are quantized; finetune: after finetuning, in every evaluation (default: "
            "the problem's, ptq)",
        )
        group.add_argument(
            "--finetune-steps",
            type=int,
            help="finetuning steps in every evaluation (default: 100 with --protocol finetune)",
        )


def _add_exam(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("exam")
    group.add_argument(
        "--post-step",
        default="none",
        help="finetuning before the exam: none, sqwa, or at equal steps its controls qat, qat-low-lr and swa; options follow "
        "the name, as in sqwa:captures=3:noise=false (default: none)",
    )
    group.add_argument(
        "--post-step-steps", type=int, metavar="STEPS", help="optimizer steps of the post-step (default: 400)"
    )
    _add_certificates(group)


def _add_certificates(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--exam-images", type=int, help="exam images (default: as many as the problem says, usually all)"
    )
    group.add_argument("--exam-n0", type=int, default=100, help="noise samples that choose a class (default: 100)")
    group.add_argument("--exam-n", type=int, default=10_000, help="noise samples that enter a bound (default: 10000)")
    group.add_argument(
        "--exam-certify",
        default="fixed",
        help="fixed; sequential: certifies at the problem's radii only, with far fewer samples, --exam-n is then the most an image "
        "may take; or aggregate: as fixed, and bounds on the whole set beside, tight even with --exam-n 100 (default: fixed)",
    )
    group.add_argument(
        "--exam-alpha", type=float, default=1e-3, help="failure probability of each certificate (default: 0.001)"
    )


def _add_executor(parser: argparse.ArgumentParser, default: str, *, trials: bool = True) -> None:
    group = parser.add_argument_group("executor")
    group.add_argument(
        "--executor", default=default, help=f"inline (this process) or ray; equal results (default: {default})"
    )
    group.add_argument("--workers", type=int, help="evaluations at the same time (default: as many as fit)")
    group.add_argument(
        "--cpus-per-trial", type=float, default=1.0, help="CPUs of one evaluation, a fraction allowed (default: 1)"
    )
    group.add_argument(
        "--gpus-per-trial", type=float, default=0.0, help="GPUs of one evaluation, a fraction allowed (default: 0)"
    )
    group.add_argument("--address", help="an existing Ray cluster, such as auto (default: start one on this machine)")
    if trials:
        group.add_argument(
            "--log",
            action="append",
            default=[],
            metavar="NAME",
            help="with --executor ray, metrics of all trials also go to tensorboard (files in DIR/tune), mlflow or wandb; may be "
            "repeated",
        )


if __name__ == "__main__":
    sys.exit(main())
