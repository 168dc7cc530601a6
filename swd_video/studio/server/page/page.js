// The page as a whole: it shows what the server tells, and keeps nothing that the server does not know but unsaved text.

import { duration, fileAddress, find, get, plural, trying } from "/page/dom.js";
import * as editor from "/page/editor.js";
import { nameOf, showFilms, showHistory, showQueue, stopJob } from "/page/lists.js";
import { ask, showStage, showTakes } from "/page/takes.js";

let seenFiles = -1;
let news = null;
let isFetching = false;

const refresh = trying(async () => {
  if (isFetching || seenFiles === news?.files) return;
  isFetching = true;
  const begun = performance.now();
  try {
    const state = await get("/api/state");
    seenFiles = state.files;
    showState(state);
    showNews(state);
  } finally {
    isFetching = false;
    // A folder of thousands of takes is read rarely, so that reading it stays a small share of the time.
    setTimeout(refresh, Math.max(200, 10 * (performance.now() - begun)));
  }
});

function showState(state) {
  document.title = state.script.title ? `${state.script.title} · Studio` : "Studio";
  find("title").textContent = state.script.title || "Studio";
  find("folder").textContent = state.folder.split(/[\\/]/).pop();
  find("folder").title = state.folder;
  editor.takeIn(state);
  showTakes(state);
  showFilms(state);
  showHistory(state);
  const picked = state.shots.flatMap((shot) => shot.takes.filter((take) => take.picked));
  const unpicked = state.shots.filter((shot) => !shot.takes.some((take) => take.picked)).length;
  find("finish-what").textContent = picked.length
    ? `${plural(picked.length, "picked take")}${unpicked ? `, and ${plural(unpicked, "shot")} without a pick` : ""}`
    : "all takes that the script asks for";
  const isReady = state.shots.length > 0;
  for (const id of ["draft", "finish", "film"]) find(id).dataset.ready = isReady;
}

function showNews(told) {
  news = told;
  showQueue(told);
  showStage(told.progress);
  const job = told.jobs.find((one) => ["running", "stopping"].includes(one.state)) ?? told.jobs.find((one) => one.state === "waiting");
  find("now").hidden = !job;
  const waiting = told.jobs.filter((one) => !["done", "failed", "cancelled"].includes(one.state)).length;
  document.querySelector("[data-tab=queue]").textContent = waiting ? `Queue (${waiting})` : "Queue";
  if (!job) return;
  const now = told.progress.now;
  const left = now?.seconds_left ? `, ${duration(now.seconds_left)} left` : "";
  find("now-text").textContent = `${nameOf(job)}: ${now?.total ? `${now.done} of ${now.total}${left}` : job.message || "begins"}`;
  if (now) find("now-bar").value = now.fraction ?? 0;
  else find("now-bar").removeAttribute("value");
  find("now-stop").textContent = job.state === "stopping" ? "Stop at once" : job.state === "waiting" ? "Cancel" : "Stop";
  find("now-stop").onclick = () => stopJob(job.number);
  const preview = told.progress.stage?.preview;
  find("now-preview").hidden = !preview;
  if (preview) {
    const address = `${fileAddress(preview)}?v=${told.progress.stage.stage}-${told.progress.stage.done}`;
    if (find("now-preview").getAttribute("src") !== address) find("now-preview").src = address;
  }
}

function listen() {
  const source = new EventSource("/api/news");
  source.onmessage = (event) => {
    find("lost").hidden = true;
    showNews(JSON.parse(event.data));
    refresh();
  };
  source.onerror = () => {
    find("lost").hidden = false;
    // The next server counts anew.
    seenFiles = -1;
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}

function showTab(name) {
  for (const tab of document.querySelectorAll("[data-tab]")) {
    tab.setAttribute("aria-selected", tab.dataset.tab === name);
    find(tab.dataset.tab).hidden = tab.dataset.tab !== name;
  }
}

editor.start();
for (const tab of document.querySelectorAll("[data-tab]")) tab.addEventListener("click", () => showTab(tab.dataset.tab));
find("draft").addEventListener("click", () => ask("draft", [], +find("seeds").value));
find("finish").addEventListener("click", () => ask("finish"));
find("film").addEventListener("click", () => ask("film"));
find("viewer-close").addEventListener("click", () => find("viewer").close());
find("viewer").addEventListener("close", () => find("viewer-shown").replaceChildren());
find("viewer").addEventListener("click", (event) => event.target === find("viewer") && find("viewer").close());
listen();
