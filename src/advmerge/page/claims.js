// The cells behind each verdict: a table made when it is opened.
{
  const { texts, claims } = D.cases;
  const formats = {
    share: (v) => percent(v), ratio: (v) => ratio(v), correlation: (v) => signed(v),
    points: (v) => (v == null ? "–" : `${points100(v)}\u00a0points`),
  };
  for (const details of document.querySelectorAll("details.cases")) details.addEventListener("toggle", () => {
    const claim = claims[details.dataset.claim], place = $(`cases-${details.dataset.claim}`);
    if (!details.open || !place || place.dataset.filled) return;
    place.dataset.filled = "yes";
    const from = claim.axes.length;
    const side = claim.kind === "ratio" ? formats.ratio : formats.share;
    const head = [...claim.axes, ...(claim.sides ? ["this", "against"] : []), "value", "n"];
    const rows = claim.rows.map((row) => {
      const value = row.at(-2), words = formats[claim.kind](value == null ? null : value / 10000);
      const sides = claim.sides ? [0, 1].map((k) => `${texts[row[from + k]]}: ${side(row[from + 2 + k] == null ? null : row[from + 2 + k] / 10000)}`) : [];
      return [...row.slice(0, from).map((k) => texts[k]), ...sides, words, row.at(-1)];
    });
    table(place.id, "n: rows of the denominator", from || claim.sides ? head : ["", ...head], from || claim.sides ? rows : rows.map((r, k) => [k + 1, ...r]), Math.max(1, from + (claim.sides ? 2 : 0)));
  });
}
