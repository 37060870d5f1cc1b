"""A headless Chromium that opens files and records the requests and complaints of a page."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

FLAGS = (
    "--headless",
    "--no-sandbox",  # Chromium refuses to run as root, as in a container, without it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}  # CSS pixels
DRAWN = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
# without transitions, a change of size or colours shows at once
STILL = """
const style = document.createElement("style");
style.textContent = "*, ::before, ::after { transition: none !important; }";
document.head.append(style);
document.fonts.ready.then(arguments[0]);
"""


def chromium() -> str | None:
    """Path of Chromium or Chrome; None if neither is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


def missing() -> str:
    """Names of what this machine lacks, of Chromium and its driver; empty if it has both."""
    found = {"chromium": chromium(), "chromedriver": shutil.which("chromedriver")}
    return " and ".join(name for name, path in found.items() if not path)


@dataclass
class Log:
    """Requests and complaints of a page since it was opened or its log was last read."""

    requests: list[str]  # addresses, in order
    messages: list[str]  # errors and warnings of the console, with uncaught exceptions

    def files(self) -> list[Path]:
        """The files on disk that were requested, each once."""
        addresses = (urlsplit(request) for request in self.requests)
        return list(dict.fromkeys(Path(unquote(a.path)) for a in addresses if a.scheme == "file"))

    def outside(self) -> list[str]:
        """The requests for anything but a file on disk or data within the page."""
        return [r for r in self.requests if urlsplit(r).scheme not in {"file", "data", "blob"}]


class Browser:
    """A window of Chromium; `driver` is selenium's, for keys, clicks and elements."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = chromium()
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        self.driver.set_script_timeout(300)  # a busy machine is slow
        self.command("Performance.enable", timeDomain="threadTicks")
        self.show("desktop", "light")

    def open(self, path: Path, suffix: str = "") -> None:
        """Load a file with a query or an anchor as `suffix`, and wait until it is drawn."""
        self.log()
        self.driver.get(path.resolve().as_uri() + suffix)
        self.driver.execute_async_script(STILL)
        self.driver.execute_async_script(DRAWN)

    def show(self, size: str, theme: str) -> None:
        """Set the window to one of `SIZES`, and the system's theme to "light" or "dark"."""
        width, height = SIZES[size]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.command("Emulation.setDeviceMetricsOverride", mobile=size == "phone", **metrics)
        colours = [{"name": "prefers-color-scheme", "value": theme}]
        self.command("Emulation.setEmulatedMedia", features=colours)
        self.driver.execute_async_script(DRAWN)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript, which finds `arguments` under that name, and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def log(self) -> Log:
        """Requests and complaints since the last call."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = (e["params"] for e in events if e["method"] == "Network.requestWillBeSent")
        levels = {"SEVERE", "WARNING"}
        complaints = [e["message"] for e in self.driver.get_log("browser") if e["level"] in levels]
        return Log([parameters["request"]["url"] for parameters in sent], complaints)

    def processor_time(self, since: float = 0) -> float:
        """Seconds of processor time of the page's thread, after the first `since` seconds."""
        metrics = self.command("Performance.getMetrics")["metrics"]
        time = next(m["value"] for m in metrics if m["name"] == "TaskDuration")
        return time - since if time >= since else time  # a new process begins at zero

    def screenshot(self, path: Path) -> None:
        """Save the first 8,000 pixels of the page at half its size, as WebP."""
        root = "document.documentElement"
        width, height = self.run(f"return [{root}.clientWidth, {root}.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 8_000), "scale": 0.5}
        settings = {"format": "webp", "quality": 70, "captureBeyondViewport": True}
        picture = self.command("Page.captureScreenshot", clip=clip, **settings)["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(picture))

    def command(self, name: str, **parameters: Any) -> Any:
        """Send a command of the Chrome DevTools Protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def close(self) -> None:
        """End Chromium and its driver."""
        self.driver.quit()
