// Elements, and talk with the server. Texts are only ever set as text, so markup in a prompt stays what it is.

export const find = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-") || name.startsWith("data-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const button = (text, act, properties = {}) =>
  make("button", { type: "button", textContent: text, onclick: act, ...properties });

export const fileAddress = (name, mark) =>
  `/files/${name.split("/").map(encodeURIComponent).join("/")}${mark ? `?v=${mark}` : ""}`;

export class Refused extends Error {
  constructor(text, answer, code) {
    super(text);
    this.answer = answer;
    this.code = code;
  }
}

async function answerOf(response) {
  const answer = await response.json();
  if (!response.ok) throw new Refused(answer.error ?? response.statusText, answer, response.status);
  return answer;
}

export const get = async (address) => answerOf(await fetch(address));

export const post = async (address, body = {}) =>
  answerOf(
    await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    }),
  );

let hiding;

export function tell(text, isBad = false) {
  const told = find("told");
  told.textContent = text;
  told.classList.toggle("bad", isBad);
  told.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (told.hidden = true), isBad ? 12000 : 3500);
}

// For what people click: says what went wrong.
export const trying =
  (act) =>
  async (...values) => {
    try {
      return await act(...values);
    } catch (error) {
      tell(error instanceof Refused ? error.message : `The server does not answer: ${error.message}`, true);
    }
  };

export const copy = trying(async (text) => {
  await navigator.clipboard.writeText(text);
  tell(`Copied ${text}.`);
});

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
