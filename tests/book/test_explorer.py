"""The explorer: its tables say what the functions say, and its page what the tables say."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest
import torch
from browser import Browser

from tism import build_model, ism, one_hot_encode, tism
from tism.correlations import pearson, substitution_correlation
from tism.exact import predict
from tism.score.readers import InputFileError
from tism.study.cache import write_csv
from tism.study.ch08_attribution import EFFECT_PREDICTORS, MeanTask
from tism.study.ch08_elements import MEASURED, UNMEASURED, in_thousandths
from tism.study.ch08_networks import TITLES, ExternalModel
from tism.study.data.dataset import evenly
from tism.study.data.simulation import simulate
from tism.study.explorer import (
    COMPUTED,
    ELEMENT_MAPS,
    ELEMENTS,
    MAPS,
    REGIONS,
    SHOWN,
    TABLES,
    TRUTH,
    PlantedTruth,
    chosen,
    element_data,
    explorer_tables,
    page_data,
)
from tism.study.scores import Scores

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "data" / "results" / "yeast"
EXTERNAL = RECORD.with_name("external")
STATIC = ROOT / "book" / "_static"
N_REGIONS, N_SCORED = 3, 6


def restored(largest: float, effects: str, sequence: str) -> torch.Tensor:
    """(4, length) map of a row of explorer.csv."""
    scores = torch.zeros(4, len(sequence), dtype=torch.float64)
    whole = [float("nan") if k == UNMEASURED else int(k) for k in effects.split()]
    whole = torch.tensor(whole, dtype=torch.float64)
    scores[one_hot_encode(sequence)[0] == 0] = largest * whole / 1000
    return scores


def stored_maps(folder: Path) -> pd.DataFrame:
    """explorer.csv with the restored map of each row, and r with ISM of what is stored."""
    regions = pd.read_csv(folder / REGIONS)[["dataset", "region", "sequence"]]
    maps = pd.read_csv(folder / MAPS).merge(regions, on=["dataset", "region"])
    stored = zip(maps.largest, maps.effects, maps.sequence, strict=True)
    maps["map"] = [restored(*row) for row in stored]
    exact = maps[maps.method == "ISM"].set_index(["dataset", "region", "task"])["map"]
    maps["r"] = [
        shown_r(row.map, exact[row.dataset, row.region, row.task], row.sequence)
        for row in maps.itertuples()
    ]
    return maps


@pytest.fixture(scope="module")
def elements() -> pd.DataFrame:
    """mpra_maps.csv with the restored map of each row, by element, model and method."""
    sequences = pd.read_csv(EXTERNAL / ELEMENTS)[["element", "sequence"]]
    maps = pd.read_csv(EXTERNAL / ELEMENT_MAPS, keep_default_na=False).merge(sequences)
    maps["map"] = [
        restored(*row) for row in zip(maps.largest, maps.effects, maps.sequence, strict=True)
    ]
    return maps.set_index(["element", "model", "method"])


def shown_r(first: torch.Tensor, second: torch.Tensor, sequence: str) -> float:
    known = (one_hot_encode(sequence)[0] == 0) & ~(first + second).isnan()
    return float(pearson(first[known], second[known]))


@pytest.fixture(scope="module")
def data():
    return simulate(200, 6, length=120, seed=0)


@pytest.fixture(scope="module")
def model():
    return build_model("baseline", length=120, n_tasks=6, width=4, seed=0).eval()


@pytest.fixture(scope="module")
def tables(data, model, tmp_path_factory):
    """A folder with both tables of an untrained network."""
    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TISM_DATA_DIR", str(folder / "cache"))
        made = explorer_tables(model, data, N_SCORED, N_REGIONS)
    for name, table in zip(TABLES, made, strict=True):
        write_csv(folder / name, table)
    return folder


def test_ranks_are_even_and_hold_both_ends():
    assert evenly(np.arange(9), 3).tolist() == [0, 4, 8]
    assert evenly(np.arange(2), 5).tolist() == [0, 1]


def test_what_is_stored_is_near_what_was_there():
    sequence = "ACGTN" * 40
    effects = torch.randn(640, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    largest, whole = in_thousandths(effects)
    assert largest == effects.abs().max()
    stored = restored(largest, whole, sequence)
    substituted = one_hot_encode(sequence)[0] == 0
    assert (stored[~substituted] == 0).all()
    assert (stored[substituted] - effects).abs().max() <= 0.0005001 * largest
    assert in_thousandths(torch.zeros(3)) == (0, "0 0 0")
    assert in_thousandths(torch.tensor([0.5, torch.nan, -2])) == (2, "250 . -1000")
    for wrong in ([0.0, torch.inf], [torch.nan]):
        with pytest.raises(ValueError, match="effects must be finite"):
            in_thousandths(torch.tensor(wrong))


def test_the_planted_truth_is_the_simulations_own_response(data):
    row = int(data.indices("test")[0])
    one_hot = data.one_hot(np.array([row]))
    effects = ism(PlantedTruth(data), one_hot, [4], engine="full")[0, 0]

    sequence = one_hot[0].argmax(0).numpy().astype(np.uint8)
    site = data.truth.sites.query("region == @row").iloc[0]
    mutant = sequence.copy()
    mutant[site.start] = (sequence[site.start] + 1) % 4
    before, after = data.truth.response(np.stack([sequence, mutant]))[:, 4]
    found = effects[mutant[site.start], site.start]
    assert float(found) == pytest.approx((after - before) / data.scale[4], rel=1e-4, abs=1e-6)
    assert effects.abs().max() > 0


def test_worst_and_best_regions_and_tasks_are_kept():
    one_hot = one_hot_encode(["ACGTACGT"] * 5)
    exact = torch.randn(5, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(5, 3, 4, 8, generator=torch.Generator().manual_seed(1))
    noise *= torch.tensor([3.0, 0, 9, 1, 2])[:, None, None, None]
    scores = Scores(np.arange(5), one_hot, exact, exact + noise, torch.zeros(5, 3))
    regions, tasks, mean_r = chosen(scores, 2, 3)
    assert regions.tolist() == [2, 1]
    assert sorted(tasks.tolist()) == [0, 1, 2]
    r = substitution_correlation(exact, scores.tism, one_hot)
    torch.testing.assert_close(mean_r, r.mean(1))


def test_tables_hold_the_scores_of_the_functions(tables, data, model):
    regions, maps = pd.read_csv(tables / REGIONS), stored_maps(tables)
    assert len(regions) == N_REGIONS
    assert regions["mean_r"].is_monotonic_increasing
    assert regions["rank"].tolist() == [1, 3, N_SCORED]
    assert set(maps["method"]) == set(SHOWN)
    np.testing.assert_allclose(maps["r"], maps["r_ism"], atol=5e-4)

    row = regions.iloc[1]
    one_hot = one_hot_encode(row["sequence"])
    own = maps[maps.region == row["region"]]
    name = own["task"].iloc[-1]
    task = data.tasks.index(name)
    own = own[own.task == name].set_index("method")
    number = int((data.regions["name"] == row["region"]).argmax())
    predicted = float(predict(model, one_hot)[0, task])
    assert own["predicted"].iloc[0] == pytest.approx(predicted, rel=1e-3)
    assert own["label"].iloc[0] == pytest.approx(data.standardised[number, task], rel=1e-3)
    alone = MeanTask(ExternalModel("", model, 120, tuple(data.tasks)), [task], 120)
    expected = {
        "ISM": ism(model, one_hot, task),
        "TISM": tism(model, one_hot, task),
        "layer-wise TISM": EFFECT_PREDICTORS["layer-wise TISM"](alone, one_hot),
        TRUTH: ism(PlantedTruth(data), one_hot, task, engine="full"),
    }
    for method, scores in expected.items():
        limit = 0.001 * float(scores.abs().max())
        torch.testing.assert_close(own["map"][method], scores[0, 0].double(), rtol=0, atol=limit)


def test_page_data_is_nested_in_the_order_of_the_tables(tables):
    data = page_data(tables)
    (own,) = data["datasets"]
    assert data["methods"] == list(SHOWN)
    assert own["name"] == "simulated"
    names = pd.read_csv(tables / REGIONS)["region"].tolist()
    assert [region["name"] for region in own["regions"]] == names
    row = pd.read_csv(tables / MAPS).iloc[0]
    largest, effects = own["regions"][0]["tasks"][row["task"]]["maps"][row["method"]]
    assert (largest, " ".join(map(str, effects))) == (row["largest"], row["effects"])


@pytest.mark.parametrize(
    ("name", "pattern", "new", "message"),
    [
        (MAPS, "largest", "size", r"explorer\.csv, line 2: no 'largest'; make it anew"),
        (MAPS, r"(,ISM,.*) -?\d+\n", r"\1\n", "line 2: 359 effects of 360 substitutions"),
        (MAPS, "simulated,", "mouse,", r"line 2: no \('mouse', 'sim_\d+'\)"),
        (REGIONS, ",chr19,", ",chr19,x", r"explorer_regions\.csv, line 2: .*'x\d+'"),
    ],
)
def test_a_damaged_table_is_refused_by_file_and_line(tables, tmp_path, name, pattern, new, message):
    with pytest.raises(InputFileError, match=r"explorer_regions\.csv: no such file; make it anew"):
        page_data(tmp_path)
    with pytest.raises(InputFileError, match=r"mpra_loci\.csv: no such file.* record yeast 08"):
        element_data(tmp_path)
    for table in TABLES:
        shutil.copyfile(tables / table, tmp_path / table)
    text = (tables / name).read_text()
    (tmp_path / name).write_text(re.sub(pattern, new, text, count=1))
    with pytest.raises(InputFileError, match=message):
        page_data(tmp_path)


def test_the_record_is_small_and_rounding_does_not_show():
    maps = stored_maps(RECORD)
    assert sum((RECORD / name).stat().st_size for name in TABLES) < 1_400_000
    assert maps.groupby("dataset")["region"].nunique().to_dict() == {"simulated": 6, "yeast": 12}
    np.testing.assert_allclose(maps["r"], maps["r_ism"], atol=1e-3)
    assert set(COMPUTED) < set(maps["method"])


def test_the_record_agrees_with_the_chapter_that_scored_the_regions():
    regions = pd.read_csv(RECORD / REGIONS).query("dataset == 'yeast'").set_index("region")
    chapter = pd.read_csv(RECORD / "regions.csv").set_index("name")["r TISM, substitutions"]
    np.testing.assert_allclose(regions["mean_r"], chapter[regions.index], atol=1e-5)
    assert (regions["n_ranked"] == len(chapter)).all()
    order = chapter.sort_values(ignore_index=True)
    np.testing.assert_allclose(regions["mean_r"], order[regions["rank"] - 1], atol=1e-5)


def test_the_elements_agree_with_the_chapter_that_compared_them(elements):
    known = pd.read_csv(EXTERNAL / "mpra.csv").set_index(["element", "model", "method"])["pearson"]
    measured = elements.xs(MEASURED, level="method").droplevel("model")
    predicted = elements.drop(MEASURED, level="method")
    r = [
        shown_r(row.map, measured["map"][row.Index[0]], row.sequence)
        for row in predicted.itertuples()
    ]
    assert len(r) == 21 * 3 * 2
    np.testing.assert_allclose(r, known[predicted.index], atol=0.002)
    n_measured = [
        int((~row.map.isnan()).sum()) - len(row.sequence.replace("N", ""))
        for row in measured.itertuples()
    ]
    assert n_measured == pd.read_csv(EXTERNAL / ELEMENTS)["n_variants"].tolist()


# ---- the page ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The explorer's part of book/explorer.md alone, with its script, style and recorded maps."""
    folder = tmp_path_factory.mktemp("page")
    path = ROOT / "book" / "_ext" / "explorer_data.py"
    specification = importlib.util.spec_from_file_location("explorer_data", path)
    extension = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(extension)
    extension.write_scripts(RECORD, folder)
    for name in ("explorer.js", "explorer.css"):
        shutil.copyfile(STATIC / name, folder / name)
    markup = (ROOT / "book" / "explorer.md").read_text()
    block = re.search(r"```{raw} html\n(.*?)```", markup, re.DOTALL)[1]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += '<link rel="icon" href="data:,">'
    head += '<link rel="stylesheet" href="explorer.css">'
    scripts = f'<script src="{extension.DATA}"></script><script src="explorer.js"></script>'
    (folder / "index.html").write_text(
        f'<!doctype html>{head}<body><section id="explorer">{block}</section>{scripts}'
    )
    return folder / "index.html"


@pytest.fixture
def opened(browser, page):
    """Opens the page at an anchor; in the end nothing may have gone wrong in it."""

    def opened(anchor: str = "") -> Browser:
        browser.open(page.with_name("blank.html"))
        browser.open(page, anchor)
        return browser

    page.with_name("blank.html").write_text('<link rel="icon" href="data:,">')
    browser.show("desktop", "light")
    browser.log()
    yield opened
    log = browser.log()
    assert log.messages == []
    assert log.outside() == []


@pytest.fixture(scope="module")
def recorded():
    return stored_maps(RECORD).set_index(["dataset", "region", "task", "method"])


def picked(browser: Browser) -> dict[str, str]:
    names = ("region", "task", "first", "second")
    return {n: browser.run(f"return document.getElementById('ex-{n}').value") for n in names}


def wait_until_picked(browser: Browser, expected: dict[str, str]) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser.driver, 20).until(lambda _: expected.items() <= picked(browser).items())


def wait_for_region(browser: Browser, name: str) -> None:
    """The maps of a region are loaded when it is first picked."""
    from selenium.webdriver.support.wait import WebDriverWait

    label = "return document.querySelector('#ex-figure svg').getAttribute('aria-label')"
    WebDriverWait(browser.driver, 10).until(lambda _: f" of {name}, " in browser.run(label))


def r_in_page(browser: Browser) -> float:
    return float(browser.run("return document.getElementById('ex-r').dataset.r"))


def r_of(recorded: pd.DataFrame, choice: dict[str, str]) -> float:
    place = (*choice["region"].split(" ", 1), choice["task"])
    first, second = (recorded.loc[(*place, choice[name])] for name in ("first", "second"))
    return shown_r(first["map"], second["map"], first["sequence"])


def window(browser: Browser) -> tuple[int, int]:
    values = browser.run(
        "return ['from', 'bases'].map((n) => document.getElementById('ex-' + n).value)"
    )
    return tuple(int(value) for value in values)


def test_it_opens_at_once_on_a_typical_region(opened, recorded):
    before = opened().processor_time()
    browser = opened()
    assert browser.processor_time(before) < 1
    choice = picked(browser)
    assert (choice["first"], choice["second"]) == ("ISM", "TISM")
    assert r_in_page(browser) == pytest.approx(r_of(recorded, choice), abs=1e-9)
    assert browser.run("return document.querySelectorAll('#ex-figure path').length") > 100
    label = "return document.querySelector('#ex-figure svg').getAttribute('aria-label')"
    assert "ISM and TISM of chr" in browser.run(label)


def test_keys_alone_pick_region_task_and_methods(opened, recorded):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser = opened()
    before = picked(browser)

    def press(name: str, *keys: str) -> None:
        browser.driver.find_element(By.ID, f"ex-{name}").send_keys(*keys)

    for name in ("task", "first", "second"):
        press(name, Keys.HOME)
        press(name, Keys.ARROW_DOWN)
    press("second", Keys.ARROW_DOWN)
    last, before_last = recorded.loc["simulated"].index.get_level_values(0).unique()[[-1, -2]]
    press("region", last)  # a list goes to what is typed
    wait_for_region(browser, last)
    after = picked(browser)
    assert after["region"] == f"simulated {last}"
    assert (after["first"], after["second"]) == ("TISM", "layer-wise TISM")
    assert after["task"] != before["task"]
    assert r_in_page(browser) == pytest.approx(r_of(recorded, after), abs=1e-9)
    press("second", Keys.END)
    assert picked(browser)["second"] == TRUTH

    press("figure", Keys.ARROW_UP)
    wait_for_region(browser, before_last)
    press("figure", Keys.HOME)
    assert window(browser)[0] == 0
    bases = window(browser)[1]
    press("figure", Keys.ARROW_RIGHT)
    assert window(browser)[0] == round(bases / 4)
    press("figure", "+")
    assert window(browser)[1] == round(bases / 1.5)
    press("figure", Keys.END)
    assert sum(window(browser)) == 251
    press("region", Keys.END)
    wait_for_region(browser, "ZRS")
    assert picked(browser)["task"] == "MPRA-DragoNN"
    assert browser.run("return document.querySelector('[for=ex-task]').innerText") == "Network"


def first_row(browser: Browser, number: int) -> list[str]:
    """Cells of the first row of a table that has ten."""
    cells = browser.run(
        "return [...document.querySelectorAll('#ex-tables table')[arguments[0]]"
        ".querySelectorAll('tbody tr')].map((r) => [...r.children].map((c) => c.textContent))",
        number,
    )
    assert len(cells) == 10
    return cells[0]


def test_the_table_lists_the_largest_effects(opened, recorded):
    browser = opened()
    choice = picked(browser)
    place = (*choice["region"].split(" ", 1), choice["task"])
    for number, method in enumerate(("ISM", "TISM")):
        row = recorded.loc[(*place, method)]
        best = int(row["map"].abs().argmax())
        base, position = divmod(best, row["map"].shape[1])
        cells = first_row(browser, number)
        assert cells[1] == f"{position} {row['sequence'][position]}→{'ACGT'[base]}"
        shown = float(cells[2].replace("−", "-"))
        assert shown == pytest.approx(float(row["map"].flatten()[best]), rel=0.05)


def one_that_rounds_to_minus_zero(recorded: pd.DataFrame) -> dict[str, str]:
    """A choice in which TISM is just below 0 at one of the ten largest effects by ISM."""
    for place, rows in recorded.groupby(level=["dataset", "region", "task"]):
        exact, taylor = (rows.loc[(*place, name), "map"].flatten() for name in ("ISM", "TISM"))
        unit = 10.0 ** (np.floor(np.log10(float(max(exact.abs().max(), taylor.abs().max())))) - 1)
        at_largest = taylor[exact.abs().argsort(descending=True)[:10]]
        if ((at_largest < 0) & (at_largest > -unit / 2)).any():
            dataset, region, task = place
            return {"region": f"{dataset} {region}", "task": task, "first": "ISM", "second": "TISM"}
    raise LookupError("the record has none")


def test_a_zero_has_no_sign(opened, recorded):
    choice = one_that_rounds_to_minus_zero(recorded)
    browser = opened("#" + urlencode(choice))
    wait_until_picked(browser, choice)
    cells = browser.run(
        "return [...document.querySelectorAll('#ex-tables td')].map((cell) => cell.textContent)"
    )
    zeros = {cell for cell in cells if re.fullmatch(r"\W?0\.?0*", cell)}
    assert zeros
    assert not any(cell.startswith("−") for cell in zeros)


HEATS = """
const rects = [...document.querySelectorAll("#ex-figure :is(.ex-more, .ex-less, .ex-none)")];
return rects.map((r) => ["x", "y", "width", "fill-opacity", "class"].map((n) => r.getAttribute(n)));
"""


def heat_maps(browser: Browser) -> np.ndarray:
    """(maps, 4, bases) signed opacities of the heat maps in view, NaN where grey."""
    sign = {"ex-more": 1, "ex-less": -1, "ex-none": np.nan}
    drawn = [
        (float(x), float(y), float(w), float(o or 1) * sign[c])
        for x, y, w, o, c in browser.run(HEATS)
    ]
    rows = sorted({y for _, y, _, _ in drawn})
    found = np.zeros((len(rows), window(browser)[1]))
    for x, y, width, value in drawn:
        found[rows.index(y), round((x - 46) / width)] = value
    return found.reshape(-1, 4, found.shape[1])


@pytest.mark.parametrize("model", ["mpra_dragonn", "deepstarr"])
def test_an_element_shows_what_was_measured_beside_ism_and_tism(opened, elements, model):
    name = "PKLR"  # on the reverse strand, with substitutions that were not measured
    own = elements.loc[name]
    maps = [own["map"][key].numpy() for key in [("", MEASURED), (model, "ISM"), (model, "TISM")]]
    unknown = int(np.isnan(maps[0]).any(0).argmax())
    start = min(max(0, unknown - 5), maps[0].shape[1] - 40)
    choice = {"region": f"elements {name}", "task": TITLES[model], "from": start, "bases": 40}
    browser = opened("#" + urlencode(choice))
    wait_for_region(browser, name)

    scales = [np.nanmax(abs(maps[0]))] + 2 * [np.abs(maps[1:]).max()]
    expected = [np.sign(m) * np.sqrt(abs(m) / s) for m, s in zip(maps, scales, strict=True)]
    seen = np.stack(expected)[:, :, start : start + 40]
    assert np.isnan(seen).any()
    np.testing.assert_allclose(heat_maps(browser), seen, atol=6e-4)

    known = pd.read_csv(EXTERNAL / "mpra.csv").set_index(["element", "model", "method"])["pearson"]
    r = browser.run(
        "return [...document.querySelectorAll('[data-measured]')].map((e) => e.dataset.measured)"
    )
    wanted = [known[name, model, method] for method in ("ISM", "TISM")]
    assert [float(x) for x in r] == pytest.approx(wanted, abs=0.002)
    label = browser.run(
        "return document.querySelector('#ex-figure svg').getAttribute('aria-label')"
    )
    assert label.startswith(
        f"measured effects, ISM and TISM of {name}, {TITLES[model]}: positions {start} to "
    )

    text = "return document.querySelector('#ex-figure svg').textContent"
    assert browser.run(text).endswith("0 is chr1:155,301,864")

    sequence = own["sequence"].iloc[0]
    for number, largest in enumerate(maps):
        best = int(np.nan_to_num(abs(largest)).argmax())
        base, position = divmod(best, len(sequence))
        _, named, *shown = first_row(browser, number)
        assert named == f"{position} {sequence[position]}→{'ACGT'[base]}"
        order = [maps[number], *(m for m in (*maps[1:], maps[0]) if m is not maps[number])]
        values = [float(cell.replace("−", "-")) for cell in shown]
        assert values == pytest.approx([m[base, position] for m in order], rel=0.05, abs=0.06)


def test_an_address_brings_back_what_was_picked(opened, recorded):
    region = "simulated " + recorded.loc["simulated"].index[0][0]
    browser = opened()
    browser.run("document.querySelector('[data-do=whole]').click()")
    options = browser.run(
        "location.hash = new URLSearchParams({region: arguments[0], first: 'TISM',"
        "second: 'planted truth', from: 30, bases: 40}); "
        "return new Promise((done) => setTimeout(() => done(location.href), 500))",
        region,
    )
    expected = {"region": region, "first": "TISM", "second": TRUTH}
    wait_until_picked(browser, expected)
    browser = opened("#" + options.split("#")[1])
    wait_until_picked(browser, expected)
    assert window(browser) == (30, 40)


@pytest.mark.parametrize(
    "anchor",
    ["#region=mouse+chr1&task=none&first=x&second=%3Cb%3E&from=-4&bases=1e9", "#%", "#from=9999"],
)
def test_a_wrong_address_falls_back_to_what_exists(opened, recorded, anchor):
    usual = picked(opened())
    browser = opened(anchor)
    assert picked(browser) == usual
    start, bases = window(browser)
    assert 0 <= start <= 251 - bases


def test_a_phone_shows_it_without_scrolling_sideways(opened):
    browser = opened()
    browser.show("phone", "light")
    browser.open(Path(browser.run("return decodeURI(location.pathname)")))
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
    assert window(browser)[1] < 40
