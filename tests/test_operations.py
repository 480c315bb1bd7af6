"""A project that is up: deployed, triggered, scheduled, killed, cancelled.

    GRAFT_FORM=docs/form.png GRAFT_RUN=docs/run.png GRAFT_MODEL=docs/model.png \\
        .venv/bin/pytest tests/test_operations.py

also takes pictures in README.md.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from selenium.common.exceptions import ElementClickInterceptedException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from tests.browser import field, found, photograph
from tests.operated import (
    EIGHT_PIPELINES,
    SLOW,
    Operated,
    eight_at_once,
    operated,
    pids,
    until,
)
from tests.project import LOCKED, PIPELINES, ask, command, write_rows

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

SCHEDULED = '    schedule: {cron: "0 3 * * 1", timezone: Europe/Berlin}\n'
AFTER_RUN = PIPELINES.replace("{model: toy}", "{model: toy, after_run: true}") + SCHEDULED


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """Up, with `toy`, scheduled and going on to its promotion, and `slow`."""
    with operated(tmp_path_factory.mktemp("up"), AFTER_RUN + SLOW) as found:
        yield found


def test_deploying_twice_changes_nothing(up: Operated) -> None:
    """`graft up` has deployed all; --diff and a second time find nothing to do."""
    found = json.loads(up.graft("deploy", "--json"))
    assert {one["name"] for one in found} >= {"transfer/toy", "learn/slow", "promote/toy"}
    assert {one["kind"] for one in found} == {"unchanged"}
    up.declare(AFTER_RUN.replace("From toy movies", "Out of toy movies") + SLOW)
    told = up.graft("deploy", "--diff")
    assert "transfer/toy: would be changed (description, parameters)" in told
    up.declare(AFTER_RUN + SLOW)


def test_from_the_form_to_the_promotion(up: Operated) -> None:
    """A run that the form started learns on the gpu worker, registers, and its challenger is
    promoted."""
    run = up.start("transfer/toy")
    assert up.ended(run)["type"] == "COMPLETED"
    (learned,) = up.runs("learn", name={"any_": ["toy"]})
    assert learned["work_pool_name"] == "gpu"
    assert up.get(f"flow_runs/{run}")["work_pool_name"] == "cpu"
    assert any("step" in line for line in up.logs(learned["id"])), "its steps are in the UI"
    (promoted,) = until(lambda: up.runs("promote"), "a promotion")
    assert up.ended(promoted["id"])["type"] == "COMPLETED"
    (entry,) = json.loads(up.graft("history", "toy", "--json"))
    assert (entry["decision"], entry["champion"]) == ("promoted", "1")


def test_a_value_out_of_range_is_refused(up: Operated) -> None:
    """The form's limits are the pipeline's: the server refuses, and no run is made."""
    before = len(asked_for(up))
    pipeline = up.get("deployments/name/transfer/toy")["parameters"]["pipeline"]
    pipeline["training"]["epochs"] = 0
    with pytest.raises(urllib.error.HTTPError, match="409"):
        up.start("transfer/toy", name="toy", pipeline=pipeline)
    assert len(asked_for(up)) == before


def test_run_from_a_browser(up: Operated, browser: WebDriver) -> None:
    """The form has the pipeline's fields with what they mean; a number out of range is refused
    there, and with one in range the run goes through to its end, its MLflow run and its model."""
    before = len(asked_for(up))
    refusal = "//*[contains(text(), '0 is less than or equal to the minimum of 0')]"
    submit_form(up, browser, "0", lambda: browser.find_elements(By.XPATH, refusal))
    assert len(asked_for(up)) == before
    submit_form(up, browser, "1", lambda: asked_for(up)[before:])
    run = asked_for(up)[before]["id"]
    assert up.ended(run)["type"] == "COMPLETED"
    until(lambda: up.recorded(run, "register toy"), "the tasks that the page shows")
    browser.set_window_size(1280, 1100)
    browser.get(f"{up.prefect.removesuffix('/api')}/v2/runs/flow-run/{run}")
    found(browser, By.XPATH, "//*[.='Completed']")
    tab = found(browser, By.XPATH, "//button[@role='tab'][.='Task Runs']")
    tab.click()
    browser.execute_script("arguments[0].scrollIntoView()", tab)
    found(browser, By.XPATH, "//*[contains(text(), 'register toy')]")
    photograph(browser, "GRAFT_RUN")
    experiment, tracked = mlflow_run(up)
    assert tracked["data"]["params"]["training.epochs"] == "1"
    browser.get(f"{up.mlflow}/#/experiments/{experiment}/runs/{tracked['info']['run_id']}")
    found(browser, By.XPATH, "//*[contains(text(), 'test_macro_f1')]")
    version = tracked["data"]["tags"]["graft.model"].partition("/")[2]
    browser.get(f"{up.mlflow}/#/models/toy/versions/{version}")
    found(browser, By.XPATH, "//*[contains(., 'challenger') and not(*[contains(., 'challenger')])]")
    for button in browser.find_elements(By.CSS_SELECTOR, "button[aria-label='Close']"):
        button.click()  # MLflow's assistant
    photograph(browser, "GRAFT_MODEL")


def asked_for(up: Operated) -> list[dict[str, Any]]:
    """Runs that no schedule made."""
    return [run for run in up.runs("transfer") if not run["auto_scheduled"]]


def submit_form(
    up: Operated, browser: WebDriver, epochs: str, taken: Callable[[], Sequence[Any]]
) -> None:
    """Start `toy` with so many epochs: press Submit until that is taken, since a click is lost
    while the form asks the server about what was typed."""
    deployment = up.get("deployments/name/transfer/toy")["id"]
    ui = up.prefect.removesuffix("/api")
    browser.get(f"{ui}/v2/deployments/deployment/{deployment}/run")
    number = field(browser, "Epochs", 2)  # the first is the source training's
    browser.execute_script("arguments[0].scrollIntoView()", number)
    assert "Passes over the target's labelled rows" in found(browser, By.TAG_NAME, "form").text
    number.send_keys(Keys.CONTROL, "a")
    number.send_keys(epochs)
    photograph(browser, "GRAFT_FORM")
    for _ in range(20):
        time.sleep(3)
        for button in browser.find_elements(By.XPATH, "//button[.='Submit']"):
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
            with suppress(ElementClickInterceptedException):  # by a message that goes away
                button.click()
        time.sleep(3)
        if taken():
            return
    raise AssertionError("the form is never taken")


def mlflow_run(up: Operated) -> tuple[str, dict[str, Any]]:
    """The experiment of `toy` and its last parent run; parameters and tags by name."""
    experiment = ask_get(f"{up.mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=toy")
    identifier = experiment["experiment"]["experiment_id"]
    body = {"experiment_ids": [identifier], "order_by": ["attributes.start_time DESC"]}
    found = ask(f"{up.mlflow}/api/2.0/mlflow/runs/search", body)["runs"]
    for run in found:
        for kind in ("params", "tags"):
            run["data"][kind] = {one["key"]: one["value"] for one in run["data"].get(kind, [])}
    return identifier, next(run for run in found if "graft.model" in run["data"]["tags"])


def ask_get(url: str) -> Any:
    """JSON at an address."""
    with urllib.request.urlopen(url, timeout=LOCKED) as answer:
        return json.load(answer)


def test_scheduled(up: Operated) -> None:
    """A schedule has its coming runs, in its time zone; one whose time has come starts by itself,
    and a pipeline that is no longer in the file is removed when that is asked for."""
    (coming, *_) = until(
        lambda: up.runs("transfer", state={"type": {"any_": ["SCHEDULED"]}}), "scheduled runs"
    )
    at = datetime.fromisoformat(coming["expected_start_time"]).astimezone(ZoneInfo("Europe/Berlin"))
    assert (at.weekday(), at.hour, at.minute) == (0, 3, 0)
    often = PIPELINES.partition("\n")[2].replace("  toy:", "  often:")
    up.declare(AFTER_RUN + SLOW + often + '    schedule: {cron: "* * * * *"}\n')
    up.graft("deploy")

    def begun() -> list[dict[str, Any]]:
        runs = up.runs("transfer", name={"any_": ["often"]})
        return [run for run in runs if run["auto_scheduled"] and run["start_time"]]

    (run, *_) = until(begun, "a scheduled run begins")
    up.declare(AFTER_RUN + SLOW)
    assert "transfer/often: not in the file any more; --prune removes it" in up.graft("deploy")
    assert up.ended(run["id"])["type"] == "COMPLETED"
    assert "transfer/often: removed" in up.graft("deploy", "--prune")
    assert "often" not in up.graft("deploy")


def test_killed_in_the_middle(up: Operated) -> None:
    """The worker and its run die at once: that is noticed (on a quiet machine within 90 s), another
    run goes on from the checkpoint, one model is registered, and the GPU's slot is free."""
    run = up.start("transfer/slow")
    learned = in_training(up)
    killed = time.monotonic()
    for process in (up.worker("gpu"), *up.processes("gpu")):
        os.kill(process, signal.SIGKILL)
    until(lambda: up.state(learned) == "CRASHED", "the crash is noticed")
    noticed = time.monotonic() - killed
    assert up.ended(run)["type"] == "COMPLETED"
    _, second = up.runs("learn", name={"any_": ["slow"]})
    assert any("resuming from the checkpoint" in line for line in up.logs(second["id"]))
    found = ask(
        f"{up.mlflow}/api/2.0/mlflow/registered-models/get-latest-versions", {"name": "slow"}
    )
    assert [one["version"] for one in found["model_versions"]] == ["1"]
    assert [slot["active_slots"] for slot in slots(up)] == [0]
    print(f"noticed after {noticed:.0f} s")


def test_a_crashed_run_is_started_again(up: Operated) -> None:
    """By itself, where no other run waits for it: it ends as if nothing had been."""
    run = up.start("transfer/toy")
    until(lambda: up.state(run) == "RUNNING" and up.processes("cpu"), "the run begins")
    for process in up.processes("cpu"):
        os.kill(process, signal.SIGKILL)
    until(lambda: up.state(run) == "COMPLETED", "the run ends")
    assert up.get(f"flow_runs/{run}")["run_count"] == 2


def test_the_server_is_started_again(up: Operated) -> None:
    """Whoever learns meanwhile goes on, keeps its GPU, and gives it back."""
    other = up.get("deployments/name/transfer/slow")["parameters"]
    other["pipeline"]["seed"] = 15
    run = up.start("transfer/slow", **other)
    learned = in_training(up)
    (server,) = pids("flows.on_sqlite server start", up.home)
    os.kill(server, signal.SIGKILL)
    until(lambda: set(pids("flows.on_sqlite server start", up.home)) - {server}, "another server")
    until(lambda: reached(up), "the server answers")
    assert up.ended(learned)["type"] == "COMPLETED"
    assert up.ended(run)["type"] == "COMPLETED"
    assert up.get(f"flow_runs/{run}")["run_count"] == 1
    until(lambda: [slot["active_slots"] for slot in slots(up)] == [0], "the slot is free")


def test_cancelled(up: Operated) -> None:
    """A run cancelled in the UI stops its training, and frees the slot; a second run of the same
    pipeline meanwhile was cancelled, and says so."""
    slower = up.get("deployments/name/transfer/slow")["parameters"]
    slower["pipeline"]["seed"] = 14
    slower["pipeline"]["training"]["epochs"] = 20_000  # it is cut short, on however fast a machine
    run = up.start("transfer/slow", **slower)
    learned = in_training(up)
    second = up.ended(up.start("transfer/slow"))
    assert (second["type"], second["message"]) == (
        "CANCELLED",
        "Deployment concurrency limit reached.",
    )
    training = up.processes("gpu")
    assert len(training) == 2, "one that the worker started, and one forked for it"
    ask(f"{up.prefect}/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert up.ended(learned)["type"] == "CANCELLED"
    assert up.ended(run)["type"] == "CANCELLED"
    until(lambda: not set(training) & set(up.processes("gpu")), "the training ends")
    until(lambda: [slot["active_slots"] for slot in slots(up)] == [0], "the slot is free")


def test_two_that_want_one_gpu(up: Operated) -> None:
    """Two workers, each with a run, share a GPU: both runs are under way, and one of them learns
    only when the other one no longer does."""
    names = ("one", "other")
    pair = "".join(
        PIPELINES.partition("\n")[2]
        .replace("  toy:", f"  {name}:")
        .replace("{model: toy}", f"{{model: {name}}}\n    seed: {seed}")
        .replace("training: {epochs: 2, learning_rate: 1.0e-3, tok", "training: {epochs: 100, tok")
        for seed, name in enumerate(names, 20)
    )
    up.declare(AFTER_RUN + SLOW + pair)
    up.graft("deploy")
    second = subprocess.Popen(
        command("worker", "gpu", "--device", "0"),
        cwd=up.folder,
        env=up.variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: len(workers(up)) == 2, "two workers")
        for run in [up.start(f"transfer/{name}") for name in names]:
            assert up.ended(run)["type"] == "COMPLETED"
    finally:
        second.terminate()
        with suppress(subprocess.TimeoutExpired):  # Prefect's worker may miss it under load,
            second.wait(60)
        second.kill()  # so `graft up` does this, too
        second.wait()
    learned = up.runs("learn", name={"any_": list(names)})
    first, last = sorted(learned, key=lambda run: str(run["start_time"]))
    assert last["start_time"] < first["end_time"], "one waited for the other's worker"
    spans = sorted(learning(up, run["id"]) for run in learned)
    assert spans[0][1] <= spans[1][0], spans


def workers(up: Operated) -> list[int]:
    """The workers of the pool gpu, by process id."""
    return pids("prefect worker start --pool gpu", up.home)


def learning(up: Operated, run: str) -> tuple[str, str]:
    """When a run said that it begins, with its slot, and when it said something last."""
    body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
    lines = ask(f"{up.prefect}/logs/filter", body)
    begun = next(
        n for n, one in enumerate(lines) if re.match(r"(source|transfer) ", one["message"])
    )
    ours = [one for one in lines[begun:] if re.match(r"\w+ +.*(…|done|step)", one["message"])]
    return ours[0]["timestamp"], ours[-1]["timestamp"]


APPROVED = (
    AFTER_RUN.partition("\n")[2]
    .replace("  toy:", "  asked:")
    .replace("{model: toy, after_run: true}", "{model: asked, after_run: true, approval: required}")
)


def test_a_person_is_asked(up: Operated) -> None:
    """A deployed promotion that needs a person's word suspends: no process waits. `graft status`
    says how it is answered, the answer ends it, and where nobody answers in time it is rejected."""
    up.declare(AFTER_RUN + SLOW + APPROVED)
    up.graft("deploy")
    up.start("transfer/asked")

    def suspended() -> Any:
        return up.runs("approval", state={"name": {"any_": ["Suspended"]}})

    (asking,) = until(suspended, "an approval")
    (promotion,) = up.runs("promote", name={"any_": ["asked"]})
    assert up.ended(promotion["id"])["type"] == "COMPLETED"
    until(lambda: not up.processes("cpu"), "no process waits")
    told = json.loads(up.graft("status", "--json"))
    (waits,) = told["waiting"]
    assert waits["answer"] == f"graft approve {asking['id']}"
    assert {one["pool"] for one in told["workers"] if one["alive"]} == {"cpu", "gpu"}
    up.graft("approve", asking["id"], "--by", "ann", "--because", "looked at it")
    assert up.ended(asking["id"])["type"] == "COMPLETED"
    (entry,) = json.loads(up.graft("history", "asked", "--json"))
    assert {name: entry[name] for name in ("decision", "by", "because")} == {
        "decision": "promoted",
        "by": "ann",
        "because": "looked at it",
    }
    (told,) = [
        one
        for one in json.loads(up.graft("status", "--json"))["pipelines"]
        if one["name"] == "asked"
    ]
    assert (told["champion"], told["champion_since"]) == ("1", entry["at"])


def test_nobody_answers(up: Operated) -> None:
    """At the deadline a promotion that waits is rejected, in the ledger too."""
    hasty = APPROVED.replace("  asked:", "  hasty:").replace(
        "{model: asked,", "{model: hasty, approval_hours: 0.005,"
    )
    up.declare(AFTER_RUN + SLOW + hasty)
    up.graft("deploy")
    up.start("transfer/hasty")
    until(lambda: up.runs("deadline", state={"type": {"any_": ["COMPLETED"]}}), "the deadline")
    (asking,) = up.runs("approval", name={"any_": ["hasty 1"]})
    assert up.ended(asking["id"])["type"] == "COMPLETED"
    (entry,) = json.loads(up.graft("history", "hasty", "--json"))
    assert {name: entry[name] for name in ("decision", "by", "because", "champion")} == {
        "decision": "rejected",
        "by": "graft",
        "because": "nobody approved it within 0.005 hours",
        "champion": None,
    }


MOVED = AFTER_RUN.partition("\n")[2].replace("  toy:", "  moved:")
MOVED = MOVED.replace("{model: toy,", "{model: moved,").replace(
    "{kind: fine_tuning}", "{kind: domain_adaptation}"
)
MOVED = MOVED.replace("near_duplicates: 1.0", "near_duplicates: 1.0, unknown_over: 0.9")


def test_drift_trains_again(up: Operated) -> None:
    """Text that is not what the champion was made for starts its pipeline again, which reads that
    text without labels; `graft status` says so."""
    up.declare(AFTER_RUN + SLOW + MOVED + "    monitoring: {text: fresh.jsonl, retrain: true}\n")
    write_rows(
        up.folder / "fresh.jsonl", [{"text": f"quarterly revenue fell by {n}"} for n in range(120)]
    )
    up.graft("deploy")
    up.start("transfer/moved")
    promotion = until(lambda: up.runs("promote", name={"any_": ["moved"]}), "a promotion")[0]
    assert up.ended(promotion["id"])["type"] == "COMPLETED"
    looked = up.start("monitor/moved")
    assert up.ended(looked)["type"] == "COMPLETED"
    told = json.loads(up.graft("status", "--json"))["pipelines"]
    assert [one["drift"]["drifted"] for one in told if one["name"] == "moved"] == [True]
    _, again = until(
        lambda: (found := up.runs("transfer", name={"any_": ["moved"]}))[1:] and found[:2],
        "the pipeline runs again",
    )
    kept = again["parameters"]["pipeline"]["target"]["products"]["more_text"]
    assert "quarterly revenue" in Path(kept).read_text()
    assert up.ended(again["id"])["type"] == "COMPLETED"


def test_eight_at_once(up: Operated) -> None:
    """Eight pipelines that start together end together, and SQLite loses nothing of them."""
    up.declare(AFTER_RUN + SLOW + EIGHT_PIPELINES)
    eight_at_once(up)


def reached(up: Operated) -> bool:
    """Whether Prefect's server is there."""
    try:
        up.get("health")
    except OSError:
        return False
    return True


def in_training(up: Operated) -> str:
    """The id of the run that learns, once it has a checkpoint."""

    def steps(run: str) -> int:
        taken = [re.search(r"step (\d+)/", line) for line in up.logs(run)]
        return max((int(one[1]) for one in taken if one), default=0)

    def found() -> str | None:
        runs = up.runs("learn", state={"type": {"any_": ["RUNNING"]}})
        return next((run["id"] for run in runs if steps(run["id"]) > 40), None)

    return str(until(found, "training"))


def slots(up: Operated) -> list[dict[str, Any]]:
    """One a GPU."""
    found = ask(f"{up.prefect}/v2/concurrency_limits/filter", {})
    return [one for one in found if one["name"].startswith("gpu:")]
