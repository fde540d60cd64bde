// The pages work without this: it only saves reloads, adds tooltips and listens to the live board.
import { tips } from "./tips.js";

const main = document.getElementById("main");
const form = document.querySelector("form.slicers");
const said = document.getElementById("said");
let running = null;

function asQuery() {
  const values = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    const isDay = name === "from" || name === "to";
    if (value && value !== "all" && (!isDay || form.elements.period.value === "days")) values.set(name, value);
  }
  return values.toString();
}

function fromQuery(query) {
  const values = new URLSearchParams(query);
  for (const name of ["period", "hospital", "department"]) {
    const select = form.elements[name];
    const wanted = values.get(name) ?? "all";
    select.value = [...select.options].some((o) => o.value === wanted) ? wanted : select.options[0].value;
  }
  form.elements.triage.value = values.get("triage") ?? "all";
  for (const name of ["from", "to"]) if (values.get(name)) form.elements[name].value = values.get(name);
  form.querySelector(".days").hidden = form.elements.period.value !== "days";
}

async function show(query, how) {
  running?.abort();
  running = new AbortController();
  const address = location.pathname + (query ? "?" + query : "");
  main.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(address, { headers: { "x-fragment": "1" }, signal: running.signal });
    if (answer.redirected || !answer.ok) { location.assign(address); return; }
    main.innerHTML = await answer.text();
  } catch (error) {
    if (error.name !== "AbortError") location.assign(address);
    return;
  }
  main.removeAttribute("aria-busy");
  if (how === "push") history.pushState(null, "", address);
  for (const link of document.querySelectorAll("header nav a")) {
    const bare = link.getAttribute("href").split("?")[0];
    if (!["/live", "/quality", "/governance"].includes(bare)) link.setAttribute("href", query ? bare + "?" + query : bare);
  }
  said.textContent = main.querySelector(".slice")?.textContent + ". " + (main.querySelector(".kpi .value")?.textContent ?? "");
  tips(main);
}

if (form) {
  form.classList.add("scripted");
  form.querySelector(".print").hidden = false;
  form.querySelector(".print").addEventListener("click", () => print());
  form.addEventListener("submit", (event) => { event.preventDefault(); show(asQuery(), "push"); });
  form.addEventListener("change", (event) => {
    form.querySelector(".days").hidden = form.elements.period.value !== "days";
    if (event.target.name === "period" && event.target.value === "days") { form.elements.from.focus(); return; }
    show(asQuery(), "push");
  });
  addEventListener("popstate", () => {
    fromQuery(location.search.slice(1));
    show(location.search.slice(1), "stay");
  });
  // What is supposed stands in the address, too; the figures follow when the slider is let go.
  main.addEventListener("input", (event) => {
    const of = event.target.closest("form.what-if");
    if (of) of.querySelector("output").textContent = event.target.value;
  });
  const suppose = async (of) => {
    const { name } = of.querySelector("input[type=range]");
    await show(new URLSearchParams(new FormData(of)).toString(), "push");
    main.querySelector(`form.what-if [name="${name}"]`)?.focus({ preventScroll: true });
  };
  main.addEventListener("change", (event) => {
    const of = event.target.closest("form.what-if");
    if (of) suppose(of);
  });
  main.addEventListener("submit", (event) => {
    const of = event.target.closest("form.what-if");
    if (!of) return;
    event.preventDefault();
    suppose(of);
  });
  main.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-slice]");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    const query = new URL(link.href).search.slice(1);
    fromQuery(query);
    show(query, "push");
    main.focus({ preventScroll: true });
  });
  tips(main);
}

const board = document.getElementById("board");
if (board) {
  const stream = document.getElementById("stream");
  const text = document.getElementById("stream-text");
  const only = document.getElementById("only");
  let lastBeat = Date.now();
  let lastShown = "never";
  const remember = () => new Map([...board.querySelectorAll("tr[data-visit]")].map((row) => [row.dataset.visit, row.dataset.state]));
  const narrow = () => {
    for (const row of board.querySelectorAll("tr[data-visit]")) row.hidden = Boolean(only.value) && row.dataset.department !== only.value;
  };
  const choices = () => {
    const chosen = only.value;
    const names = [...new Set([...board.querySelectorAll("tr[data-visit]")].map((row) => row.dataset.department))].sort();
    if (chosen && !names.includes(chosen)) names.push(chosen);
    only.replaceChildren(new Option("All", ""), ...names.map((name) => new Option(name, name)));
    only.value = chosen;
  };
  const source = new EventSource(document.querySelector("main.live").dataset.stream);
  source.addEventListener("board", (event) => {
    const before = remember();
    const held = document.activeElement?.dataset?.alert;
    board.innerHTML = JSON.parse(event.data);
    for (const row of board.querySelectorAll("tr[data-visit]")) {
      if (before.size && before.get(row.dataset.visit) !== row.dataset.state) row.classList.add("changed");
    }
    choices();
    narrow();
    if (held) board.querySelector(`button[data-alert="${held}"]`)?.focus();
    board.dataset.updates = String(Number(board.dataset.updates ?? 0) + 1);
  });
  const alive = (shown) => {
    lastBeat = Date.now();
    lastShown = shown;
    stream.classList.remove("stale");
    document.body.classList.remove("lost");
    text.textContent = "live, " + shown + " UTC";
  };
  source.addEventListener("beat", (event) => alive(JSON.parse(event.data)));
  setInterval(() => {
    if (Date.now() - lastBeat < 9000) return;
    stream.classList.add("stale");
    document.body.classList.add("lost");
    text.textContent = "connection lost, last update " + lastShown;
  }, 1000);
  only.addEventListener("change", narrow);
  document.getElementById("hospital")?.addEventListener("change", (event) => event.target.form.submit());
  choices();
  board.addEventListener("click", async (event) => {
    const button = event.target.closest("button.ack");
    if (!button) return;
    const answer = await fetch("/live/acknowledge", {
      method: "POST", headers: { "content-type": "application/x-www-form-urlencoded" },
      body: new URLSearchParams({ alert: button.dataset.alert }),
    });
    button.textContent = answer.ok ? "Noted" : "Failed";
    document.getElementById("said").textContent = "alert " + (answer.ok ? "acknowledged" : "could not be acknowledged");
  });
  const wall = document.getElementById("wall");
  wall.addEventListener("click", () => {
    wall.setAttribute("aria-pressed", String(document.body.classList.toggle("wall")));
  });
}
