"use strict";
(() => {
  // --- text: whatever a name holds, it is shown as text, and what cannot be seen is spelled out ------------------------

  const $ = (id) => document.getElementById(id);
  const HIDDEN =
    /[^\P{Z} ]|[\p{Cc}\p{Cf}\p{Cs}\u{34f}\u{115f}\u{1160}\u{17b4}\u{17b5}\u{180b}-\u{180f}\u{3164}\u{fe00}-\u{fe0f}\u{ffa0}\u{e0000}-\u{e0fff}]/u;
  const NOTHING = "–";
  const SVG_TAGS = new Set(["svg", "g", "path", "line", "circle", "rect", "text", "polyline", "title"]);

  function spelled(char) {
    const code = char.codePointAt(0);
    if (code >= 0xdc80 && code <= 0xdcff) return "\\x" + (code - 0xdc00).toString(16); // a byte that is not UTF-8
    const known = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[char];
    const [sign, digits] = code < 256 ? ["\\x", 2] : code < 0x10000 ? ["\\u", 4] : ["\\U", 8];
    return known ?? sign + code.toString(16).padStart(digits, "0");
  }

  const shown = (text) =>
    HIDDEN.test(text) ? Array.from(text, (char) => (HIDDEN.test(char) ? spelled(char) : char)).join("") : text;

  function add(parent, child) {
    if (child === null || child === undefined || child === false) return;
    if (Array.isArray(child)) child.forEach((item) => add(parent, item));
    else if (child instanceof Node) parent.append(child);
    else if (!HIDDEN.test(child)) parent.append(String(child));
    else
      for (const char of String(child))
        parent.append(HIDDEN.test(char) ? h("span", { class: "spelled", title: "a character that cannot be seen" }, spelled(char)) : char);
  }

  /** An element. Strings among the children become text; there is no other way from data to the page. */
  function h(tag, attributes, ...children) {
    const element = SVG_TAGS.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "set") for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
      else element.setAttribute(name, value === true ? "" : shown(String(value)));
    }
    add(element, children);
    return element;
  }

  /** Draw anew, and give the focus to the control that takes the place of the one that had it. */
  function redraw(holder, draw) {
    const controls = () => [...holder.querySelectorAll("a, button, select, input, summary, [tabindex='0']")];
    const place = controls().indexOf(document.activeElement);
    draw();
    if (place >= 0) (controls()[place] ?? controls().at(-1) ?? $("main")).focus();
  }

  /** A list of which one is taken at a time. Keys open it: in a closed one, the first key would take the first of them. */
  function chooser(label, take, options) {
    const select = h("select", { "aria-label": label, onchange: () => select.value !== "" && take(select.value), onkeydown: (event) => {
      if (!/^(Arrow(Up|Down|Left|Right)|Page(Up|Down)|Home|End|.)$/.test(event.key) || event.ctrlKey || event.metaKey || !select.showPicker) return;
      event.preventDefault();
      select.showPicker();
    } }, h("option", { value: "" }, label + " …"), options);
    return select;
  }

  const count = (number, noun, plural = noun + "s") => `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;

  function bytes(size) {
    let unit = "B";
    for (const larger of ["kB", "MB", "GB", "TB"]) {
      if (size < 999.5) break;
      size /= 1000;
      unit = larger;
    }
    return unit === "B" ? `${size} B` : `${fixed(size, size < 9.995 ? 2 : 1)} ${unit}`;
  }

  /** A number as Python writes it, halves to the even digit: figures here are those of the command line and the documents. */
  function fixed(value, digits) {
    const exact = value.toFixed(20), cut = exact.slice(0, digits - 20);
    return /^50*$/.test(exact.slice(digits - 20)) && "02468".includes(cut.at(-1)) ? cut : value.toFixed(digits);
  }

  /** A sum whose last digits are right too. */
  function sum(values) {
    let found = 0, lost = 0;
    for (const value of values) {
      const next = found + value;
      lost += Math.abs(found) >= Math.abs(value) ? found - next + value : value - next + found;
      found = next;
    }
    return found + lost;
  }

  /** A share in percent; only what is all of it is 100. */
  function percent(value) {
    for (const places of [1, 2, 3]) {
      const text = fixed(100 * value, places);
      if (Number(text) < 100 || value >= 1) return text;
    }
    return "> 99.999";
  }

  function short(value) {
    if (typeof value !== "number") return value === null || value === undefined ? NOTHING : String(value);
    if (Number.isInteger(value)) return Math.abs(value) < 1e7 ? String(value) : value.toExponential(2);
    const size = Math.abs(value);
    return size < 0.001 || size >= 1e7 ? value.toExponential(2) : size >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(4)));
  }

  // As `shlex.quote`, or as bash and zsh read what is not shown as it is.
  function shellWord(word) {
    if (!HIDDEN.test(word)) return /^[\w@%+=:,./-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\"'\"'") + "'";
    const octal = (char) => {
      const code = char.codePointAt(0);
      const encoded = code >= 0xdc80 && code <= 0xdcff ? [code - 0xdc00] : [...new TextEncoder().encode(char)];
      return encoded.map((byte) => "\\" + byte.toString(8).padStart(3, "0")).join("");
    };
    return "$'" + Array.from(word, (char) => (HIDDEN.test(char) ? octal(char) : "\\'".includes(char) ? "\\" + char : char)).join("") + "'";
  }

  // --- data: tables are columns --------------------------------------------------------------------------------------

  let data, hasK, runs, cells, files, fields, findingsOf, cellFindings;

  async function load() {
    const packed = $("data").textContent;
    const raw = Uint8Array.fromBase64 ? Uint8Array.fromBase64(packed) : Uint8Array.from(atob(packed), (char) => char.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  function column(content, length) {
    if (content === undefined) return { length, pool: [null], get: () => null, at: () => 0 };
    if ("all" in content) return { length, pool: [content.all], get: () => content.all, at: () => 0 };
    if ("each" in content) return { length, get: (row) => content.each[row] };
    const at = Uint32Array.from(content.at);
    return { length, pool: content.pool, get: (row) => content.pool[at[row]], at: (row) => at[row] };
  }

  const table = (contents, length) =>
    Object.fromEntries(Object.entries(contents).map(([name, content]) => [name, column(content, length)]));

  const derived = (pool, at) => ({ length: runs.count, pool, at, get: (row) => pool[at(row)] });

  function prepare(document_) {
    data = document_;
    hasK = data.sections.some((section) => section.columns.some((k) => k !== null));
    const length = data.runs.count;
    runs = { count: length, ...table(data.runs.place, length), config: table(data.runs.config, length), metrics: table(data.runs.metrics, length) };
    cells = { count: data.cells.count, ...table(data.cells.columns, data.cells.count) };
    files = { count: data.files.count, ...table(data.files.columns, data.files.count) };
    cells.rows = Array.from({ length: cells.count }, () => []);
    for (let row = 0; row < length; row++) if (runs.cell.get(row) >= 0) cells.rows[runs.cell.get(row)].push(row);
    cells.grid = data.sections.map((section) => section.rows.map(() => new Map()));
    for (let cell = 0; cell < cells.count; cell++) cells.grid[cells.section.get(cell)][cells.row.get(cell)].set(cells.k.get(cell), cell);
    files.start = new Uint32Array(length + 1); // files stand in the order of their runs
    for (let file = 0; file < files.count; file++) files.start[files.run.get(file) + 1]++;
    for (let row = 0; row < length; row++) files.start[row + 1] += files.start[row];
    placeFindings();
    prepareFields();
  }

  /** How runs stand of which no file is here. */
  const AWAY = ["refused", "overwritten", "no file known", "missing"];
  const isAway = (row) => AWAY.includes(runs.state.get(row));
  /** All others, but for those whose run.json is here alone: figures are over no other run. */
  const isHere = (row) => !isAway(row) && runs.files.get(row) > 0;

  /** Which run or configuration each finding is about: by its path, or the nearest folder above it. */
  function placeFindings() {
    findingsOf = new Map();
    cellFindings = new Map();
    if (!data.findings.length) return;
    const rowAt = new Map(), cellsAt = new Map();
    for (let row = 0; row < runs.count; row++)
      if (!isAway(row)) rowAt.set(runs.folder.get(row), [...(rowAt.get(runs.folder.get(row)) ?? []), row]);
    for (let cell = 0; cell < cells.count; cell++) cellsAt.set(cells.folder.get(cell), [...(cellsAt.get(cells.folder.get(cell)) ?? []), cell]);
    const put = (map, key, index) => map.set(key, [...(map.get(key) ?? []), index]);
    data.findings.forEach(([, path, , , cell], index) => {
      if (cell !== undefined) return put(cellFindings, cell, index);
      for (let folder = path; folder; folder = folder.slice(0, Math.max(folder.lastIndexOf("/"), 0))) {
        if (rowAt.has(folder)) return rowAt.get(folder).forEach((row) => put(findingsOf, row, index));
        if (cellsAt.has(folder)) return cellsAt.get(folder).forEach((cell) => put(cellFindings, cell, index));
      }
    });
  }

  const isFlag = (pool) => pool?.every((value) => value === null || typeof value === "boolean");

  /** Everything that a run can be sorted, filtered and searched by. */
  function prepareFields() {
    const ofCell = (content) => ({
      length: runs.count, pool: content.pool && [...content.pool, null],
      get: (row) => (runs.cell.get(row) < 0 ? null : content.get(runs.cell.get(row))),
      at: content.pool && ((row) => (runs.cell.get(row) < 0 ? content.pool.length : content.at(runs.cell.get(row)))),
    });
    const sections = data.sections.map((section) => section.title);
    const found = (row) => (findingsOf.get(row)?.length ?? 0) + (cellFindings.get(runs.cell.get(row))?.length ?? 0);
    fields = new Map();
    const put = (name, title, content, more = {}) => fields.has(name) || fields.set(name, { name, title, ...content, ...more });
    put("state", "State", runs.state);
    put("family", "Family", derived([...sections, null], (row) => (runs.cell.get(row) < 0 ? sections.length : cells.section.get(runs.cell.get(row)))));
    put("group", "Group", ofCell(cells.group));
    put("task", "Task", ofCell(cells.task), { number: true });
    put("k", "K", ofCell(cells.k), { number: true });
    for (const [axis, title] of Object.entries(data.axes)) {
      const words = new Map(data.words[axis]?.map(([value, word]) => [value, word]));
      put(axis, title, column(data.runs.config[axis], runs.count), { word: (value) => words.get(value) ?? short(value), axis: true });
    }
    put("seed", "Seed", runs.seed, { number: true });
    put("gen_em", data.measured, runs.generalization, { number: true, share: data.share });
    put("files", "Files", runs.files, { number: true });
    put("size", "Size", runs.size, { number: true, word: (value) => (value === null ? NOTHING : bytes(value)) });
    put("findings", "Findings", { length: runs.count, get: found }, { number: true, word: (value) => value || "" });
    put("run_id", "Run", runs.run_id);
    put("folder", "Folder", runs.folder);
    for (const name of ["lacks", "from", "samples", "attribution", "config_source", "source", "source_task", "overwritten_by", "refused"]) put(name, name, runs[name]);
    for (const [name, content] of Object.entries(runs.config)) put(name, name, content, { config: true });
    for (const [name, content] of Object.entries(runs.metrics)) put(name, name, content, { metric: true, number: true, share: isShare(name, content) });
  }

  /** Whether a metric is a share, to be shown in percent from 0 to 100. */
  function isShare(name, content) {
    if (!/acc|em$|exact/i.test(name)) return false;
    for (let row = 0; row < content.length; row++) {
      const value = content.get(row);
      if (typeof value === "number" && (value < 0 || value > 1)) return false;
    }
    return true;
  }

  const word = (field, value) =>
    value === null || value === undefined ? (field.word && field.name === "findings" ? "" : NOTHING)
      : field.word ? field.word(value)
      : field.share && typeof value === "number" ? percent(value) + " %"
      : typeof value === "boolean" ? (value ? "yes" : "no")
      : short(value);

  /** Whether any run has a number there. */
  function isMeasured(field) {
    for (let row = 0; row < runs.count; row++) if (typeof field.get(row) === "number") return true;
    return false;
  }

  /** Mean, deviation and number over the runs of a cell that are here. */
  function over(cell, field) {
    const values = [];
    for (const row of cells.rows[cell]) {
      const value = isHere(row) ? field.get(row) : null;
      if (typeof value === "number") values.push(value);
    }
    if (!values.length) return null;
    const isOne = values.every((value) => value === values[0]); // else rounding would show as a deviation
    const mean = isOne ? values[0] : sum(values) / values.length;
    const squares = sum(values.map((value) => (value - mean) ** 2));
    const free = values.length - (data.deviation === "population" ? 0 : 1);
    return { mean, n: values.length, deviation: values.length > 1 ? Math.sqrt(squares / free) : null };
  }

  function overText(result, field) {
    if (!result) return NOTHING;
    const scale = (value) => (field.share ? fixed(100 * value, 1) : short(value));
    const mean = field.share ? percent(result.mean) : short(result.mean);
    return mean + (result.deviation === null ? "" : ` ± ${scale(result.deviation)}`) + (field.share ? " %" : "");
  }

  // --- paths, and what is copied -------------------------------------------------------------------------------------

  const ROOT_MARK = "\ue000"; // stands for the tree's folder in what is said of findings
  let root = "";

  function findRoot() {
    let path = location.pathname;
    try {
      path = decodeURIComponent(path);
    } catch {
      // bytes that are not UTF-8: the path as it is written in the address
    }
    const parts = path.split("/").slice(0, -1);
    for (const part of data.up.split("/")) {
      if (part === "..") parts.pop();
      else if (part !== ".") parts.push(part);
    }
    return parts.join("/") || "/";
  }

  const under = (path) => (root && !root.endsWith("/") ? `${root}/${path}` : root + path);
  const loading = (path) => `import ckptman\n\n# of a model that is not built in: weights, info = ckptman.load_weights(…)\nmodel, info = ckptman.load(${JSON.stringify(under(path))})\n`;

  async function copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = h("textarea", { "aria-hidden": "true", class: "offscreen" });
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) return say(`It could not be copied: ${text}`);
    }
    say(`Copied: ${what}`);
  }

  let quiet;
  function say(text) {
    $("status").textContent = shown(text);
    $("status").classList.add("visible");
    clearTimeout(quiet);
    quiet = setTimeout(() => $("status").classList.remove("visible"), 2500);
  }

  const copyButton = (label, text, what, title) =>
    h("button", { type: "button", class: "small", title, onclick: () => copy(text(), what) }, label);

  // --- charts --------------------------------------------------------------------------------------------------------

  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "", "7 3", "2 3", "9 3 2 3"];

  function ticks(low, high, wanted) {
    const raw = (high - low || 1) / wanted;
    const scale = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].find((factor) => factor * scale >= raw) * scale;
    const found = [];
    for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) found.push(index * step);
    return found;
  }

  /** A step or a length; in thousands where the largest beside it is. */
  const thousands = (value, largest = value) => (value && Math.abs(largest) >= 10000 ? `${value / 1000}k` : String(Number(value.toPrecision(6))));

  /** The pieces of a line: it is broken where more is left out than elsewhere between two points. */
  function pieces(points) {
    const steps = points.slice(1).map(([x], index) => x - points[index][0]);
    const usual = [...steps].sort((a, b) => a - b)[steps.length >> 1];
    return points.reduce((found, point, index) => {
      if (!index || steps[index - 1] > 2 * usual) found.push([]);
      found.at(-1).push(point);
      return found;
    }, []);
  }

  /** A line chart with a legend that reads out what stands at the cross-hair; arrow keys move it. */
  function chart({ title, x, at_ = x, y, share, series, band }) {
    const readout = h("ul", { class: "legend-lines" });
    const values = series.map((line, index) => {
      const value = h("output", {});
      const number = line.style ?? index;
      readout.append(h("li", { class: line.faint ? "faint" : null },
        h("svg", { width: 26, height: 10, "aria-hidden": "true" }, h("line", { x1: 1, x2: 25, y1: 5, y2: 5, class: `line s${number % 8}`, "stroke-dasharray": DASHES[number % 8] })),
        h("span", {}, line.label), value));
      return value;
    });
    if (series.some((line) => line.faint)) readout.append(h("li", { class: "note" }, "Thick: means over seeds. Thin: each seed."));
    const holder = h("div", { class: "plot" });
    const points = series.flatMap((line) => line.points);
    const xs = [...new Set(points.map((point) => point[0]))].sort((a, b) => a - b);
    const isSeen = band && band[0] <= xs.at(-1) && band[1] >= xs[0]; // else it lies beside what was measured
    if (isSeen) readout.append(h("li", {}, h("svg", { width: 26, height: 10, "aria-hidden": "true" }, h("rect", { class: "band", width: 26, height: 10 })), h("span", {}, `trained on K ${band[0] === band[1] ? band[0] : band.join("–")}`)));
    let lowY = share ? 0 : Math.min(...points.map((point) => point[1]));
    let highY = share ? 1 : Math.max(...points.map((point) => point[1]));
    if (!share && lowY === highY) [lowY, highY] = [lowY - (Math.abs(lowY) || 1) / 2, highY + (Math.abs(highY) || 1) / 2];
    const tell = (value) => (share ? percent(value) + " %" : short(value));
    let at = xs.length - 1;
    function draw(width) {
      const height = Math.max(180, Math.min(280, width * 0.52));
      const left = 52, right = 20, top = 10, bottom = 40;
      const [first, last] = xs.length > 1 ? [xs[0], xs.at(-1)] : [xs[0] - 0.5, xs[0] + 0.5];
      const px = (value) => left + ((value - first) / (last - first)) * (width - left - right);
      const py = (value) => top + (1 - (value - lowY) / (highY - lowY)) * (height - top - bottom);
      const best = series.map((line) => `${line.label}: ${tell(line.points.at(-1)[1])} at ${thousands(line.points.at(-1)[0])}`);
      const picture = h("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, class: "chart", "aria-label": `${title}. ${y} by ${x}. ${best.slice(0, 8).join("; ")}` });
      if (isSeen) picture.append(h("rect", { class: "band", x: px(Math.max(band[0], first)), width: Math.max(px(Math.min(band[1], last)) - px(Math.max(band[0], first)), 2), y: top, height: height - top - bottom }));
      for (const value of ticks(lowY, highY, 4)) picture.append(
        h("line", { class: "rule", x1: left, x2: width - right, y1: py(value), y2: py(value) }),
        h("text", { x: left - 8, y: py(value) + 4, "text-anchor": "end" }, share ? `${Math.round(100 * value)} %` : thousands(value, Math.max(highY, -lowY))));
      for (const value of ticks(first, last, Math.max(2, Math.floor(width / 90))).filter(Number.isInteger)) picture.append(
        h("line", { class: "tick", x1: px(value), x2: px(value), y1: height - bottom, y2: height - bottom + 4 }),
        h("text", { x: px(value), y: height - bottom + 18, "text-anchor": "middle" }, thousands(value, last)));
      picture.append(h("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
        h("text", { class: "name", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, x));
      series.forEach((line, index) => {
        const number = line.style ?? index;
        const style = `line s${number % 8}${line.faint ? " faint" : ""}`;
        for (const piece of pieces(line.points)) picture.append(h("polyline", { class: style, "stroke-dasharray": line.faint ? "" : DASHES[number % 8], points: piece.map(([a, b]) => `${px(a).toFixed(1)},${py(b).toFixed(1)}`).join(" ") }));
        if (line.points.length <= 40 && !line.faint) for (const [a, b] of line.points) picture.append(h("circle", { class: `dot s${number % 8}`, cx: px(a).toFixed(1), cy: py(b).toFixed(1), r: 2.6 }));
      });
      const hair = h("line", { class: "hair", y1: top, y2: height - bottom, x1: -9, x2: -9 });
      picture.append(hair);
      const show = (index, isShown = true) => {
        at = Math.max(0, Math.min(xs.length - 1, index));
        hair.setAttribute("x1", isShown ? px(xs[at]) : -9);
        hair.setAttribute("x2", isShown ? px(xs[at]) : -9);
        where.textContent = `at ${at_} ${thousands(xs[at])}`;
        series.forEach((line, number) => {
          const point = line.points.find(([a]) => a === xs[at]);
          values[number].textContent = point ? tell(point[1]) : NOTHING;
        });
      };
      picture.addEventListener("pointermove", (event) => {
        const value = first + ((event.clientX - picture.getBoundingClientRect().left - left) / (width - left - right)) * (last - first);
        show(xs.reduce((nearest, a, index) => (Math.abs(a - value) < Math.abs(xs[nearest] - value) ? index : nearest), 0));
      });
      picture.addEventListener("pointerleave", () => show(xs.length - 1, false));
      picture.addEventListener("focus", () => show(at));
      picture.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (step) {
          event.preventDefault();
          show(at + step);
        }
      });
      show(at, false);
      holder.replaceChildren(picture);
    }
    const where = h("p", { class: "where" });
    let drawn = 0;
    new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width > 80 && width !== drawn) draw((drawn = width));
    }).observe(holder);
    return h("figure", { class: "figure" }, h("figcaption", {}, h("strong", {}, title), h("span", {}, `${y}${share ? ", percent" : ""}`)), holder, where, readout);
  }

  /** The values of metrics that are measured at each length, such as `gen/K17/exact_match_acc`, by what is measured. */
  function lengthMetrics() {
    const found = new Map();
    const stem = data.pattern.split("{k}")[0].split("/").at(-1).replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const measured = new RegExp(`^.*?${stem}([0-9]+)[/]?(.+)$`);
    for (const name of Object.keys(runs.metrics)) {
      const [, k, what] = measured.exec(name) ?? [];
      if (k) found.set(what, [...(found.get(what) ?? []), [Number(k), name]]);
    }
    for (const pairs of found.values()) pairs.sort((a, b) => a[0] - b[0]);
    return found;
  }

  const valuesByLength = (row, pairs) =>
    pairs.map(([k, name]) => [k, runs.metrics[name].get(row)]).filter(([, value]) => typeof value === "number");

  const curveNames = () => Object.keys(data.curves?.values ?? {});

  function curveOf(row, name) {
    const steps = data.curves.steps[data.curves.at[row]];
    const values = data.curves.values[name][row];
    return steps && values ? steps.map((step, index) => [step, values[index]]).filter(([, value]) => typeof value === "number") : [];
  }

  function curveValues(name) {
    const values = data.curves.values[name].flatMap((list) => list ?? []);
    return { length: values.length, get: (index) => values[index] };
  }

  /** The mean of several lines at each place where all of them have a value. */
  function meanLine(lines) {
    const sums = new Map();
    for (const line of lines) for (const [x, y] of line) sums.set(x, [...(sums.get(x) ?? []), y]);
    return [...sums].filter(([, ys]) => ys.length === lines.length).sort((a, b) => a[0] - b[0]).map(([x, ys]) => [x, sum(ys) / ys.length]);
  }

  /** The seed of a run, and its id where another one has the same seed. */
  const seedName = (row, all) => `seed ${runs.seed.get(row) ?? "unknown"}${all.some((other) => other !== row && runs.seed.get(other) === runs.seed.get(row)) ? `, ${runs.run_id.get(row) ?? runs.folder.get(row)}` : ""}`;

  const here = (cell) => cells.rows[cell].filter((row) => !isAway(row));
  const preferred = (names, wanted) => wanted.find((name) => names.includes(name)) ?? names[0];

  /** Charts of some configurations: by length and by step. Of one, a line a seed; of several, a mean and its seeds. */
  function charts(chosen) {
    const holder = h("div", { class: "charts" });
    const lines = (read) => {
      if (chosen.length === 1 && here(chosen[0]).length <= 8)
        return here(chosen[0]).map((row, index, all) => ({ label: seedName(row, all), points: read(row), style: index })).filter((line) => line.points.length);
      return chosen.flatMap((cell, index) => {
        const each = here(cell).map(read).filter((points) => points.length);
        const mean = meanLine(each);
        return mean.length ? [...(each.length > 1 ? each.slice(0, 40).map((points) => ({ points, style: index, faint: true, label: "" })) : []), { label: cellName(cell), points: mean, style: index }] : [];
      });
    };
    const add_ = (all, wanted, label, make) => {
      const names = all.filter((name) => make(name).series.length);
      if (!names.length) return;
      const place = h("div", {});
      const draw = (name) => {
        place.replaceChildren(chart(make(name)));
      };
      const select = h("select", { onchange: () => draw(select.value), "aria-label": label }, names.map((name) => h("option", { value: name }, name)));
      select.value = preferred(names, wanted);
      draw(select.value);
      holder.append(h("div", { class: "chart-block" }, h("label", { class: "inline" }, label, select), place));
    };
    add_(curveNames(), [data.pattern.replace("{k}", "*"), "train/loss"], "Learning curve of", (name) => ({
      title: "Learning curves", x: "iterations", at_: "iteration", y: name, share: isShare(name, curveValues(name)), series: lines((row) => curveOf(row, name)),
    }));
    const byLength = lengthMetrics();
    const [low, high] = data.trained.map((key) => runs.config[key]?.get(here(chosen[0])[0] ?? cells.rows[chosen[0]][0]));
    add_([...byLength.keys()], [(data.pattern.split("{k}")[1] ?? "").replace(/^[/]/, "")], "By test length", (name) => ({
      title: "At the end of training", x: "test length K", y: name, share: byLength.get(name).every(([, metric]) => isShare(metric, runs.metrics[metric])),
      band: chosen.length === 1 && typeof low === "number" && typeof high === "number" ? [low, high] : null, series: lines((row) => valuesByLength(row, byLength.get(name))),
    }));
    if (!holder.childElementCount) holder.append(h("p", { class: "empty" }, "No metrics are recorded of these runs."));
    return holder;
  }

  // --- the map -------------------------------------------------------------------------------------------------------

  const COMPLETENESS = "completeness";
  const MARKS = { complete: "●", "final only": "◑", "on the way": "◐", "no file": "○", refused: "!", overwritten: "⊘", "no file known": "∅", missing: "·", unreadable: "?" };
  const stateClass = (state) => "is-" + state.replaceAll(" ", "-");
  const mark = (state) => h("span", { class: `mark ${stateClass(state)}`, "aria-hidden": "true" }, MARKS[state] ?? "?");
  const badge = (state) => h("span", { class: `badge ${stateClass(state)}` }, mark(state), state);

  let metric = COMPLETENESS, everything = true;
  const cellRowLabel = (cell) => data.sections[cells.section.get(cell)].rows[cells.row.get(cell)];
  const clipped = (text, most) => (text.length > most ? `${Array.from(text).slice(0, most - 1).join("")}…` : text);
  /** A text cut in its middle, if it is a little longer: what others differ in from it often stands at its end. */
  const cutInside = (text, most) => (text.length > most + 4 ? `${Array.from(text).slice(0, most / 2 - 1).join("")}…${Array.from(text).slice(-most / 2).join("")}` : text);
  /** The K of a cell, in words; empty in a tree of an experiment without any. */
  const cellK = (cell) => (hasK ? `K ${cells.k.get(cell) ?? NOTHING}` : "");
  const cellName = (cell) => `${[clipped(cellRowLabel(cell), 80), cellK(cell)].filter(Boolean).join(" · ")} · ${data.sections[cells.section.get(cell)].title}`;

  function cellValue(cell) {
    const rows = cells.rows[cell];
    if (metric === COMPLETENESS) {
      const complete = rows.filter((row) => runs.state.get(row) === "complete").length;
      return { value: rows.length ? complete / rows.length : null, text: `${complete}/${rows.length}`, spoken: `${complete} of ${count(rows.length, "run")} complete` };
    }
    const field = fields.get(metric);
    const result = over(cell, field);
    if (!result) return { value: null, text: "", spoken: "not measured" };
    return { value: result.mean, text: field.share ? percent(result.mean) : short(result.mean), note: result.deviation === null ? `n = ${result.n}` : `± ${field.share ? fixed(100 * result.deviation, 1) : short(result.deviation)}`, spoken: `${overText(result, field)}, ${count(result.n, "run")}` };
  }

  const MOST_CELLS = 2000;

  const isFilled = (cell) => cell !== undefined && cells.rows[cell].some((row) => runs.state.get(row) !== "missing");

  /** The rows and columns of a section in which there is anything. */
  function filledParts(index) {
    const { rows, columns } = data.sections[index], at = cells.grid[index];
    return [rows.map((_, row) => row).filter((row) => columns.some((k) => isFilled(at[row].get(k)))), columns.filter((k) => rows.some((_, row) => isFilled(at[row].get(k))))];
  }

  function drawMap(holder) {
    const values = Array.from({ length: cells.count }, (_, cell) => cellValue(cell));
    const field = fields.get(metric);
    const known = values.map((item) => item.value).filter((value) => value !== null);
    let [low, high] = [0, 1];
    if (metric !== COMPLETENESS && !field.share && known.length) {
      low = known.reduce((a, b) => Math.min(a, b));
      high = known.reduce((a, b) => Math.max(a, b));
    }
    const at = (section, row, column_) => cells.grid[section][row]?.get(column_);
    const kinds = new Set();
    const drawn = data.sections.map((section, index) => {
      const [rows, columns] = everything ? [section.rows.map((_, row) => row), section.columns] : filledParts(index);
      for (const row of rows) for (const k of columns) {
        const cell = at(index, row, k);
        if (cell !== undefined && values[cell].value === null) kinds.add(isFilled(cell) ? "unmeasured" : "blank");
      }
      return rows.length ? drawSection(section, index, rows, columns, at, values, low, high) : null;
    });
    const longest = Math.max(4, ...data.sections.flatMap((section) => section.rows.map((label) => label.length)).slice(0, 5000));
    holder.replaceChildren(legend(low, high, kinds), h("div", { class: "sections", set: { "--label": `${Math.min(longest + 1, 31) * 0.56}em` } }, drawn));
    if (!drawn.some(Boolean)) holder.append(h("p", { class: "empty" }, data.no_run, data.unreadable ? null : [" ", h("code", {}, "ckptman ingest GRID_OUTPUTS"), " sorts raw outputs into it."]));
  }

  function drawSection(section, index, rows, columns, at, values, low, high) {
    const body = h("tbody", {});
    const head = h("tr", {}, h("th", { scope: "col", class: "corner" }, h("span", {}, hasK ? "K" : "")), columns.map((k) => h("th", { scope: "col" }, k ?? (hasK ? NOTHING : ""))));
    const grid = h("table", { role: "grid", class: "map", "aria-label": `${section.title}: ${metricTitle()}`, "aria-rowcount": rows.length + 1 }, h("thead", {}, head), body);
    const most = Math.max(1, Math.floor(MOST_CELLS / (columns.length + 1)));
    const draw = (from) => {
      for (const row of rows.slice(from, from + most))
        body.append(h("tr", {}, h("th", { scope: "row", title: section.rows[row] }, h("span", {}, cutInside(section.rows[row], 26))), columns.map((k) => drawCell(at(index, row, k), values, low, high, k))));
      more.hidden = from + most >= rows.length;
      more.onclick = () => draw(from + most);
      more.textContent = `Show ${Math.min(most, rows.length - from - most)} more rows of ${rows.length}`;
      const first = grid.querySelector("td[tabindex]");
      if (from === 0 && first) first.tabIndex = 0;
    };
    const more = h("button", { type: "button", class: "more" });
    draw(0);
    grid.addEventListener("keydown", mapKey);
    return h("section", { class: "family" }, h("h3", {}, section.title), h("div", { class: "scroll" }, grid), more);
  }

  function drawCell(cell, values, low, high, k) {
    if (cell === undefined) return h("td", { class: "none", "aria-label": "no such configuration" });
    const { value, text, note, spoken } = values[cell];
    const rows = cells.rows[cell];
    const share = value === null ? 0 : high > low ? (value - low) / (high - low) : 0.5;
    const isEmpty = rows.every((row) => runs.state.get(row) === "missing");
    const found = (cellFindings.get(cell)?.length ?? 0) + rows.reduce((sum, row) => sum + (findingsOf.get(row)?.length ?? 0), 0);
    const kinds = AWAY.map((state) => [rows.filter((row) => runs.state.get(row) === state).length, state]).filter(([number]) => number);
    const label = `${cellRowLabel(cell)}${hasK ? `, K ${k ?? "unknown"}` : ""}: ${isEmpty ? "nothing here" : spoken}${kinds.map(([number, state]) => `, ${number} ${state}`).join("")}${found ? `, ${count(found, "finding")}` : ""}`;
    return h("td", {
        tabindex: -1, "data-cell": cell, "aria-selected": String(compared.includes(cell)), set: { "--t": `${(100 * share).toFixed(1)}%` },
        class: [isEmpty ? "blank" : value === null ? "unmeasured" : share > 0.5 ? "high" : "low", compared.includes(cell) ? "chosen" : ""].join(" "),
        "aria-label": label, title: label,
        onclick: (event) => (event.shiftKey || event.ctrlKey || event.metaKey ? toggleCompared(cell) : openCell(cell)),
      },
      isEmpty && metric !== COMPLETENESS ? null : h("b", {}, text || NOTHING),
      metric === COMPLETENESS ? h("span", { class: "pips" }, rows.slice(0, 6).map((row) => mark(runs.state.get(row))), rows.length > 6 ? "…" : null) : note && h("small", {}, note),
      found ? h("i", { class: "flag", title: count(found, "finding") }) : null);
  }

  function mapKey(event) {
    const cell = event.target.closest("td");
    if (!cell) return;
    const row = cell.parentElement, body = row.parentElement;
    const [x, y] = [[...row.children].indexOf(cell), [...body.children].indexOf(row)];
    const target = {
      ArrowLeft: () => row.children[x - 1], ArrowRight: () => row.children[x + 1],
      ArrowUp: () => body.children[y - 1]?.children[x], ArrowDown: () => body.children[y + 1]?.children[x],
      Home: () => (event.ctrlKey ? body.firstElementChild : row).querySelector("td"), End: () => [...(event.ctrlKey ? body.lastElementChild : row).querySelectorAll("td")].at(-1),
    }[event.key];
    if (target) {
      event.preventDefault();
      const next = target();
      if (next?.tagName !== "TD") return;
      body.querySelectorAll("td[tabindex='0']").forEach((item) => (item.tabIndex = -1));
      next.tabIndex = 0;
      next.focus();
    } else if (cell.dataset.cell && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      openCell(Number(cell.dataset.cell));
    } else if (cell.dataset.cell && event.key === "c" && !event.ctrlKey && !event.metaKey) toggleCompared(Number(cell.dataset.cell));
  }

  const metricTitle = () => (metric === COMPLETENESS ? "Completeness" : metric === "gen_em" ? genTitle() : metric);
  const genTitle = () => (data.metric.startsWith(data.measured) ? data.metric : `${data.measured}: ${data.metric}`);

  function legend(low, high, kinds) {
    const field = fields.get(metric);
    const label = (value) => (metric === COMPLETENESS ? `${Math.round(100 * value)} %` : field.share ? `${Math.round(100 * value)} %` : short(value));
    const states = data.states.filter((state) => runs.state.pool ? runs.state.pool.includes(state) : true);
    const deviation = `${data.deviation} standard deviation over seeds`;
    return h("div", { class: "legend" },
      h("div", { class: "scale" }, h("span", {}, label(low)), h("span", { class: "bar" }), h("span", {}, label(high)),
        h("span", { class: "note" }, metric === COMPLETENESS ? `complete runs of ${data.counts.expected ? "those expected" : "all that are known"}` : `mean ± ${deviation}, runs that are here`)),
      metric === COMPLETENESS ? h("ul", { class: "states" }, states.map((state) => h("li", {}, mark(state), state)))
        : h("ul", { class: "states" }, ["blank", "unmeasured"].filter((kind) => kinds.has(kind)).map((kind) => h("li", {}, h("i", { class: `swatch ${kind}` }), { blank: "no run", unmeasured: "not measured" }[kind]))),
      data.findings.length ? h("span", { class: "note" }, h("i", { class: "flag" }), " has findings") : null,
      h("p", { class: "note keys" }, "Enter or click: details. Shift-click or c: compare."));
  }

  // --- the table of runs ---------------------------------------------------------------------------------------------

  const ROW = 34, AROUND = 12;
  const collator = new Intl.Collator("en", { numeric: true });
  const runsView = { query: "", sort: "", down: false, shown: new Uint32Array(), active: 0, activeColumn: 0, columns: [], facets: {} };
  const orders = new Map();

  function compareValues(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === typeof b) return typeof a === "string" ? collator.compare(a, b) : Number(a) - Number(b);
    return typeof a === "number" ? -1 : 1;
  }

  /** The number by which a row stands in the order of a field; NaN where it has no value. */
  function ranks(field) {
    const found = new Float64Array(runs.count);
    if (field.pool) {
      const sorted = [...new Set(field.pool)].filter((value) => value !== null && value !== "NaN").sort(compareValues);
      const places = new Map(sorted.map((value, index) => [value, index]));
      const of = field.pool.map((value) => places.get(value) ?? NaN);
      for (let row = 0; row < runs.count; row++) found[row] = of[field.at(row)];
      return found;
    }
    let places;
    for (let row = 0; row < runs.count; row++) {
      const value = field.get(row);
      if (typeof value === "number") found[row] = value;
      else if (value === null || value === "NaN") found[row] = NaN;
      else if (value === "Infinity" || value === "-Infinity") found[row] = Number(value);
      else {
        places ??= new Map([...new Set(Array.from({ length: runs.count }, (_, index) => field.get(index)))].filter((item) => item !== null).sort(runs.count > 5000 ? undefined : compareValues).map((item, index) => [item, index]));
        found[row] = places.get(value) ?? NaN;
      }
    }
    return found;
  }

  /** All rows in the order of a field, those without a value last; else those that are here first, as in the tree. */
  function orderBy(name, down) {
    const key = `${name}${down ? "-" : ""}`;
    if (!orders.has(key)) {
      const order = Uint32Array.from({ length: runs.count }, (_, index) => index);
      if (!name) {
        const isAbsent = Uint8Array.from(order, (row) => Number(isAway(row)));
        order.sort((a, b) => isAbsent[a] - isAbsent[b] || a - b);
      } else {
        const rank = ranks(fields.get(name)), sign = down ? -1 : 1;
        order.sort((a, b) => (Number.isNaN(rank[a]) ? (Number.isNaN(rank[b]) ? a - b : 1) : Number.isNaN(rank[b]) ? -1 : sign * (rank[a] - rank[b]) || a - b));
      }
      orders.set(key, order);
    }
    return orders.get(key);
  }

  const OPERATORS = {
    "=": (a, b) => a === b, "!=": (a, b) => a !== b, "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
  };

  /** What a search asks for: words that stand anywhere in a run, and conditions such as `k>=8`. */
  function predicates(query) {
    const asked = query.replace(/\s*(<=|>=|!=|=|<|>)\s*/g, "$1").match(/"[^"]*"|\S+/g) ?? [];
    return asked.map((term) => {
      const [, name, operator, wanted] = /^([^<>=!"]+)(<=|>=|!=|=|<|>)(.+)$/.exec(term) ?? [];
      const field = name && (fields.get(name) ?? [...fields.values()].find((item) => item.title.toLowerCase() === name.toLowerCase()));
      if (field) return condition(field, operator, wanted.replaceAll('"', ""));
      return contains(term.replaceAll('"', "").toLowerCase());
    });
  }

  function condition(field, operator, wanted) {
    const number = Number(wanted.replace(/%$/, "")) / (wanted.endsWith("%") ? 100 : 1);
    const test = OPERATORS[operator];
    const lower = wanted.toLowerCase();
    const isTrue = { true: true, false: false, yes: true, no: false, on: true, off: false }[lower];
    const fits = (value) => {
      if (value === null || value === undefined) return operator === "!=";
      if (typeof value === "number" && !Number.isNaN(number)) return test(value, number);
      if (typeof value === "boolean" && isTrue !== undefined) return test(value, isTrue);
      return test(String(value).toLowerCase(), lower);
    };
    return byPool(field, fits);
  }

  function byPool(field, fits) {
    if (!field.pool) return (row) => fits(field.get(row));
    const flags = field.pool.map(fits);
    return (row) => flags[field.at(row)];
  }

  const lowered = new Map();

  /** The text of a field that is another one in each row, in small letters; made once, since each search reads all of it. */
  function lowerCase(field) {
    if (!lowered.has(field.name)) lowered.set(field.name, Array.from({ length: runs.count }, (_, row) => {
      const value = field.get(row);
      return typeof value === "string" ? value.toLowerCase() : "";
    }));
    return lowered.get(field.name);
  }

  function contains(text) {
    const isNumber = !Number.isNaN(Number(text));
    const tests = [];
    for (const field of fields.values()) {
      if (field.metric || field.share || field.name === "size" || field.name === "findings") continue;
      const fits = (value) => (typeof value === "string" ? value.toLowerCase().includes(text) : typeof value === "number" && String(value) === text);
      if (field.pool) {
        const flags = field.pool.map(fits);
        if (flags.every(Boolean) && flags.length) return () => true;
        if (flags.some(Boolean)) tests.push((row) => flags[field.at(row)]);
      } else if (typeof field.get(0) !== "number") {
        const texts = lowerCase(field);
        tests.push((row) => texts[row].includes(text));
      } else if (isNumber) tests.push((row) => field.get(row) === Number(text));
    }
    const ofFile = text.length > 5 ? runsOfFiles(text) : null;
    if (ofFile) tests.push((row) => ofFile[row] === 1);
    return (row) => tests.some((test) => test(row));
  }

  /** The runs that have a file with this text in its name, or whose checksum begins with it; null for none. */
  function runsOfFiles(text) {
    const names = files.name?.pool?.map((name) => name.toLowerCase().includes(text));
    const isSum = /^[0-9a-f]+$/.test(text);
    const found = new Uint8Array(runs.count);
    let any = false;
    for (let file = 0; file < files.count; file++)
      if ((names ? names[files.name.at(file)] : files.name.get(file).toLowerCase().includes(text)) || (isSum && files.sha256.get(file)?.startsWith(text.slice(0, files.sha256.get(file).length)))) {
        found[files.run.get(file)] = 1;
        any = true;
      }
    return any ? found : null;
  }

  function filterRuns() {
    const tests = predicates(runsView.query);
    for (const [name, value] of Object.entries(runsView.facets)) if (value !== "") {
      const field = fields.get(name);
      tests.push(name === "findings" ? (row) => field.get(row) > 0 : byPool(field, (item) => String(item) === value));
    }
    const order = orderBy(runsView.sort, runsView.down);
    const found = new Uint32Array(runs.count);
    let length = 0;
    for (const row of order) if (tests.every((test) => test(row))) found[length++] = row;
    runsView.shown = found.subarray(0, length);
    runsView.active = Math.min(runsView.active, Math.max(0, length - 1));
  }

  function drawRuns() {
    const chosen = ["state", "group", "task", ...Object.keys(data.axes), "seed", "gen_em", "files", "size", "findings", "run_id"].filter((name) => fields.has(name));
    if (!runsView.columns.length) runsView.columns = chosen;
    const search = h("input", { type: "search", id: "search", placeholder: hasK ? "mix k>=8 gen_em>0.9" : "complete findings=0", "aria-label": "Search and filter runs", autocomplete: "off", spellcheck: "false", value: runsView.query });
    search.addEventListener("input", () => {
      runsView.query = search.value;
      refresh();
    });
    const facet = (name, label) => {
      const field = fields.get(name);
      const values = [...new Set(field.pool ?? [])].filter((value) => value !== null).sort(compareValues);
      if (values.length < 2 || values.length > 200) return null;
      const select = h("select", { "aria-label": label, onchange: () => { runsView.facets[name] = select.value; refresh(); } },
        h("option", { value: "" }, `${label}: all`), values.map((value) => h("option", { value: String(value) }, word(field, value))));
      select.value = runsView.facets[name] ?? "";
      return select;
    };
    const withFindings = h("input", { type: "checkbox", onchange: () => { runsView.facets.findings = withFindings.checked ? "yes" : ""; refresh(); } });
    withFindings.checked = Boolean(runsView.facets.findings);
    const others = [...fields.values()].filter((field) => !chosen.includes(field.name));
    const columns = chooser("Add or remove a column", (name) => {
      runsView.columns = runsView.columns.includes(name) ? runsView.columns.filter((item) => item !== name) : [...runsView.columns, name];
      redraw(view, drawRuns);
    }, others.map((field) => h("option", { value: field.name }, (runsView.columns.includes(field.name) ? "✓ " : "") + field.title)));
    const number = h("p", { class: "number", id: "number" });
    const head = h("div", { role: "row", class: "row head", "aria-rowindex": 1 });
    const body = h("div", { class: "space", role: "rowgroup" });
    const scroller = h("div", { class: "runs", role: "grid", tabindex: 0, id: "runs", "aria-label": "Runs", "aria-colcount": runsView.columns.length }, h("div", { role: "rowgroup", class: "heads" }, head), body);
    scroller.addEventListener("scroll", () => requestAnimationFrame(() => paint()), { passive: true });
    scroller.addEventListener("keydown", tableKey);
    const widths = runsView.columns.map((name) => width(fields.get(name)));
    scroller.style.setProperty("--columns", widths.map((size, index) => (index === widths.length - 1 ? `minmax(${size}ch, 1fr)` : `${size}ch`)).join(" "));
    scroller.style.setProperty("--width", `${widths.reduce((a, b) => a + b, 0) + 4}ch`);
    for (const [index, name] of runsView.columns.entries()) {
      const field = fields.get(name);
      head.append(h("div", { role: "columnheader", "aria-colindex": index + 1, class: field.number ? "right" : null, "data-name": name },
        h("button", { type: "button", title: `Sort by ${field.title}`, onclick: () => sortBy(name) }, h("span", {}, field.title), h("span", { class: "arrow", "aria-hidden": "true" }))));
    }
    const copyRows = h("button", { type: "button", class: "small", title: "Copy the rows shown, with tabs between", onclick: () => {
      const lines = [runsView.columns.map((name) => fields.get(name).title), ...Array.from(runsView.shown, (row) => runsView.columns.map((name) => shown(String(fields.get(name).get(row) ?? ""))))];
      copy(lines.map((line) => line.join("\t")).join("\n") + "\n", count(runsView.shown.length, "row"));
    } }, "Copy rows");
    view.replaceChildren(
      h("div", { class: "tools" }, search, facet("state", "State"), facet("family", "Family"), facet("k", "K"), h("label", { class: "check" }, withFindings, "With findings"), columns, copyRows),
      number, scroller,
      h("p", { class: "note" }, "A condition is a name, one of = != < > <= >= and a value; names are those of the columns, of the configuration and of the metrics."));

    function refresh() {
      filterRuns();
      number.textContent = numberText();
      scroller.setAttribute("aria-rowcount", runsView.shown.length + 1);
      for (const item of head.children) {
        const isSorted = item.dataset.name === runsView.sort;
        item.setAttribute("aria-sort", isSorted ? (runsView.down ? "descending" : "ascending") : "none");
        item.querySelector(".arrow").textContent = isSorted ? (runsView.down ? "▾" : "▴") : "";
      }
      body.style.setProperty("height", `${Math.max(runsView.shown.length, 1) * ROW}px`);
      paint();
    }

    /** How many rows are shown, by state: a run that is missing is listed, but is none of the tree. */
    function numberText() {
      const { length } = runsView.shown, states = new Map();
      for (const row of runsView.shown) states.set(runs.state.get(row), (states.get(runs.state.get(row)) ?? 0) + 1);
      const each = data.states.filter((state) => states.has(state)).map((state) => `${states.get(state).toLocaleString("en")} ${state}`);
      return `${length === runs.count ? count(length, "row") : `${length.toLocaleString("en")} of ${count(runs.count, "row")}`}${each.length ? `: ${each.join(", ")}` : ""}`;
    }

    function paint(all = false) {
      const from = all ? 0 : Math.max(0, Math.floor(scroller.scrollTop / ROW) - AROUND);
      const to = Math.min(runsView.shown.length, all ? 2000 : Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW) + AROUND);
      const rows = [];
      for (let index = from; index < to; index++) rows.push(drawRow(index));
      body.replaceChildren(...(rows.length ? rows : [h("p", { class: "empty" }, runs.count ? "No run fits. Take a word or a condition away." : data.no_run)]));
      scroller.setAttribute("aria-activedescendant", `run-${runsView.active}-${runsView.activeColumn}`);
    }

    function drawRow(index) {
      const row = runsView.shown[index];
      return h("div", { role: "row", class: `row${index === runsView.active ? " active" : ""}`, "aria-rowindex": index + 2, set: { top: `${index * ROW}px` },
          onclick: () => { runsView.active = index; paint(); openRun(row); } },
        runsView.columns.map((name, column_) => {
          const field = fields.get(name), value = field.get(row), text = word(field, value);
          return h("div", { role: "gridcell", id: `run-${index}-${column_}`, "aria-colindex": column_ + 1, class: [field.number ? "right" : "", index === runsView.active && column_ === runsView.activeColumn ? "here" : ""].join(" "), title: String(text).length > 24 ? text : null },
            name === "state" ? [mark(value), value] : name === "findings" && value ? h("span", { class: "found" }, value) : text);
        }));
    }

    function tableKey(event) {
      if (event.target !== scroller) return;
      const page = Math.max(1, Math.floor(scroller.clientHeight / ROW) - 2);
      const move = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity }[event.key];
      const aside = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move) runsView.active = Math.max(0, Math.min(runsView.shown.length - 1, runsView.active + move));
      else if (aside) runsView.activeColumn = Math.max(0, Math.min(runsView.columns.length - 1, runsView.activeColumn + aside));
      else if (event.key === "Enter" && runsView.shown.length) openRun(runsView.shown[runsView.active]);
      else return;
      event.preventDefault();
      const top = runsView.active * ROW, room = scroller.clientHeight - head.offsetHeight;
      if (top < scroller.scrollTop) scroller.scrollTop = top;
      else if (top + ROW > scroller.scrollTop + room) scroller.scrollTop = top + ROW - room;
      paint();
    }

    function sortBy(name) {
      if (runsView.sort !== name) [runsView.sort, runsView.down] = [name, Boolean(fields.get(name).number && name !== "task" && name !== "seed" && name !== "k")];
      else runsView.down = !runsView.down;
      scroller.scrollTop = 0;
      runsView.active = 0;
      refresh();
    }

    runsView.paint = paint;
    refresh();
  }

  /** The width of a column in characters: that of its heading and of some of its values. */
  function width(field) {
    let most = field.title.length + 3;
    const stride = Math.max(1, Math.floor(runs.count / 400));
    for (let row = 0; row < runs.count; row += stride) most = Math.max(most, String(word(field, field.get(row))).length + (field.name === "state" ? 5 : 2));
    return Math.min(most + 1, 34);
  }

  // --- details -------------------------------------------------------------------------------------------------------

  let opener = null;

  function open(title, about, content, mine) {
    const panel = $("details");
    if (!panel.contains(document.activeElement)) opener = document.activeElement;
    panel.replaceChildren(
      h("header", {}, h("h2", { id: "details-title" }, title), h("button", { type: "button", class: "quiet close", "aria-label": "Close details", onclick: close }, "✕")),
      h("p", { class: "about" }, about), content);
    panel.hidden = false;
    $("layout").classList.add("open");
    document.querySelectorAll("[data-cell].current").forEach((item) => item.classList.remove("current"));
    document.querySelectorAll(`[data-cell="${mine}"]`).forEach((item) => item.classList.add("current"));
    panel.scrollTop = 0;
    panel.focus();
  }

  function hide() {
    $("details").hidden = true;
    $("layout").classList.remove("open");
    document.querySelectorAll(".current").forEach((item) => item.classList.remove("current"));
  }

  function close() {
    hide();
    (opener?.isConnected ? opener : $("main")).focus();
    if (location.hash.startsWith("#/grid/")) history.replaceState(null, "", "#/grid");
  }

  const findingItem = (index, isNamed = true) => {
    const [code, path, ...texts] = data.findings[index];
    const [message, fix] = texts.slice(0, 2).map((text) => text.replaceAll(ROOT_MARK, root));
    const severity = data.codes[code][0];
    return h("li", { class: `finding ${severity}` }, h("p", {}, isNamed ? [h("span", { class: "severity" }, severity), h("code", {}, code), " "] : null, message),
      h("p", { class: "path" }, path), fix && h("p", { class: "fix" }, h("b", {}, "Fix: "), fix));
  };

  const findingList = (indexes) => (indexes?.length ? h("ul", { class: "findings" }, indexes.slice(0, 50).map((index) => findingItem(index)), indexes.length > 50 ? h("li", {}, `and ${indexes.length - 50} more`) : null) : null);

  function openRun(row) {
    const cell = runs.cell.get(row);
    if (cell >= 0) return openCell(cell, row);
    open(runs.state.get(row) === "refused" ? "A file that ingest refused" : "A file that cannot be read", runs.folder.get(row), runCard(row, true), -1);
  }

  function openCell(cell, only) {
    const section = data.sections[cells.section.get(cell)];
    const rows = cells.rows[cell];
    const gen = over(cell, fields.get("gen_em"));
    const task = cells.folder.get(cell);
    const about = [section.title, " · ", ...(hasK ? [h("span", { class: "nowrap" }, cellK(cell)), " · "] : []), h("code", {}, cells.group.get(cell)), cells.task.get(cell) === null ? null : [" · ", h("span", { class: "nowrap" }, `task ${cells.task.get(cell)}`)]];
    const list = `ckptman ls --root ${shellWord(root)} --group ${shellWord(cells.group.get(cell))}${cells.task.get(cell) === null ? "" : ` --task ${cells.task.get(cell)}`}`;
    const choose = h("button", { type: "button", class: "small", "aria-pressed": String(compared.includes(cell)), onclick: () => { toggleCompared(cell); choose.setAttribute("aria-pressed", String(compared.includes(cell))); } }, "Compare");
    const ordered = only === undefined ? rows : [only, ...rows.filter((row) => row !== only)];
    open(clipped(cellRowLabel(cell), 160), about, h("div", {},
      h("div", { class: "buttons" }, choose, copyButton("Copy path", () => under(task), "the path", task), copyButton("Copy command", () => list, "the command", list)),
      h("dl", { class: "tiles" },
        tile(genTitle(), gen ? overText(gen, fields.get("gen_em")) : NOTHING, gen ? count(gen.n, "run") + (gen.n > 1 ? `, ${data.deviation} deviation` : "") : "not measured"),
        tile("Runs", `${rows.filter((row) => runs.state.get(row) === "complete").length} of ${rows.length}`, "complete")),
      findingList(cellFindings.get(cell)),
      here(cell).length ? [h("h3", {}, "Curves"), charts([cell])] : null,
      h("h3", {}, "Runs"), inParts(h("div", {}), ordered, 30, (row) => runCard(row, row === only || rows.length <= 3)),
      h("h3", {}, "Configuration"), configuration([cell], false)), cell);
    if (view.dataset.view === "grid") history.replaceState(null, "", `#/grid/${cell}`);
  }

  /** A list of which only so many are drawn at once, with a button for more. */
  function inParts(list, items, most, drawItem) {
    const more = h("button", { type: "button", class: "more" });
    const draw = (from) => {
      add(list, items.slice(from, from + most).map(drawItem));
      more.hidden = from + most >= items.length;
      more.textContent = `Show ${Math.min(most, items.length - from - most)} more of ${items.length.toLocaleString("en")}`;
      more.onclick = () => draw(from + most);
    };
    draw(0);
    return [list, more];
  }

  const tile = (name, value, note) => h("div", {}, h("dt", {}, name), h("dd", {}, h("b", {}, value), note && h("small", {}, note)));

  function runCard(row, isOpen) {
    const get = (name) => runs[name].get(row);
    const state = get("state");
    const gen = get("generalization"), genText = word(fields.get("gen_em"), gen);
    const interval = get("low") === null ? "" : `95 % interval ${percent(get("low"))}–${percent(get("high"))} %; `;
    const lists = get("samples") === null ? "" : `, ${count(get("samples"), "list")} of each length`;
    const facts = [
      ["Lacks", get("lacks")], ["Refused by ingest", get("refused")], ["Overwritten by", get("overwritten_by")], ["Lost files", get("lost_files")],
      ["run.json", get("recorded") === false ? "none: told by the files alone" : null],
      [data.measured, typeof gen === "number" ? `${genText} (${interval}${get("from")}${lists})` : null],
      ["From", get("source")], ["Task there", get("source_task") === null ? null : String(get("source_task"))],
      ["Run known by", get("evidence") && `${get("evidence")} (${get("attribution")})`], ["Configuration from", get("config_source")],
    ].filter(([, value]) => value);
    const list = [];
    for (let file = files.start[row]; file < files.start[row + 1]; file++) list.push(fileItem(row, file));
    const isGrid = !data.sections[cells.section.get(get("cell"))]?.title.endsWith("outside of the grid");
    const train = `ckptman train --group ${shellWord(String(fields.get("group").get(row)))} --task ${fields.get("task").get(row)} --seed ${get("seed")}`;
    return h("details", { class: `run ${stateClass(state)}`, open: isOpen },
      h("summary", {}, h("span", { class: "seed" }, get("cell") < 0 ? "File" : `Seed ${get("seed") ?? "unknown"}`), badge(state), typeof gen === "number" ? h("b", {}, genText) : null, get("run_id") && h("code", {}, get("run_id"))),
      state === "missing" ? h("p", { class: "note" }, "Nothing of this run is in the tree. ", isGrid && get("cell") >= 0 ? copyButton("Copy command to train it", () => train, "the command", train) : null) : null,
      facts.length ? h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])) : null,
      list.length ? h("ul", { class: "files" }, list) : null,
      !isAway(row) ? h("div", { class: "buttons" }, copyButton("Copy folder", () => under(get("folder")), "the folder", get("folder"))) : null,
      findingList(findingsOf.get(row)));
  }

  function fileItem(row, file) {
    const get = (name) => files[name].get(file);
    const folder = runs.folder.get(row);
    const path = folder === "." ? get("name") : `${folder}/${get("name")}`;
    const show = () => `ckptman show ${shellWord(under(path))}`;
    const sum = get("sha256");
    return h("li", { class: get("there") ? null : "gone" },
      h("p", { class: "name" }, get("name")),
      h("p", { class: "meta" }, [get("kind"), get("step") === null ? null : `${get("step").toLocaleString("en")} iterations`, get("size") === null ? null : bytes(get("size")), get("there") ? null : "not there"].filter(Boolean).join(" · ")),
      sum && h("p", { class: "sum" }, "SHA-256 ", h("code", { title: sum }, sum.length > 20 ? `${sum.slice(0, 16)}…` : sum), copyButton("Copy", () => sum, "the checksum", sum)),
      get("there") ? h("div", { class: "buttons" }, copyButton("Copy path", () => under(path), "the path", path), copyButton("Copy command", show, "the command", show()), runs.state.get(row) === "unreadable" ? null : copyButton("Copy loading code", () => loading(path), "the loading code", loading(path))) : null);
  }

  /** A table of the configurations of some cells side by side; rows that differ are marked. */
  function configuration(chosen, onlyDifferences) {
    const named = chosen.map((cell) => here(cell)[0] ?? cells.rows[cell][0]);
    const isSpoken = (cell, name) => {
      const rows = cells.rows[cell].filter((row) => runs.state.get(row) !== "missing");
      const values = new Set((rows.length ? rows : cells.rows[cell]).map((row) => runs.config[name].get(row)));
      return values.size > 1 ? [...values].slice(0, 3).map((value) => word(fields.get(name), value)).join(", ") + (values.size > 3 ? ", …" : "") : null;
    };
    const names = Object.keys(runs.config).filter((name) => named.some((row) => runs.config[name].get(row) !== null));
    const rows = names.map((name) => {
      const texts = chosen.map((cell, index) => isSpoken(cell, name) ?? String(runs.config[name].get(named[index]) ?? NOTHING));
      return { name, texts, differs: new Set(texts).size > 1 && !data.ignored.includes(name) };
    });
    const drawn = rows.filter((row) => !onlyDifferences || row.differs);
    if (!drawn.length) return h("p", { class: "empty" }, onlyDifferences ? "These configurations are the same in every key." : "Nothing is known of the configuration.");
    return h("div", { class: "scroll" }, h("table", { class: "plain" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Key"), chosen.map((cell, index) => h("th", { scope: "col" }, chosen.length > 1 ? chip(cell, index) : "Value")))),
      h("tbody", {}, drawn.map((row) => h("tr", { class: row.differs ? "differs" : null },
        h("th", { scope: "row" }, row.differs ? h("span", { class: "differ", title: "differs", role: "img", "aria-label": "differs:" }, "≠") : null, row.name), row.texts.map((text) => h("td", {}, text)))))));
  }

  const chip = (cell, index) => h("span", { class: "chip" }, h("i", { class: `swatch s${index % 8}`, "aria-hidden": "true" }), h("span", {}, cellName(cell)));

  // --- comparing -----------------------------------------------------------------------------------------------------

  let compared = [];
  let onlyDifferences = true;
  const MOST_COMPARED = 8;

  function toggleCompared(cell) {
    if (!compared.includes(cell) && compared.length === MOST_COMPARED) return say(`No more than ${MOST_COMPARED} configurations can be compared.`);
    compared = compared.includes(cell) ? compared.filter((item) => item !== cell) : [...compared, cell];
    document.querySelectorAll(`[data-cell="${cell}"]`).forEach((item) => {
      item.classList.toggle("chosen", compared.includes(cell));
      item.setAttribute("aria-selected", String(compared.includes(cell)));
    });
    say(compared.includes(cell) ? `Chosen for comparison: ${cellName(cell)}` : "Taken out of the comparison");
    drawTabs();
    if (view.dataset.view === "compare") location.hash = `#/compare/${compared.join(",")}`;
  }

  function drawCompare() {
    const choices = Array.from({ length: cells.count }, (_, cell) => cell).filter((cell) => here(cell).length && !compared.includes(cell));
    const select = chooser("Add a configuration", (cell) => toggleCompared(Number(cell)), choices.slice(0, 3000).map((cell) => h("option", { value: cell }, cellName(cell))));
    const only = h("input", { type: "checkbox", onchange: () => { onlyDifferences = only.checked; redraw(view, drawCompare); } });
    only.checked = onlyDifferences;
    const shownCells = compared.filter((cell) => cell < cells.count);
    view.replaceChildren(...[
      h("div", { class: "tools" }, select, h("label", { class: "check" }, only, "Only differences")),
      h("ul", { class: "chips" }, shownCells.map((cell, index) => h("li", {}, chip(cell, index), h("button", { type: "button", class: "quiet", "aria-label": `Take out ${cellName(cell)}`, onclick: () => toggleCompared(cell) }, "✕")))),
      shownCells.length < 2 ? h("p", { class: "empty" }, shownCells.length ? "Add a second configuration." : "Nothing is chosen yet. Add two or more configurations here, or in the grid by Shift-click or the key c.") : null,
      shownCells.length ? [h("h2", {}, "Curves"), charts(shownCells), h("h2", {}, "Results"), comparedResults(shownCells), h("h2", {}, "Configurations"), configuration(shownCells, onlyDifferences && shownCells.length > 1)] : null,
    ].flat().filter(Boolean));
  }

  function comparedResults(chosen) {
    const names = ["gen_em", ...Object.keys(runs.metrics).filter((name) => !name.startsWith("_"))];
    const measured = names.filter((name) => chosen.some((cell) => over(cell, fields.get(name))));
    if (!measured.length) return h("p", { class: "empty" }, "Nothing is measured of these.");
    const row = (name) => h("tr", {}, h("th", { scope: "row" }, name === "gen_em" ? genTitle() : name), chosen.map((cell) => {
      const result = over(cell, fields.get(name));
      return h("td", {}, overText(result, fields.get(name)), result && h("small", { class: "note" }, ` n = ${result.n}`));
    }));
    const make = (some) => h("div", { class: "scroll" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Metric"), chosen.map((cell, index) => h("th", { scope: "col" }, chip(cell, index))))), h("tbody", {}, some.map(row))));
    const [first, rest] = [measured.slice(0, 1), measured.slice(1)];
    return h("div", {}, make(first), rest.length ? h("details", {}, h("summary", {}, count(rest.length, "more metric")), make(rest)) : null);
  }

  // --- findings ------------------------------------------------------------------------------------------------------

  function drawFindings() {
    const byCode = new Map();
    data.findings.forEach(([code], index) => byCode.set(code, [...(byCode.get(code) ?? []), index]));
    const ordered = [...byCode].sort((a, b) => data.codes[a[0]][0].localeCompare(data.codes[b[0]][0]) || b[1].length - a[1].length);
    const owner = new Map();
    for (const [row, indexes] of findingsOf) for (const index of indexes) owner.set(index, () => openRun(row));
    for (const [cell, indexes] of cellFindings) for (const index of indexes) owner.set(index, () => openCell(cell));
    view.replaceChildren(...(ordered.length ? [] : [h("p", { class: "empty good" }, "ckptman validate finds nothing wrong with this tree.")]), ...ordered.map(([code, indexes]) => {
      const [severity, meaning] = data.codes[code];
      const list = inParts(h("ul", { class: "findings" }), indexes, 40, (index) => {
        const item = findingItem(index, false);
        if (owner.has(index)) item.append(h("button", { type: "button", class: "small", onclick: owner.get(index) }, "Show details"));
        return item;
      });
      return h("details", { class: `code ${severity}`, open: ordered.length <= 3 }, h("summary", {}, h("span", { class: "severity" }, severity), h("code", {}, code), h("span", { class: "number" }, String(indexes.length)), h("span", { class: "meaning" }, meaning)), list);
    }));
  }

  // --- views ---------------------------------------------------------------------------------------------------------

  const VIEWS = { grid: ["Grid", drawGrid], runs: ["Runs", drawRuns], findings: ["Findings", drawFindings], compare: ["Compare", drawCompare] };
  let view;

  function drawTabs() {
    const numbers = { runs: data.counts.runs, findings: data.findings.length, compare: compared.length };
    redraw($("tabs"), () => $("tabs").replaceChildren(...Object.entries(VIEWS).map(([name, [title]]) =>
      h("a", { href: name === "compare" && compared.length ? `#/compare/${compared.join(",")}` : `#/${name}`, "aria-current": view?.dataset.view === name ? "page" : null }, title, numbers[name] ? h("span", { class: "number" }, numbers[name].toLocaleString("en")) : null))));
  }

  function drawGrid() {
    const holder = h("div", {});
    const measured = Object.keys(runs.metrics);
    const select = h("select", { id: "metric", onchange: () => { metric = select.value; drawMap(holder); } },
      h("option", { value: COMPLETENESS }, "Completeness"), h("option", { value: "gen_em" }, genTitle()),
      measured.length ? h("optgroup", { label: "Metrics at the end of training" }, measured.map((name) => h("option", { value: name }, name))) : null);
    select.value = metric;
    const all = h("input", { type: "checkbox", onchange: () => { everything = all.checked; drawMap(holder); } });
    all.checked = everything;
    const isSpare = data.sections.some(({ rows, columns }, index) => filledParts(index).some((part, axis) => part.length < [rows, columns][axis].length));
    const totals = data.counts, inState = (state) => Array.from({ length: runs.count }, (_, row) => row).filter((row) => runs.state.get(row) === state).length;
    const errors = data.findings.filter(([code]) => data.codes[code][0] === "error").length;
    const share = totals.expected ? `${percent(totals.complete / totals.expected)} % of the grid` : "";
    view.replaceChildren(
      h("dl", { class: "tiles summary" },
        tile("Complete runs", totals.expected ? `${totals.complete.toLocaleString("en")} of ${totals.expected.toLocaleString("en")}` : inState("complete").toLocaleString("en"), share),
        tile("Checkpoints", totals.files.toLocaleString("en"), bytes(totals.bytes)),
        totals.refused ? tile("Refused", totals.refused.toLocaleString("en"), "of the runs expected") : null,
        tile("Overwritten", inState("overwritten").toLocaleString("en"), totals.expected ? `${totals.overwritten.toLocaleString("en")} of the runs expected` : ""),
        totals.expected ? tile("Missing", totals.missing.toLocaleString("en"), "of the runs expected") : null,
        tile("Findings", data.findings.length.toLocaleString("en"), data.findings.length ? `${count(errors, "error")}, ${count(data.findings.length - errors, "warning")}` : "nothing is wrong")),
      h("div", { class: "tools" }, h("label", { class: "inline" }, "Show", select), isSpare && h("label", { class: "check" }, all, "Empty rows and columns")), holder);
    drawMap(holder);
  }

  let isSearching = false;

  function route() {
    const [, name = "grid", argument] = location.hash.split("/");
    const known = VIEWS[name] ? name : "grid";
    const isOther = view && view.dataset.view !== known;
    const isLost = isOther && ["main", "details"].some((id) => $(id).contains(document.activeElement));
    if (isOther) hide(); // details belong to what is beside them
    if (known === "compare" && argument) compared = [...new Set(argument.split(",").map(Number))].filter((cell) => Number.isInteger(cell) && cell >= 0 && cell < cells.count).slice(0, MOST_COMPARED);
    redraw($("main"), () => {
      view = h("div", { "data-view": known });
      $("main").replaceChildren(h("h2", { class: "offscreen" }, VIEWS[known][0]), view);
      VIEWS[known][1]();
    });
    drawTabs();
    if (isLost || isSearching) $(isSearching ? "search" : "main").focus();
    isSearching = false;
    if (known === "grid" && argument && Number(argument) < cells.count) openCell(Number(argument));
  }

  // --- the page ------------------------------------------------------------------------------------------------------

  function theme() {
    const order = { auto: "light", light: "dark", dark: "auto" };
    const labels = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" };
    const set = (value) => {
      document.documentElement.dataset.theme = value;
      $("theme").textContent = labels[value];
      $("theme").setAttribute("aria-label", `Colours: ${value}. Press for ${order[value]}.`);
      try {
        localStorage.setItem("ckptman-theme", value);
      } catch {
        // a browser that keeps nothing
      }
    };
    let kept = null;
    try {
      kept = localStorage.getItem("ckptman-theme");
    } catch {
      // as above
    }
    set(order[kept] ? kept : "auto");
    $("theme").onclick = () => set(order[document.documentElement.dataset.theme]);
  }

  function drawFoot() {
    const field = h("input", { type: "text", id: "root", value: root, spellcheck: "false", autocomplete: "off", oninput: () => (root = field.value) });
    $("foot").replaceChildren(...[
      h("label", {}, "Folder of the tree, for what is copied", field),
      data.left_out.length ? h("details", {}, h("summary", {}, `${count(data.left_out.length, "part")} left out: the tree is too large for one page`), h("ul", {}, data.left_out.map((part) => h("li", {}, part)))) : null,
      h("p", {}, "Written by ", h("code", {}, "ckptman report --html"), ". This file asks nothing of a network."),
    ].filter(Boolean));
  }

  async function start() {
    theme();
    try {
      prepare(await load());
    } catch (error) {
      $("loading").textContent = typeof DecompressionStream === "undefined" ? "This browser is too old for this page: it takes one of 2023 or newer." : `This page is damaged: ${error.message}. Write it again with: ckptman report --html`;
      throw error;
    }
    root = findRoot();
    const name = root.split("/").filter(Boolean).at(-1) ?? "Checkpoints";
    add((($("title").textContent = ""), $("title")), name);
    document.title = `${shown(name)} · checkpoints`;
    const there = Array.from({ length: cells.count }, (_, cell) => cells.rows[cell].some((row) => runs.state.get(row) !== "missing")).filter(Boolean).length;
    everything = !there || there >= cells.count / 5;
    if (there && isMeasured(fields.get("gen_em"))) metric = "gen_em";
    drawFoot();
    addEventListener("hashchange", route);
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address says which view is open
      $("main").focus();
    });
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !$("details").hidden) close();
      else if (event.key === "/" && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName)) {
        event.preventDefault();
        if (view.dataset.view === "runs") return $("search").focus();
        isSearching = true;
        location.hash = "#/runs";
      }
    });
    let folded = [];
    addEventListener("beforeprint", () => {
      if (view.dataset.view === "runs") runsView.paint(true);
      folded = [...document.querySelectorAll("details:not([open])")];
      for (const item of folded) item.open = true;
    });
    addEventListener("afterprint", () => {
      if (view.dataset.view === "runs") runsView.paint();
      for (const item of folded) item.open = false;
    });
    route();
    document.documentElement.dataset.ready = "";
  }

  start();
})();
