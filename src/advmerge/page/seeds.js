// What another fine-tuning changes: a mark a seed, their mean and its interval.
const spread = (id, rows, title, words, share) => {
  const names = D.surrogates.filter((n) => rows.some((r) => r[2] === n));
  const targets = D.targets.map((e) => e.name).filter((n) => rows.some((r) => r[1] === n));
  const texts = targets.map((n) => label[n]);
  const room = $(`${id}-plot`).clientWidth, narrow = room < 480;
  const { left, axis } = rowAxis(texts, narrow);
  const all = rows.map((r) => ({ target: label[r[1]], crafted: names.length ? label[r[2]] : "", mean: r[6][0], sd: r[6][1], low: r[6][2], high: r[6][3], each: r[5] }));
  const ticks = all.flatMap((r) => r.each.map((v, k) => ({ target: r.target, crafted: r.crafted, v, tooltip: `${r.target}, seed ${D.seeds.seeds[k]}: ${words(v)}` })).filter((t) => t.v != null));
  const seen = ticks.map((t) => t.v), least = Math.min(...seen), most = Math.max(...seen), room2 = 0.15 * (most - least || 0.1);
  const domain = [share ? Math.max(0, least - room2) : least - room2, share ? Math.min(1, most + room2) : most + room2];
  const range = names.length ? names.map((_, k) => tone(k)) : [tone(0)];
  const color = { field: "crafted", type: "nominal", scale: { domain: names.length ? names.map((n) => label[n]) : [""], range }, legend: names.length ? { title: null, orient: "top", direction: "horizontal", columns: 0 } : null };
  const yOffset = { field: "crafted", type: "nominal", scale: { type: "point", padding: 0.5, domain: color.scale.domain } };
  const x = (field) => ({ field, type: "quantitative", title, scale: { domain, zero: false }, axis: { format: share ? ".0%" : ".2f", tickCount: narrow ? 4 : 6, orient: "bottom" } });
  const spec = {
    width: Math.max(130, Math.min(640, room - left - 20)), height: { step: 34, for: "position" }, padding: { left: 1, right: 12, top: 1, bottom: 1 }, data: { values: all },
    encoding: { y: { field: "target", type: "nominal", scale: { domain: texts }, axis }, yOffset, color },
    layer: [
      { transform: [{ filter: "isValid(datum.low)" }], mark: { type: "rule", strokeWidth: 1.5, clip: true }, encoding: { x: x("low"), x2: { field: "high" } } },
      { mark: { type: "point", filled: true, size: 50, opacity: 1 }, encoding: { x: x("mean") } },
      { data: { values: ticks }, mark: { type: "tick", thickness: 2, size: 11 }, encoding: { x: x("v"), tooltip: { field: "tooltip" } } },
    ],
  };
  table(`${id}-table`, $(`${id}-caption`).textContent, ["Model", ...(names.length ? ["crafted on"] : []), ...D.seeds.seeds.map((s) => `seed ${s}`), "mean", "sd", `${level} interval`],
    all.map((r) => [r.target, ...(names.length ? [r.crafted] : []), ...r.each.map(words), words(r.mean), words(r.sd), r.low == null ? "–" : `${words(r.low)} to ${words(r.high)}`]), names.length ? 2 : 1);
  return draw(`${id}-plot`, spec);
};
const drawSeeds = () => {
  if (!$("seeds-plot")) return null;
  const m = MEASURES[state.measure];
  const of = (quantity, more) => D.seeds.rows.filter((r) => r[0] === quantity && more(r)).sort((a, b) => D.targets.findIndex((t) => t.name === a[1]) - D.targets.findIndex((t) => t.name === b[1]));
  $("seeds-caption").innerHTML = `<b>${escape(m.label)} by seed</b>, attacks pooled, ${escape(setting())}. The axis need not begin at 0; intervals are cut at its ends.`;
  $("trained-caption").innerHTML = "<b>Clean test accuracy by seed</b>, mean over tasks. The axis need not begin at 0; intervals are cut at its ends.";
  return Promise.all([
    spread("seeds", of(state.measure, (r) => r[3] === state.eps && r[4] === state.denominator), m.label, value, m.share),
    spread("trained", of("accuracy", () => true), "Clean test accuracy", percent, true),
  ]);
};
