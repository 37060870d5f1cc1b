"""Calls Snakemake and shows in one line what runs, how far it is and about how long it will take.

python workflow/progress.py snakemake --config profile=demo

All that Snakemake prints is in .snakemake/log. If it fails, its messages and the logs of the jobs
that failed are shown.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from shutil import get_terminal_size

# of one job on one core at the profile demo; the first minutes of a run correct their sum
SECONDS = {"train": 60, "score": 10, "chapter": 35, "book": 25}
OTHER = 10  # of a job of any other rule


class Progress:
    """What Snakemake has said so far.

    cores : jobs that run beside each other
    """

    def __init__(self, cores: int) -> None:
        self.cores, self.counts, self.steps, self.done = cores, {}, "", 0.0
        self.running: dict[str, str] = {}
        self.rule = self.job = ""

    def read(self, line: str) -> bool:
        """Take a line of Snakemake's output; True if it changes what `line` returns."""
        if found := re.match(r"(\w+) +(\d+)$", line):  # of the table of jobs
            if found[1] not in {"all", "total"}:
                self.counts[found[1]] = int(found[2])
        elif found := re.match(r"(?:local)?rule (\w+):", line):
            self.rule = found[1]
        elif found := re.match(r" +jobid: (\d+)", line):
            self.job = found[1]
            self.running[self.job] = self.rule
        elif found := re.match(r" +wildcards: \w+=(\S+)", line):
            self.running[self.job] = f"{self.rule} {found[1]}"
        elif line.startswith("    resources:"):  # the last line of a job that starts
            return True
        elif found := re.match(r"Finished jobid: (\d+) \(Rule: (\w+)\)", line):
            self.running.pop(found[1], None)
            self.done += SECONDS.get(found[2], OTHER)
        elif found := re.match(r"(\d+ of \d+ steps) ", line):
            self.steps = f"{found[1]} done"
            return True
        return False

    def line(self, elapsed: float) -> str:
        """One line of progress, `elapsed` seconds after the start."""
        total = sum(n * SECONDS.get(rule, OTHER) for rule, n in self.counts.items())
        pace = elapsed / self.done if self.done > SECONDS["train"] else 1 / self.cores
        minutes = max(1, round((total - self.done) * pace / 60))
        now = ", ".join(name for name in self.running.values() if name != "all") or "the next step"
        return f"{self.steps or 'started'}, about {minutes} min left, now: {now}"


def show(line: str, *, keep: bool = False) -> None:
    """Print a line; on a terminal in place of the one before, cut to its width unless kept."""
    if not sys.stdout.isatty():
        print(line, flush=True)
    elif keep:
        print(f"\r\x1b[K{line}", flush=True)
    else:
        print(f"\r\x1b[K{line[: get_terminal_size().columns]}", end="", flush=True)


def main(command: list[str]) -> int:
    """Run a command of Snakemake and return its exit status."""
    start, progress = time.monotonic(), Progress(os.cpu_count() or 1)
    printed, last = [], ""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([*command, "--quiet", "host"], **streams) as process:
        try:
            for line in process.stdout:
                printed.append(line)
                if line.startswith("open "):
                    show(line.rstrip("\n"), keep=True)
                elif progress.read(line.rstrip("\n")):
                    now = progress.line(time.monotonic() - start)
                    if now != last:
                        show(now)
                    last = now
        except KeyboardInterrupt:
            process.wait()  # Snakemake stops by itself
    if process.returncode:
        failed = (i for i, line in enumerate(printed) if re.match(r"Error in|\w*Error", line))
        print("\n" + "".join(printed[next(failed, -40) :]), end="", file=sys.stderr)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
