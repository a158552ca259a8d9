// Sorting, filtering and copying. Without it every page is whole, unsorted and unfiltered.
// State is kept in the part of the address after "#", so that a view can be shared and found again.
(function () {
  "use strict";

  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const FIELDS = { q: "filter-text", data: "filter-data", seeds: "filter-seeds", kind: "filter-kind" };
  const FLIPPED = { ascending: "descending", descending: "ascending" };

  // ---- Sorting ----

  function sortable(table) {
    const heads = Array.from(table.querySelectorAll("th[data-sort]"));
    const given = heads.find((head) => head.hasAttribute("aria-sort"));
    const bodies = Array.from(table.tBodies, (body) => {
      const rows = Array.from(body.rows);
      return { body, rows: rows.filter((row) => !row.classList.contains("heading")), order: null };
    });
    const values = new Map();
    const self = {
      name: table.id,
      start: given ? { column: given.dataset.sort, direction: given.getAttribute("aria-sort") } : null,
      state: null,
      column: (name) => heads.find((head) => head.dataset.sort === name),
      sort,
    };
    self.state = self.start;

    function place(head) {
      // Headings stand in one line or two: cells are counted in the first row of the body.
      const columns = Array.from(table.querySelectorAll("thead tr:first-child > th")).flatMap((one) =>
        one.colSpan > 1 ? Array.from(table.querySelectorAll("thead tr:nth-child(2) > th")) : [one]);
      return columns.indexOf(head);
    }

    function read(head, number, rows) {
      const key = head.dataset.sort + "/" + number;
      if (!values.has(key)) {
        const at = place(head);
        values.set(key, rows.map((row) => valueOf(row.cells[at], "number" in head.dataset)));
      }
      return values.get(key);
    }

    // Equal rows keep the order in which they were delivered; undefined ones come last either way.
    function sort(state) {
      const head = state && self.column(state.column);
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      if (head) head.setAttribute("aria-sort", state.direction);
      bodies.forEach(({ body, rows }, number) => {
        let order = rows.map((_, index) => index);
        if (head) {
          const found = read(head, number, rows);
          const sign = state.direction === "descending" ? -1 : 1;
          order.sort((a, b) => {
            const [x, y] = [found[a], found[b]];
            if (x === null || y === null) return (x === null) - (y === null) || a - b;
            return sign * (typeof x === "number" ? x - y : collator.compare(x, y)) || a - b;
          });
        }
        const fragment = document.createDocumentFragment();
        order.forEach((index) => fragment.append(rows[index]));
        body.append(fragment);
      });
      self.state = head ? state : null;
    }

    heads.forEach((head) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sort({ column: head.dataset.sort, direction: now ? FLIPPED[now] : head.dataset.first });
        writeState();
      });
    });
    return self;
  }

  function valueOf(cell, number) {
    if (!cell) return null;
    const text = number ? cell.dataset.v || "" : cell.textContent.trim();
    if (text === "") return null;
    if (!number) return text;
    const value = Number(text);
    return Number.isFinite(value) ? value : null;
  }

  // ---- Filtering ----

  const form = document.getElementById("filter");
  const fields = {};
  let sections = [];

  function prepareFilter() {
    for (const [name, id] of Object.entries(FIELDS)) fields[name] = document.getElementById(id);
    sections = Array.from(document.querySelectorAll(".board-of"), (section) => ({
      section,
      none: section.querySelector(".none"),
      table: section.querySelector(".scroll"),
      headings: Array.from(section.querySelectorAll("tr.heading")),
      rows: Array.from(section.querySelectorAll("tr[data-find]"), (row) => ({
        row,
        find: row.dataset.find,
        seeds: Number(row.dataset.seeds),
        kind: row.dataset.kind,
      })),
    }));
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => { filter(); writeState(); });
    document.getElementById("filter-reset").addEventListener("click", () => {
      Object.values(fields).forEach((field) => { field.value = ""; });
      tables.forEach((table) => table.sort(table.start));
      filter();
      writeState();
    });
  }

  // "ce" finds "ce" and "ce@drw", not "balanced_softmax" nor a key with "ce" in the middle.
  function begins(text, word) {
    const inner = /^[a-z0-9]/.test(word);
    for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + 1)) {
      if (at === 0 || !inner || !/[a-z0-9]/.test(text[at - 1])) return true;
    }
    return false;
  }

  function filter() {
    const words = fields.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const seeds = Number(fields.seeds.value) || 0;
    const [data, kind] = [fields.data.value, fields.kind.value];
    let shown = 0, all = 0;
    sections.forEach((one) => {
      const chosen = !data || one.section.dataset.dataset === data;
      let here = 0;
      one.rows.forEach((entry) => {
        const fits = chosen && entry.seeds >= seeds && (!kind || entry.kind === kind)
          && words.every((word) => begins(entry.find, word));
        if (entry.row.hidden === fits) entry.row.hidden = !fits;
        here += fits;
      });
      one.headings.forEach((row) => {
        row.hidden = !Array.from(row.parentNode.rows).some((other) => other !== row && !other.hidden);
      });
      one.section.hidden = !chosen;
      one.none.hidden = here > 0;
      one.table.hidden = here === 0;
      shown += here;
      all += one.rows.length;
    });
    const count = document.getElementById("count");
    const text = `${shown} of ${all} ${all === 1 ? "row" : "rows"}`;
    if (count.textContent !== text) count.textContent = text;
  }

  // ---- State in the address ----

  let tables = [];

  function sameSort(one, other) {
    return one === other || (one && other && one.column === other.column && one.direction === other.direction);
  }

  function writeState() {
    const state = new URLSearchParams();
    if (form) {
      for (const [name, field] of Object.entries(fields)) if (field.value) state.set(name, field.value);
    }
    tables.forEach((table) => {
      if (!sameSort(table.state, table.start) && table.state) {
        state.set(`sort.${table.name}`, `${table.state.column}.${table.state.direction}`);
      }
    });
    const hash = String(state) ? `#${state}` : "";
    const there = location.href.replace(/#.*/, "") + hash;
    try {
      history.replaceState(null, "", there);
    } catch (error) {
      location.hash = hash;
    }
  }

  function readState() {
    // "#methods" is a place on the page, "#q=ecl" a state.
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) return;
    const state = new URLSearchParams(hash);
    if (form) {
      for (const [name, field] of Object.entries(fields)) {
        field.value = state.get(name) || "";
        if (field.selectedIndex === -1) field.value = "";
      }
    }
    tables.forEach((table) => {
      const [column, direction] = (state.get(`sort.${table.name}`) || "").split(".");
      const asked = table.column(column) && direction in FLIPPED ? { column, direction } : table.start;
      if (!sameSort(asked, table.state)) table.sort(asked);
    });
  }

  // ---- Copying ----

  function copyable(pre) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    const said = document.createElement("span");
    said.className = "muted";
    said.setAttribute("role", "status");
    pre.after(button, said);
    button.addEventListener("click", async () => {
      said.textContent = (await copied(pre)) ? "Copied." : "Selected: press Ctrl+C or \u2318C.";
    });
  }

  async function copied(pre) {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      return true;
    } catch (error) {
      // No permission, or no clipboard for pages from disk: the text is selected at least.
      const range = document.createRange();
      range.selectNodeContents(pre);
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      return Boolean(document.execCommand && document.execCommand("copy"));
    }
  }

  tables = Array.from(document.querySelectorAll("table.sortable"), sortable);
  if (form) prepareFilter();
  readState();
  if (form) filter();
  window.addEventListener("hashchange", () => { readState(); if (form) filter(); });
  document.querySelectorAll("pre[data-copy]").forEach(copyable);
})();
