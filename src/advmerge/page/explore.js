// Every cell: the choices, two heatmaps, the ranking of methods, and accuracy against transfer.
// ── data ──────────────────────────────────────────────────────────────────────────────────────────────
const at = (list, k) => (list[k].name ?? list[k]);
const read = (row, start, columns, denominator) => {
  const single = row.length === start + columns.length; // a cell of a large study: the primary denominator alone
  if (single && D.denominators[denominator].name !== D.primary) return null;
  const from = start + (single ? 0 : columns.length * denominator);
  if (row[from] == null) return null;
  return Object.fromEntries(columns.map((c, k) => {
    const v = row[from + k];
    return [c, v == null || c === "n" || c === "images" ? v : v / 10000];
  }));
};
const cells = new Map();
for (const row of D.cells) {
  const [task, surrogate, attack, eps, target] = row;
  const key = [task < 0 ? ALL : at(D.tasks, task), at(D.models, surrogate), at(D.attacks, attack), D.eps[eps], at(D.targets, target)];
  cells.set(key.join("|"), row);
}
const denominatorIndex = () => D.denominators.findIndex((d) => d.name === state.denominator);
const surrogateOf = (target) => (state.surrogate === SELF ? target : state.surrogate);
const cell = (task, attack, target) => {
  const row = cells.get([task, surrogateOf(target), attack, state.eps, target].join("|"));
  return row ? read(row, 5, D.rates, denominatorIndex()) : null;
};
const methods = () => D.methods.filter((row) => D.eps[row[1]] === state.eps).map((row) => ({
  surrogate: at(D.models, row[0]), target: at(D.targets, row[2]), ...read(row, 3, D.method_rates, denominatorIndex()),
})).filter((m) => m.n != null);

// Which budgets a surrogate's examples have, and which attacks at a budget.
const present = new Map();
for (const key of cells.keys()) {
  const [, surrogate, attack, eps, target] = key.split("|");
  const name = surrogate === target ? SELF : surrogate;
  if (!present.has(name)) present.set(name, new Map());
  const budgets = present.get(name);
  if (!budgets.has(eps)) budgets.set(eps, new Set());
  budgets.get(eps).add(attack);
}
const attacksHere = () => D.attacks.map((e) => e.name).filter((n) => present.get(state.surrogate)?.get(state.eps)?.has(n));
const targetsHere = () => D.targets.map((e) => e.name);

// ── choices ───────────────────────────────────────────────────────────────────────────────────────────
const surrogates = [...D.surrogates.filter((n) => present.has(n)), ...(present.has(SELF) ? [SELF] : [])];
const state = {
  surrogate: surrogates[surrogates.indexOf("finetuned") < 0 ? 0 : surrogates.indexOf("finetuned")],
  eps: null, attack: null, task: ALL, target: D.targets[0].name, measure: "transfer_asr", denominator: D.primary,
};
const NO_BUDGET = "no budget";
const choices = {
  surrogate: () => surrogates.map((n) => [n, n === SELF ? "the target itself (white box)" : label[n]]),
  eps: () => D.eps.filter((e) => present.get(state.surrogate).has(e)).map((e) => [e, e]),
  attack: () => attacksHere().map((n) => [n, label[n] + (control.has(n) ? " (control)" : "")]),
  task: () => [[ALL, label[ALL]], ...D.tasks.map((e) => [e.name, e.label])],
  target: () => targetsHere().map((n) => [n, label[n]]),
  measure: () => Object.entries(MEASURES).map(([n, m]) => [n, m.label]),
  denominator: () => D.denominators.map((d) => [d.name, d.label]),
};
const fill = () => {
  const options = (id, wanted) => {
    const offered = choices[id]();
    if (!offered.some(([name]) => name === state[id])) state[id] = wanted(offered.map(([name]) => name));
    const select = $(id);
    select.replaceChildren(...offered.map(([name, text]) => new Option(text, name, false, name === state[id])));
  };
  options("surrogate", (names) => names[0]);
  options("eps", (names) => names.filter((n) => n !== NO_BUDGET).at(-1) ?? names[0]);
  options("attack", (names) => (names.includes("pgd") ? "pgd" : names[0]));
  for (const id of ["task", "target", "measure", "denominator"]) options(id, (names) => names[0]);
};

// ── words ─────────────────────────────────────────────────────────────────────────────────────────────
const value = (v) => (MEASURES[state.measure].share ? percent(v) : ratio(v));
const range = (low, high) => (low == null ? "" : `${value(low)} to ${value(high)}`);
const crafted = () => (state.surrogate === SELF ? "the target itself" : label[state.surrogate]);
const budget = () => (state.eps === NO_BUDGET ? "no budget" : `ε\u00a0=\u00a0${state.eps}`);
const setting = () => `${budget()}, denominator “${state.denominator}”`;

const heatmap = (id, columns, find, chosen, pick) => {
  const measure = MEASURES[state.measure];
  const rows = targetsHere();
  const values = [];
  for (const target of rows) for (const column of columns) {
    const found = find(column, target);
    const v = found?.[state.measure];
    if (!found) continue;
    values.push({
      target, column, ...(v == null ? { fill: colour("raised"), ink: colour("muted") } : colours(v)),
      text: v == null ? "–" : measure.share ? (100 * v).toFixed(0) : v.toFixed(v < 9.95 ? 1 : 0),
      chosen: target === state.target && column === chosen,
      tooltip: `${label[target]}, ${label[column]}: ${value(v)} (${range(found[measure.low], found[measure.high])}), n = ${found.n}`,
    });
  }
  const room = $(id).clientWidth;
  const narrow = room < 480;
  const names = lines(rows, narrow);
  const left = widest(Object.values(names).flat()) + 10;
  const beyond = narrow ? 0 : 0.75 * widest([label[columns.at(-1)]]); // the last column's slanted name
  const step = Math.max(22, Math.min(52, Math.floor((room - left - beyond - 6) / columns.length)));
  const spec = {
    data: { values },
    width: { step }, height: { step: narrow ? 32 : 28 },
    padding: { left: 1, right: 5, top: 1, bottom: 1 },
    encoding: {
      x: { field: "column", type: "nominal", scale: { domain: columns, paddingInner: 0.04 }, axis: { orient: "top", title: null, domain: false, ticks: false, labelAngle: narrow ? -90 : -45, labelAlign: "left", ...(narrow ? { labelBaseline: "middle" } : {}), labelExpr: expression(Object.fromEntries(columns.map((c) => [c, label[c]]))) } },
      y: { field: "target", type: "nominal", scale: { domain: rows, paddingInner: 0.05 }, axis: { title: null, domain: false, ticks: false, labelExpr: expression(names), labelBaseline: baseline(names) } },
      tooltip: { field: "tooltip" },
    },
    layer: [
      { mark: { type: "rect" }, encoding: { color: { field: "fill", type: "nominal", scale: null } } },
      { mark: { type: "text", fontSize: 11 }, encoding: { text: { field: "text" }, color: { field: "ink", type: "nominal", scale: null } } },
      { transform: [{ filter: "datum.chosen" }], mark: { type: "rect", fillOpacity: 0, stroke: colour("ink"), strokeWidth: 3 } },
    ],
  };
  return draw(id, spec, null, (datum) => pick(datum.target, datum.column));
};

const points = () => {
  const [low, high] = METHOD_ENDS[state.measure];
  return methods().map((m) => ({ ...m, crafted: label[m.surrogate], v: m[state.measure], low: m[low], high: m[high] })).filter((m) => m.v != null);
};
const drawRanking = () => {
  const found = points();
  const transfers = found.filter((m) => m.surrogate !== m.target);
  const names = D.surrogates.filter((n) => transfers.some((m) => m.surrogate === n));
  const extent = Math.max(0, ...transfers.map((m) => m.high ?? m.v));
  const sorter = names.includes(state.surrogate) ? state.surrogate : names.at(-1);
  const order = transfers.filter((m) => m.surrogate === sorter).sort((a, b) => b.v - a.v).map((m) => m.target);
  const rows = [...order, ...targetsHere().filter((n) => !order.includes(n) && transfers.some((m) => m.target === n))];
  const share = MEASURES[state.measure].share;
  const extra = [];
  if (share) {
    for (const m of found.filter((m) => m.surrogate === m.target && rows.includes(m.target))) extra.push({ target: m.target, v: m.v, kind: "white box" });
    for (const surrogate of names) for (const target of rows) for (const attack of control) {
      const row = cells.get([ALL, surrogate, attack, state.eps, target].join("|"));
      const noise = row && read(row, 5, D.rates, denominatorIndex());
      if (noise?.transfer_asr != null) extra.push({ target, v: noise.transfer_asr, kind: "noise", crafted: label[surrogate] });
    }
  }
  for (const m of transfers) m.tooltip = `${label[m.target]}, crafted on ${m.crafted}: ${value(m.v)} (${range(m.low, m.high)}), n = ${m.n}`;
  $("ranking-caption").innerHTML = `<b>${escape(MEASURES[state.measure].label)} of each model</b>, attacks pooled, ${escape(setting())}; bars: ${level} intervals of a bootstrap over images. ` +
    (share ? "× noise of the same size; | white box: crafted on the target itself." : "1: fooled as often as the surrogate itself.");
  const room = $("ranking-plot").clientWidth;
  const labels = lines(rows, room < 480);
  const left = widest(Object.values(labels).flat()) + 16;
  const top = Math.max(extent, ...extra.map((e) => e.v), share ? 0.05 : 1.05);
  const yOffset = { field: "crafted", type: "nominal", scale: { type: "point", padding: 0.5, domain: names.map((n) => label[n]) } };
  const spec = {
    width: Math.max(150, Math.min(820, room - left - 24)), height: { step: 34, for: "position" }, data: { values: transfers },
    padding: { left: 1, right: 16, top: 1, bottom: 1 },
    encoding: { y: { field: "target", type: "nominal", scale: { domain: rows }, axis: { title: null, domain: false, ticks: false, labelExpr: expression(labels), labelBaseline: baseline(labels), labelFontWeight: { condition: { test: `datum.value === ${JSON.stringify(state.target)}`, value: "bold" }, value: "normal" } } } },
    layer: [
      ...(share ? [] : [{ data: { values: [{ v: 1 }] }, mark: { type: "rule", strokeDash: [4, 3], color: colour("muted") }, encoding: { x: { field: "v", type: "quantitative" }, y: { value: 0 }, y2: { value: 34 * rows.length } } }]),
      { mark: { type: "rule", strokeWidth: 2 }, encoding: { x: { field: "low", type: "quantitative", title: MEASURES[state.measure].label, scale: { domain: [0, top] }, axis: { format: share ? ".0%" : ".1f", tickCount: 6, orient: "bottom" } }, x2: { field: "high" }, yOffset, color: surrogateEncoding(names).color } },
      { mark: { type: "point", filled: true, size: 70, opacity: 1 }, encoding: { x: { field: "v", type: "quantitative" }, yOffset, tooltip: { field: "tooltip" }, ...surrogateEncoding(names) } },
      { data: { values: extra.filter((e) => e.kind === "noise") }, mark: { type: "text", text: "×", fontSize: 14, baseline: "middle" }, encoding: { x: { field: "v", type: "quantitative" }, yOffset, color: surrogateEncoding(names).color } },
      { data: { values: extra.filter((e) => e.kind === "white box") }, mark: { type: "tick", thickness: 2, size: 22, color: colour("ink") }, encoding: { x: { field: "v", type: "quantitative" } } },
    ],
  };
  table("ranking-table", `${MEASURES[state.measure].label}, ${setting()}, ${level} interval`, ["Model", ...names.flatMap((n) => [`crafted on ${label[n]}`, "interval", "n"])],
    rows.map((target) => [label[target], ...names.flatMap((n) => { const m = transfers.find((t) => t.target === target && t.surrogate === n); return m ? [value(m.v), range(m.low, m.high), m.n] : ["–", "", ""]; })]));
  return draw("ranking-plot", spec, null, (datum) => choose({ target: datum.target }));
};

const drawScatter = () => {
  const accuracy = new Map(D.accuracy.map(([k, ...rest]) => [D.targets[k].name, rest.map((v) => (v == null ? null : v / 10000))]));
  const values = points().filter((m) => m.surrogate !== m.target && accuracy.has(m.target)).map((m) => {
    const [acc, accLow, accHigh] = accuracy.get(m.target);
    return { ...m, acc, accLow, accHigh, name: label[m.target], tooltip: `${label[m.target]}, crafted on ${m.crafted}: accuracy ${percent(acc)}, ${value(m.v)}` };
  });
  const names = D.surrogates.filter((n) => values.some((m) => m.surrogate === n));
  const sorter = names.includes(state.surrogate) ? state.surrogate : names.at(-1);
  for (const m of values) m.text = m.surrogate === sorter ? m.name : "";
  const share = MEASURES[state.measure].share;
  const room = $("scatter-plot").clientWidth;
  const x = { field: "acc", type: "quantitative", title: "Clean test accuracy, mean over tasks", scale: { zero: false, nice: true, padding: 24 }, axis: { format: ".0%", grid: false, tickCount: room < 480 ? 4 : 8 } };
  const y = { field: "v", type: "quantitative", title: MEASURES[state.measure].label, scale: { zero: true }, axis: { format: share ? ".0%" : ".1f", grid: true, tickCount: 6 } };
  const spec = {
    width: Math.max(220, Math.min(860, room - 70)), height: 360, data: { values },
    padding: { left: 4, right: 8, top: 4, bottom: 6 },
    layer: [
      { mark: { type: "line", strokeWidth: 1, color: colour("line") }, encoding: { x, y, detail: { field: "target" } } },
      { name: "across", mark: { type: "rule", strokeWidth: 1 }, encoding: { x: { ...x, field: "accLow" }, x2: { field: "accHigh" }, y, color: surrogateEncoding(names).color } },
      { name: "along", mark: { type: "rule", strokeWidth: 1 }, encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color: surrogateEncoding(names).color } },
      { name: "dots", mark: { type: "point", filled: true, opacity: 1 }, encoding: { x, y, size: { condition: { test: `datum.target === ${JSON.stringify(state.target)}`, value: 150 }, value: 60 }, tooltip: { field: "tooltip" }, ...surrogateEncoding(names) } },
    ],
  };
  $("scatter-caption").innerHTML = `<b>Clean accuracy against ${escape(MEASURES[state.measure].label.toLowerCase().replace("asr", "ASR"))}</b>, attacks pooled, ${escape(setting())}; bars: ${level} intervals. ` +
    "A line joins the points of one model. The accuracy axis does not begin at 0. The denominator itself grows with accuracy: compare with the others before reading a trend.";
  table("scatter-table", `Accuracy and ${MEASURES[state.measure].label}, ${setting()}`, ["Model", "accuracy", `${level} interval`, ...names.map((n) => `crafted on ${label[n]}`)],
    targetsHere().filter((t) => accuracy.has(t)).map((t) => [label[t], percent(accuracy.get(t)[0]), `${percent(accuracy.get(t)[1])} to ${percent(accuracy.get(t)[2])}`, ...names.map((n) => value(values.find((m) => m.target === t && m.surrogate === n)?.v))]));
  // Vega places the names where they cover neither points nor bars; Vega-Lite has no word for it.
  const patch = (compiled) => ({ ...compiled, marks: [...compiled.marks, {
    type: "text", from: { data: "dots_marks" },
    encode: { enter: { text: { field: "datum.text" }, fontSize: { value: 12 }, font: { value: FONT }, fill: { value: colour("ink") } } },
    transform: [{ type: "label", size: { signal: `[width + ${room < 480 ? 0 : 60}, height]` }, anchor: ["right", "left", "top", "bottom", "top-right", "bottom-right", "top-left", "bottom-left"], offset: [6], avoidMarks: ["across_marks", "along_marks"], padding: 40 }],
  }] });
  return draw("scatter-plot", spec, patch, (datum) => choose({ target: datum.target }));
};

const drawCells = () => {
  const m = MEASURES[state.measure];
  const found = cell(state.task, state.attack, state.target);
  const noise = state.surrogate === SELF ? null : [...control].map((n) => cell(state.task, n, state.target)).find((c) => c?.transfer_asr != null);
  const where = state.task === ALL ? "on all tasks" : `on ${label[state.task]}`;
  $("cell").innerHTML = !found && cells.get([state.task, surrogateOf(state.target), state.attack, state.eps, state.target].join("|")) ? `By task this page holds the denominator “${D.primary}” alone; the others are in <code>rates_by_cell.csv</code>.` : !found ? `No such cell: ${escape(label[state.target])} faces no ${escape(label[state.attack])} examples crafted on ${escape(crafted())} ${escape(where)}.` :
    `<b>${escape(label[state.target])}</b> ${escape(where)}, ${escape(label[state.attack])} (${escape(budget())}) crafted on ${escape(crafted())}: ` +
    `<b>${escape(m.label.toLowerCase().replace("asr", "ASR"))} ${value(found[state.measure])}</b> (${level} interval ${range(found[m.low], found[m.high])}), n = ${found.n}. ` +
    `ASR on the surrogate ${percent(found.asr)}; images left unchanged ${percent(found.unchanged)}` +
    (noise && !control.has(state.attack) ? `; noise of the same size fools it in ${percent(noise.transfer_asr)}.` : ".");
  const attacks = attacksHere(), tasks = [ALL, ...D.tasks.map((e) => e.name)];
  $("attacks-caption").innerHTML = `<b>${escape(m.label)}${m.share ? " in percent" : ""} by attack</b>, ${escape(label[state.task].toLowerCase() === "all tasks" ? "all tasks" : label[state.task])}, crafted on ${escape(crafted())}, ${escape(setting())}`;
  $("tasks-caption").innerHTML = `<b>${escape(m.label)}${m.share ? " in percent" : ""} by task</b>, ${escape(label[state.attack])}, crafted on ${escape(crafted())}, ${escape(setting())}`;
  const byAttack = (attack, target) => cell(state.task, attack, target), byTask = (task, target) => cell(task, state.attack, target);
  const words = (c) => (c ? `${value(c[state.measure])} (n = ${c.n})` : "–");
  table("attacks-table", $("attacks-caption").textContent, ["Target", ...attacks.map((n) => label[n])], targetsHere().map((t) => [label[t], ...attacks.map((a) => words(byAttack(a, t)))]));
  table("tasks-table", $("tasks-caption").textContent, ["Target", ...tasks.map((n) => label[n])], targetsHere().map((t) => [label[t], ...tasks.map((k) => words(byTask(k, t)))]));
  return Promise.all([
    heatmap("attacks-plot", attacks, byAttack, state.attack, (target, attack) => choose({ target, attack })),
    heatmap("tasks-plot", tasks, byTask, state.task, (target, task) => choose({ target, task })),
  ]);
};

// ── what is drawn, and when ───────────────────────────────────────────────────────────────────────────
const drawCellsAndMethods = () => Promise.all([drawCells(), drawRanking(), drawScatter()]);
const choose = (wanted) => { Object.assign(state, wanted); fill(); redraw(drawCellsAndMethods, drawSeeds); };
for (const id of Object.keys(choices)) $(id).addEventListener("change", (event) => choose({ [id]: event.target.value }));
if (D.attacks.length > 14) document.querySelector(".pair").classList.add("many"); // one below the other
fill();
