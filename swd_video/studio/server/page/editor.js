// The script: written, dropped, looked at while it is written, saved. What is not saved yet survives a closed page.

import { duration, find, make, plural, post, Refused, tell, trying } from "/page/dom.js";

const text = find("text");
const name = find("name");
let server = null; // the script as the server has it
let forms = {};
let folder = "";
let base = ""; // the version that the text was made of
let conflict = "";
let lookingSoon;
let lookNumber = 0;
let isLoaded;
const loaded = new Promise((resolve) => (isLoaded = resolve));

const OPENED = "opened"; // in the place of a version
const isChanged = () => server !== null && (text.value !== server.text || name.value !== server.name);
const storeKey = () => `swd-video studio ${folder}`;

export function takeIn(state) {
  const first = server === null;
  const clean = first || !isChanged();
  const before = server;
  server = state.script;
  forms = state.forms;
  folder = state.folder;
  if (clean) show(server.text, server.name);
  else if (before.version !== server.version || before.name !== server.name) {
    ask(`${server.name} was changed elsewhere, and your text here is not saved yet.`, server.version);
  }
  if (first) {
    text.disabled = name.disabled = false; // what is written before the script is there would be lost
    restore();
    isLoaded();
  }
  if (!isChanged()) {
    hideConflict();
    showProblems(server.problems, server.warnings);
    showCount(state.shots.length);
  }
  mark();
}

export async function saveIfChanged() {
  if (isChanged()) await save(base);
}

async function save(basedOn) {
  const sent = { text: text.value, name: name.value.trim() };
  try {
    const saved = await post("/api/script", { ...sent, based_on: basedOn });
    server = { ...server, text: sent.text, name: saved.name, version: saved.version };
    if (name.value.trim() === sent.name) name.value = saved.name;
    base = saved.version;
    hideConflict();
    store();
    mark();
  } catch (error) {
    if (error instanceof Refused && error.code === 409) ask(error.message, error.answer.version);
    throw error;
  }
}

function show(newText, newName) {
  const at = text.selectionStart;
  if (text.value !== newText) {
    text.value = newText;
    text.setSelectionRange(at, at);
  }
  name.value = newName;
  base = server.version;
  number();
}

function store() {
  try {
    if (isChanged()) localStorage.setItem(storeKey(), JSON.stringify({ text: text.value, name: name.value, base }));
    else localStorage.removeItem(storeKey());
  } catch {
    // A browser that keeps nothing asks before the page is closed.
  }
}

function restore() {
  try {
    const stored = JSON.parse(localStorage.getItem(storeKey()));
    if (!stored || (stored.text === server.text && stored.name === server.name)) return;
    text.value = stored.text;
    name.value = stored.name;
    base = stored.base;
    number();
    tell("This is your text of the last time, which is not saved yet.");
    if (base !== server.version && base !== OPENED) ask(`${server.name} was changed since you wrote this.`, server.version);
    look();
  } catch {
    // Nothing was kept.
  }
}

function mark() {
  find("save").disabled = !isChanged();
  find("save").textContent = isChanged() ? "Save" : "Saved";
  const suffix = name.value.trim().split(".").pop().toLowerCase();
  find("form").textContent = forms[suffix === "yml" ? "yaml" : suffix] ?? "";
}

function ask(question, version) {
  conflict = version;
  find("conflict-text").textContent = question;
  find("conflict").hidden = false;
}

const hideConflict = () => (find("conflict").hidden = true);

function written() {
  number();
  mark();
  store();
  find("checked").hidden = true;
  clearTimeout(lookingSoon);
  lookingSoon = setTimeout(look, 300);
}

const look = trying(async () => {
  const mine = ++lookNumber;
  const seen = await post("/api/look", { text: text.value, name: name.value.trim() });
  if (mine !== lookNumber) return;
  showProblems(seen.problems, seen.warnings);
  showCount(seen.shots);
});

// What the model makes of it; the command takes some seconds.
const check = trying(async () => {
  await saveIfChanged();
  const asked = text.value;
  find("check").disabled = true;
  try {
    const found = await post("/api/check");
    if (text.value !== asked) return;
    showProblems(found.problems, found.warnings);
    const memory = found.memory ? `, ${(found.memory.weights_gib + found.memory.working_gib).toPrecision(2)} GiB of memory` : "";
    const time = found.time ? `, about ${duration(found.time.seconds)} to go (${found.time.from})` : "";
    const done = found.finished ? `, ${found.finished} finished` : "";
    find("checked").textContent = `${plural(found.clips, "clip")} of ${+found.seconds.toFixed(1)} s by ${found.model}${done}${memory}${time}`;
    find("checked").hidden = false;
  } finally {
    find("check").disabled = false;
  }
});

function showCount(shots) {
  find("count").textContent = shots ? plural(shots, "shot") : "";
}

function showProblems(problems, warnings) {
  const row = (kind) => (problem) =>
    make(
      "li",
      { className: kind },
      problem.line
        ? make("button", { type: "button", textContent: `line ${problem.line}`, onclick: () => go(problem.line) })
        : null,
      make("span", { textContent: problem.text }),
    );
  find("problems").replaceChildren(...problems.map(row("problem")), ...warnings.map(row("warning")));
  const lines = find("gutter").children;
  for (const line of lines) line.className = "";
  for (const [found, kind] of [[warnings, "warning"], [problems, "problem"]])
    for (const { line } of found) if (lines[line - 1]) lines[line - 1].className = kind;
}

function go(line) {
  const start = text.value.split("\n").slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  const end = text.value.indexOf("\n", start);
  text.focus();
  text.setSelectionRange(start, end < 0 ? text.value.length : end);
  text.scrollTop = (line - 4) * parseFloat(getComputedStyle(text).lineHeight);
}

export const goToLine = go;

function number() {
  const gutter = find("gutter");
  const count = text.value.split("\n").length;
  while (gutter.children.length > count) gutter.lastChild.remove();
  for (let line = gutter.children.length + 1; line <= count; line++) gutter.append(make("span", { textContent: line }));
}

async function open(file) {
  if (!file) return;
  await loaded;
  if (isChanged() && !confirm(`Your text is not saved. Open ${file.name} in its place?`)) return;
  const bytes = new Uint8Array(await file.arrayBuffer());
  const wide = (bytes[0] === 0xff && bytes[1] === 0xfe && "utf-16le") || (bytes[0] === 0xfe && bytes[1] === 0xff && "utf-16be");
  try {
    text.value = new TextDecoder(wide || "utf-8", { fatal: true }).decode(bytes);
  } catch {
    tell(`${file.name} is no text. Save it as UTF-8.`, true);
    return;
  }
  name.value = file.name;
  // It is of no version that the server knows, so a file of this name there is not replaced without a question.
  if (isChanged()) base = OPENED;
  written();
}

export function start() {
  text.addEventListener("input", written);
  name.addEventListener("input", written);
  text.addEventListener("scroll", () => (find("gutter").scrollTop = text.scrollTop));
  find("check").addEventListener("click", check);
  find("save").addEventListener("click", trying(() => save(base)));
  find("overwrite").addEventListener("click", trying(() => save(conflict)));
  find("theirs").addEventListener("click", trying(async () => {
    show(server.text, server.name);
    hideConflict();
    written();
  }));
  find("open").addEventListener("change", async (event) => {
    await open(event.target.files[0]);
    event.target.value = ""; // or the same file could not be chosen again
  });
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "s") {
      event.preventDefault();
      if (isChanged()) find("save").click();
    }
  });
  const editor = find("script");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    editor.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? editor.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    editor.classList.remove("dropping");
    open(event.dataTransfer.files[0]);
  });
}
