"""The command `tism`, which scores the peaks or variants of a genome with your own model."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from tism.running import is_out_of_memory
from tism.score.files import replacing
from tism.score.methods import METHODS, score_to_store, variant_table
from tism.score.store import ScoreStore, StoreError, check_shard, open_store

_MOST_DIGITS = 6  # of the number of a task; a longer range would fill the memory
_DESCRIPTION = """\
In silico saturation mutagenesis (ISM) of any PyTorch model of DNA, exact or by first-order Taylor
expansion (TISM).

  tism score    scores peaks or variants and writes the scores into a store
  tism status   shows how much of a store is written
  tism export   writes TF-MoDISco's input, or a table of variants, from a store

`tism COMMAND --help` explains each command with examples."""
_SCORE = """\
Score peaks (--bed) or single-nucleotide variants (--vcf) of a genome (--fasta) with your model.

--model names a Python function that returns a torch.nn.Module, as package.module:function or
path/to/file.py:function. The module maps one-hot sequences (n, 4, length), with rows A C G T, to
predictions (n, tasks). If your model returns something else (a profile, a dict, a tuple), let
--output-fn name a function that turns it into (n, tasks). For example, my_model.py for a model
that returns {"profile": (n, tasks, length)}:

    import torch

    def load():
        return MyNetwork()                    # --weights loads the weights

    def total(output):
        return output["profile"].sum(-1)      # one number for each task

The scores are written into --out, a folder (zarr). After an interruption of any kind, run the same
command again: it goes on where it stopped. On a cluster, all processes can write into one store,
each with its own --shard."""
_SCORE_EXAMPLES = """\
examples:
  peaks of one length, all tasks, TISM:
    tism score --model my_model.py:load --weights my.safetensors --output-fn my_model.py:total \\
        --bed peaks.bed --fasta genome.fa --out peaks.zarr
  exact ISM of tasks 0 and 3, 251 bp around the middle of each peak, the second of four processes:
    tism score --model my_model.py:load --bed peaks.bed --fasta genome.fa --length 251 \\
        --method ism --tasks 0,3 --out ism.zarr --shard 2/4
  variants, each in the middle of a window of 251 bp:
    tism score --model my_model.py:load --vcf variants.vcf.gz --fasta genome.fa --length 251 \\
        --method ism --out variants.zarr

Rows of the BED or VCF file that cannot be scored are counted by reason and listed in
<out>.refused.tsv. A faulty file is refused with the number of the line. Letters may be in either
case. N is encoded as four zeros, and so are IUPAC letters for several bases, which are counted."""
_EXPORT_EXAMPLES = """\
examples:
  motifs of task 3 by TF-MoDISco (modisco-lite); the window must have an even number of bases:
    tism export peaks.zarr --modisco run/task3 --task 3
    modisco motifs -s run/task3.sequences.npz -a run/task3.attributions.npz -n 2000 -w 250 -o run/task3.h5
  effects of variants as a table:
    tism export variants.zarr --table effects.tsv

The attributions are hypothetical contributions, (n, 4, length): the scores minus their mean over
the four bases, weighted by the --background frequencies. Stores of TISM and of the gradient give
the same attributions."""  # noqa: E501


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with 2 for bad input and with 130 after an interruption."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="tism: %(message)s")
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("tism: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)
    except (ValueError, TypeError, OSError, ImportError, StoreError) as error:
        if options.debug:
            raise
        _fail(error)
    except (RuntimeError, MemoryError) as error:
        if options.debug or not is_out_of_memory(error):
            raise
        _fail(error)


def _fail(error: BaseException) -> NoReturn:
    for line in (f"tism: error: {' '.join(str(error).split())}", *getattr(error, "__notes__", [])):
        print(line, file=sys.stderr)
    sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tism", description=_DESCRIPTION, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], None], **texts: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, formatter_class=raw, **texts)
        sub.add_argument("--debug", action="store_true", help="show where an error was raised")
        sub.set_defaults(run=run)
        return sub

    _add_score_options(
        command("score", _score, description=_SCORE, epilog=_SCORE_EXAMPLES, help="write scores")
    )
    about = {"description": "Show how much of a store is written.", "help": "show progress"}
    status = command("status", _status, **about)
    status.add_argument("store", type=Path, help="folder that tism score has written to")
    about = {"epilog": _EXPORT_EXAMPLES, "help": "write files for other programs"}
    _add_export_options(command("export", _export, **about))
    return parser


def _add_export_options(export: argparse.ArgumentParser) -> None:
    export.add_argument("store", type=Path, help="complete store, written by tism score")
    kind = export.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--modisco", metavar="PREFIX", help="write PREFIX.{sequences,attributions}.npz"
    )
    kind.add_argument(
        "--table", type=Path, metavar="FILE", help="write the effects of variants, tab-separated"
    )
    export.add_argument(
        "--task", type=int, help="number of the task in the model, if the store has several tasks"
    )
    export.add_argument(
        "--background", type=float, nargs=4, metavar=("A", "C", "G", "T"), default=[0.25] * 4,
        help="base frequencies that weight the mean (default: 0.25 each)",
    )  # fmt: skip


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    where = {"metavar": "WHERE:FUNCTION"}
    model.add_argument("--model", required=True, **where, help="function that returns the module")
    model.add_argument(
        "--model-args", type=_keywords, default={}, metavar="JSON",
        help="keyword arguments of that function, such as '{\"n_tasks\": 12}'",
    )  # fmt: skip
    help_text = "state dict of the module, safetensors"
    model.add_argument("--weights", type=Path, metavar="FILE", help=help_text)
    help_text = "function from what the module returns to (n, tasks)"
    model.add_argument("--output-fn", **where, help=help_text)


def _add_score_options(parser: argparse.ArgumentParser) -> None:
    _add_model_options(parser)
    data = parser.add_argument_group("sequences")
    rows = data.add_mutually_exclusive_group(required=True)
    rows.add_argument("--bed", type=Path, metavar="FILE", help="peaks, plain or gzipped")
    rows.add_argument("--vcf", type=Path, metavar="FILE", help="variants, plain or gzipped")
    data.add_argument(
        "--fasta", type=Path, required=True, metavar="FILE", help="genome of the peaks or variants"
    )
    data.add_argument("--length", type=int, help="bases in each window; required with --vcf")
    scores = parser.add_argument_group("scores")
    scores.add_argument(
        "--out", type=Path, required=True, metavar="STORE", help="folder to write into"
    )
    scores.add_argument(
        "--method", choices=METHODS, default="tism",
        help="; ".join(f"{name}: {method.about}" for name, method in METHODS.items()),
    )  # fmt: skip
    scores.add_argument(
        "--tasks", type=parse_tasks, help="tasks to score, such as 0,3,5-8 (default: all)"
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--shard",
        type=_shard,
        default=(1, 1),
        metavar="I/K",
        help="write part I of K, from 1 to K (default: 1/1)",
    )
    run.add_argument("--device", help="where to compute, such as cuda (default: cpu)")
    run.add_argument(
        "--batch-size", type=int, help="sequences in a batch (default: by length and device)"
    )
    run.add_argument("--chunk-size", type=int, help="sequences in a chunk (default: up to 64)")
    run.add_argument("--quiet", action="store_true", help="show no progress bar")


def _score(options: argparse.Namespace) -> None:
    from tism.score.genome import Genome, read_variants, read_windows

    if options.vcf and options.length is None:
        raise ValueError("--vcf needs --length, the number of bases that the model takes")
    model, output_fn = load_model(options.model, options.model_args, options.weights), None
    if options.output_fn:
        output_fn = load_function(options.output_fn)
    with Genome(options.fasta) as genome:
        read, rows = (read_variants, options.vcf) if options.vcf else (read_windows, options.bed)
        sequences = read(rows, genome, options.length)
        _report_refused(sequences.refused, options.out)
        store = score_to_store(
            options.out, model, sequences, options.tasks,
            method=options.method, output_fn=output_fn, chunk_size=options.chunk_size,
            shard=options.shard, batch_size=options.batch_size, device=options.device,
            progress=not options.quiet,
        )  # fmt: skip
        if sequences.n_ambiguous:
            _say(f"{sequences.n_ambiguous:,} IUPAC letters for several bases were read as N")
    _say(_state(store))


def _report_refused(refused: Any, out: Path) -> None:
    if not len(refused):
        return
    listing = out.with_name(f"{out.name}.refused.tsv")
    with replacing(listing) as temporary:
        refused.to_csv(temporary, sep="\t", index=False)
    for reason, count in refused["reason"].value_counts().items():
        _say(f"{count:,} rows refused: {reason}")
    _say(f"they are listed in {listing}")


def _status(options: argparse.Namespace) -> None:
    store = open_store(options.store)
    print(_state(store))
    for key in ("kind", "method", "tasks"):
        print(f"{key}: {store.identity.get(key, 'unknown')}")


def _state(store: ScoreStore) -> str:
    missing = len(store.missing())
    done = "complete" if not missing else f"{store.n_chunks - missing} of {store.n_chunks} chunks"
    return f"{store.path}: {len(store):,} sequences, {done}"


def _export(options: argparse.Namespace) -> None:
    from tism.score.modisco import modisco_window, write_modisco_pair

    store = open_store(options.store)
    if options.table:
        with replacing(options.table) as temporary:
            variant_table(store).to_csv(temporary, sep="\t", index=False)
        return
    sequences, attributions = write_modisco_pair(
        store, options.modisco, options.task, background=options.background
    )
    _say(
        f"next: modisco motifs -s {sequences} -a {attributions} -n 2000 "
        f"-w {modisco_window(store.length)} -o {options.modisco}.h5"
    )


def load_model(
    where: str, keywords: dict[str, Any] | None = None, weights: Path | None = None
) -> nn.Module:
    """Return the module that a function returns, with weights from a safetensors file.

    where : "package.module:function" or "path/to/file.py:function"

    Raises ValueError where the function or the weights cannot be found or do not fit, and TypeError
    where the function returns no module.
    """
    function = load_function(where)
    with _naming_errors(where):
        model = function(**(keywords or {}))
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where} must return a torch.nn.Module, got {type(model).__name__}")
    if weights is not None:
        _load_weights(model, weights)
    return model.eval()


def _load_weights(model: nn.Module, weights: Path) -> None:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ImportError("--weights needs safetensors: pip install 'tism[score]'") from None
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise ValueError(
            f"{weights}: no safetensors file ({error}); write one with safetensors.torch.save_file("
            "model.state_dict(), path)"
        ) from None
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights}: does not fit the model: {error}") from None


def load_function(where: str) -> Callable[..., Any]:
    """Return the function at "package.module:function" or "path/to/file.py:function"."""
    place, _, name = where.rpartition(":")
    if not place or not name:
        raise ValueError(f"{where!r} must be package.module:function or path/to/file.py:function")
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise ValueError(f"{place} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if (loaded := _loaded.get(path.resolve())) is not None:
        return loaded
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # for its imports, as `python file.py` does
    try:
        with _naming_errors(path):
            spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return _loaded.setdefault(path.resolve(), module)


_loaded: dict[Path, Any] = {}


@contextmanager
def _naming_errors(where: Any) -> Iterator[None]:
    """Turn an error of the user's code into a ValueError that names the code."""
    try:
        yield
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} raised {problem}; --debug shows where") from error


def _module(name: str) -> Any:
    sys.path.insert(0, "")  # as `python -m` does
    try:
        with _naming_errors(name):
            return importlib.import_module(name)
    except ValueError as raised:
        error = raised.__cause__
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        if not missing or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"no module {name!r}; name a file as path/to/file.py") from None
    finally:
        sys.path.pop(0)


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
    return tasks


def _shard(text: str) -> tuple[int, int]:
    try:
        return check_shard(tuple(text.split("/")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} does not look like 1/4 ({error})") from None


def _keywords(text: str) -> dict[str, Any]:
    try:
        keywords = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from None
    if not isinstance(keywords, dict):
        raise argparse.ArgumentTypeError(f"{text!r} must be a JSON object such as {{}}")
    return keywords


def _say(text: str) -> None:
    print(f"tism: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
