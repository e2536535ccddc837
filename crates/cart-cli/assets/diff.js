"use strict";
// The page is whole without this: it adds sorting, filtering and a choice of colours.
(() => {
  const theme = document.getElementById("theme");
  const choices = ["as the system", "light", "dark"];
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const next = (choices.indexOf(theme.textContent.slice(7)) + 1) % choices.length;
    theme.textContent = "Theme: " + choices[next];
    if (next === 0) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choices[next];
  });

  const table = document.getElementById("tensors");
  if (!table) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return cell.textContent;
    return cell.dataset.value === "" ? -Infinity : Number(cell.dataset.value);
  };
  const order = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  heads.forEach((head, column) => {
    if (head.classList.contains("fixed")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const names = column === 0;
      const now = head.getAttribute("aria-sort");
      const ascending = now ? now === "descending" : names;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const rows = [...body.rows];
      rows.sort((a, b) => (ascending ? 1 : -1) * order(value(a, column), value(b, column)));
      body.append(...rows);
    });
  });

  const filter = document.getElementById("filter");
  const found = document.getElementById("found");
  filter.closest("p").hidden = false;
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const name = row.cells[0].textContent.toLowerCase();
      row.hidden = !words.every((word) => name.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    found.textContent = words.length ? shown + " of " + body.rows.length : "";
  });
})();
