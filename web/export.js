// Takes a view out of the page: a drawing, a picture, or its numbers.

function download(blob, name) {
  const link = document.createElement("a"), url = URL.createObjectURL(blob);
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function exportName(ending) {
  const model = (page.title || "attention").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  const tab = page.records.length > 1 ? tabKey(app.state.tab) + "-" : "";
  return `${model.slice(0, 40) || "attention"}-${tab}${headName(app.state.head)}-${app.state.view}.${ending}`;
}

function exportSvg(view, frame) {
  const [width, height] = view.size();
  const painter = new SvgPainter(width, height, cssColour("panel"));
  view.paint(painter, { x: 0, y: 0, width, height }, frame);
  return painter.finish();
}

// Twice the size of the screen where it fits into what browsers can draw.
function exportPng(view, frame, done) {
  const [width, height] = view.size(), most = 12000;
  const ratio = Math.min(2, most / width, most / height, Math.sqrt(6e7 / (width * height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const painter = new CanvasPainter(context);
  painter.rect(0, 0, width, height, cssColour("panel"));
  view.paint(painter, { x: 0, y: 0, width, height }, frame);
  canvas.toBlob(done, "image/png");
}

// Rows look from, columns look at. Locked queries alone when there are any.
function exportCsv(frame) {
  const field = (text) => (/[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text);
  const { view } = frame, names = (side) => side.units.map((_, u) => field(`${u}: ${unitText(side, u)}`));
  const lines = [["query \\ key", ...names(view.k)].join(",")], queryNames = names(view.q);
  const all = frame.lockedQ.length ? frame.lockedQ : Array.from(view.q.units.keys());
  const queries = all.filter((u) => view.hasRow([u]));
  for (const u of queries) lines.push([queryNames[u], ...view.row([u])].join(","));
  return lines.join("\r\n") + "\r\n";
}

function exportView(kind, view, frame) {
  if (kind === "csv") download(new Blob([exportCsv(frame)], { type: "text/csv" }), exportName("csv"));
  if (kind === "svg") download(new Blob([exportSvg(view, frame)], { type: "image/svg+xml" }), exportName("svg"));
  if (kind === "png") exportPng(view, frame, (blob) => download(blob, exportName("png")));
}
