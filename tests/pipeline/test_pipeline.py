"""The whole flow, by the command line: run, run again, review, advance, trace, roll back."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from command import ROOT, SMALL, Kit

pytestmark = pytest.mark.pipeline
STEPS = [
    "01_ingest",
    "02_features",
    "03_train",
    "04_check",
    "05_promote",
    "06_package",
    "07_serve",
    "08_monitor",
]
FORCED = ["-p", "override_gates=a tiny simulation, for a test"]


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    made = Kit(tmp_path_factory.mktemp("kit"))
    made("run", *SMALL, *FORCED)
    return made


def test_the_run_leaves_a_report_and_a_summary_with_the_promised_figures(kit):
    s = kit.summary
    assert set(s["seconds"]) == set(STEPS)
    assert s["peak_memory_mb"] > 100
    assert s["rows"] > 60_000 and s["quarantined"] == 0
    assert {"auc", "ap", "precision_at_100", "baselines"} <= set(s["metrics"])
    assert set(s["metrics"]["baselines"]) == {"logistic", "constant"}
    decided = s["decisions"]
    assert list(decided["routes"]) == ["accept", "human"]
    assert decided["automatic"] + decided["human"] == sum(decided["routes"].values()) == 600
    assert decided["degraded"] == 0
    assert s["latency_ms"]["p50"] <= s["latency_ms"]["p99"]
    page = (kit.home / "runs" / "latest" / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 5 and not re.search(r"(src|href)=\"https?:", page)


def test_every_served_vector_equals_the_offline_frame(kit):
    assert kit.summary["parity"] == dict(
        compared=600, different=0, by_feature={}, scores_different=0
    )


def test_all_events_of_the_source_end_in_the_log_once(kit):
    source = pl.read_parquet(next((kit.workspace / "source").glob("*.parquet")))
    period = kit.summary["log"]
    # only the first 600 requests of the test period were sent; the rest of that week stays outside
    assert period["transaction"] <= source.height and period["transaction"] > source.height * 0.9
    log = pl.read_delta(str(kit.workspace / "log" / "transaction"))
    assert log["event_id"].n_unique() == log.height and sorted(log["seq"]) == list(
        range(log.height)
    )


def test_parameters_of_steps_and_simulator_are_listed(kit):
    output = kit("run", "--parameters")
    assert re.search(r"03_train\s+trials\s+int\s+12", output)
    assert re.search(r"simulator\s+customers\s+int\s+1000\s+who pay", output)


def test_another_use_case_sees_nothing_of_this_one(kit):
    other = Kit(kit.home)
    other.env |= {"MLKIT_USECASE": "bookings.of_a_shop", "PYTHONPATH": str(kit.home / "modules")}
    folder = kit.home / "modules" / "bookings"
    folder.mkdir(parents=True)
    source = Path(__file__).with_name("bookings.py").read_text()
    (folder / "of_a_shop.py").write_text(source)
    assert "has no workspace yet" in other("models", expect=2)
    assert "has no simulator" in other("run", expect=2)
    assert not (kit.home / "data" / "bookings.of_a_shop").exists()


def test_a_second_run_has_nothing_to_do(kit):
    before = sorted(p.name for p in (kit.home / "runs").iterdir())
    assert "everything is up to date" in kit("run")
    assert sorted(p.name for p in (kit.home / "runs").iterdir()) == before


def test_a_dry_run_says_why(kit):
    output = kit("run", "--dry-run", "-p", "trials=3")
    assert (
        re.search(r"01_ingest\s+no", output)
        and re.search(r"03_train\s+yes\s+parameter trials changed", output)
        and "if the result of 03_train" in output
    )


@pytest.mark.parametrize(
    "args, message",
    [
        (["-p", "trails=3"], "no step has a parameter trails"),
        (["-p", "trials=many"], "parameter trials = 'many'"),
        (["-p", "kind=foo"], "one of constant, lightgbm, logistic, xgboost"),
        (["-p", "trials"], "write name=value"),
        (["--only", "99_x"], "no step is called 99_x"),
        (["--source", "nowhere.parquet"], "no such file"),
    ],
)
def test_what_cannot_be_run_is_refused_before_a_kernel_starts(kit, args, message):
    current = (kit.home / "data" / "fraud" / "active").read_text()
    assert message in kit("run", *args, expect=2)
    assert (kit.home / "data" / "fraud" / "active").read_text() == current


def test_a_step_runs_by_papermill_alone(kit, tmp_path):
    subprocess.run(
        [
            str(Path(sys.executable).parent / "papermill"),
            str(ROOT / "pipelines" / "02_features.ipynb"),
            str(tmp_path / "out.ipynb"),
            "-p",
            "run_dir",
            str(tmp_path),
            "--cwd",
            str(ROOT / "pipelines"),
        ],
        env=kit.env,
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "out.ipynb").exists()
    output = kit("run", "--dry-run")
    assert "last run outside" in output
    kit("run", "--only", "02_features")


def test_a_failed_run_resumes_where_it_failed(kit, tmp_path):
    other = Kit(tmp_path)
    output = other("run", *SMALL, "-p", "kind=constant", expect=1)
    assert "05_promote failed" in output and "--override" in output
    again = other("run", "--dry-run", *FORCED)
    assert re.search(r"03_train\s+no", again) and re.search(r"05_promote\s+yes", again)


def test_a_file_that_breaks_the_contract_leaves_nothing_behind(kit, tmp_path):
    other = Kit(tmp_path)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    output = other("run", "--source", str(tmp_path / "bad.csv"), expect=1)
    assert "fits no known format" in output
    assert not (other.home / "data" / "fraud" / "bad" / "log").exists()


def test_an_unwritable_data_folder_is_named(tmp_path):
    other = Kit(tmp_path)
    (tmp_path / "data").write_text("a file where a folder should be")
    assert "cannot write to the data folder" in other("run", *SMALL, expect=2)


def test_trace_goes_from_a_decision_to_raw_events_and_reproduces_it(kit):
    found = json.loads(kit("trace", "--json", kit.summary["example_decision"]))
    assert found["reproduced"] and found["replayed"] == dict(
        features=True, probability=True, route=True
    )
    assert found["model"]["unchanged"] and found["policy"]["unchanged"]
    assert found["sources"][0]["hash"] == kit.summary["source_hash"]
    assert "no decision" in kit("trace", "dffff", expect=2)


def test_a_review_becomes_a_label_and_the_next_run_trains_with_it(kit):
    served = pl.read_parquet(next((kit.workspace / "served").glob("*.parquet")))
    case = served.filter(~pl.col("automatic")).head(1)
    assert case.height, "the simulation sends nobody to a human; choose another seed"
    output = kit("review", "decide", case["decision_id"][0], "--positive", "--note", "test")
    assert f"{case['event_id'][0]}/review" in output
    assert "was decided as positive" in kit(
        "review", "decide", case["decision_id"][0], "--negative", expect=2
    )
    labels = pl.read_delta(str(kit.workspace / "log" / "label")).filter(
        pl.col("source") == "review"
    )
    assert (
        labels.height == 1
        and labels["is_fraud"][0]
        and labels["event_time"][0] <= served["event_time"].max()
    )
    kit("run", "--advance")
    assert kit.summary["model"]["reviewed"] == 1 and kit.summary["cut"] > "2025-04-12"


def test_rollback_puts_the_previous_champion_back(kit):
    output = kit("rollback", "model", "--why", "a test")
    assert "champion: version 1 (was 2), by tester: a test" in output
    assert re.search(r"1\s+champion", kit("models"))
    assert "rollback model" in kit("audit")


def test_two_runs_at_once_do_no_harm(kit):
    import fcntl

    with open(kit.workspace / "run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run is working" in kit("run", expect=2)


def test_help_shows_examples():
    done = shutil.which("mlkit", path=str(Path(sys.executable).parent))
    output = subprocess.run(
        [done, "run", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "mlkit run --advance" in output and "--dry-run" in output
