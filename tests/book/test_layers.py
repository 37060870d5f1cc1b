"""Imports run one way through the layers of the package; 200 wrong imports show that it is tested.

The core imports PyTorch, NumPy and itself; `score` imports the core; the study imports both. Within
the study the base comes first, then the chapters in order, `gpu` and `explorer`, last `compendium`.
"""

from __future__ import annotations

import ast
import random
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import resolve_name
from itertools import product
from pathlib import Path

import tism

PACKAGE = Path(__file__).parents[2] / "tism"
LIBRARIES = {"torch", "numpy", "tism", *sys.stdlib_module_names}  # that the core may import
OPTIONAL = ("tism.running", "progress_bar", "tqdm.tqdm")  # module, function, import
MAY_IMPORT = {
    "core": {"core"},
    "score": {"core", "score"},
    "study": {"core", "score", "study"},
}
LAST = {"gpu": 98, "explorer": 98, "compendium": 99}  # after every chapter

CORE = r"tism\.(engine\.)?\w+"
BASE = (
    r"tism\.study\.(__init__|(data|plots)\.\w+|cache|profiles|networks|training|records|scores"
    r"|statistics|timing)"
)
CHAPTER = r"tism\.study\.ch(\d\d)_\w+"
WRONG = [  # importer, imported
    (CORE, r"tism\.(score|study)\..+"),
    (CORE, r"pandas|scipy\.stats|matplotlib\.pyplot|zarr|h5py|tqdm|safetensors\.torch"),
    (r"tism\.score\..+", r"tism\.study\..+"),
    (BASE, rf"{CHAPTER}|tism\.study\.explorer"),
    (r"(?!tism\.study\.compendium).+", r"tism\.study\.compendium"),
]
FORMS = [
    "import {module}",
    "import {module} as other",
    "from {module} import anything",
    "from {parent} import {name}",
    "from {parent} import {name} as other",
    "from {relative} import anything",
    "def late():\n    import {module}",
    "class Late:\n    def run(self):\n        from {parent} import {name}",
    "if TYPE_CHECKING:\n    from {module} import anything",
    "try:\n    import {module}\nexcept ImportError:\n    pass",
    "other = importlib.import_module('{module}')",
    "other = import_module('{relative}', __package__)",
]

Sources = Mapping[str, str]


def package_sources() -> dict[str, str]:
    """Text of every module by its dotted name; that of a package ends in `.__init__`."""
    files = sorted(PACKAGE.rglob("*.py"))
    names = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]
    return {name: file.read_text("utf-8") for name, file in zip(names, files, strict=True)}


@cache
def imports(module: str, text: str) -> list[tuple[str, str]]:
    """Every import of a module: the top-level function or class that holds it, and its name."""
    package = module.rpartition(".")[0]
    return [
        (getattr(statement, "name", ""), name)
        for statement in ast.parse(text).body
        for node in ast.walk(statement)
        for name in imported_names(node, package)
    ]


def imported_names(node: ast.AST, package: str) -> Iterator[str]:
    """Absolute names that one node of a program imports, `from a import b` as a.b."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parent = resolve_name("." * node.level + (node.module or ""), package)
        yield from (f"{parent}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call):
        function = ast.unparse(node.func).rpartition(".")[2]
        literals = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
        if function in {"import_module", "__import__"} and literals:
            yield resolve_name(literals[0], package)


def module_of(name: str, sources: Sources) -> str:
    """The module of this package that a name belongs to."""
    while name not in sources and f"{name}.__init__" not in sources:
        name = name.rpartition(".")[0]
    return name if name in sources else f"{name}.__init__"


def layer(module: str) -> tuple[str, int]:
    """Layer of a module, and its place within the study: 0 for the base, then by chapter."""
    _, part, *rest = module.split(".")
    if part != "study":
        return ("score" if part == "score" else "core"), 0
    chapter = re.match(r"ch(\d\d)_", rest[0])
    return "study", int(chapter[1]) if chapter else LAST.get(rest[0], 0)


def is_allowed(importer: str, imported: str) -> bool:
    """True if the layers allow one module of this package to import another."""
    (upper, place), (lower, before) = layer(importer), layer(imported)
    return lower in MAY_IMPORT[upper] and (lower != "study" or before <= place)


def reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """The modules that a module imports, directly or by way of others."""
    found: set[str] = set()
    to_do = list(graph[start])
    while to_do:
        if (module := to_do.pop()) not in found:
            found.add(module)
            to_do += graph[module]
    return found


def import_graph(sources: Sources) -> dict[str, set[str]]:
    """The modules of this package that each of them imports."""
    return {
        module: {
            module_of(name, sources)
            for _, name in imports(module, text)
            if name.split(".")[0] == "tism"
        }
        for module, text in sources.items()
    }


def violations(sources: Sources) -> set[tuple[str, str]]:
    """Pairs of a module and an import of it that breaks a rule or closes a circle."""
    graph = import_graph(sources)
    found = {
        (module, name)
        for module, text in sources.items()
        if layer(module)[0] == "core"
        for place, name in imports(module, text)
        if name.split(".")[0] not in LIBRARIES and (module, place, name) != OPTIONAL
    }
    for module, others in graph.items():
        found |= {(module, other) for other in others if not is_allowed(module, other)}
        if module in reached(graph, module):
            found |= {(module, o) for o in others if o == module or module in reached(graph, o)}
    return found


def wrong_imports(sources: Sources) -> list[list[tuple[str, str]]]:
    """Pairs of importer and imported that must not be, by the rule that they break."""
    external = ["pandas", "scipy.stats", "matplotlib.pyplot", "zarr", "h5py", "tqdm"]
    names = [*sources, *external, "safetensors.torch"]
    kinds = [
        [(a, b) for a, b in product(sources, names) if re.fullmatch(x, a) and re.fullmatch(y, b)]
        for x, y in WRONG
    ]
    chapters = {name: int(m[1]) for name in sources if (m := re.fullmatch(CHAPTER, name))}
    later = [(a, b) for a, b in product(chapters, chapters) if chapters[a] < chapters[b]]
    to_explorer = [(chapter, "tism.study.explorer") for chapter in chapters]
    circles = [(b, a) for a, others in import_graph(sources).items() for b in others]
    return [*kinds, later + to_explorer, circles]


def statement(form: str, importer: str, imported: str) -> str:
    """A program line that imports a module into another, in one of the `FORMS`."""
    name = imported.removesuffix(".__init__")
    parent, _, last = name.rpartition(".")
    within = name.startswith("tism.")
    relative = "." * importer.count(".") + name.removeprefix("tism.") if within else name
    if not parent:
        form = FORMS[0] if "{parent}" in form else form
    return form.format(module=name, parent=parent, name=last, relative=relative)


def test_imports_run_one_way():
    assert violations(package_sources()) == set()


def test_every_one_of_200_wrong_imports_is_noticed():
    sources, draw, unnoticed = package_sources(), random.Random(0), []
    kinds = wrong_imports(sources)
    assert all(len(pairs) > 10 for pairs in kinds)
    for number in range(200):
        importer, imported = draw.choice(kinds[number % len(kinds)])
        line = statement(draw.choice(FORMS), importer, imported)
        found = violations({**sources, importer: f"{sources[importer]}\n{line}\n"})
        if not any(a == importer and b.startswith(imported) for a, b in found):
            unnoticed.append((importer, line))
    assert unnoticed == []


def public_names() -> set[str]:
    """Names of `tism.__all__` and of the functions and classes of every module."""
    definitions = ast.FunctionDef | ast.ClassDef
    trees = [ast.parse(text) for text in package_sources().values()]
    names = {node.name for tree in trees for node in tree.body if isinstance(node, definitions)}
    return {name for name in names if name[0] != "_"} | set(tism.__all__)


def test_no_public_name_is_the_name_of_a_file():
    """`import tism.x` would put the file in the place of the function."""
    files = {path.stem for path in PACKAGE.rglob("*") if path.suffix in {"", ".py"}}
    assert public_names() & files == set()


def test_every_module_has_a_docstring():
    bare = [
        name for name, text in package_sources().items() if not ast.get_docstring(ast.parse(text))
    ]
    assert bare == []


def test_page_on_the_architecture_lists_every_module_once():
    page = (PACKAGE.parent / "book" / "architecture.md").read_text("utf-8")
    tables = re.findall(r"\| module of `(.+?)` \|.*\n.*\n((?:\|.*\n)+)", page)
    rows = [(package, row.split("|")[1]) for package, rows in tables for row in rows.splitlines()]
    listed = [f"{package}.{name}" for package, cell in rows for name in re.findall("`(.+?)`", cell)]
    modules = [name for name in package_sources() if not name.endswith("__init__")]
    assert set(listed) == set(modules)
    assert len(listed) == len(modules)
