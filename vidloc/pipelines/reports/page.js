for (const heading of document.querySelectorAll("table.sortable th")) {
  heading.addEventListener("click", () => {
    const table = heading.closest("table"), place = heading.cellIndex;
    const falling = heading.getAttribute("aria-sort") !== "descending";
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const value = (row) => row.cells[place].dataset.value;
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const difference = isNaN(x) || isNaN(y) ? y.localeCompare(x) : Number(y) - Number(x);
      return falling ? difference : -difference;
    };
    const rows = [...table.tBodies[0].rows].sort(order);
    table.tBodies[0].append(...rows);
  });
}
