// Sorting, filtering and plots of tables that are complete without this script. Nothing is fetched.
(() => {
  "use strict";

  const PAGE = 50;
  const RISING = ["#", "rank", "bops", "passes", "seed"]; // the least first
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const charts = [];

  function columns(table) {
    return [...table.tHead.rows[0].cells].map((cell) => {
      const number = cell.classList.contains("number");
      const descending = number && !RISING.includes(cell.dataset.key ?? cell.textContent);
      return {
        name: cell.dataset.key || "", type: number ? "num-fmt" : null, className: number ? "number" : "",
        orderSequence: descending ? ["desc", "asc"] : ["asc", "desc"],
      };
    });
  }

  // Small tables: sorting alone.
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    new DataTable(table, {
      columns: columns(table), paging: false, searching: false, info: false, autoWidth: false, order: [],
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    });
  }

  // The table of entries, its filters, and the plot of what they let through.
  const table = document.querySelector("table[data-entries]");
  if (table) showEntries(table);
  const curve = document.querySelector("[data-curve]");
  if (curve) showCurve(curve);
  offerCopies();

  function showEntries(table) {
    const form = document.querySelector("[data-filters]");
    const filters = [...form.querySelectorAll("[data-filter]")];
    const plot = document.querySelector("[data-plot]");
    const axes = [...plot.querySelectorAll("[data-axis]")];
    const entries = new DataTable(table, {
      columns: columns(table), pageLength: PAGE, lengthMenu: [PAGE, 200, { label: "all", value: -1 }],
      autoWidth: false, order: [],
      layout: { topStart: "info", topEnd: "pageLength", bottomStart: null, bottomEnd: "paging" },
      language: {
        info: "_START_ to _END_ of _TOTAL_ entries", infoEmpty: "No entries", infoFiltered: "(_MAX_ without filters)",
        zeroRecords: "No entry passes these filters.", lengthMenu: "_MENU_ per page",
      },
    });
    table.classList.add("ready");
    form.hidden = plot.hidden = false;
    const chart = scatter(plot.querySelector("canvas"), table, entries);
    const byDefault = (control) => control.dataset.default || "";
    let reading = false;

    function apply() {
      for (const control of filters) {
        const key = control.dataset.filter;
        if (key === "q") entries.search(control.value);
        else entries.column(`${key}:name`).search(control.value, { exact: control.value !== "" });
      }
      entries.draw();
    }
    function remember() {
      if (reading) return;
      const state = new URLSearchParams();
      for (const control of filters) {
        if (control.value !== byDefault(control)) state.set(control.dataset.filter, control.value);
      }
      const [sorted] = entries.order();
      if (sorted) state.set("sort", `${table.tHead.rows[0].cells[sorted[0]].dataset.key}:${sorted[1]}`);
      for (const axis of axes) if (axis.selectedIndex > 0) state.set(axis.dataset.axis, axis.value);
      history.replaceState(null, "", state.size ? `#${state}` : location.pathname + location.search);
    }
    function recall() {
      const given = location.hash.slice(1);
      if (given && !given.includes("=")) return apply(); // an anchor
      const state = new URLSearchParams(given);
      reading = true;
      for (const control of filters) choose(control, state.get(control.dataset.filter), byDefault(control));
      for (const axis of axes) choose(axis, state.get(axis.dataset.axis), axis.options[0].value);
      const [key, direction] = (state.get("sort") || "").split(":");
      const column = columns(table).findIndex((each) => each.name && each.name === key);
      entries.order(column >= 0 && ["asc", "desc"].includes(direction) ? [[column, direction]] : []);
      apply();
      reading = false;
    }
    function choose(control, value, otherwise) {
      control.value = value ?? otherwise;
      if (control.selectedIndex === -1) control.value = otherwise;
    }

    for (const control of filters) control.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      for (const control of filters) control.value = byDefault(control);
      entries.order([]);
      apply();
    });
    for (const axis of axes) {
      axis.addEventListener("input", () => { chart.fill(); remember(); });
      axis.form.addEventListener("submit", (event) => event.preventDefault());
    }
    entries.on("draw", () => { chart.fill(); remember(); });
    window.addEventListener("hashchange", recall);
    let length = PAGE;
    window.addEventListener("beforeprint", () => { length = entries.page.len(); entries.page.len(-1).draw(); });
    window.addEventListener("afterprint", () => entries.page.len(length).draw());
    recall();
  }

  // Points of the entries that pass the filters; point and row light up together.
  function scatter(canvas, table, entries) {
    const note = document.querySelector("[data-plot-note]");
    const axis = (name) => document.querySelector(`[data-axis="${name}"]`);
    const place = new Map([...table.tHead.rows[0].cells].map((cell, index) => [cell.dataset.key, index]));
    const listed = (text) => new Map((text || "").split(" ").filter(Boolean).map((part) => part.split("=")));
    const known = new Map();
    function facts(index) {
      if (!known.has(index)) {
        const row = entries.row(index).node();
        const link = row.querySelector("a");
        const cell = (key) => row.cells[place.get(key)].textContent;
        known.set(index, {
          at: listed(row.dataset.at), costs: listed(row.dataset.costs), board: row.dataset.board, url: link.href,
          method: link.textContent, seed: cell("seed"), status: cell("status"), acr: cell("acr"), bops: cell("bops"),
        });
      }
      return known.get(index);
    }
    const looks = {
      verified: ["circle", "good"], claimed: ["triangle", "warn"], rejected: ["crossRot", "bad"], withdrawn: ["rect", "muted"],
    };
    const chart = new Chart(canvas, {
      type: "scatter",
      data: { datasets: [] },
      options: {
        animation: false, parsing: false, maintainAspectRatio: false,
        interaction: { mode: "nearest", intersect: true },
        plugins: {
          legend: { position: "bottom", labels: { usePointStyle: true, boxHeight: 6 } },
          tooltip: {
            filter: (item) => item.raw.index !== undefined,
            callbacks: {
              label: ({ raw }) => {
                const entry = facts(raw.index);
                return `${entry.method}, seed ${entry.seed}, ${entry.status}: ${raw.y} at ${raw.x}`;
              },
            },
          },
        },
        onHover: (event, active) => {
          const hit = active.map((each) => chart.data.datasets[each.datasetIndex].data[each.index].index);
          light(hit.filter((index) => index !== undefined));
          canvas.style.cursor = hit.length ? "pointer" : "";
        },
        onClick: (event, active) => {
          const hit = active.map((each) => chart.data.datasets[each.datasetIndex].data[each.index].index);
          if (hit[0] !== undefined) location.href = facts(hit[0]).url;
        },
      },
    });
    charts.push(chart);

    function light(indices) {
      for (const row of table.querySelectorAll("tr.linked")) row.classList.remove("linked");
      for (const index of indices) entries.row(index).node().classList.add("linked");
    }
    function point(row) {
      const index = entries.row(row).index();
      const active = [];
      chart.data.datasets.forEach((set, datasetIndex) => set.data.forEach((each, place) => {
        if (each.index === index) active.push({ datasetIndex, index: place });
      }));
      chart.setActiveElements(active);
      const at = active.length ? chart.getDatasetMeta(active[0].datasetIndex).data[active[0].index] : { x: 0, y: 0 };
      chart.tooltip.setActiveElements(active, { x: at.x, y: at.y });
      chart.update("none");
      light(active.length ? [index] : []);
    }
    for (const kind of ["mouseover", "focusin"]) {
      table.tBodies[0].addEventListener(kind, (event) => {
        const row = event.target.closest("tr");
        if (row && row.dataset.board !== undefined && !row.classList.contains("linked")) point(row);
      });
    }

    function fill() {
      const [x, y] = [axis("x"), axis("y")];
      const shown = entries.rows({ search: "applied" }).indexes().toArray().map((index) => [index, facts(index)]);
      const groups = {};
      for (const [index, entry] of shown) {
        const at = { index, x: +(x.value === "bops" ? entry.bops : entry.costs.get(x.value)), y: +(y.value === "acr" ? entry.acr : entry.at.get(y.value)) };
        if (Number.isFinite(at.x) && Number.isFinite(at.y)) (groups[entry.status] ||= []).push(at);
      }
      for (const group of Object.values(groups)) group.sort((one, other) => one.x - other.x || other.y - one.y); // as Chart.js expects
      const boards = new Set(shown.map(([, entry]) => entry.board));
      const datasets = Object.keys(looks).filter((status) => groups[status]).map((status) => ({
        label: status, data: groups[status], pointStyle: looks[status][0], tone: looks[status][1], hollow: status !== "verified",
      }));
      const front = boards.size === 1 ? frontOf(groups.verified || []) : [];
      if (front.length) datasets.push({ label: "front of verified entries", type: "line", stepped: "before", data: front, pointRadius: 0, pointStyle: "line", tone: "accent", borderWidth: 2 });
      chart.data.datasets = datasets;
      chart.options.scales = { x: { type: "linear", title: { display: true, text: x.selectedOptions[0].text } }, y: { type: "linear", title: { display: true, text: y.value === "acr" ? "ACR" : `${y.selectedOptions[0].text}, %` } } };
      dress(chart);
      const left = shown.length - Object.values(groups).reduce((sum, group) => sum + group.length, 0);
      note.textContent = [
        boards.size > 1 ? "Entries of several boards are not comparable: the front is drawn where filters leave one board." : "",
        left ? `${left} without these values are not shown.` : "", "Point at a row or a point to find the other; click a point to open its entry.",
      ].filter(Boolean).join(" ");
    }
    return { fill };
  }

  // What no other of these points, by ascending cost, beats in both.
  function frontOf(points) {
    const front = [];
    for (const { x, y } of points) {
      if (!front.length || y > front[front.length - 1].y) front.push({ x, y });
    }
    if (front.length) front.push({ x: Math.max(...points.map((each) => each.x)), y: front[front.length - 1].y });
    return front;
  }

  function showCurve(section) {
    const points = JSON.parse(document.getElementById("curve").textContent).map(([x, y]) => ({ x, y: 100 * y }));
    section.hidden = false;
    const chart = new Chart(section.querySelector("canvas"), {
      type: "line",
      data: { datasets: [{ label: "certified accuracy", data: points, tone: "accent", stepped: "after", pointRadius: 0, borderWidth: 2 }] },
      options: {
        animation: false, parsing: false, maintainAspectRatio: false,
        interaction: { mode: "nearest", axis: "x", intersect: false },
        plugins: { legend: { display: false } },
        scales: {
          x: { type: "linear", min: 0, title: { display: true, text: "radius" } },
          y: { type: "linear", min: 0, max: 100, title: { display: true, text: "certified accuracy, %" } },
        },
      },
    });
    charts.push(chart);
    dress(chart);
  }

  // Colours of the page's own theme.
  function dress(chart) {
    const [text, line] = [color("muted"), color("line")];
    for (const scale of Object.values(chart.options.scales)) {
      scale.ticks = { ...scale.ticks, color: text };
      scale.grid = { color: line };
      scale.title = { ...scale.title, color: text };
    }
    chart.options.plugins.legend.labels = { ...chart.options.plugins.legend.labels, color: text };
    for (const set of chart.data.datasets) {
      set.borderColor = color(set.tone);
      set.backgroundColor = set.hollow ? "transparent" : set.borderColor;
      if (set.type !== "line" && set.pointRadius === undefined) Object.assign(set, { pointRadius: 4, pointHoverRadius: 8, pointBorderWidth: 1.5, pointHoverBorderWidth: 3 });
    }
    chart.update("none");
  }
  const dressAll = () => charts.forEach(dress);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dressAll);
  window.addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; dressAll(); });
  window.addEventListener("afterprint", () => { delete document.documentElement.dataset.theme; dressAll(); });

  function offerCopies() {
    for (const block of document.querySelectorAll("pre.command")) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Copy command" });
      button.addEventListener("click", async () => {
        getSelection().selectAllChildren(block);
        try {
          await navigator.clipboard.writeText(block.textContent);
          button.textContent = "Copied";
        } catch {
          button.textContent = "Selected; press Ctrl+C";
        }
      });
      block.after(button);
    }
  }
})();
