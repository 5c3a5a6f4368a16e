// The records of a page, one open at a time: encoder, decoder and cross-attention of an
// encoder-decoder, or one alone. What the page says of a record is put in place when its tab opens.

const TAB_TEXTS = {
  encoder: "Tokens of the source look at each other.",
  decoder: "Tokens of the target look at themselves and those before them.",
  cross: "Tokens of the target (rows) look at those of the source (columns). Of two texts: no previous, next or same token, and no distance.",
};

function buildTabs() {
  $("tabs").hidden = $("tab-keys").hidden = tabs.length < 2;
  if (tabs.length < 2) return;
  for (const [i, { name }] of tabs.entries()) {
    const button = element("button", { textContent: name, role: "tab", id: "tab-" + i, "aria-controls": "panel", title: "Keys: , and ." });
    button.addEventListener("click", () => goTab(i));
    $("tab-list").append(button);
  }
  $("panel").setAttribute("role", "tabpanel");
  $("tab-list").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -tabs.length, End: tabs.length }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    goTab(Math.abs(step) > 1 ? (step < 0 ? 0 : tabs.length - 1) : (app.state.tab + step + tabs.length) % tabs.length);
    $("tab-" + app.state.tab).focus();
  });
}

function goTab(tab) {
  if (tabs[tab] && tab !== app.state.tab) app.go(inTab(app.state, tab));
}

// "3, 5–7" as 3,5-7.
function ranges(numbers) {
  const out = [];
  for (const n of numbers) {
    const last = out[out.length - 1];
    if (last && last[1] === n - 1) last[1] = n; else out.push([n, n]);
  }
  return out.map(([a, b]) => (a === b ? String(a) : a + "-" + b)).join(",");
}

function openTab(tab) {
  steps.play(false);
  record = tabs[tab].record;
  background = tabs[tab].background;
  const first = !background;
  if (first) {
    const own = background = tabs[tab].background = new Background(tab);
    own.listeners.push((l, h) => {
      if (own !== background) return;  // another tab is open
      overview.arrived(l, h);
      if (app.frame?.waiting && app.frame.k.length) app.request();
    });
  }
  if (tabs.length > 1) {
    for (const [i, button] of [...$("tab-list").children].entries()) {
      button.setAttribute("aria-selected", String(i === tab));
      button.tabIndex = i === tab ? 0 : -1;
    }
    $("panel").setAttribute("aria-labelledby", "tab-" + tab);
    $("tab-text").textContent = TAB_TEXTS[tabKey(tab)] || "";
    $("brand").href = writeLink({ ...DEFAULTS, tab });
  }
  sayFacts();
  sayFindings(tab);
  $("stats").replaceChildren(...statisticsOf(record).map(([name, title, meaning]) =>
    element("button", { textContent: title, title: meaning, "data-stat": name })));
  overview.build((head) => app.go({ head }));
  if (first) background.start();
  else for (const name of overview.cells.keys()) overview.draw(name);
}

function sayFacts() {
  const { model, title } = page, { layers, heads, n, keys, cross } = record;
  $("facts").textContent = (model && model !== title ? model + " · " : "") + `${layers} layers × ${heads} head${heads === 1 ? "" : "s"} · ` +
    (cross ? `${n} target × ${keys} source tokens` : `${n} tokens`);
  const pictures = record.numbers.filter((_, l) => !record.hasRows(l));
  $("pictures").hidden = !pictures.length;
  const implied = record.isImplied(), which = (pictures.length === 1 ? "layer " : "layers ") + ranges(pictures);
  $("pictures").textContent = implied
    ? `The rows of ${which} did not fit into this file: their heads are pictures and some rows. Texts of up to 256 tokens fit whole, as layers have room: attn look --max-length 256 --layers ${ranges(pictures)}`
    : `The queries and keys of ${which} did not fit into this file: their heads are pictures and some rows. ` +
      "Fewer layers fit whole: attn look --layers " + ranges(pictures);
  $("implied").hidden = !implied;
  $("follow").hidden = steps.first < 1;
  for (const e of document.querySelectorAll(".only-generated")) e.hidden = steps.first < 1;
  $("truncated").hidden = !record.meta.truncated;
  $("value-label").hidden = $("value").disabled = !record.hasNorms();
  $("hide-label").hidden = $("hide").disabled = !record.hasSpecial();
}

function sayFindings(tab) {
  $("findings").replaceChildren(...record.meta.findings.map((finding) => {
    const item = element("li");
    for (const part of finding.split(/([Hh]ead \d+\.\d+)/)) {
      const head = /^[Hh]ead (\d+\.\d+)$/.exec(part);
      const link = head && writeLink({ ...DEFAULTS, tab, head: parseHead(head[1], record) });
      item.append(head ? element("a", { href: link, textContent: part }) : part);
    }
    return item;
  }));
}
