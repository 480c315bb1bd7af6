"""Chromium without a window, and what a person does in it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.wait import WebDriverWait

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


@contextmanager
def chromium(folder: Path) -> Iterator[WebDriver]:
    """A browser with a profile of its own; the test is skipped where there is none."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no browser: Debian has one in its packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={folder}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def found(browser: WebDriver, by: str, what: str) -> WebElement:
    """An element, once it is there to be clicked."""
    return WebDriverWait(browser, PATIENCE).until(element_to_be_clickable((by, what)))


def field(browser: WebDriver, name: str, number: int = 1) -> WebElement:
    """What a form has below a label; the first of several of this name, or a later one."""
    label = found(browser, By.XPATH, f"(//label[starts-with(., '{name}')])[{number}]")
    return found(browser, By.ID, str(label.get_attribute("for")))


def photograph(browser: WebDriver, variable: str) -> None:
    """A picture, if an environment variable says where it goes."""
    if variable in os.environ:
        time.sleep(3)  # for what moves to come to rest
        browser.save_screenshot(os.environ[variable])
