"""Every chapter runs at the smoke profile and refuses misspelt parameters; its record is fresh."""

import json
import re
from types import SimpleNamespace

import papermill
import pytest
from insert import filled_notebook
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from recorded import Record, numbers

from tism.study.ch05_runs import read_table
from tism.study.compendium import run_chapter, stale_records
from tism.study.data import download
from tism.study.data.download import data_root
from tism.study.networks import Experiment
from tism.study.profiles import load_profile, repository
from tism.study.records import RECORDED_PROFILE, chapters, open_chapter, without_imports


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TISM_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        patch.setenv("TISM_RESULTS_DIR", str(tmp_path_factory.mktemp("results")))
        patch.setenv("TISM_DEVICE", "cpu")
        yield


@pytest.fixture(scope="module")
def one_kernel(sandbox):
    """One kernel for all chapters, emptied before each, because imports take most of the time.

    The garbage collector, which chapter 06 calls before every measurement, need not look at them.
    """
    manager, clients = AsyncKernelManager(kernel_name="python3"), []
    quiet = ["--IPKernelApp.log_level=ERROR"]  # as in `_execute`
    run_sync(manager.start_kernel)(cwd=repository(), extra_arguments=quiet)
    client, execute = manager.client, papermill.execute_notebook

    def kept_client(**options):
        clients.append(client(**options))
        return clients[-1]

    def emptied(*arguments, **options):
        blocking = manager.blocking_client()
        blocking.start_channels()
        blocking.wait_for_ready(timeout=300)
        blocking.execute("%reset -f\nimport gc; gc.freeze()", reply=True, timeout=300)
        blocking.stop_channels()
        return execute(*arguments, km=manager, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manager, "client", kept_client)
        patch.setattr(papermill, "execute_notebook", emptied)
        yield
    for used in clients:
        used.stop_channels()
    run_sync(manager.shutdown_kernel)(now=True)


def source(name):
    path = repository() / "notebooks" / f"{name}.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("default")  # of papermill and the kernel
@pytest.mark.parametrize("name", chapters())
def test_chapter_runs_at_smoke(name, one_kernel):
    text = run_chapter(name, "smoke").read_text(encoding="utf-8")
    executed = json.loads(filled_notebook(text, numbers(Record(repository() / "data"))))
    code = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code if "".join(cell["source"]).strip())
    assert not [o for cell in code for o in cell["outputs"] if o["output_type"] == "error"]


def test_misspelt_parameter_is_refused(monkeypatch):
    path = repository() / "notebooks" / "01_taylor_to_ism.ipynb"
    notebook = parameterize_notebook(load_notebook_node(str(path)), {"profle": "smoke"})
    code = ["", *(cell.source for cell in notebook.cells if cell.cell_type == "code")]
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(user_ns={"In": code}))
    with pytest.raises(ValueError, match="01_taylor_to_ism has no parameter profle"):
        open_chapter("01_taylor_to_ism", profile="smoke")


def test_no_record_is_stale():
    assert stale_records() == []


@pytest.mark.parametrize("name", chapters())
def test_committed_chapter(name):
    notebook = source(name)
    text = json.dumps(notebook)
    assert notebook["metadata"]["tism"]["profile"] == RECORDED_PROFILE
    here = [f"{folder}/" for folder in repository().parents if folder.name]
    assert not re.search("/(root|home|tmp|Users|private|var/folders)/|/dev/shm", text)
    assert not re.search(r"(?i:password|api[_-]?key|secret)\s*=", text)
    assert not [folder for folder in here if folder in text]
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert any(cell["outputs"] for cell in code)
    assert not [o for cell in code for o in cell["outputs"] if o["output_type"] == "error"]
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert not [cell for cell in code if re.search(r"^def |^class ", "".join(cell["source"]), re.M)]


def test_committed_networks_belong_to_the_recorded_profile(monkeypatch):
    monkeypatch.setattr(download, "_download", lambda source: pytest.skip(f"no {source.path} here"))
    profile = load_profile(RECORDED_PROFILE)
    records = sorted((data_root() / "models").glob("*.json"))
    assert {f"{d}_baseline_0" for d in profile.datasets} <= {r.stem for r in records}
    for record in records:
        identity = json.loads(record.read_text())["identity"]
        dataset, seed = identity["dataset"], identity["training"]["seed"]
        assert identity == Experiment(profile, dataset, identity["variant"], seed).identity()
        assert record.with_suffix(".safetensors").stat().st_size <= 3_000_000


def test_committed_networks_are_those_of_the_table():
    table = read_table("evidence").query("reading == 'best'").set_index("run")
    for record in sorted((data_root() / "models" / "evidence").glob("*.json")):
        trained, row = json.loads(record.read_text()), table.loc[record.stem]
        assert trained["best_epoch"] == row["epoch"], record.stem
        assert trained["best_r"] == pytest.approx(row["validation_region_r"], abs=1e-5), record.stem


@pytest.mark.parametrize("name", chapters())
def test_cells_are_short_and_fit_a_laptop(name):
    code = [cell for cell in source(name)["cells"] if cell["cell_type"] == "code"]
    texts = ["".join(cell["source"]) for cell in code]
    assert [line for text in texts for line in text.splitlines() if len(line) > 88] == []
    assert [text for text in texts if len(without_imports(text).splitlines()) > 10] == []
    own = r"^(from tism.*|    \w+) as \w+,?$"
    assert [text for text in texts if re.search(own, text, re.M)] == []
