// What goes with transfer: alignment, surgery by dose, and the weights in between.
const E = D.explained;
const explaining = { measure: E.measures[0]?.name, setting: E.examples ?? 0, colour: "surrogate" };
const FULL = E.given.length - 1;

const drawAlignment = () => {
  const k = E.measures.findIndex((m) => m.name === explaining.measure), setting = +explaining.setting, by = explaining.colour;
  const axes = { task: 0, surrogate: 1, target: 2 };
  const seen = E.cells.map((c) => ({ task: E.task[c[0]], surrogate: E.surrogate[c[1]], target: E.target[c[2]], group: c[axes[by]], x: c[3][k], rate: c[4][setting] })).filter((c) => c.x != null && c.rate != null && c.rate[0] != null);
  const finite = seen.filter((c) => c.x !== "inf").map((c) => c.x);
  const edge = finite.length ? Math.max(...finite) + 0.08 * (Math.max(...finite) - Math.min(0, ...finite) || 1) : 1;
  const title = E.measures[k].label;
  const values = seen.map((c) => ({ ...c, beyond: c.x === "inf", x: c.x === "inf" ? edge : c.x, y: c.rate[0], mark: shape(E.surrogate.indexOf(c.surrogate)), colour: tone(c.group),
    tooltip: `${label[c.target]} on ${label[c.task]}, crafted on ${label[c.surrogate]}: ${title} ${c.x === "inf" ? "beyond the search" : signed(c.x, 3)}, transfer ASR ${percent(c.rate[0])}, n = ${c.rate[1]}` }));
  const room = $("alignment-plot").clientWidth;
  const x = { field: "x", type: "quantitative", title, scale: { zero: false, nice: true }, axis: { grid: false, tickCount: room < 480 ? 5 : 9 } };
  const y = { field: "y", type: "quantitative", title: "Transfer ASR", scale: { zero: true }, axis: { format: ".0%", tickCount: 6 } };
  const looks = { color: { field: "colour", type: "nominal", scale: null }, shape: { field: "mark", type: "nominal", scale: null }, tooltip: { field: "tooltip" } };
  const spec = {
    width: Math.max(200, Math.min(760, room - 70)), height: room < 480 ? 260 : 340, data: { values }, padding: { left: 4, right: 10, top: 4, bottom: 4 },
    encoding: { x, y },
    layer: [
      ...(explaining.measure === "boundary_ratio" ? [{ data: { values: [{ x: 1 }] }, mark: { type: "rule", strokeDash: [4, 3], color: colour("muted") }, encoding: { x, y: { value: 0 }, y2: { value: "height" } } }] : []),
      ...[false, true].filter((beyond) => values.some((v) => v.beyond === beyond)).map((beyond) => (
        { transform: [{ filter: `datum.beyond === ${beyond}` }], mark: { type: "point", filled: !beyond, size: 45, opacity: 0.8 }, encoding: looks })),
    ],
  };
  const rho = E.correlations[setting]?.[explaining.measure];
  const [plain, whole] = [rho?.[0], rho?.[FULL]];
  $("alignment-caption").innerHTML = `<b>${escape(title[0].toUpperCase() + title.slice(1))} against transfer ASR</b> of ${escape(E.settings[setting])}: a point a task, surrogate and target (${values.length}). ` +
    (plain ? `Rank correlation ${signed(plain?.[0])}; partial, given ${escape(E.given[FULL])}: ${signed(whole?.[0])}, from ${signed(whole?.[1])} to ${signed(whole?.[2])} when each task is left out.` : "No rank correlation.") +
    (values.some((v) => v.beyond) ? " Open marks lie beyond the search." : "") + (explaining.measure === "boundary_ratio" ? " Left of the dashed line the target is fooled on the way to the example." : "");
  legend("alignment-legend", [
    ...E.surrogate.map((n, j) => ({ text: `crafted on ${label[n]}`, shape: shape(j), colour: by === "surrogate" ? tone(j) : colour("ink"), open: by !== "surrogate" })),
    ...(by === "surrogate" ? [] : E[by].map((n, j) => ({ text: label[n], colour: tone(j) }))),
  ]);
  table("alignment-table", $("alignment-caption").textContent, ["Task", "crafted on", "target", title, "transfer ASR", "n"],
    seen.map((c) => [label[c.task], label[c.surrogate], label[c.target], c.x === "inf" ? "beyond the search" : signed(c.x, 3), percent(c.rate[0]), c.rate[1]]), 3);
  return draw("alignment-plot", spec);
};

const drawRho = () => {
  const found = E.correlations[+explaining.setting] ?? {};
  const measures = E.measures.filter((m) => found[m.name]?.[0]);
  const texts = measures.map((m) => m.label), kinds = ["plain", `given ${E.given[FULL]}`];
  const values = measures.flatMap((m) => [0, FULL].map((g, j) => ({ row: m.label, kind: kinds[j], numbers: found[m.name][g] }))).filter((v) => v.numbers?.[0] != null)
    .map((v) => ({ ...v, rho: v.numbers[0], low: v.numbers[1], high: v.numbers[2], tooltip: `${v.row}, ${v.kind}: ${signed(v.numbers[0])} (${signed(v.numbers[1])} to ${signed(v.numbers[2])})` }));
  const room = $("rho-plot").clientWidth, narrow = room < 480;
  const { left, axis } = rowAxis(texts, narrow);
  const color = { field: "kind", type: "nominal", scale: { domain: kinds, range: [tone(0), tone(3)] }, legend: null };
  const yOffset = { field: "kind", type: "nominal", scale: { type: "point", padding: 0.6, domain: kinds } };
  const spec = {
    width: Math.max(120, Math.min(560, room - left - 18)), height: { step: 32, for: "position" }, data: { values }, padding: { left: 1, right: 12, top: 1, bottom: 1 },
    encoding: { y: { field: "row", type: "nominal", scale: { domain: texts }, axis } },
    layer: [
      { data: { values: [{ v: 0 }] }, mark: { type: "rule", strokeDash: [4, 3], color: colour("muted") }, encoding: { x: { field: "v", type: "quantitative" }, y: { value: 0 }, y2: { value: 32 * texts.length } } },
      { transform: [{ filter: "isValid(datum.low)" }], mark: { type: "rule", strokeWidth: 2 }, encoding: { x: { field: "low", type: "quantitative", title: narrow ? "Rank correlation" : "Rank correlation with transfer ASR", scale: { domain: [-1, 1] }, axis: { orient: "bottom", values: narrow ? [-1, 0, 1] : [-1, -0.5, 0, 0.5, 1], format: "~g" } }, x2: { field: "high" }, yOffset, color } },
      { mark: { type: "point", filled: true, size: 60, opacity: 1 }, encoding: { x: { field: "rho", type: "quantitative" }, yOffset, color, tooltip: { field: "tooltip" }, shape: { field: "kind", type: "nominal", scale: { domain: kinds, range: ["circle", "square"] }, legend: null } } },
    ],
  };
  $("rho-caption").innerHTML = `<b>Spearman's rank correlation of each measure with transfer ASR</b> of ${escape(E.settings[+explaining.setting])}: plain (circles) and given ${escape(E.given[FULL])} (squares); the bar is its range when each task in turn is left out.`;
  table("rho-table", $("rho-caption").textContent, ["Measure", ...E.given.flatMap((g) => [g ? `given ${g}` : "plain", "without one task"])],
    measures.map((m) => [m.label, ...E.given.flatMap((_, g) => { const r = found[m.name][g]; return r?.[0] == null ? ["–", ""] : [signed(r[0]), `${signed(r[1])} to ${signed(r[2])}`]; })]));
  return draw("rho-plot", spec);
};

// ── curves and the plane ──────────────────────────────────────────────────────────────────────────────
const curve = (rows, at) => rows.map((row) => ({ ...Object.fromEntries([...at, "surrogate", ...E.curves].map((name, k) => [name, row[k]])) }));
const panel = (id, k, title) => {
  const name = `${id}-${k}`;
  if (!$(name)) $(id).insertAdjacentHTML("beforeend", `<div><h4 id="${name}-title"></h4><div class="plot scroll" id="${name}" role="region" tabindex="0" aria-labelledby="${name}-title"></div></div>`);
  $(`${name}-title`).textContent = title;
  return name;
};
const graph = (id, k, title, values, x, y, { format, ends, rule } = {}) => {
  const name = panel(id, k, title);
  const looks = { color: { field: "colour", type: "nominal", scale: null }, detail: { field: "line" } };
  const encoding = { x: { field: x.field, type: "quantitative", title: x.title, scale: { nice: false }, axis: { grid: false, tickCount: 5 } }, y: { field: y, type: "quantitative", title: null, scale: { zero: true }, axis: { format: format ?? "~g", tickCount: 5 } } };
  const spec = {
    width: Math.max(160, Math.min(360, $(name).clientWidth - 62)), height: 190, data: { values: values.filter((v) => v[y] != null) }, padding: { left: 2, right: 10, top: 6, bottom: 2 },
    encoding,
    layer: [
      ...(rule == null ? [] : [{ data: { values: [{ [x.field]: rule }] }, mark: { type: "rule", strokeDash: [4, 3], color: colour("muted") }, encoding: { y: { value: 0 }, y2: { value: 190 } } }]),
      { mark: { type: "line", strokeWidth: 1.5 }, encoding: looks },
      ...(ends ? [{ transform: [{ filter: `isValid(datum.${ends[0]})` }], mark: { type: "rule", strokeWidth: 1 }, encoding: { y: { ...encoding.y, field: ends[0] }, y2: { field: ends[1] }, ...looks } }] : []),
      { mark: { type: "point", filled: true, size: 32, opacity: 1 }, encoding: { ...looks, shape: { field: "mark", type: "nominal", scale: null }, tooltip: { field: `${y}_words` } } },
    ],
  };
  return draw(name, spec);
};
const WORDS = { loss: (v) => signed(v), representation_bias: (v) => signed(v, 3), accuracy: percent, transfer_asr: percent };
const worded = (row, where) => ({ ...row, ...Object.fromEntries(Object.entries(WORDS).map(([name, words]) => [`${name}_words`, `${where}: ${words(row[name])}`])) });
const once = (rows, key) => [...new Map(rows.map((row) => [key(row), row])).values()];

const drawDose = () => {
  if (!$("dose-plot")) return null;
  const rows = curve(E.dose, ["target", "dose"]), targets = E.target.filter((n) => rows.some((r) => r.target === n));
  const values = rows.map((r) => worded({ ...r, line: r.target, colour: tone(targets.indexOf(r.target)), mark: shape(targets.indexOf(r.target)) }, `${label[r.target]}, dose ${r.dose}`));
  const x = { field: "dose", title: "Share of surgery's correction" }, models = once(values, (r) => `${r.target} ${r.dose}`);
  legend("dose-legend", targets.map((n, k) => ({ text: label[n], shape: shape(k), colour: tone(k) })));
  table("dose-table", "Surgery by dose", ["Model", "dose", "representation bias", "accuracy", "crafted on", "transfer ASR", `${level} interval`, "n"],
    rows.map((r) => [label[r.target], r.dose, signed(r.representation_bias, 3), percent(r.accuracy), label[r.surrogate], percent(r.transfer_asr), `${percent(r.low)} to ${percent(r.high)}`, r.n]));
  return Promise.all([
    graph("dose-plot", 0, "Representation bias (L1)", models, x, "representation_bias"),
    graph("dose-plot", 1, "Clean accuracy", models, x, "accuracy", { format: ".0%", ends: ["accuracy_low", "accuracy_high"] }),
    ...E.surrogate.map((n, k) => graph("dose-plot", 2 + k, `Transfer ASR, crafted on ${label[n]}`, values.filter((r) => r.surrogate === n), x, "transfer_asr", { format: ".0%", ends: ["low", "high"] })),
  ]);
};

const drawPath = () => {
  const rows = curve(E.path, ["scale"]);
  const values = rows.map((r) => worded({ ...r, line: r.surrogate, colour: tone(E.surrogate.indexOf(r.surrogate)), mark: shape(E.surrogate.indexOf(r.surrogate)) }, `λ = ${r.scale}`));
  const models = once(values, (r) => r.scale).map((r) => ({ ...r, colour: colour("ink"), mark: "circle", line: "" }));
  const x = { field: "scale", title: "λ" }, rule = E.vector === "mean" ? 1 : 1 / E.vectors;
  legend("path-legend", E.surrogate.map((n, k) => ({ text: `crafted on ${label[n]}`, shape: shape(k), colour: tone(k) })));
  table("path-table", "Along the task vectors", ["λ", "loss", "representation bias", "accuracy", "crafted on", "transfer ASR", `${level} interval`, "n"],
    rows.map((r) => [r.scale, signed(r.loss), signed(r.representation_bias, 3), percent(r.accuracy), label[r.surrogate], percent(r.transfer_asr), `${percent(r.low)} to ${percent(r.high)}`, r.n]));
  return Promise.all([
    graph("path-plot", 0, "Loss on clean images (nats)", models, x, "loss", { rule }),
    graph("path-plot", 1, "Clean accuracy", models, x, "accuracy", { format: ".0%", ends: ["accuracy_low", "accuracy_high"], rule }),
    graph("path-plot", 2, "Representation bias (L1)", models, x, "representation_bias", { rule }),
    graph("path-plot", 3, "Transfer ASR", values, x, "transfer_asr", { format: ".0%", ends: ["low", "high"], rule }),
  ]);
};

const drawPlane = () => {
  const rows = curve(E.plane, ["a", "b"]);
  const across = [...new Set(rows.map((r) => r.a))].sort((p, q) => p - q), up = [...new Set(rows.map((r) => r.b))].sort((p, q) => q - p);
  const corner = (r) => (r.a === 0 && r.b === 0) || (r.a === 1 && r.b === 0) || (r.a === 0 && r.b === 1);
  const one = (k, title, part, column, words) => {
    const name = panel("plane-plot", k, title), known = part.filter((r) => r[column] != null).map((r) => r[column]);
    const least = Math.min(...known), most = Math.max(...known);
    const values = part.map((r) => ({ a: String(r.a), b: String(r.b), corner: corner(r), text: r[column] == null ? "–" : words(r[column]), tooltip: `a = ${r.a}, b = ${r.b}: ${r[column] == null ? "–" : WORDS[column](r[column])}`,
      ...(r[column] == null ? { fill: colour("raised"), ink: colour("muted") } : colours(column === "loss" ? (r[column] - least) / (most - least || 1) : r[column])) }));
    const step = Math.max(28, Math.min(44, Math.floor(($(name).clientWidth - 56) / across.length)));
    return draw(name, {
      data: { values }, width: { step }, height: { step: 28 }, padding: { left: 2, right: 5, top: 3, bottom: 2 },
      encoding: {
        x: { field: "a", type: "nominal", scale: { domain: across.map(String), paddingInner: 0.04 }, axis: { title: "a, toward the expert", labelAngle: 0, domain: false, ticks: false } },
        y: { field: "b", type: "nominal", scale: { domain: up.map(String), paddingInner: 0.05 }, axis: { title: `b, toward ${E.merged}`, titleLimit: 180, domain: false, ticks: false } },
        tooltip: { field: "tooltip" },
      },
      layer: [
        { mark: "rect", encoding: { color: { field: "fill", type: "nominal", scale: null } } },
        { mark: { type: "text", fontSize: 11 }, encoding: { text: { field: "text" }, color: { field: "ink", type: "nominal", scale: null } } },
        { transform: [{ filter: "datum.corner" }], mark: { type: "rect", fillOpacity: 0, stroke: colour("ink"), strokeWidth: 3 } },
      ],
    });
  };
  const hundred = (v) => (100 * v).toFixed(0), models = rows.filter((r) => r.surrogate === E.surrogate[0]);
  table("plane-table", "The plane", ["a, toward the expert", `b, toward ${E.merged}`, "loss", "accuracy", ...E.surrogate.map((n) => `transfer ASR, crafted on ${label[n]}`)],
    models.map((r) => [r.a, r.b, signed(r.loss), percent(r.accuracy), ...E.surrogate.map((n) => percent(rows.find((o) => o.a === r.a && o.b === r.b && o.surrogate === n)?.transfer_asr))]));
  return Promise.all([
    one(0, "Loss on clean images (nats)", models, "loss", (v) => v.toFixed(v < 9.95 ? 1 : 0)),
    one(1, "Clean accuracy (%)", models, "accuracy", hundred),
    ...E.surrogate.map((n, k) => one(2 + k, `Transfer ASR (%), crafted on ${label[n]}`, rows.filter((r) => r.surrogate === n), "transfer_asr", hundred)),
  ]);
};

const drawMeasures = () => Promise.all([drawAlignment(), drawRho()]);
const drawExplained = () => ($("explained") ? Promise.all([drawMeasures(), drawDose(), drawPath(), drawPlane()]) : null);
if ($("explained")) {
  offer("explained-measure", E.measures.map((m) => [m.name, m.label]), explaining, "measure", drawMeasures);
  offer("explained-setting", E.settings.map((text, k) => [k, text]), explaining, "setting", drawMeasures);
  offer("explained-colour", [["surrogate", "surrogate"], ["task", "task"], ["target", "target"]], explaining, "colour", drawMeasures);
}
