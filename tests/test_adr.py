"Decision records: complete, one page, listed in the index, and held by checks that exist."

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / "adr/README.md"
RECORDS = sorted(path for path in (ROOT / "adr").glob("*.md") if path != INDEX)
SECTIONS = [
    "Context",
    "Decision outcome",
    "Considered alternatives",
    "Consequences",
    "Confirmation",
]
STATUS = r"proposed|accepted|rejected|superseded by \d{4}"
LONGEST = 70  # lines on a page
FOLD = 25  # lines on the first screen

each_record = pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name[:4])


def sections(record: Path) -> dict[str, str]:
    "Heading to text, in the order of the page."
    parts = re.split(r"^## (.+)$", record.read_text(), flags=re.M)
    return dict(zip(parts[1::2], (text.strip() for text in parts[2::2])))


def heading(record: Path) -> tuple[str, str, str, str]:
    "Number, title, status, date."
    found = re.match(
        rf"# (\d{{4}}) (.+)\n\n- Status: ({STATUS})\n- Date: (\d{{4}}-\d\d-\d\d)\n\n## ",
        record.read_text(),
    )
    assert found, (
        f"{record.name} must begin with '# NNNN Title', '- Status: …' ({STATUS}) "
        "and '- Date: YYYY-MM-DD'"
    )
    return found[1], found[2], found[3], found[4]


def listed() -> list[tuple[str, str, str, str]]:
    "The index: number, title, file, status."
    return re.findall(
        r"^\| (\d{4}) \| \[(.+?)\]\((.+?)\) \| (.+?) \| \S.* \|$", INDEX.read_text(), re.M
    )


def definitions(tree: ast.AST) -> set[str]:
    "Names of functions and of `Class::method`s."
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)} | {
        f"{c.name}::{f.name}"
        for c in ast.walk(tree)
        if isinstance(c, ast.ClassDef)
        for f in c.body
        if isinstance(f, ast.FunctionDef)
    }


def missing(check: str) -> str:
    "What keeps a named check from holding anything; empty where nothing does."
    name, _, wanted = check.partition("::")
    path = ROOT / name
    if not path.is_file():
        return f"there is no {name}"
    if path.suffix == ".ipynb":
        code = [
            "".join(cell["source"])
            for cell in json.loads(path.read_text())["cells"]
            if cell["cell_type"] == "code"
        ]
        return (
            ""
            if any(
                re.search(r"^\s*(assert\b|test_\w+\()|: test_\w+\(", source, re.M)
                for source in code
            )
            else f"{name} asserts nothing"
        )
    tests = {
        found
        for found in definitions(ast.parse(path.read_text()))
        if found.rpartition("::")[2].startswith("test_")
    }
    if not wanted:
        return "" if tests else f"{name} has no test"
    return "" if wanted in tests else f"{name} has no {wanted}"


def test_numbers_have_no_gap():
    assert RECORDS and [path.name[:4] for path in RECORDS] == [
        f"{n:04}" for n in range(1, len(RECORDS) + 1)
    ]


@each_record
def test_heading(record):
    assert heading(record)[0] == record.name[:4]


@each_record
def test_sections(record):
    found = sections(record)
    assert list(found) == SECTIONS and all(found.values())
    assert re.search(r"^Good\n\n- .+^Bad\n\n- ", found["Consequences"], re.M | re.S), (
        "consequences are Good and Bad, as lists"
    )


@each_record
def test_one_line_an_alternative(record):
    assert len(lines := sections(record)["Considered alternatives"].splitlines()) > 1 and all(
        re.match(r"- .+", line) for line in lines
    )


@each_record
def test_one_page_with_the_outcome_on_its_first_screen(record):
    lines = record.read_text().splitlines()
    assert len(lines) <= LONGEST and lines.index("## Decision outcome") < FOLD


def test_index_lists_every_record():
    assert listed() == [
        (number, title, record.name, status)
        for record in RECORDS
        for number, title, status, _ in [heading(record)]
    ]


@each_record
def test_confirmation_names_checks_that_exist(record):
    lines = sections(record)["Confirmation"].splitlines()
    assert lines and all(
        re.match(r"- `(tests/[\w/]+\.py(::\w+)*|(nbs|pipelines)/[\w/]+\.ipynb)`", line)
        for line in lines
    ), "begin each line with the check, in backticks"
    checks = [
        check for line in lines for check in re.findall(r"`((?:tests|nbs|pipelines)/[^`]+)`", line)
    ]
    assert not [wrong for check in checks if (wrong := missing(check))]


@each_record
def test_links_and_mentioned_records_exist(record):
    text = record.read_text()
    assert not [
        number
        for number in re.findall(r"\bADR (\d{4})\b|superseded by (\d{4})", text)
        if not list((ROOT / "adr").glob(f"{''.join(number)}-*.md"))
    ]
    assert not [
        link
        for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
        if not (record.parent / link).exists()
    ]


def test_xgboost_settings_are_those_in_use():
    "Record 0012 against the code."
    from mlkit.kinds import Trees

    fixed = Trees.fixed
    assert (fixed["base_score"], fixed["tree_method"], fixed["max_bin"]) == (0.5, "hist", 1024)
    first = dict(n_estimators=100, learning_rate=0.1, max_depth=3)
    sampled = dict(min_child_weight=1.0, subsample=1.0, colsample_bytree=1.0)  # XGBoost's own
    assert Trees.start == first | sampled


def test_published_figures_are_reproduced(handbook):
    "Record 0012: chapter 3 of the handbook (AUC, AP, precision at 100), 100 trees each."
    import polars as pl
    import xgboost as xgb

    from mlkit.datasets import Data
    from mlkit.formats import to_events
    from mlkit.frames import offline
    from mlkit.kinds import Trees
    from mlkit.metrics import evaluate
    from mlkit.models import matrix
    from mlkit.usecases.fraud import HANDBOOK, Label, Transaction, usecase

    cut, plan, names = usecase.cuts["handbook"], usecase.plan, usecase.features.names
    first = plan.train_start(cut).replace(tzinfo=None) - pl.duration(
        days=37
    )  # the longest window, and the wait for labels
    last = plan.test_end(cut).replace(tzinfo=None)
    world, _ = to_events(
        HANDBOOK,
        pl.scan_parquet(handbook)
        .filter(pl.col("TX_DATETIME").is_between(first, last, closed="left"))
        .collect(),
    )
    requests, labels = (
        world[Transaction].filter(pl.col("event_time") >= plan.train_start(cut)),
        world[Label].with_row_index("seq"),
    )
    features = offline(usecase.features, requests, world)
    data = Data(usecase.labels, plan, usecase.entity, requests, labels, features, cut)
    train, test = data.training_frame(), data.test_frame()
    assert (train.height, train["label"].sum(), test.height, test["label"].sum()) == (
        67_240,
        598,
        58_264,
        385,
    )

    def figures(**params) -> list[float]:
        booster = xgb.train(
            dict(objective="binary:logistic", nthread=2, **params),
            xgb.DMatrix(matrix(train, names), train["label"].cast(pl.Int8).to_numpy()),
            100,
        )
        scored = evaluate(
            test.with_columns(
                score=pl.Series(booster.predict(xgb.DMatrix(matrix(test, names)))).cast(pl.Float64)
            ),
            usecase.entity,
        )
        return [scored[m] for m in ("auc", "ap", "precision_at_100")]

    assert figures(base_score=0.5, tree_method="exact") == pytest.approx(
        [0.862, 0.639, 0.273], abs=0.0015
    )
    chosen = figures(
        **{
            k: v
            for k, v in {**Trees.fixed, **Trees.start}.items()
            if k not in ("objective", "n_estimators")
        }
    )
    assert (
        chosen == pytest.approx([0.8746, 0.678, 0.2943], abs=0.005)
        and chosen[1] > figures()[1] + 0.05
    )
