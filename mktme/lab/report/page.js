"use strict";
(() => {
  // Colours that stay apart for the colour-blind (Okabe and Ito 2008); patterns, marks and dashes beside them.
  const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#9A8F00", "#8C8C8C"];
  const PATTERNS = ["", "/", ".", "x", "\\", "|", "-"];
  const SYMBOLS = ["circle", "square", "diamond", "cross", "triangle-up", "x", "star"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const data = JSON.parse(document.getElementById("data").textContent);
  const nth = (list, index) => list[index % list.length];
  const values = (rows, key) => [...new Set(rows.map((row) => row[key]))];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  function number(value) {
    if (typeof value !== "number") return value ?? "";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    return Math.abs(value) >= 1000 || (value !== 0 && Math.abs(value) < 0.001) ? value.toExponential(3) : value.toPrecision(4);
  }

  function axis(title, more = {}) {
    return { title: { text: title }, gridcolor: css("--line"), zerolinecolor: css("--line"), automargin: true, fixedrange: true, ...more };
  }

  function layout(more) {
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), family: "system-ui, sans-serif" },
      margin: { l: 60, r: 10, t: 10, b: 50 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
      hoverlabel: { bgcolor: css("--raised"), font: { color: css("--ink") } }, dragmode: false, ...more,
    };
  }

  const DRAW = {
    bars(chart, rows, measure, series) {
      const x = chart.x, traces = chart.series ? series : [null];
      return [traces.map((name) => {
        const own = rows.filter((row) => name === null || row[chart.series] === name);
        const place = name === null ? 0 : values(chart.rows, chart.series).indexOf(name);
        const trace = {
          type: "bar", name: name ?? measure.label, x: own.map((row) => row[x]), y: own.map((row) => row[measure.key]),
          marker: { color: nth(COLOURS, place), pattern: { shape: nth(PATTERNS, place), fillmode: "overlay", fgcolor: css("--ground"), size: 6 } },
          hovertemplate: `%{x}<br>${measure.label}: %{y:.4g}<extra>${name ?? ""}</extra>`,
        };
        if (measure.band) {
          trace.error_y = {
            type: "data", symmetric: false, color: css("--ink"),
            array: own.map((row) => row[`${measure.key}_high`] - row[measure.key]),
            arrayminus: own.map((row) => row[measure.key] - row[`${measure.key}_low`]),
          };
        }
        return trace;
      }), layout({ barmode: "group", xaxis: axis(x, { type: "category" }), yaxis: axis(measure.label, { type: measure.log ? "log" : "linear" }) })];
    },
    histogram(chart, rows, _measure, series) {
      return [series.flatMap((name) => {
        const place = values(chart.rows, chart.series).indexOf(name);
        return rows.filter((row) => row[chart.series] === name).map((row) => {
          const total = row.bins.reduce((sum, bin) => sum + bin[1], 0);
          return {
            type: "scatter", mode: "lines+markers", name, x: row.bins.map((bin) => bin[0]), y: row.bins.map((bin) => bin[1] / total),
            line: { shape: "hv", color: nth(COLOURS, place), dash: nth(DASHES, place) },
            marker: { symbol: nth(SYMBOLS, place), size: 7, color: nth(COLOURS, place) },
            hovertemplate: `from %{x:.4g} ${chart.unit}: %{y:.2%}<extra>${name}</extra>`,
          };
        });
      }), layout({ xaxis: axis(`latency, ${chart.unit}`, { type: "log" }), yaxis: axis("share of requests", { tickformat: ".0%", rangemode: "tozero" }) })];
    },
    scatter(chart, rows) {
      return [[{
        type: "scatter", mode: "markers+text", x: rows.map((row) => row[chart.x]), y: rows.map((row) => row[chart.y]),
        text: rows.map((_, index) => String(index + 1)),
        textposition: rows.map((row) => {
          const level = rows.filter((one) => one[chart.y] === row[chart.y]).sort((one, other) => one[chart.x] - other[chart.x]);
          return level.indexOf(row) % 2 ? "bottom center" : "top center";
        }), customdata: rows.map((row) => [row[chart.label], row["broken by"]]),
        marker: { size: 11, color: COLOURS[0], opacity: 0.75, line: { width: 1, color: css("--ink") } },
        hovertemplate: "%{customdata[0]}<br>speed %{x:.2f}, withstands %{y}<br>broken by %{customdata[1]}<extra></extra>",
      }], layout({ xaxis: axis(chart.x_label, { rangemode: "tozero" }), yaxis: axis(chart.y_label, { dtick: 1 }), showlegend: false })];
    },
    bands(chart, rows) {
      const told = rows.filter((row) => row.ratio !== null);
      const names = told.map((row) => row[chart.label]);
      return [["within", "outside"].map((state) => {
        const own = told.filter((row) => row.within === state);
        return {
          type: "scatter", mode: "markers", name: state, x: own.map((row) => row.ratio), y: own.map((row) => row[chart.label]),
          marker: { size: 10, symbol: state === "within" ? "circle" : "x", color: state === "within" ? COLOURS[0] : COLOURS[4] },
          error_x: {
            type: "data", symmetric: false, color: css("--faint"),
            array: own.map((row) => Math.max(0, row.ratio_high - row.ratio)), arrayminus: own.map((row) => Math.max(0, row.ratio - row.ratio_low)),
          },
          customdata: own.map((row) => [row.published, row.modelled, row.unit, row.source]),
          hovertemplate: "%{y}<br>published %{customdata[0]:.4g}, ours %{customdata[1]:.4g} %{customdata[2]}<br>%{customdata[3]}<extra></extra>",
        };
      }), layout({
        height: 160 + 22 * names.length, margin: { l: 10, r: 10, t: 10, b: 50 },
        xaxis: axis("ours over published", { type: "log" }), yaxis: axis("", { type: "category", categoryarray: [...names].reverse(), categoryorder: "array", range: [-0.7, names.length - 0.3] }),
        shapes: [{ type: "line", x0: 1, x1: 1, yref: "paper", y0: 0, y1: 1, line: { color: css("--faint"), dash: "dot" } }],
      })];
    },
  };

  function table(chart, rows) {
    const hidden = chart.kind === "histogram" ? ["bins"] : [];
    const heads = values(rows.flatMap((row) => Object.keys(row).map((key) => ({ key }))), "key").filter((key) => !hidden.includes(key));
    const label = (key) => (chart.measures.find((one) => one.key === key) ?? { label: key.replaceAll("_", " ") }).label;
    const body = [];
    for (const [index, row] of rows.entries()) {
      const cells = heads.map((key) => make("td", {}, String(number(row[key]))));
      if (chart.kind === "scatter") cells.unshift(make("td", {}, String(index + 1)));
      if (chart.kind === "histogram") cells.push(make("td", {}, row.bins.map(([from, count]) => `${number(from)}: ${number(count)}`).join("; ")));
      body.push(make("tr", {}, ...cells));
    }
    const names = heads.map(label);
    if (chart.kind === "scatter") names.unshift("number");
    if (chart.kind === "histogram") names.push(`from ${chart.unit}: requests`);
    return make("table", { className: "plain" }, make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...body));
  }

  const drawn = [];
  for (const figure of document.querySelectorAll("figure.chart")) {
    const chart = data[figure.dataset.section].charts[figure.dataset.chart];
    const controls = figure.querySelector(".controls"), plot = figure.querySelector(".plot"), details = figure.querySelector("details");
    const chosen = {}, series = new Set(chart.series ? values(chart.rows, chart.series) : []);
    let measure = chart.measures[0];

    const matching = (row, before) => chart.facets.every(({ key }) => key === before || chosen[key] === undefined || row[key] === chosen[key]);
    const rows = () => chart.rows.filter((row) => matching(row) && (!chart.series || series.has(row[chart.series])));

    function draw() {
      const [traces, look] = DRAW[chart.kind](chart, rows(), measure, [...series]);
      Plotly.react(plot, traces, look, { responsive: true, displaylogo: false, displayModeBar: false });
      if (details.open) details.querySelector(".scroll").replaceChildren(table(chart, rows()));
    }

    // A choice narrows what the choices behind it offer.
    function offer() {
      chart.facets.forEach(({ key }, index) => {
        const ahead = chart.facets.slice(0, index);
        const there = values(chart.rows.filter((row) => ahead.every((one) => chosen[one.key] === undefined || row[one.key] === chosen[one.key])), key);
        const select = controls.querySelector(`select[data-facet="${key}"]`);
        const all = chart.kind === "bands";
        if (!there.includes(chosen[key])) chosen[key] = all ? undefined : there[0];
        const options = there.map((value) => make("option", { value, selected: value === chosen[key] }, value));
        if (all) options.unshift(make("option", { value: "", selected: chosen[key] === undefined }, "all"));
        select.replaceChildren(...options);
      });
    }

    for (const { key, label } of chart.facets) {
      const select = make("select");
      select.dataset.facet = key;
      select.addEventListener("change", () => { chosen[key] = select.value || undefined; offer(); draw(); });
      controls.append(make("label", {}, `${label} `, select));
    }
    if (chart.kind === "bars" && chart.measures.length > 1) {
      const select = make("select", {}, ...chart.measures.map((one, index) => make("option", { value: index }, one.label)));
      select.dataset.measure = "";
      select.addEventListener("change", () => { measure = chart.measures[select.value]; draw(); });
      controls.append(make("label", {}, "figure ", select));
    }
    if (chart.series) {
      const box = make("fieldset", {}, make("legend", {}, chart.series));
      for (const name of series) {
        const input = make("input", { type: "checkbox", checked: true, value: name });
        input.addEventListener("change", () => {
          input.checked ? series.add(name) : series.delete(name);
          draw();
        });
        box.append(make("label", {}, input, ` ${name}`));
      }
      controls.append(box);
    }
    details.addEventListener("toggle", draw);
    offer();
    draw();
    drawn.push(draw);
    if (chart.kind === "scatter") {
      plot.on("plotly_click", (event) => show(figure.dataset.section, event.points[0].customdata[0], undefined, true));
    }
  }

  // The IV matrix: a cell says what was done and found; a scheme, all of it.
  function show(section, scheme, column, go) {
    const matrix = data[section].matrix, row = matrix.rows.find((one) => one.name === scheme), box = document.getElementById(`evidence${section}`);
    const said = (key) => make("p", {}, make("span", { className: row.cells[key].grade }, `${matrix.marks[row.cells[key].grade]} ${row.cells[key].grade}`), ` ${matrix.heads[key]}: ${row.cells[key].said}`);
    const parts = [make("h3", {}, column === undefined ? scheme : `${scheme}: ${matrix.heads[column]}`)];
    if (column === undefined) {
      parts.push(make("p", {}, `IV: ${row.summary} (${row.source}). Needs ${row.coordinates.join(", ") || "nothing"}; data units of ${row.unit} bytes.`), ...Object.keys(row.cells).map(said));
    } else {
      const evidence = make("details", {}, make("summary", {}, "Evidence, as it was recorded"), make("pre", {}, JSON.stringify(row.cells[column].evidence, null, 1)));
      parts.push(said(column), evidence);
    }
    box.replaceChildren(...parts);
    for (const cell of document.querySelectorAll(`table.matrix[data-section="${section}"] .cell`)) {
      cell.setAttribute("aria-current", String(matrix.rows[cell.dataset.row].name === scheme && cell.dataset.column === column));
    }
    if (!go) box.scrollIntoView({ block: "nearest" });
    if (go) { box.scrollIntoView({ block: "center" }); box.focus({ preventScroll: true }); }
  }

  for (const table of document.querySelectorAll("table.matrix")) {
    const number = table.dataset.section, section = table.closest("section");
    const search = section.querySelector(".scheme-search"), group = section.querySelector(".column-group"), grade = section.querySelector(".scheme-grade");
    table.addEventListener("click", (event) => {
      const cell = event.target.closest(".cell");
      if (cell) show(number, data[number].matrix.rows[cell.dataset.row].name, cell.dataset.column);
    });
    // One stop of the tab key; arrows move between cells, which scroll out from behind the heads.
    const scroll = table.closest(".scroll");
    scroll.style.scrollPadding = `${table.tHead.offsetHeight + 4}px 0 0 ${table.tHead.rows[1].cells[0].offsetWidth + 4}px`;
    table.addEventListener("focusin", (event) => {
      for (const cell of table.querySelectorAll('.cell[tabindex="0"]')) cell.tabIndex = -1;
      event.target.closest(".cell").tabIndex = 0;
    });
    table.addEventListener("keydown", (event) => {
      const cell = event.target.closest(".cell"), step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!cell || !step) return;
      const shown = (list) => [...list].filter((one) => !one.hidden);
      const rows = shown(table.tBodies[0].rows), line = cell.closest("tr"), at = shown(line.cells).indexOf(cell.closest("td,th"));
      const next = rows[rows.indexOf(line) + step[0]];
      const target = next && shown(next.cells)[at + step[1]];
      if (target) { event.preventDefault(); target.querySelector(".cell").focus(); }
    });
    function filter() {
      for (const cell of table.querySelectorAll("[data-group]")) cell.hidden = group.value !== "" && cell.dataset.group !== group.value;
      let count = 0;
      for (const row of table.tBodies[0].rows) {
        const broken = row.querySelector('td:not([hidden])[data-grade="breaks"]') !== null;
        row.hidden = !row.dataset.scheme.includes(search.value.trim()) || (grade.value !== "" && broken !== (grade.value === "broken"));
        count += !row.hidden;
      }
      for (const cell of table.querySelectorAll('.cell[tabindex="0"]')) cell.tabIndex = -1;
      const first = table.querySelector("tbody tr:not([hidden]) .cell");
      if (first) first.tabIndex = 0;
      section.querySelector(".matrix-count").textContent = `${count} of ${table.tBodies[0].rows.length} schemes`;
    }
    for (const control of [search, group, grade]) control.addEventListener("input", filter);
    filter();
  }

  // Filters of tables.
  for (const search of document.querySelectorAll(".table-search")) {
    const controls = search.closest(".controls"), body = controls.nextElementSibling.querySelector("tbody");
    search.addEventListener("input", () => {
      let count = 0;
      for (const row of body.rows) {
        row.hidden = !row.textContent.toLowerCase().includes(search.value.trim().toLowerCase());
        count += !row.hidden;
      }
      controls.querySelector("output").textContent = `${count} of ${body.rows.length} rows`;
    });
  }
  const only = document.getElementById("marked-only");
  if (only) {
    const search = document.getElementById("compared-search"), body = document.querySelector("#changes tbody");
    const filter = () => {
      let count = 0;
      for (const row of body.rows) {
        row.hidden = (only.checked && row.dataset.marked === "no") || !row.textContent.toLowerCase().includes(search.value.trim().toLowerCase());
        count += !row.hidden;
      }
      document.getElementById("compared-count").textContent = `${count} of ${body.rows.length} figures`;
    };
    only.addEventListener("input", filter);
    search.addEventListener("input", filter);
    filter();
  }

  // Dark and light: as the system says, until the reader says otherwise.
  const theme = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    name();
    drawn.forEach((draw) => draw());
  });
  system.addEventListener("change", () => { name(); drawn.forEach((draw) => draw()); });
  name();
  document.documentElement.dataset.ready = "yes";
})();
