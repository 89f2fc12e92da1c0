"""Links of the documentation, and what it says that the code can contradict."""

import re
from pathlib import Path

from common import expect

PAGES = ["*.md", "docs/**/*.md", "deploy/**/*.md", "bi/**/*.md"]


def anchors(text):
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def check_links(path, text):
    found = 0
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        found += 1
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        if not page.exists():
            expect(False, f"{path}: {target} leads nowhere")
        elif anchor and page.suffix == ".md":
            expect(anchor in anchors(page.read_text()), f"{path}: {target}: there is no such heading")
    return found


def check_questions():
    """What an SRE asks first has fifteen answers of one line, each with a link."""
    section = Path("README.md").read_text().split("## Before you run it")[1].split("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| ")][1:]
    expect(len(rows) == 15, f"README.md: {len(rows)} answers, not 15")
    for row in rows:
        expect("](" in row or "`make" in row, f"README.md: no link in {row}")


def check_exit_codes():
    """The codes of the commands in the code, README and operations are the same."""
    operations = Path("docs/operations.md").read_text()
    listed = {int(code) for row in re.findall(r"^\| ([\d /]+) \| ", operations, re.M) for code in re.findall(r"\d+", row)}
    code = Path("src/commands/mod.rs").read_text() + Path("src/daemon/lifecycle.rs").read_text()
    used = {int(value) for value in re.findall(r"\b(69|78|130|143)\b", code)}
    expect(used <= listed and {0, 1, 2} <= listed, f"docs/operations.md lists the exit codes {sorted(listed)}")


def check():
    links = 0
    for path in sorted({path for pattern in PAGES for path in Path().glob(pattern)}):
        if path.parts[0] not in ("target", "m365-ledger-data"):
            links += check_links(path, path.read_text())
    expect(links > 100, f"only {links} links found")
    check_questions()
    check_exit_codes()
    return f"{links} links lead somewhere"
