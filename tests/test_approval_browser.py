"""The approval form as a person meets it: in a browser, at a real Prefect server.

    GRAFT_SCREENSHOT=docs/approval.png .venv/bin/pytest tests/test_approval_browser.py

also takes the picture in README.md.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import (
    element_to_be_clickable,
    invisibility_of_element,
    visibility_of_element_located,
)
from selenium.webdriver.support.wait import WebDriverWait

from tests.conftest import free_port, serving
from tests.project import Graft, ended, environment, waiting

pytestmark = pytest.mark.integration

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = (
    "--headless",
    "--no-sandbox",  # which root does not have
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--window-size=860,1660",
    "--force-device-scale-factor=1.4",
)
PATIENCE = 60


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    """Chromium without a window."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no browser: Debian has one in its packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[str]:
    """An MLflow server on a free loopback port; gives its address."""
    port, folder = free_port(), tmp_path / "mlflow"
    folder.mkdir()
    arguments = [
        "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    variables = {**environment(tmp_path), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    url = f"http://127.0.0.1:{port}"
    with serving(arguments, variables, f"{url}/health"):
        yield url


def found(browser: WebDriver, by: str, what: str) -> WebElement:
    """An element, once it is there to be clicked."""
    return WebDriverWait(browser, PATIENCE).until(element_to_be_clickable((by, what)))


def field(browser: WebDriver, name: str) -> WebElement:
    """What the form has below a label."""
    label = found(browser, By.XPATH, f"//label[starts-with(., '{name}')]")
    return found(browser, By.ID, str(label.get_attribute("for")))


def test_approved_in_a_browser(browser: WebDriver, graft: Graft, server: str, mlflow: str) -> None:
    """The form shows the evidence and links the rows that change, and wants a yes or a no; who
    approves there, and why, stands in the history."""

    def done(*arguments: str) -> str:
        code, out, err = ended(graft(*arguments, MLFLOW_TRACKING_URI=mlflow))
        assert code == 0, err
        return out

    done("run", "toy", "--set", "training.epochs=1", "--set", "evaluation.baselines=[majority]")
    done("promote", "toy")
    better = ["target.products.labelled=60", "training.epochs=4", "promotion.approval=required"]
    done("run", "toy", *(part for one in better for part in ("--set", one)))
    promotion = graft("promote", "toy", "--json", MLFLOW_TRACKING_URI=mlflow)
    browser.get(f"{server.removesuffix('/api')}/v2/runs/flow-run/{waiting(server)}")
    found(browser, By.XPATH, "//button[.='Open menu']").click()
    found(browser, By.XPATH, "//*[@role='menuitem'][.='Resume']").click()
    form = found(browser, By.XPATH, "//*[@role='dialog']")
    field(browser, "By").send_keys("ann")
    field(browser, "Because").send_keys("looked at every flip")
    resume = form.find_element(By.XPATH, ".//button[.='Resume']")
    resume.click()
    told = found(browser, By.XPATH, "//*[contains(text(), \"'approve' is a required\")]")
    WebDriverWait(browser, PATIENCE).until(invisibility_of_element(told))
    field(browser, "Approve").click()
    found(browser, By.XPATH, "//*[@role='option'][.='yes']").click()
    shown = form.text
    flips = str(found(browser, By.LINK_TEXT, "flips.html").get_attribute("href"))
    if "GRAFT_SCREENSHOT" in os.environ:
        browser.save_screenshot(os.environ["GRAFT_SCREENSHOT"])
    resume.click()
    WebDriverWait(browser, PATIENCE).until(invisibility_of_element(form))

    code, out, err = ended(promotion)
    assert code == 0, err
    result = json.loads(out)
    for role in ("champion", "challenger"):
        score = result["evidence"]["report"]["systems"][role]["macro_f1"]["value"]
        assert f"{role} {result['evidence'][role]} {score:.3f}" in shown
    assert result["evidence"]["verdict"]["reason"] in shown
    (_, last) = json.loads(done("history", "toy", "--json"))
    assert {name: last[name] for name in ("decision", "champion", "by", "because")} == {
        "decision": "promoted",
        "champion": "2",
        "by": "ann",
        "because": "looked at every flip",
    }
    browser.get(flips)
    frame = visibility_of_element_located((By.TAG_NAME, "iframe"))
    browser.switch_to.frame(WebDriverWait(browser, PATIENCE).until(frame))
    assert "better, of" in found(browser, By.TAG_NAME, "h1").text
