"""The page in a real browser: drop a picture, read the label, keep the table."""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import FEW, serving

from featx import load_model
from featx.serve.app import Service

pytestmark = pytest.mark.slow

# Hands files to the page as the system does when they are dropped, or pasted.
HAND_OVER = """([files, kind]) => {
  const transfer = new DataTransfer();
  for (const [name, data] of files) {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
  }
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
    : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.querySelector("#drop").dispatchEvent(event);
}"""
# Everything that can be used has a name, every picture a text, and the levels of headings rise by
# one at most.
UNNAMED = """() => {
  const shown = (e) => e.checkVisibility();
  const name = (e) => (e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent
    || e.title || "").trim();
  const odd = [...document.querySelectorAll("button, a[href], input, summary, progress")]
    .filter((e) => shown(e) && !name(e));
  const images = [...document.querySelectorAll("img")].filter((e) => shown(e) && !e.alt);
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].filter(shown)
    .map((e) => Number(e.tagName[1]));
  const jumps = levels.filter((l, k) => l > (levels[k - 1] ?? 0) + 1);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  const twice = ids.filter((id, k) => ids.indexOf(id) !== k);
  const lost = [...document.querySelectorAll("[aria-labelledby]")]
    .filter((e) => !document.getElementById(e.getAttribute("aria-labelledby")));
  return [...odd, ...images, ...lost].map((e) => e.outerHTML).concat(jumps, twice);
}"""
# Contrast of every visible text with what lies behind it, by WCAG 2.
FAINT = """() => {
  const parse = (c) => (c.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !e.checkVisibility() || e.disabled) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${e.outerHTML.slice(0, 80)}`);
  }
  return found;
}"""


@contextmanager
def visiting(page: Any, service: Service) -> Iterator[None]:
    """Open the page of a running server, and leave it while the server still answers."""
    with serving(service) as url:
        page.goto(url)
        yield
        # Pictures may still be on their way, and a request that meets no server is an error of
        # the page.
        page.goto("about:blank")


def hand_over(page: Any, paths: list[Path], kind: str = "drop") -> None:
    files = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]
    page.evaluate(HAND_OVER, [files, kind])


def answered(page: Any) -> str:
    page.wait_for_selector("#status:not(:empty)", state="attached")
    return str(page.text_content("#status"))


def test_drop_a_picture_and_read_the_label(page: Any, model_folder: Path, service: Service) -> None:
    path = next((model_folder / "new" / "blue").glob("*.png"))
    known = {
        Path(r["path"]).name: r
        for r in load_model(model_folder / "m.featx").predict(model_folder / "new", **FEW).rows
    }
    with visiting(page, service):
        page.wait_for_selector("#lead:not(:empty)")
        assert page.text_content("h1") == "Blue or red?"
        hand_over(page, [path])
        said = answered(page)
        row = known[path.name]
        assert said.startswith(f"{path.name}: {row['label']}, ")
        assert page.text_content("#label") == row["label"]
        shares = page.locator("#bars .share").all_text_contents()
        assert float(shares[0].split("\u202f")[0].strip("<> ")) == pytest.approx(
            100 * row[f"p_{row['label']}"], abs=0.11
        )
        assert page.locator("#near li").count() == 6
        page.wait_for_selector("#near li:nth-child(6) img")
        assert page.is_hidden("#batch")
        for look in ("light", "dark"):
            page.emulate_media(color_scheme=look)
            assert page.evaluate(FAINT) == []
            assert page.evaluate(UNNAMED) == []
        page.set_viewport_size({"width": 360, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# Where the canvas is red and where it is blue, as the sums of both over its quarters.
QUARTERS = """() => {
  const map = document.querySelector("#map"), { width, height } = map;
  const { data } = map.getContext("2d").getImageData(0, 0, width, height);
  const sums = [0, 0, 0, 0];
  for (let k = 0; k < width * height; k++) {
    const right = k % width >= width / 2, below = k / width >= height / 2;
    sums[2 * below + right] += data[4 * k] - data[4 * k + 2];
  }
  return sums;
}"""


def test_the_map_of_an_answer_is_drawn_where_it_is(
    page: Any, model_folder: Path, service: Service
) -> None:
    path = next((model_folder / "new" / "blue").glob("*.png"))
    found = load_model(model_folder / "m.featx").explain(path)
    rows, columns = (n // 2 for n in found.map.shape)
    sums = [
        found.map[:rows, :columns].mean(),
        found.map[:rows, -columns:].mean(),
        found.map[-rows:, :columns].mean(),
        found.map[-rows:, -columns:].mean(),
    ]
    with visiting(page, service):
        page.wait_for_selector("#lead:not(:empty)")
        hand_over(page, [path])
        answered(page)
        page.click("#why")
        page.wait_for_selector("#map:not([hidden])")
        page.wait_for_function("document.querySelector('#map').width >= 400")
        assert page.text_content("#pro") == f"for {found.label}"
        assert "The map is exact" in page.text_content("#why-note")
        drawn = page.evaluate(QUARTERS)
        assert sorted(range(4), key=lambda k: drawn[k]) == sorted(range(4), key=lambda k: sums[k])
        page.click("#drift summary")
        page.wait_for_selector("#drift-verdict:not(:empty)")
        assert "of the 20 pictures that a test needs" in page.text_content("#drift-verdict")
        for look in ("light", "dark"):
            page.emulate_media(color_scheme=look)
            assert page.evaluate(FAINT) == []
            assert page.evaluate(UNNAMED) == []
        page.set_viewport_size({"width": 360, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.click("#why")
        assert page.is_visible("#picture")
        assert page.is_hidden("#map")


def test_many_pictures_make_a_table_to_keep(
    page: Any, model_folder: Path, service: Service, tmp_path: Path
) -> None:
    odd = tmp_path / 'no "picture", =1+1.png'
    odd.write_bytes(b"no picture")
    paths = [*sorted((model_folder / "new").rglob("*.png")), odd]
    with visiting(page, service):
        page.wait_for_selector("#lead:not(:empty)")
        page.set_input_files("#files", [str(path) for path in paths])
        assert answered(page).startswith("7 pictures: ")
        assert page.locator("#rows tr").count() == 7
        assert page.locator("#rows .bad").text_content() == "not an image of a known format"
        with page.expect_download() as download:
            page.click("#csv")
        download.value.save_as(tmp_path / "kept.csv")
        with (tmp_path / "kept.csv").open(newline="", encoding="utf-8") as file:
            rows = {row["id"]: row for row in csv.DictReader(file)}
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate(FAINT) == []
        page.click("#clear")
        assert page.is_hidden("#answer")
        assert page.evaluate("document.activeElement.id") == "choose"
    assert set(rows) == {path.name for path in paths}
    assert rows[odd.name]["error"] == "not an image of a known format"
    for row in load_model(model_folder / "m.featx").predict(model_folder / "new", **FEW).rows:
        kept = rows[Path(row["path"]).name]
        assert kept["label"] == row["label"]
        assert float(kept["p_red"]) == pytest.approx(row["p_red"], abs=1e-4)


def test_paste_token_and_keyboard(page: Any, model_folder: Path, service: Service) -> None:
    path = next((model_folder / "new" / "red").glob("*.png"))
    with visiting(page, replace(service, token="s3cret")):
        page.wait_for_selector("dialog[open]")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#ask-problem:not(:empty)")
        page.keyboard.type("s3cret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#lead:not(:empty)")
        page.keyboard.press("Tab")
        focused = []
        for _ in range(8):
            focused.append(page.evaluate("document.activeElement.textContent.trim()"))
            page.keyboard.press("Tab")
        assert "Choose pictures" in focused
        assert "About this model" in focused
        hand_over(page, [path], "paste")
        assert answered(page).startswith(f"{path.name}: ")
