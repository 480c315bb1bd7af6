"""The approval form as a person meets it: in a browser, at a real Prefect server.

    GRAFT_SCREENSHOT=docs/approval.png .venv/bin/pytest tests/test_approval_browser.py

also takes the picture in README.md.
"""

from __future__ import annotations

import json

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.expected_conditions import (
    invisibility_of_element,
    visibility_of_element_located,
)
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import PATIENCE, field, found, photograph
from tests.project import Graft, ended, waiting

pytestmark = pytest.mark.integration


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
    photograph(browser, "GRAFT_SCREENSHOT")
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
