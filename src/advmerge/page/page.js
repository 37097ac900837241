// The page put together: what is drawn when, and light and dark.
let drawing = Promise.resolve();
const redraw = (...parts) => {
  document.body.dataset.drawn = "no";
  drawing = drawing.then(async () => {
    await Promise.all(parts.map((part) => part()));
    document.body.dataset.drawn = "yes";
  });
  return drawing;
};
const redrawAll = () => redraw(drawCellsAndMethods, drawCompared, drawSeeds, drawExplained);

// ── light and dark ────────────────────────────────────────────────────────────────────────────────────
const toggle = $("theme");
const name = () => { toggle.textContent = dark() ? "Light theme" : "Dark theme"; };
const remember = (theme) => { try { localStorage.setItem("advmerge-theme", theme); } catch { /* a file may have no storage */ } };
try { const kept = localStorage.getItem("advmerge-theme"); if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept; } catch { /* as above */ }
toggle.hidden = false;
toggle.addEventListener("click", () => {
  const theme = dark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  remember(theme); name(); redrawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { name(); redrawAll(); });

let width = innerWidth, waiting;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; clearTimeout(waiting); waiting = setTimeout(redrawAll, 150); } });
name(); redrawAll();
