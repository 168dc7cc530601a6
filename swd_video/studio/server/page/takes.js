// Shots and their takes: drafts and clips as moving pictures, to be picked by a click.

import { goToLine, saveIfChanged } from "/page/editor.js";
import { button, copy, fileAddress, find, make, plural, post, trying } from "/page/dom.js";

const drawn = new Map(); // shot id to [its state as text, its element]

export const ask = trying(async (kind, shots = [], seeds = null) => {
  await saveIfChanged();
  await post("/api/jobs", { kind, shots, seeds });
});

// Shown at once: a folder of thousands of takes is not read again in a moment.
const pick = trying(async (shot, take, picture) => {
  const picked = picture.getAttribute("aria-pressed") !== "true";
  showPicked(picture, picked);
  try {
    await post("/api/pick", { shot, take, picked });
  } catch (error) {
    showPicked(picture, !picked);
    throw error;
  }
});

function showPicked(picture, picked) {
  picture.setAttribute("aria-pressed", picked);
  picture.title = picked ? "Picked. Click to pick it no longer" : "Pick this take";
  picture.parentElement.classList.toggle("picked", picked);
}

export function showTakes(state) {
  const room = find("takes");
  const ids = new Set(state.shots.map((shot) => shot.id));
  for (const id of drawn.keys()) if (!ids.has(id)) drawn.delete(id);
  const elements = state.shots.map((shot) => {
    const text = JSON.stringify(shot);
    if (drawn.get(shot.id)?.[0] !== text) drawn.set(shot.id, [text, drawShot(shot)]);
    return drawn.get(shot.id)[1];
  });
  const others = state.others.length ? [drawOthers(state.others, state.shots.length > 0)] : [];
  const wanted = elements.length ? [...elements, ...others] : [emptyRoom(state), ...others];
  // Elements that stay are not touched: their pictures go on moving.
  wanted.forEach((element, index) => {
    if (room.children[index] !== element) room.insertBefore(element, room.children[index] ?? null);
  });
  while (room.children.length > wanted.length) room.lastChild.remove();
}

function emptyRoom(state) {
  const text = state.script.problems.length
    ? "The script has a problem: it is named on the left, with its line."
    : "Write a script on the left, or drop one anywhere. Drafts, clips and the film appear here.";
  return make("p", { className: "empty", textContent: text });
}

function drawShot(shot) {
  const drafted = shot.takes.some((take) => take.draft);
  return make(
    "article",
    { className: "shot", id: `shot-${shot.id}` },
    make(
      "div",
      { className: "about" },
      make("button", { type: "button", className: "id", textContent: shot.id, title: "Show it in the script", onclick: () => goToLine(shot.line) }),
      make("p", { className: "prompt", textContent: shot.prompt }),
      shot.pick_in_script ? make("span", { className: "note", textContent: "picked in the script" }) : null,
      button(drafted ? "More seeds" : "Draft", () => ask(drafted ? "again" : "draft", [shot.id], +find("seeds").value)),
      button("Finish", () => ask("finish", [shot.id])),
    ),
    make("div", { className: "grid" }, ...shot.takes.map((take) => drawTake(shot, take))),
  );
}

function drawTake(shot, take) {
  const shown = take.clip && !take.clip.older ? take.clip : (take.draft ?? take.clip);
  const isDraft = shown && shown === take.draft;
  const label = !shown ? "not made yet" : isDraft ? "draft" : "finished";
  return make(
    "figure",
    {
      className: `take ${take.picked ? "picked" : ""} ${shown?.older ? "older" : ""} ${isDraft ? "is-draft" : ""}`,
      "data-take": `${shot.id}:${take.take}`,
    },
    make(
      "button",
      {
        type: "button",
        className: "picture",
        title: take.picked ? "Picked. Click to pick it no longer" : "Pick this take",
        disabled: shot.pick_in_script,
        "aria-pressed": String(take.picked),
        "aria-label": `Pick take ${take.take} of ${shot.id}`,
        onclick: (event) => pick(shot.id, take.take, event.currentTarget),
      },
      shown?.preview
        ? make("img", { src: fileAddress(shown.preview, shown.mark), alt: `Take ${take.take}: ${shot.prompt}`, loading: "lazy" })
        : make("span", { className: "nothing" }),
      make("span", { className: "tick", textContent: "✓", "aria-hidden": "true" }),
    ),
    shown?.file || shown?.preview
      ? button("⤢", () => view(shot, take, shown), { className: "small", title: "Look at it", "aria-label": `Look at take ${take.take} of ${shot.id}` })
      : null,
    make(
      "figcaption",
      {},
      make(
        "span",
        { className: "of-take" },
        make("span", { textContent: `take ${take.take} ` }),
        take.kept ? make("span", { className: "badge", textContent: "kept " }) : null,
        make("span", { className: `badge ${label.split(" ")[0]}`, textContent: shown?.older ? `${label}, older version` : label }),
      ),
      make("span", { className: "seed", textContent: `seed ${take.seed}` }),
    ),
  );
}

function drawOthers(takes, isReadable) {
  const title = isReadable
    ? `${plural(takes.length, "take")} of shots that the script no longer has`
    : `${plural(takes.length, "take")} in the folder`;
  return make(
    "article",
    { className: "shot others" },
    make("div", { className: "about" }, make("p", { className: "prompt", textContent: title })),
    make(
      "div",
      { className: "grid" },
      ...takes.map((take) =>
        make(
          "figure",
          { className: "take older" },
          make(
            "button",
            { type: "button", className: "picture", "aria-label": `Look at ${take.id}`, onclick: () => view(take, take, take) },
            take.preview ? make("img", { src: fileAddress(take.preview, take.mark), alt: take.prompt ?? "", loading: "lazy" }) : make("span", { className: "nothing" }),
          ),
          make("figcaption", {}, make("span", { textContent: `${take.id}, take ${take.take}` }), make("span", { className: "seed", textContent: `seed ${take.seed}` })),
        ),
      ),
    ),
  );
}

export function view(shot, take, shown) {
  find("viewer-shown").replaceChildren(
    shown.file
      ? make("video", { src: fileAddress(shown.file, shown.mark), controls: true, loop: true, autoplay: true, muted: true })
      : make("img", { src: fileAddress(shown.preview, shown.mark), alt: shot.prompt ?? "" }),
  );
  const fact = (name, value) => [make("dt", { textContent: name }), make("dd", { textContent: value })];
  find("viewer-about").replaceChildren(
    make("p", { className: "prompt", textContent: shown.prompt ?? shot.prompt }),
    make(
      "dl",
      {},
      ...fact("shot", shot.id),
      ...fact("take", take.take),
      ...fact("seed", shown.seed ?? take.seed),
      ...(shown.seconds ? fact("length", `${+shown.seconds.toFixed(2)} s`) : []),
    ),
    make(
      "div",
      { className: "row" },
      button("Copy the seed", () => copy(String(shown.seed ?? take.seed))),
      shown.file ? make("a", { className: "button", href: `${fileAddress(shown.file)}?download`, textContent: "Download" }) : null,
    ),
  );
  find("viewer").showModal();
}

// What the clip in hand looks like after each stage, over its take.
export function showStage(progress) {
  for (const old of document.querySelectorAll(".take.in-hand")) old.classList.remove("in-hand");
  const stage = progress.now;
  if (!stage?.shot || stage.event !== "stage") return;
  const tile = document.querySelector(`[data-take="${CSS.escape(`${stage.shot}:${stage.take}`)}"]`);
  if (!tile) return;
  tile.classList.add("in-hand");
  [...tile.querySelectorAll(".badge")].pop().textContent = `stage ${stage.stage} of ${stage.stages}`;
  if (stage.preview) {
    const picture = make("img", { src: `${fileAddress(stage.preview)}?v=${stage.stage}-${progress.number}`, alt: "" });
    tile.querySelector(".picture").firstChild.replaceWith(picture);
  }
}
