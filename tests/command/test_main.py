"""The command: a mistake is a line and an exit code, a defect keeps its traceback."""

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from mlkit import cli
from mlkit.display import pairs_table, preview_table, show_figures
from mlkit.errors import UserError
from mlkit.pipeline import Status, StepFailed
from mlkit.steps import Step


@pytest.mark.parametrize(
    "error, code",
    [
        (UserError("a [red]typo"), 2),
        (StepFailed("03_train failed"), 1),
        (FileNotFoundError(2, "No such file"), 2),
        (ImportError("no module 'x'"), 2),
    ],
)
def test_what_a_user_can_mend_is_a_line(monkeypatch, capsys, error, code):
    def fail():
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.delenv("MLKIT_DEBUG", raising=False)
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == code
    said = str(error).replace("[Errno 2] No such file", "No such file.")
    assert capsys.readouterr().err.strip() == said


def test_a_defect_keeps_its_traceback(monkeypatch):
    def fail():
        raise KeyError("a defect")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(KeyError):
        cli.main()


def test_debug_shows_where_a_mistake_comes_from(monkeypatch):
    def fail():
        raise UserError("a typo")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setenv("MLKIT_DEBUG", "1")
    with pytest.raises(UserError):
        cli.main()


def commands(group: typer.Typer) -> dict:
    return typer.main.get_command(group).commands


def test_all_commands_are_there():
    names = {
        "run train settings stream backfill features serve stop models model check-model audit "
        "rollback trace review"
    }
    assert set(commands(cli.app)) == set(" ".join(names).split())


@pytest.mark.parametrize("name", ["run", "train", "stream", "backfill", "serve", "trace"])
def test_help_shows_examples(name):
    text = CliRunner().invoke(cli.app, [name, "--help"], env=dict(COLUMNS="160")).stdout
    assert f"mlkit {name}" in text


def test_no_word_of_a_use_case():
    from mlkit import (
        commands_cases,
        commands_data,
        commands_service,
        context,
        display,
        runs,
        settings,
        views,
    )

    modules = (cli, commands_cases, commands_data, commands_service, context, display, runs)
    for module in (*modules, settings, views):
        text = open(module.__file__).read().lower()
        for word in ("payment", "customer", "terminal_", "card", "cardholder", "merchant"):
            assert word not in text, f"{module.__name__} speaks of {word}"


def shown(*things) -> str:
    console = Console(force_jupyter=False, color_system=None, width=120, record=True)
    for thing in things:
        console.print(thing)
    return console.export_text()


def test_text_from_outside_is_no_markup(tmp_path):
    step = Step("1", "", tmp_path)
    text = shown(
        pairs_table([("[b]name", "[red]value[/]")]),
        preview_table([Status(step, {}, ["[link=x]file[/link] is gone"])]),
    )
    for part in ("[b]name", "[red]value[/]", "[link=x]file[/link] is gone"):
        assert part in text


def test_routes_are_shown_in_the_policys_order():
    values = dict(auc=0.9, ap=0.5, precision_at_100=0.2, ece=0.01)
    summary = dict(
        rows=1000,
        quarantined=0,
        cut="2025-04-11",
        model=dict(version=1, kind="constant"),
        metrics=values | dict(baselines=dict(constant=values)),
        decisions=dict(routes=dict(zeta=5, alpha=3, human=1), degraded=0),
        latency_ms=dict(p50=1.0, p99=2.0),
        parity=dict(compared=9, different=0, scores_different=0),
    )
    console = Console(force_jupyter=False, color_system=None, width=120, record=True)
    show_figures(summary, console)
    assert "5 zeta, 3 alpha, 1 human; 0 degraded" in console.export_text()
