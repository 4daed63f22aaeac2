"""Draw docs/serve.png: what `featx serve` shows for a handwritten digit.

python docs/serve_page.py CHROMIUM
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright
from sklearn.datasets import load_digits

import featx
from featx.serve import serve

PORT = 8765


def main() -> None:
    """Fit on scikit-learn's digits, serve, drop a digit, take the picture."""
    folder = Path(tempfile.mkdtemp())
    featx.extract("digits", folder / "digits.h5", progress=False)
    featx.fit(folder / "digits.h5", head="svm", out=folder / "digits.featx")
    pixels = (load_digits().images[7] * 255 / 16).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "seven.png")
    ready = threading.Event()

    def draw() -> None:
        ready.wait()
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=sys.argv[1], args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1000, "height": 760})
            page.goto(f"http://127.0.0.1:{PORT}")
            page.set_input_files("#files", str(folder / "seven.png"))
            page.wait_for_selector("#bars .share")
            page.wait_for_timeout(800)
            page.screenshot(path=str(Path(__file__).with_name("serve.png")))
            browser.close()
        import _thread

        _thread.interrupt_main()

    threading.Thread(target=draw).start()
    serve(folder / "digits.featx", port=PORT, ready=lambda *_: ready.set())


if __name__ == "__main__":
    main()
