// The queue, the film and the history of takes.

import { button, copy, duration, fileAddress, find, make, plural, post, trying } from "/page/dom.js";

const KINDS = { draft: "Drafts", again: "More seeds", finish: "Finish", film: "The film" };
const STATES = {
  waiting: "waits",
  running: "at work",
  stopping: "finishes the clip in hand, then stops",
  done: "done",
  failed: "failed",
  cancelled: "cancelled",
};

const change = trying((number, what, shot = "") => post(`/api/jobs/${number}`, { what, shot }));
export const stopJob = (number) => change(number, "stop");

export function nameOf(job) {
  return `${KINDS[job.kind]}${job.shots.length ? ` of ${job.shots.join(", ")}` : ""}${job.seeds ? `, ${plural(job.seeds, "seed")}` : ""}`;
}

export function showQueue(news) {
  const open = news.jobs.filter((job) => !["done", "failed", "cancelled"].includes(job.state));
  const over = news.jobs.filter((job) => !open.includes(job)).reverse();
  find("queue").replaceChildren(
    open.length > 1 ? button("Cancel all", trying(() => post("/api/jobs/stop"))) : "",
    open.length || over.length
      ? make("ol", { className: "jobs" }, ...open.map((job) => drawJob(job, news)), ...over.map((job) => drawJob(job, news)))
      : make("p", { className: "empty", textContent: "Nothing was asked for yet. What you ask for waits here, survives a restart, and is worked on one after another." }),
  );
}

function drawJob(job, news) {
  const isOver = ["done", "failed", "cancelled"].includes(job.state);
  const mine = news.progress.number === job.number ? news.progress : {};
  const now = mine.now;
  const took = job.started && job.ended ? `, ${duration(job.ended - job.started)}` : "";
  return make(
    "li",
    { className: `job ${job.state}`, "data-job": job.number },
    make(
      "div",
      {},
      make("strong", { textContent: nameOf(job) }),
      make("span", { className: "state", textContent: `${STATES[job.state]}${took}` }),
      job.message ? make("p", { className: "message", textContent: job.message }) : null,
      now?.total ? make("p", { className: "message", textContent: `${now.done} of ${plural(now.total, "clip")}${now.text ? ` · ${now.text}` : ""}` }) : null,
      job.skip.length ? make("p", { className: "message", textContent: `without ${job.skip.join(", ")}` }) : null,
      mine.number && news.said.length && !isOver
        ? make("details", {}, make("summary", { textContent: "What it says" }), make("pre", { textContent: news.said.join("\n") }))
        : null,
    ),
    make(
      "div",
      { className: "row" },
      now?.event === "stage" && job.state === "running" ? button(`Leave out ${now.shot}`, () => change(job.number, "leave_out", now.shot)) : null,
      isOver
        ? job.state === "done"
          ? null
          : button("Try again", () => change(job.number, "again"))
        : button(job.state === "waiting" ? "Cancel" : job.state === "stopping" ? "Stop at once" : "Stop", () => stopJob(job.number)),
    ),
  );
}

let filmMarks = "";

export function showFilms(state) {
  const marks = JSON.stringify(state.films);
  if (marks === filmMarks) return;
  filmMarks = marks;
  const film = state.films.find((found) => found.file === "film.mp4");
  find("films").replaceChildren(
    film
      ? make("video", { id: "film-player", src: fileAddress(film.file, film.mark), controls: true, preload: "metadata" })
      : make("p", { className: "empty", textContent: "No film yet. Finish the takes that you picked, then make the film." }),
    make("ul", { className: "files" }, ...state.films.map((found) => make("li", {}, make("a", { href: `${fileAddress(found.file)}?download`, textContent: found.file })))),
  );
}

let historyMark = "";

export function showHistory(state) {
  const mark = `${state.history.length} ${state.history[0]?.made}`;
  if (mark === historyMark) return;
  historyMark = mark;
  const row = (entry) =>
    make(
      "tr",
      {},
      make("td", { textContent: entry.made ? new Date(entry.made * 1000).toLocaleString() : "" }),
      make("td", { textContent: entry.id }),
      make("td", { textContent: entry.take }),
      make("td", {}, button(entry.seed, () => copy(String(entry.seed)), { className: "seed", title: "Copy the seed" })),
      make("td", { textContent: entry.prompt }),
    );
  find("history").replaceChildren(
    state.history.length
      ? make(
          "table",
          {},
          make("thead", {}, make("tr", {}, ...["finished", "shot", "take", "seed", "prompt"].map((name) => make("th", { textContent: name })))),
          make("tbody", {}, ...state.history.map(row)),
        )
      : make("p", { className: "empty", textContent: "Every finished take is listed here with its seed, those too whose files were made anew since." }),
  );
}
