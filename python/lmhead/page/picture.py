"""Takes a picture of the top of a report with a Chromium that is installed, as for a README."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from lmhead.command import RequestError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
HEADLESS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def find_browser() -> str | None:
    """The first of BROWSERS that is on the path."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def take(page: Path, picture: Path, width: int = 1280, height: int = 1600) -> None:
    """Writes `picture` (PNG) of `page` in a window of that size; RequestError where no browser can."""
    browser = find_browser()
    if browser is None:
        raise RequestError(f"a picture needs one of {', '.join(BROWSERS)} on the path, got none")
    with tempfile.TemporaryDirectory() as profile:
        shot = Path(profile) / "picture.png"
        command = [
            browser,
            *HEADLESS,
            "--hide-scrollbars",
            "--virtual-time-budget=8000",
            f"--window-size={width},{height}",
            f"--screenshot={shot}",
            f"--user-data-dir={profile}/profile",
            page.resolve().as_uri(),
        ]
        try:
            subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RequestError(f"{browser} must take the picture, got {type(error).__name__}") from None
        if not shot.is_file():
            raise RequestError(f"{browser} must take the picture, got none from it")
        try:
            shutil.copyfile(shot, picture)
        except OSError as error:
            raise RequestError(f"the picture must be writable at {str(picture)!r}: {error.strerror}") from None
