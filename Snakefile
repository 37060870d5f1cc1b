"""Trains, scores and compares every network of a profile, runs the chapters, builds the book.

snakemake --cores all --config profile=demo

A network is trained by a papermill run of chapter 03. What is done is not done again unless its
configuration or its inputs change; half-written files do not occur, and a killed training goes on
where it stopped. The same rules run on a cluster: book/on_a_cluster.md.
"""

import os
import sys
from pathlib import Path

from tism.study import ch05_runs, explorer, records
from tism.study.networks import list_runs
from tism.study.profiles import default_device, load_profile, results_folder

if unknown := set(config) - {"profile"}:
    raise ValueError(f"--config has no parameter {', '.join(sorted(unknown))}; it has profile")
profile = load_profile(str(config.get("profile", "demo")))
ch05_runs.check_tables(profile)

runs = {run.name: run for run in list_runs(profile)}
keys = {name: run.key for name, run in runs.items()}
chapters = records.chapters()
results = os.path.relpath(results_folder(profile.name))
tables = [f"{results}/{name}" for name in ch05_runs.table_names(profile)]
explored = [f"{results}/{name}" for name in explorer.TABLES]
last = "10_scorecard"  # reads what the other chapters wrote
tism = f"{sys.executable} -m tism.study.compendium"
on_gpu = default_device() != "cpu"
sources = ["_config.yml", "_toc.yml", "CITATION.cff", *map(str, Path("tism").rglob("*.py"))]
sources += [str(path) for path in Path("book").rglob("*.*") if "__pycache__" not in path.parts]
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def cores(wildcards):
    """One; all for what times itself, and where there is a GPU, which only one job may use."""
    alone = on_gpu or getattr(wildcards, "chapter", None) in records.UNTRAINED
    return workflow.cores if alone and workflow.cores else 1


def trained(names):
    return [f"{results}/models/{name}/training.ipynb" for name in names]


def before(wildcards):
    """What a chapter needs: the baselines, so that no two chapters train one; tables; chapters."""
    if wildcards.chapter < records.TRAINING_CHAPTER:
        return []
    needed = trained(f"{dataset}_baseline_0" for dataset in profile.datasets)
    if wildcards.chapter in records.READS:
        needed += tables
    if wildcards.chapter == last:
        needed += [f"{results}/notebooks/{name}.ipynb" for name in chapters if name != last]
    return needed


wildcard_constraints:
    run="|".join(runs),
    chapter="|".join(chapters),


rule all:
    input:
        tables,
        f"{results}/book/_build/html/index.html",


rule train:
    priority: 1  # a chapter that asks for a network in training holds a core while it waits
    output:
        f"{results}/models/{{run}}/training.ipynb",
    log:
        f"{results}/logs/train_{{run}}.log",
    params:
        key=lambda wildcards: keys[wildcards.run],
    threads: cores
    resources:
        mem_mb=4000,
        runtime=240,
    shell:
        "{tism} train {profile.name} {wildcards.run} > {log} 2>&1"


rule score:
    input:
        f"{results}/models/{{run}}/training.ipynb",
    output:
        f"{results}/models/{{run}}/rows.csv",
    log:
        f"{results}/logs/score_{{run}}.log",
    params:
        key=lambda wildcards: keys[wildcards.run],
    threads: cores
    resources:
        mem_mb=4000,
        runtime=240,
    shell:
        "{tism} model {profile.name} {wildcards.run} > {log} 2>&1"


rule summarise:
    input:
        expand(rules.score.output, run=runs),
    output:
        f"{results}/{records.MODELS}",
    log:
        f"{results}/logs/summarise.log",
    resources:
        mem_mb=2000,
        runtime=10,
    shell:
        "{tism} summarise {profile.name} > {log} 2>&1"


rule initialisations:
    input:
        trained(name for name, run in runs.items() if "initialisation" in run.experiments),
    output:
        f"{results}/{records.INITIALISATIONS}",
    log:
        f"{results}/logs/initialisations.log",
    threads: cores
    resources:
        mem_mb=4000,
        runtime=240,
    shell:
        "{tism} initialisations {profile.name} > {log} 2>&1"


rule chapter:
    input:
        before,
        notebook="notebooks/{chapter}.ipynb",
    output:
        f"{results}/notebooks/{{chapter}}.ipynb",
    log:
        f"{results}/logs/{{chapter}}.log",
    params:
        key=lambda wildcards: records.chapter_key(wildcards.chapter, profile, tables=None),
    threads: cores
    resources:
        mem_mb=8000,
        runtime=240,
    shell:
        "{tism} run {profile.name} {wildcards.chapter} > {log} 2>&1"


rule explorer:
    input:
        trained(f"{dataset}_baseline_0" for dataset in profile.datasets),
        f"{results}/notebooks/{records.SCORING_CHAPTER}.ipynb",
    output:
        explored,
    log:
        f"{results}/logs/explorer.log",
    params:
        key=explorer.explorer_key(profile),
    threads: cores
    resources:
        mem_mb=8000,
        runtime=240,
    shell:
        "{tism} explorer {profile.name} > {log} 2>&1"


rule book:
    input:
        expand(rules.chapter.output, chapter=chapters),
        tables,
        explored,
        sources,
    output:
        f"{results}/book/_build/html/index.html",
    log:
        f"{results}/logs/book.log",
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "{tism} book {profile.name} > {log} 2>&1"


onsuccess:
    print(f"open {results}/book/_build/html/index.html")
