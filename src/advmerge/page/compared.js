// The comparison of methods: ranks, pairs, and the regression.
const compared = { surrogate: D.ranks.find((r) => r.surrogate === "finetuned")?.surrogate ?? D.ranks[0]?.surrogate, unit: "task", setting: 0 };
const alpha = 1 - D.confidence;

const drawRanks = () => {
  const found = D.ranks.find((r) => r.surrogate === compared.surrogate && r.unit === compared.unit);
  if (!found) return null;
  const { targets, ranks, blocks, critical_distance: distance } = found;
  const room = $("ranks-plot").clientWidth, narrow = room < 480;
  const { left, axis } = rowAxis(targets, narrow);
  const beyond = 14 + 9 * found.cliques.length;
  const width = Math.max(140, Math.min(640, room - left - beyond - 12)), step = narrow ? 34 : 26;
  const values = targets.map((target, k) => ({ target, rank: ranks[k], low: ranks[k] - distance / 2, high: ranks[k] + distance / 2, tooltip: `${target}: average rank ${ranks[k].toFixed(2)}` }));
  const cliques = found.cliques.map(([first, last], k) => ({ first: targets[first], last: targets[last], x: width + 12 + 9 * k, tooltip: `Not told apart: ${targets.slice(first, last + 1).join(", ")}` }));
  const reach = [Math.min(1, ...values.map((v) => v.low)), Math.max(targets.length, ...values.map((v) => v.high))];
  const y = { field: "target", type: "nominal", scale: { domain: targets }, axis };
  const spec = {
    width, height: { step, for: "position" }, data: { values }, padding: { left: 1, right: beyond, top: 1, bottom: 4 },
    layer: [
      { mark: { type: "rule", strokeWidth: 2, color: colour("undecided") }, encoding: { y, x: { field: "low", type: "quantitative", title: narrow ? "Average rank" : "Average rank; 1 is the most often fooled", scale: { domain: reach, nice: false }, axis: { orient: "bottom", values: targets.map((_, k) => k + 1), labelOverlap: true, format: "d" } }, x2: { field: "high" } } },
      { mark: { type: "point", filled: true, size: 70, opacity: 1, color: tone(0) }, encoding: { y, x: { field: "rank", type: "quantitative" }, tooltip: { field: "tooltip" } } },
      { data: { values: cliques }, mark: { type: "rule", strokeWidth: 4, color: tone(3) }, encoding: { y: { field: "first", type: "nominal" }, y2: { field: "last" }, x: { field: "x", type: "quantitative", scale: null }, tooltip: { field: "tooltip" } } },
    ],
    resolve: { scale: { x: "independent" }, axis: { x: "independent" } },
  };
  // one scale for the first two layers, pixels for the third
  spec.layer = [{ layer: spec.layer.slice(0, 2) }, spec.layer[2]];
  const power = `With ${blocks} ${compared.unit === "task" ? "tasks" : "cells"} two methods one standard deviation (of a ${compared.unit}) apart are told apart with a probability of ${percent(found.power)}` +
    `; ${found.detectable === "over 6" ? "even six standard deviations are not found with 80\u00a0%" : `80\u00a0% from ${found.detectable} standard deviations`}.`;
  $("ranks-caption").innerHTML = `<b>Average rank by transfer ASR over ${blocks} ${escape(compared.unit === "task" ? "tasks" : "cells")}</b>, crafted on ${escape(label[compared.surrogate])}. Bars reach half the critical distance (${distance.toFixed(2)}) to each side: ` +
    `Nemenyi's test tells two methods apart where their bars do not overlap; a thick line at the right joins what it does not tell apart. ` +
    (compared.unit === "task" ? escape(power) : "Cells share images and models: the distance is too small, a bound at best.") + ` That all are alike: p ${escape(found.friedman_p.startsWith("<") ? found.friedman_p : `= ${found.friedman_p}`)} (Friedman).`;
  table("ranks-table", `Average ranks, crafted on ${label[compared.surrogate]}; critical distance ${distance.toFixed(2)}`, ["Model", "not told apart from", "average rank"],
    targets.map((target, k) => [target, targets.filter((other, m) => m !== k && Math.abs(ranks[k] - ranks[m]) <= distance).join(", ") || "none of them", ranks[k].toFixed(2)]), 2);
  return draw("ranks-plot", spec);
};

const drawPairs = () => {
  const P = D.pairs, surrogate = P.surrogates.indexOf(compared.surrogate), setting = +compared.setting;
  const at = Object.fromEntries(P.columns.map((name, k) => [name, k + 4]));
  const scaled = (row, name) => (row[at[name]] == null ? null : row[at[name]] / (name === "p_holm" ? 1e6 : 1e4));
  const rows = P.rows.filter((row) => row[0] === surrogate && row[1] === setting);
  const order = D.ranks.find((r) => r.surrogate === compared.surrogate && r.unit === "task")?.targets ?? [];
  const present = new Set(rows.flatMap((row) => [row[2], row[3]]));
  const place = (k) => order.indexOf(label[P.targets[k]]);
  const targets = [...present].sort((a, b) => place(a) - place(b) || a - b);
  const both = rows.flatMap((row) => {
    const [a, b, d, low, high, p] = [row[2], row[3], ...["difference", "low", "high", "p_holm"].map((name) => scaled(row, name))];
    const n = row[at.images], tasks = `${row[at.tasks_a_higher]} of ${row[at.tasks]}`;
    return [{ a, b, d, low, high, p, n, tasks }, { a: b, b: a, d: -d, low: -high, high: -low, p, n }];
  });
  const most = Math.max(0.01, ...both.map((c) => Math.abs(c.d)));
  const texts = targets.map((k, m) => `${m + 1}\u2002${label[P.targets[k]]}`);
  const room = $("pairs-plot").clientWidth, narrow = room < 480;
  const { left, axis } = rowAxis(texts, narrow);
  const step = Math.max(20, Math.min(46, Math.floor((room - left - 8) / Math.max(1, targets.length))));
  const decimals = step < 34 ? 0 : 1;
  const values = both.map((c) => {
    const decided = c.p != null && c.p < alpha;
    const shade = decided ? mixed(dark() ? "#2a2f35" : "#ffffff", c.d > 0 ? "#d55e00" : "#0173b2", 0.25 + (0.75 * Math.abs(c.d)) / most) : { fill: colour("paper"), ink: colour("muted") };
    return { ...shade, row: texts[targets.indexOf(c.a)], column: String(targets.indexOf(c.b) + 1), text: `${c.d < 0 ? "−" : ""}${Math.abs(100 * c.d).toFixed(decimals)}`,
      tooltip: `${label[P.targets[c.a]]} less ${label[P.targets[c.b]]}: ${points100(c.d)} points (${points100(c.low)} to ${points100(c.high)}), Holm's p ${pWords(c.p)}, ${c.n} images` };
  });
  const spec = {
    data: { values }, width: { step }, height: { step: narrow ? 32 : 26 }, padding: { left: 1, right: 5, top: 1, bottom: 1 },
    encoding: {
      x: { field: "column", type: "nominal", scale: { domain: texts.map((_, k) => String(k + 1)), paddingInner: 0.04 }, axis: { orient: "top", title: null, domain: false, ticks: false, labelAngle: 0 } },
      y: { field: "row", type: "nominal", scale: { domain: texts, paddingInner: 0.05 }, axis },
      tooltip: { field: "tooltip" },
    },
    layer: [
      { mark: { type: "rect" }, encoding: { color: { field: "fill", type: "nominal", scale: null } } },
      { mark: { type: "text", fontSize: step < 26 ? 10 : 11 }, encoding: { text: { field: "text" }, color: { field: "ink", type: "nominal", scale: null } } },
    ],
  };
  $("pairs-caption").innerHTML = `<b>Difference in transfer ASR, in points: the row's model less the column's</b>, ${escape(P.settings[setting] ?? "")}, crafted on ${escape(label[compared.surrogate] ?? "")}, on images that the surrogate and both have right when clean. ` +
    `Coloured where Holm's adjusted p is below ${+alpha.toFixed(3)}: orange where the row's model is fooled more often, blue where less.` + (P.whole ? "" : " One attack at a time: comparison_pairs.csv.");
  table("pairs-table", $("pairs-caption").textContent, ["A", "B", "A − B, points", `${level} interval`, "p (Holm)", "tasks with A above B", "images"],
    both.filter((c) => c.tasks).map((c) => [label[P.targets[c.a]], label[P.targets[c.b]], points100(c.d), `${points100(c.low)} to ${points100(c.high)}`, pWords(c.p), c.tasks, c.n]), 2);
  return draw("pairs-plot", spec);
};

const drawRegression = () => {
  if (!$("regression-plot")) return null;
  const names = Object.keys(D.regression.models);
  const values = [], rows = [], heads = new Set();
  for (const row of D.regression.rows) {
    const head = row.reference ? `${row.term}, against ${row.reference}` : "Per step";
    if (!heads.has(head)) { heads.add(head); rows.push(head); }
    const text = row.level ? `\u2003${row.level}\u200b` : row.term; // a model and an attack may have one name
    const key = rows.includes(text) ? `${text}\u200b` : text;
    rows.push(key);
    for (const name of names) {
      const [odds, low, high, p] = row.estimates[name] ?? [];
      if (odds == null || low == null) continue;
      values.push({ row: key, model: name, odds, low, high, tooltip: `${row.level || row.term}${row.reference ? ` against ${row.reference}` : ""}, ${name}: odds × ${odds.toPrecision(3)} (${low.toPrecision(3)} to ${high.toPrecision(3)}), p ${p}` });
    }
  }
  const room = $("regression-plot").clientWidth, narrow = room < 480;
  const { left, axis } = rowAxis(rows, narrow, { labelFontWeight: { condition: { test: `indexof(${JSON.stringify([...heads])}, datum.value) >= 0`, value: "bold" }, value: "normal" } });
  const step = narrow ? 32 : 24;
  const ends = values.flatMap((v) => [v.low, v.odds, v.high]).filter((v) => v > 1e-4 && v < 1e4);
  const domain = [Math.min(0.9, ...ends), Math.max(1.1, ...ends)];
  const marks = { color: { field: "model", type: "nominal", scale: { domain: names, range: [tone(0), tone(3)] }, legend: null } };
  const yOffset = { field: "model", type: "nominal", scale: { type: "point", padding: 0.6, domain: names } };
  const spec = {
    width: Math.max(120, Math.min(680, room - left - 18)), height: { step, for: "position" }, data: { values }, padding: { left: 1, right: 12, top: 1, bottom: 1 },
    encoding: { y: { field: "row", type: "nominal", scale: { domain: rows }, axis } },
    layer: [
      { data: { values: [{ v: 1 }] }, mark: { type: "rule", strokeDash: [4, 3], color: colour("muted") }, encoding: { x: { field: "v", type: "quantitative" }, y: { value: 0 }, y2: { value: step * rows.length } } },
      { mark: { type: "rule", strokeWidth: 2, clip: true }, encoding: { x: { field: "low", type: "quantitative", title: "Odds ratio", scale: { type: "log", domain, nice: false }, axis: { orient: "bottom", values: [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], format: "~g", labelOverlap: true, grid: true } }, x2: { field: "high" }, yOffset, ...marks } },
      { mark: { type: "point", filled: true, size: 55, opacity: 1, clip: true }, encoding: { x: { field: "odds", type: "quantitative" }, yOffset, tooltip: { field: "tooltip" }, ...marks, shape: { field: "model", type: "nominal", scale: { domain: names, range: ["circle", "square"] }, legend: null } } },
    ],
  };
  const words = ([odds, low, high, p] = []) => (odds == null ? ["–", "", ""] : [odds.toPrecision(3), low == null ? "never or always fooled" : `${low.toPrecision(3)} to ${high.toPrecision(3)}`, p]);
  legend("regression-legend", names.map((name, k) => ({ text: D.regression.models[name], shape: ["circle", "square"][k], colour: tone([0, 3][k]) })));
  table("regression-table", `Odds ratios, ${level} intervals`, ["Effect", "against", ...names.flatMap((name) => [name, "interval", "p"])],
    D.regression.rows.map((row) => [row.level ? `${row.term}: ${row.level}` : row.term, row.reference || "–", ...names.flatMap((name) => words(row.estimates[name]))]), 2);
  return draw("regression-plot", spec);
};

const drawComparison = () => Promise.all([drawRanks(), D.ranks.length ? drawPairs() : null]);
const drawCompared = () => Promise.all([drawComparison(), drawRegression()]);
if ($("compared-surrogate")) {
  offer("compared-surrogate", [...new Set(D.ranks.map((r) => r.surrogate))].map((n) => [n, label[n]]), compared, "surrogate", drawComparison);
  offer("compared-unit", [...new Set(D.ranks.map((r) => r.unit))].map((n) => [n, n === "task" ? "tasks" : "cells (task, attack, budget)"]), compared, "unit", drawComparison);
  offer("compared-setting", D.pairs.settings.map((text, k) => [k, text]), compared, "setting", drawComparison);
}
