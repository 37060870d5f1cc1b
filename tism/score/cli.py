"""The command `tism`, which scores the peaks or variants of a genome with your own model."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tism.running import is_out_of_memory
from tism.score import tracks
from tism.score.files import described, write_table
from tism.score.loading import load_args, load_model, load_output_fn, running_code
from tism.score.methods import EFFECTS, METHODS, named_tasks, score_to_store, variant_table
from tism.score.modisco import modisco_window, write_modisco_pair
from tism.score.store import ScoreStore, StoreError, check_shard, open_store

_INCOMPLETE, _NOT_FINITE, _INTERRUPTED, _TERMINATED = 1, 3, 130, 143  # exit status
_MOST_DIGITS = 6  # of the number of a task; a longer range would fill the memory
_DESCRIPTION = """\
In silico saturation mutagenesis (ISM) of any PyTorch model of DNA, exact or by first-order Taylor
expansion (TISM).

  tism score    scores peaks or variants and writes the scores into a store
  tism status   shows how much of a store is written
  tism export   writes tracks, TF-MoDISco's input, arrays or a table of variants from a store

`tism COMMAND --help` explains each command with examples."""
_SCORE_USAGE = (
    "tism score --model WHERE:FUNCTION (--bed | --vcf) FILE --fasta FILE --out STORE [options]"
)
_SCORE = """\
Score peaks (--bed) or variants (--vcf) of a genome (--fasta) with your model.

--model names a Python function that returns a torch.nn.Module, as package.module:function or
path/to/file.py:function. The file is code and runs with your rights: use files that you trust.
The module maps one-hot sequences (n, 4, length), with rows A C G T, to predictions (n, tasks).
If it returns something else, --output-fn names a function that makes (n, tasks) of it:
    def load():                               # in my_model.py
        return MyNetwork()                    # --weights loads the weights
    def total(output):                        # {"profile": (n, tasks, length)} to (n, tasks)
        return output["profile"].sum(-1)
Ready functions are tism:counts and tism:profile (of BPNet and ChromBPNet), tism:total (sum over
positions) and the classes of tism.outputs, as in 'tism:Total(447, 449, axis=1, head="human")'.

The scores go into --out, a folder (zarr). After an interruption of any kind run the same command
again: it goes on where it stopped. On a cluster each process writes a --shard of one store."""
_SCORE_EXAMPLES = """\
examples:
  TISM of peaks; exact ISM of the middle 50 bp around summits, mean of both strands and two folds:
    tism score --model my_model.py:load --weights my.safetensors --output-fn my_model.py:total \\
        --bed peaks.bed --fasta genome.fa --out peaks.zarr
    tism score --model my_model.py:load --weights a.safetensors b.safetensors --average strand \\
        --bed x.narrowPeak --fasta genome.fa --length 2114 --method ism --tasks 0,3 --mutate 50 \\
        --out ism.zarr --shard 2/4
  variants, each with its first base in the middle of a window of 251 bp:
    tism score --model m.py:load --vcf v.vcf.gz --fasta g.fa --length 251 --method ism --out v.zarr

A variant may be a substitution, an insertion or a deletion; each alternate is one row. The windows
of both alleles begin at the same base; an indel moves what stands behind it. A mean over strands
takes it that a task means the same on both; what a shift moves out of a window is replaced by N.
Rows that cannot be scored are counted by reason and listed in <out>.refused.tsv. N is encoded as
four zeros, and so are IUPAC letters for several bases, which are counted.
exit status: 0; 2 for an error; 3 if some scores are not finite; 130 or 143 after an interruption"""
_EXPORT_EXAMPLES = """\
examples:
  a track of task 3 for a genome browser, and one as text:
    tism export peaks.zarr --bigwig task3.bw --task 3
    tism export peaks.zarr --bedgraph task3.bedgraph --task 3
  motifs of task 3 by TF-MoDISco (modisco-lite); the window must have an even number of bases:
    tism export peaks.zarr --modisco run/task3 --task 3
    modisco motifs -s run/task3.sequences.npz -a run/task3.attributions.npz -n 2000 -w 250 -o run/task3.h5
  effects of variants as a table:
    tism export variants.zarr --table effects.tsv

A track has one value a base: minus the mean effect of its three substitutions, so that a base that
helps is positive; with --track centred, the score of the reference base minus the mean of all four.
Where windows overlap, it is the mean over the windows.
TF-MoDISco's attributions are hypothetical contributions, (n, 4, length): the scores minus their
mean over the four bases, weighted by the --background frequencies. Stores of TISM and of the
gradient give the same. PREFIX.bed has the rows in the order of the arrays, cut where a window of
--pad reaches beyond its chromosome.
The table has the columns chrom, start, end (of the window, from 0), position, id, reference and
alternate (as in the VCF), then for each task effect_<task>, the prediction for the alternate minus
that for the reference, and both as reference_<task> and alternate_<task>; with --effect log2fc also
log2fc_<task>, log2(alternate / reference); with several --weights also spread_<task>, the standard
deviation of the effect between folds. Text that a spreadsheet would run gets a ' before it."""  # noqa: E501


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with 2 for bad input, 3 for scores that are not finite."""
    logging.basicConfig(level=logging.INFO, format="tism: %(message)s")
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, _terminate)
        try:
            options = _parser().parse_args(arguments)
            options.typed = sys.argv[1:] if arguments is None else arguments
            options.run(options)
        finally:
            if sys.stdout:  # it may be closed
                sys.stdout.flush()
    except KeyboardInterrupt as stop:
        _say("interrupted; the same command goes on where this one stopped")
        sys.exit(_TERMINATED if isinstance(stop, _Terminated) else _INTERRUPTED)
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # what is still in the buffer has nowhere to go
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(OSError("what read the output of this command has ended (broken pipe)"))
    except Exception as error:
        if debug:
            raise
        _fail(error)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it; like Ctrl-C it deletes what is half made."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def _fail(error: BaseException) -> NoReturn:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    expected = (ValueError, TypeError, OSError, ImportError, StoreError)
    if not isinstance(error, expected) and not is_out_of_memory(error):
        text = f"{type(error).__name__}: {text}; --debug shows where"
    for line in (f"error: {text}", *getattr(error, "__notes__", [])):
        _say(line.removeprefix("tism: "))
    sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    raw = partial(argparse.RawDescriptionHelpFormatter, width=100, max_help_position=30)
    parser = argparse.ArgumentParser(prog="tism", description=_DESCRIPTION, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], None], **texts: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, formatter_class=raw, **texts)
        sub.add_argument("--debug", action="store_true", help="show where an error was raised")
        sub.set_defaults(run=run)
        return sub

    about = {"description": _SCORE, "epilog": _SCORE_EXAMPLES, "help": "write scores"}
    _add_score_options(command("score", _score, usage=_SCORE_USAGE, **about))
    about = {"description": "Show how much of a store is written.", "help": "show progress"}
    status = command("status", _status, **about)
    add = status.add_argument
    add("store", type=Path, help="folder that tism score has written to")
    add("--json", action="store_true", help="print all that the store says of itself")
    add("--check", action="store_true", help="check it; exit with 1 if incomplete, 3 if not finite")
    about = {"epilog": _EXPORT_EXAMPLES, "help": "write files for other programs"}
    _add_export_options(command("export", _export, **about))
    return parser


# fmt: off
def _add_export_options(export: argparse.ArgumentParser) -> None:
    export.add_argument("store", type=Path, help="complete store, written by tism score")
    kind = export.add_mutually_exclusive_group(required=True)
    add = partial(kind.add_argument, type=Path, metavar="FILE")
    kind.add_argument(
        "--modisco", metavar="PREFIX", help="write PREFIX.{sequences,attributions}.npz, PREFIX.bed"
    )
    add("--table", help="write the effects of variants, tab-separated")
    add("--bigwig", help="write a track of one task, one value a base")
    add("--bedgraph", help="write the track as text")
    add("--npz", help="write one_hot, scores and the columns of the store as arrays")
    add = export.add_argument
    add("--task", type=int, help="number of the task in the model, if the store has several tasks")
    add("--track", choices=tracks.TRACKS, help="value of a track (default: mean-effect)")
    add("--effect", choices=EFFECTS,
        help="log2fc adds log2(alternate / reference) to the table; predictions must be positive")
    add("--task-names", type=Path, metavar="FILE",
        help="names of all tasks of the model, one a line, for the table")
    add("--not-finite", choices=("refuse", "drop"), default="refuse",
        help="what to do with rows whose scores are infinite or no number (default: refuse)")
    add("--background", type=float, nargs=4, metavar=("A", "C", "G", "T"),
        help="base frequencies that weight the mean of --modisco (default: 0.25 each)")


def _add_score_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    where = {"metavar": "WHERE:NAME"}
    add("--model", required=True, **where, help="function that returns the module; its file is run")
    add("--model-args", type=_keywords, default={}, metavar="JSON",
        help="keyword arguments of that function, such as '{\"n_tasks\": 12}'")
    add("--weights", type=Path, nargs="+", action="extend", metavar="FILE",
        help="state dict, safetensors; several are folds: mean and spread are kept")
    add("--output-fn", **where,
        help="from what the module returns to (n, tasks); tism:counts and others")
    add("--args", type=Path, metavar="FILE",
        help="what else forward takes: .npz, one row a window or one for all")
    data = parser.add_argument_group("sequences")
    rows = data.add_mutually_exclusive_group(required=True)
    rows.add_argument("--bed", type=Path, metavar="FILE", help="peaks, BED or narrowPeak")
    rows.add_argument("--vcf", type=Path, metavar="FILE", help="variants")
    add = data.add_argument
    add("--fasta", type=Path, required=True, metavar="FILE", help="genome; all may be gzipped")
    add("--length", type=int, metavar="BP", help="bases in each window; required with --vcf")
    add("--summit", action=argparse.BooleanOptionalAction,
        help="centre on start + column 10 (default for .narrowPeak) or on the middle")
    add("--strand", action="store_true", help="reverse-complement rows with - in column 6")
    add("--pad", action="store_true", help="fill windows beyond a chromosome's end with N")
    add("--max-refused", type=_percent, default=10, metavar="PERCENT",
        help="fail if more of the rows cannot be scored (default: 10)")
    add = parser.add_argument_group("scores").add_argument
    add("--out", type=_folder, required=True, metavar="STORE", help="folder to write into")
    add("--method", choices=METHODS, default="tism", metavar="NAME",
        help="; ".join(f"{name}: {method.about}" for name, method in METHODS.items()))
    add("--tasks", type=parse_tasks, metavar="LIST",
        help="tasks to score, such as 0,3,5-8 (default: all)")
    add("--average", action="append", default=[], metavar="strand|shift:K",
        help="mean over both strands, or over shifts by -K to K bases; also both")
    add("--mutate", type=_positions, metavar="N|START:STOP",
        help="score only the middle N bases of a window, or these, from 0")
    add = parser.add_argument_group("run").add_argument
    add("--shard", type=_shard, default=(1, 1), metavar="I/K",
        help="write part I of K, from 1 to K (default: 1/1)")
    add("--device", help="where to compute, such as cuda (default: cpu)")
    add("--batch-size", type=int, metavar="N",
        help="sequences in a batch (default: by length and device)")
    add("--chunk-size", type=int, metavar="N", help="sequences in a chunk (default: by their size)")
    add("--allow-nondeterministic", action="store_true",
        help="score a model of chance or of batch-mates as it comes")
    add("--quiet", action="store_true", help="show no progress bar")
# fmt: on


def _score(options: argparse.Namespace) -> None:
    from tism.score.genome import Genome

    _check_options(options)
    folds = options.weights or [None]
    models = [load_model(options.model, options.model_args, weights) for weights in folds]
    output_fn = load_output_fn(options.output_fn) if options.output_fn else None
    with running_code(options.model, options.output_fn), Genome(options.fasta) as genome:
        sequences = _read(options, genome)
        _check_refused(sequences, options)
        store = score_to_store(
            options.out, models, sequences, options.tasks, method=options.method,
            mutate=options.mutate, average=options.average, output_fn=output_fn,
            args=_args(options, sequences),
            chunk_size=options.chunk_size, shard=options.shard, batch_size=options.batch_size,
            device=options.device, progress=not options.quiet,
            allow_nondeterministic=options.allow_nondeterministic,
            notes={
                "--model": options.model, "--model-args": options.model_args,
                "--output-fn": options.output_fn,
            },
            provenance=lambda: _provenance(options),
            opened=lambda store: _list_refused(sequences.refused, options.out),
        )  # fmt: skip
        if sequences.n_ambiguous:
            _say(f"{sequences.n_ambiguous:,} IUPAC letters for several bases were read as N")
    start, stop = store.identity.get("positions", (0, store.length))
    part = f"; scored are the positions {start} to {stop - 1} (from 0)" if options.mutate else ""
    _say(sequences.about + part)
    _say(_state(store))
    if store.not_finite():
        sys.exit(_NOT_FINITE)


def _provenance(options: argparse.Namespace) -> dict[str, Any]:
    """Return the command and its files, each with its size and checksum."""
    files = [(name, getattr(options, name)) for name in ("bed", "vcf", "fasta", "args")]
    files += [("weights", path) for path in options.weights or ()]
    for name, where in (("model", options.model), ("output-fn", options.output_fn or "")):
        code = where.rpartition(":")[0]
        files.append((name, Path(code) if code.endswith(".py") else None))
    listed = [{"option": f"--{name}", **described(path)} for name, path in files if path]
    return {"command": shlex.join(["tism", *options.typed]), "files": listed}


def _check_options(options: argparse.Namespace) -> None:
    if not options.vcf:
        return
    if options.length is None:
        raise ValueError("--vcf needs --length, the number of bases that the model takes")
    for name, unset in (("summit", None), ("strand", False), ("mutate", None)):
        if getattr(options, name) is not unset:
            raise ValueError(f"--{name} is for --bed; a window of --vcf follows its variant")


def _read(options: argparse.Namespace, genome: Any) -> Any:
    from tism.score.genome import read_variants, read_windows

    if options.vcf:
        return read_variants(options.vcf, genome, options.length, pad=options.pad)
    windows = {"summit": options.summit, "strand": options.strand, "pad": options.pad}
    return read_windows(options.bed, genome, options.length, **windows)


def _check_refused(sequences: Any, options: argparse.Namespace) -> None:
    """Raise ValueError where more rows cannot be scored than the user allows."""
    refused = sequences.refused
    total = len(refused) + len(sequences)
    if 100 * len(refused) > options.max_refused * total:
        counts = "; ".join(f"{n:,} x {why}" for why, n in refused["reason"].value_counts().items())
        raise ValueError(
            f"{options.vcf or options.bed}: {len(refused):,} of {total:,} rows cannot be scored, "
            f"more than {options.max_refused:g} %: {counts} (the first in line "
            f"{refused['line'].iloc[0]}: {refused['record'].iloc[0]}); mend the file or raise "
            "--max-refused"
        )


def _args(options: argparse.Namespace, sequences: Any) -> tuple[Any, ...]:
    """Return the arrays of --args; ValueError where they have other rows than the windows."""
    arrays = load_args(options.args) if options.args else ()
    for number, array in enumerate(arrays):
        if len(array) in (1, len(sequences)):
            continue
        wanted = f"must have one row a sequence ({len(sequences):,}) or one for all"
        problem = f"{options.args}: array {number} {wanted}, has {len(array):,}"
        if len(refused := sequences.refused):
            line, reason = refused["line"].iloc[0], refused["reason"].iloc[0]
            problem += f"; give none for what is refused of {options.vcf or options.bed} "
            problem += f"({len(refused):,}, the first in line {line}: {reason})"
        raise ValueError(problem)
    return arrays


def _list_refused(refused: Any, out: Path) -> None:
    """Write the rows that cannot be scored beside the store, or delete the list of another run."""
    listing = out.with_name(f"{out.name}.refused.tsv")
    if not len(refused):
        listing.unlink(missing_ok=True)
        return
    write_table(listing, refused)
    for reason, count in refused["reason"].value_counts().items():
        _say(f"{count:,} {'row' if count == 1 else 'rows'} refused: {reason}")
    _say(f"listed in {listing}")


def _status(options: argparse.Namespace) -> None:
    store = open_store(options.store)
    missing, bad = len(store.missing()), store.not_finite()
    if options.json:
        state = {"sequences": len(store), "chunks": store.n_chunks, "missing": missing}
        state |= {"not_finite": bad, "identity": store.identity, "notes": store.notes}
        print(json.dumps(state, indent=2))
    else:
        print(_state(store))
        known = {"windows": "unknown", **store.notes, **store.identity}
        for key in ("kind", "method", "tasks", "average", "windows"):
            if key in known:
                print(f"{key}: {known[key]}")
    if options.check:
        store.check()
        store.check_scores()
        sys.exit(_INCOMPLETE if missing else _NOT_FINITE if bad else 0)


def _state(store: ScoreStore) -> str:
    missing = len(store.missing())
    done = "complete" if not missing else f"{store.n_chunks - missing} of {store.n_chunks} chunks"
    state = f"{store.path}: {len(store):,} sequences, {done}"
    if bad := store.not_finite():
        state += f"; {len(bad):,} have scores that are not finite: {store.names(bad)}"
    return state


def _export(options: argparse.Namespace) -> None:
    given = _given(options)
    store, drop = open_store(options.store), options.not_finite == "drop"
    if options.table:
        if "task_names" in given:
            given["task_names"] = _task_names(options.task_names, store)
        write_table(options.table, variant_table(store, drop=drop, **given))
    elif options.npz:
        tracks.write_arrays(store, options.npz, drop=drop)
    elif options.modisco is None:
        write = tracks.write_bigwig if options.bigwig else tracks.write_bedgraph
        given = {"value" if name == "track" else name: value for name, value in given.items()}
        write(store, options.bigwig or options.bedgraph, drop=drop, **given)
    else:
        sequences, attributions = write_modisco_pair(store, options.modisco, drop=drop, **given)
        start, stop = store.positions
        _say(
            f"next: modisco motifs -s {sequences} -a {attributions} -n 2000 "
            f"-w {modisco_window(stop - start)} -o {options.modisco}.h5"
        )


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of an export that were given; ValueError for one of another kind."""
    tracks_of = {"--bigwig": options.bigwig, "--bedgraph": options.bedgraph}
    files = {**tracks_of, "--modisco": options.modisco, "--table": options.table}
    suits = {
        "task": [*tracks_of, "--modisco"], "track": [*tracks_of], "background": ["--modisco"],
        "effect": ["--table"], "task_names": ["--table"],
    }  # fmt: skip
    given = {name: getattr(options, name) for name in suits if getattr(options, name) is not None}
    for name in given:
        if all(files[kind] is None for kind in suits[name]):
            raise ValueError(f"--{name.replace('_', '-')} is for {' and '.join(suits[name])} only")
    return given


def _task_names(path: Path, store: ScoreStore) -> list[str]:
    from tism.score.readers import decoded, numbered_lines

    names = [decoded(path, number, line) for number, line in numbered_lines(path)]
    try:
        named_tasks(store, names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return names


def parse_tasks(text: str) -> list[int]:
    """Return the tasks of a list as it is typed: "0,3,5-8" is 0, 3, 5, 6, 7, 8."""
    tasks: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else not last)):
            raise argparse.ArgumentTypeError(f"{text!r} does not look like 0,3,5-8")
        if max(len(first), len(last)) > _MOST_DIGITS:
            raise argparse.ArgumentTypeError(f"{part.strip()[:20]!r} is no number of a task")
        chosen = range(int(first), int(last or first) + 1)
        if not chosen:
            raise argparse.ArgumentTypeError(f"{part.strip()!r} ends before it begins")
        tasks += chosen
    if len(set(tasks)) < len(tasks):
        raise argparse.ArgumentTypeError(f"{text!r} names a task twice")
    return tasks


def _positions(text: str) -> int | tuple[int, int]:
    try:
        numbers = tuple(int(part) for part in text.split(":"))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r} does not look like 50 or 100:150")
    return numbers if len(numbers) == 2 else numbers[0]


def _folder(text: str) -> Path:
    if Path(text).name in ("", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} must end in the name of a new folder")
    return Path(text)


def _percent(text: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]*)?", text) or float(text) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage from 0 to 100")
    return float(text)


def _shard(text: str) -> tuple[int, int]:
    try:
        return check_shard(tuple(text.split("/")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} does not look like 1/4 ({error})") from None


def _keywords(text: str) -> dict[str, Any]:
    try:
        keywords = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no JSON ({error})") from None
    if not isinstance(keywords, dict):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} must be a JSON object such as {{}}")
    return keywords


def _say(text: str) -> None:
    with suppress(OSError):  # nobody may be listening any more
        print(f"tism: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
