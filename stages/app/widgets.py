"""Components that gradio does not have: a grid whose images can be clicked, and a picture that can be erased."""

from __future__ import annotations

import gradio as gr

ERASER = """<div class="eraser" style="--columns: ${columns || 1}; background-image: url(${image})">
${[...(value || "")].map((cell, index) => `<i data-cell="${index}" class="erased-${cell}"></i>`).join("")}
</div>"""
"""A picture under its token grid. The value is what `complete.part` writes."""

ERASE = """
let paint = null, cells = [];
const put = (event) => {
  const cell = document.elementFromPoint(event.clientX, event.clientY);
  if (paint === null || !cell || !element.contains(cell) || cell.dataset.cell === undefined) return;
  cells[cell.dataset.cell] = paint;
  cell.className = `erased-${paint}`;
};
element.addEventListener("pointerdown", (event) => {
  if (event.target.dataset.cell === undefined) return;
  event.preventDefault();
  cells = [...props.value];
  paint = cells[event.target.dataset.cell] === "1" ? "0" : "1";
  put(event);
});
element.addEventListener("pointermove", put);
for (const end of ["pointerup", "pointercancel"]) window.addEventListener(end, () => {
  if (paint === null) return;
  paint = null;
  props.value = cells.join("");
});
"""
"""Dragging erases positions, or brings them back where the first one was erased."""

CLICK = """
element.addEventListener("click", (event) => {
  const picture = event.target.closest("img");
  if (!picture) return;
  const box = picture.getBoundingClientRect(), columns = Number(picture.dataset.columns);
  const rows = Math.ceil(picture.dataset.count / columns);
  const column = Math.floor((event.clientX - box.left) / box.width * columns);
  const row = Math.floor((event.clientY - box.top) / box.height * rows);
  trigger("select", {index: row * columns + column});
});
"""
"""A click on the grid selects an image."""


def image_grid(value: str, elem_id: str) -> gr.HTML:
    """A picture of many images, as `show.grid` writes it; its event `select` has the `index` of the one clicked."""
    return gr.HTML(value, js_on_load=CLICK, elem_id=elem_id, elem_classes="grid")


def erasable(elem_id: str) -> gr.HTML:
    """A picture, its property `image`, under a grid of so many `columns`; its value are the erased positions."""
    return gr.HTML("", html_template=ERASER, js_on_load=ERASE, elem_id=elem_id, columns=1, image="")
