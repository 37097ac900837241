// What every plot of the page is made with: the data, words for numbers, colours, and Vega-Lite with a table beside it.
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SELF = "(itself)";
const label = Object.fromEntries([...D.tasks, ...D.models, ...D.targets, ...D.attacks].map((e) => [e.name, e.label]));
const control = new Set(D.attacks.filter((e) => e.control).map((e) => e.name));
const ALL = "(all)";
label[ALL] = "All tasks";
const MEASURES = {
  transfer_asr: { label: "Transfer ASR", low: "low", high: "high", share: true },
  relative: { label: "Relative transfer ASR", low: "relative_low", high: "relative_high", share: false },
};
const METHOD_ENDS = { transfer_asr: ["transfer_low", "transfer_high"], relative: ["low", "high"] };

// ── words ─────────────────────────────────────────────────────────────────────────────────────────────
const percent = (v) => (v == null ? "–" : `${(100 * v).toFixed(1)}\u00a0%`);
const ratio = (v) => (v == null ? "–" : v.toFixed(2));
const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const level = `${+(100 * D.confidence).toFixed(2)}\u00a0%`;


const table = (id, caption, head, rows) => {
  const cellsOf = (row) => row.map((text, j) => (j ? `<td class="number">${escape(text)}</td>` : `<th scope="row">${escape(text)}</th>`)).join("");
  $(id).innerHTML = `<table><caption>${escape(caption)}</caption><thead><tr>` +
    head.map((text, j) => `<th scope="col"${j ? ' class="number"' : ""}>${escape(text)}</th>`).join("") +
    `</tr></thead><tbody>${rows.map((row) => `<tr>${cellsOf(row)}</tr>`).join("")}</tbody></table>`;
};

// ── plots ─────────────────────────────────────────────────────────────────────────────────────────────
const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);
const colour = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
const FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif";
const context = document.createElement("canvas").getContext("2d");
const widest = (texts, size = 12) => { context.font = `${size}px ${FONT}`; return Math.max(0, ...texts.map((t) => context.measureText(t).width)); };

const config = () => {
  const [ink, muted, line] = ["ink", "muted", "line"].map(colour);
  return {
    background: "transparent", font: FONT, view: { stroke: null },
    axis: { labelColor: ink, titleColor: muted, titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12, titlePadding: 8, domainColor: line, tickColor: line, gridColor: line, labelLimit: 400 },
    legend: { labelColor: ink, titleColor: muted, labelFontSize: 12, symbolSize: 70, labelLimit: 300 },
    text: { color: ink }, rule: { color: ink },
  };
};
const drawn = {};
const draw = async (id, spec, patch, click) => {
  const options = { mode: "vega-lite", renderer: "svg", actions: false, config: config(), tooltip: { theme: dark() ? "dark" : "light" } };
  drawn[id]?.finalize();
  drawn[id] = await vegaEmbed(`#${id}`, spec, patch ? { ...options, patch } : options);
  drawn[id].view.addEventListener("click", (event, item) => item?.datum?.target && click(item.datum));
  const svg = $(id).querySelector("svg");
  svg.setAttribute("aria-hidden", "true"); // the caption names the plot, the table beside it says it
  svg.setAttribute("focusable", "false");
};

// Long names in two lines where room is short.
const lines = (names, narrow) => Object.fromEntries(names.map((n) => [n, narrow && label[n].includes(" + ") ? label[n].replace(" + ", "\n+ ").split("\n") : [label[n]]]));
const baseline = (map) => ({ condition: { test: `${expression(map)}.length > 1`, value: "bottom" }, value: "middle" });
const expression = (map) => `(${JSON.stringify(map)})[datum.value]`;

const ramp = () => (dark() ? [...D.scale].reverse() : D.scale);
const channels = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const colours = (v) => { // of a value in [0, 1]: its own, and black or white on it, whichever contrasts more
  const stops = ramp().map(channels), place = Math.min(1, Math.max(0, v)) * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(place));
  const rgb = stops[k].map((c, j) => Math.round(c + (place - k) * (stops[k + 1][j] - c)));
  const [r, g, b] = rgb.map((c) => (c <= 10 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return { fill: `rgb(${rgb})`, ink: 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff" };
};

const marks = (names) => ({
  domain: names.map((n) => label[n]),
  colours: names.map((_, k) => (dark() && k === 0 ? "#56b4e9" : D.palette[k % D.palette.length])),
  shapes: names.map((_, k) => ["circle", "square", "triangle-up", "triangle-down", "cross"][k % 5]),
});
const surrogateEncoding = (names) => {
  const { domain, colours, shapes } = marks(names);
  const legend = { title: null, orient: "top", direction: "horizontal", columns: 0 };
  return {
    color: { field: "crafted", type: "nominal", scale: { domain, range: colours }, legend },
    shape: { field: "crafted", type: "nominal", scale: { domain, range: shapes }, legend },
  };
};

