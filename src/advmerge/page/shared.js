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


const table = (id, caption, head, rows, texts = 1) => { // the first columns are texts, the others numbers
  const number = (j) => (j < texts ? "" : ' class="number"');
  const cellsOf = (row) => row.map((text, j) => (j ? `<td${number(j)}>${escape(text)}</td>` : `<th scope="row">${escape(text)}</th>`)).join("");
  $(id).innerHTML = `<table><caption>${escape(caption)}</caption><thead><tr>` +
    head.map((text, j) => `<th scope="col"${number(j)}>${escape(text)}</th>`).join("") +
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
    axis: { labelColor: ink, titleColor: muted, titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12, titlePadding: 8, domainColor: line, tickColor: line, gridColor: line, labelLimit: 400, labelFlush: false },
    legend: { labelColor: ink, titleColor: muted, labelFontSize: 12, symbolSize: 70, labelLimit: 300 },
    text: { color: ink }, rule: { color: ink },
  };
};
const drawn = {};
const draw = async (id, spec, patch, click) => {
  const options = { mode: "vega-lite", renderer: "svg", actions: false, config: config(), tooltip: { theme: dark() ? "dark" : "light" } };
  drawn[id]?.finalize();
  drawn[id] = await vegaEmbed(`#${id}`, spec, patch ? { ...options, patch } : options);
  drawn[id].view.addEventListener("click", (event, item) => click && item?.datum?.target && click(item.datum));
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
const painted = (rgb) => { // a colour, and black or white on it, whichever contrasts more
  const [r, g, b] = rgb.map((c) => (c <= 10 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return { fill: `rgb(${rgb})`, ink: 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff" };
};
const colours = (v) => { // of a value in [0, 1]
  const stops = ramp().map(channels), place = Math.min(1, Math.max(0, v)) * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(place));
  return painted(stops[k].map((c, j) => Math.round(c + (place - k) * (stops[k + 1][j] - c))));
};
const mixed = (ground, end, share) => painted(channels(ground).map((c, k) => Math.round(c + share * (channels(end)[k] - c)))); // two #rrggbb

const marks = (names) => ({
  domain: names.map((n) => label[n]),
  colours: names.map((_, k) => tone(k)),
  shapes: names.map((_, k) => shape(k)),
});
const surrogateEncoding = (names) => {
  const { domain, colours, shapes } = marks(names);
  const legend = { title: null, orient: "top", direction: "horizontal", columns: 0 };
  return {
    color: { field: "crafted", type: "nominal", scale: { domain, range: colours }, legend },
    shape: { field: "crafted", type: "nominal", scale: { domain, range: shapes }, legend },
  };
};


// ── choices of a section, and what its marks mean ─────────────────────────────────────────────────────
// A select of [name, text] that holds kept[key]; the section is drawn again when it changes.
const offer = (id, offered, kept, key, again) => {
  const select = $(id);
  select.replaceChildren(...offered.map(([name, text]) => new Option(text, name, false, String(name) === String(kept[key]))));
  select.addEventListener("change", () => { kept[key] = select.value; redraw(again); });
};
for (const form of document.querySelectorAll("form.controls")) form.addEventListener("submit", (event) => event.preventDefault());

const SHAPES = { circle: "<circle cx='6' cy='6' r='4.5'/>", square: "<path d='M2 2h8v8h-8z'/>", "triangle-up": "<path d='M6 1.5l5 9h-10z'/>", "triangle-down": "<path d='M6 10.5l5-9h-10z'/>", cross: "<path d='M4.3 1h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z'/>" };
const swatch = (entry) => (entry.shape
  ? `<svg width="12" height="12" viewBox="0 0 12 12" aria-hidden="true"><g fill="${entry.open ? "none" : entry.colour}" stroke="${entry.colour}" stroke-width="1.2">${SHAPES[entry.shape]}</g></svg>`
  : `<svg width="18" height="12" viewBox="0 0 18 12" aria-hidden="true"><path d="M0 6h18" stroke="${entry.colour}" stroke-width="3"/></svg>`);
const legend = (id, entries) => { $(id).innerHTML = entries.map((e) => `<li>${swatch(e)}${escape(e.text)}</li>`).join(""); };
const tone = (k) => (dark() && k % D.palette.length === 0 ? "#56b4e9" : D.palette[k % D.palette.length]);
const shape = (k) => Object.keys(SHAPES)[k % 5];

// Texts in two lines where room is short, as an axis' labels: broken before a plus, or at the space nearest to the middle.
const broken = (text) => {
  const at = text.includes(" + ") ? text.indexOf(" + ") : [...text.matchAll(/ /g)].map((m) => m.index).sort((a, b) => Math.abs(a - text.length / 2) - Math.abs(b - text.length / 2))[0];
  return at > 0 ? [text.slice(0, at), text.slice(at + 1)] : [text];
};
const folded = (texts, narrow) => Object.fromEntries(texts.map((t) => [t, narrow && t.length > 17 ? broken(t) : [t]]));
const rowAxis = (texts, narrow, more = {}) => {
  const names = folded(texts, narrow);
  return { left: widest(Object.values(names).flat()) + 16, axis: { title: null, domain: false, ticks: false, labelExpr: expression(names), labelBaseline: baseline(names), ...more } };
};
const points100 = (v) => (v == null ? "–" : `${v < 0 ? "−" : v > 0 ? "+" : ""}${Math.abs(100 * v).toFixed(1)}`);
const signed = (v, digits = 2) => (v == null ? "–" : `${v < 0 ? "−" : ""}${Math.abs(v).toFixed(digits)}`);
const pWords = (p) => (p == null ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));
