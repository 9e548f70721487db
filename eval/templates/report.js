"use strict";
// A click or Enter on a header sorts its table by the values in data-v; a second one turns the order round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => {
      const text = row.cells[column].dataset.v ?? row.cells[column].textContent;
      return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
    };
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // what was not measured comes last either way
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return down ? -order : order;
    };
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
  });
}
