"""Whether the shipped dashboard draws itself: signs in with a browser, opens it, and takes its picture.

    superset_page.py TRUTH PICTURE     with SUPERSET_URL and SUPERSET_PASSWORD in the environment
"""

import json
import os
import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

LINES_AND_BARS, TABLES = 3, 2


def browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    # Root may only run it without its sandbox, and containers have little shared memory.
    for option in ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1400"]:
        options.add_argument(option)
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def main() -> None:
    truth = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    url = os.environ["SUPERSET_URL"]
    driver = browser()

    def all_of(selector: str) -> list:
        return driver.find_elements(By.CSS_SELECTOR, selector)

    def until(what: str, check) -> None:
        WebDriverWait(driver, 120).until(lambda _: check(), f"the page never shows {what}")

    try:
        driver.get(f"{url}/login/")
        until("a form to sign in", lambda: all_of("input[type=password]"))
        all_of("input[type=text]")[0].send_keys("admin")
        all_of("input[type=password]")[0].send_keys(os.environ["SUPERSET_PASSWORD"] + "\n")
        until("that it has signed in", lambda: "/login" not in driver.current_url)
        driver.get(f"{url}/superset/dashboard/m365-ledger/?standalone=1")
        # A chart that fails, or has no data, shows a message instead.
        until("three drawn charts", lambda: len(all_of(".chart-slice canvas")) == LINES_AND_BARS)
        until("two tables", lambda: len(all_of(".chart-slice table")) >= TABLES and not all_of(".chart-slice .loading"))
        fresh = [row.text for row in all_of(".chart-slice tbody tr") if "ok" in row.text.split()]
        # Four periods of the one tenant that the dashboard opens with.
        assert len(fresh) == 4 and all("Tenant 0" in row and truth["newest"] in row for row in fresh), fresh
        print("superset: the dashboard is drawn in a browser: 3 charts, 2 tables, one tenant")
    finally:
        driver.save_screenshot(sys.argv[2])
        driver.quit()


main()
