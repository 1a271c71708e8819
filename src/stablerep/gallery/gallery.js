// What the page does in the browser. Texts from the table are only ever set as text, never as HTML.
(() => {
  "use strict";
  if (window.stablerepGallery) return;

  const MARKS = { k: "keep", r: "reject", p: "repaint" };
  const KEYS = [
    ["/", "search"], ["arrow keys", "go from picture to picture"], ["Enter", "look closely"],
    ["K  R  P", "keep, reject, repaint; again: take the mark away"], ["S", "find similar pictures"],
    ["[  ]", "page back, page on"], ["Esc", "close"], ["?", "these keys"],
  ];
  let mark = null;     // asks the server to mark; set by the results
  let like = null;     // asks for similar pictures; set by the results

  const make = (tag, properties = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (value === null || value === undefined || value === false) continue;
      if (name in node && name !== "list") node[name] = value;
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter(child => child !== null));
    return node;
  };
  const count = number => number.toLocaleString("en");

  // -- notices -------------------------------------------------------------------------------------
  let notice;
  const say = (text, isProblem = false) => {
    if (!notice) {
      notice = make("div", { className: "sg-notice", role: "status" });
      document.body.append(notice);
    }
    notice.textContent = text;
    notice.classList.toggle("sg-problem", isProblem);
    notice.classList.add("sg-shown");
    clearTimeout(notice.timer);
    notice.timer = setTimeout(() => notice.classList.remove("sg-shown"), isProblem ? 9000 : 2500);
  };

  // -- marking -------------------------------------------------------------------------------------
  const tilesAt = place => document.querySelectorAll(`.sg-tile[data-place="${CSS.escape(place)}"]`);
  const markedAt = place => tilesAt(place)[0]?.dataset.mark ?? null;
  const paintMark = (place, name) => {
    for (const tile of tilesAt(place)) {
      if (name) tile.dataset.mark = name; else delete tile.dataset.mark;
      const label = tile.getAttribute("aria-label").replace(/, marked \w+$/, "");
      tile.setAttribute("aria-label", name ? `${label}, marked ${name}` : label);
    }
  };
  const setMark = async (places, name) => {
    if (!mark || !places.length) return;
    const before = places.map(place => [place, markedAt(place)]);
    const wanted = before.every(([, had]) => had === name) ? null : name;
    for (const place of places) paintMark(place, wanted);
    let answer;
    try {
      answer = await mark({ places, mark: wanted });
    } catch (error) {
      answer = { problem: "the gallery does not answer; is it still running?" };
    }
    if (answer.problem) {
      for (const [place, had] of before) paintMark(place, had);
      say(answer.problem, true);
      return;
    }
    for (const entry of document.querySelectorAll(".sg-marked [data-mark]"))
      entry.querySelector("b").textContent = count(answer.marked[entry.dataset.mark] ?? 0);
    const what = places.length === 1 ? "1 picture" : `${count(places.length)} pictures`;
    say(wanted ? `${what}: ${wanted}` : `${what}: mark taken away`);
    if (box?.open && places.includes(box.dataset.place)) box.dataset.mark = wanted ?? "";
    updateBox();
  };

  // -- one picture, looked at closely ----------------------------------------------------------------
  let box;
  const boxParts = {};
  const buildBox = () => {
    boxParts.image = make("img", { alt: "" });
    boxParts.caption = make("h2", { id: "sg-box-title", tabIndex: -1, autofocus: true });
    boxParts.facts = make("dl");
    boxParts.marks = make("div", { className: "sg-box-marks", role: "group", ariaLabel: "Mark this picture" });
    for (const [key, name] of Object.entries(MARKS))
      boxParts.marks.append(make("button", { type: "button", "data-choose": name, ariaLabel: `${name} (${key.toUpperCase()})` },
        name, make("kbd", { textContent: key.toUpperCase() })));
    boxParts.similar = make("button", { type: "button", className: "sg-similar" }, "Find similar", make("kbd", { textContent: "S" }));
    const close = make("button", { type: "button", className: "sg-close", ariaLabel: "Close" }, "×");
    box = make("dialog", { className: "sg-box", "aria-labelledby": "sg-box-title" },
      make("div", { className: "sg-box-picture" }, boxParts.image),
      make("div", { className: "sg-box-side" }, close, boxParts.caption, boxParts.marks, boxParts.similar, boxParts.facts));
    close.addEventListener("click", () => box.close());
    boxParts.marks.addEventListener("click", event => {
      const chosen = event.target.closest("[data-choose]");
      if (chosen) setMark([box.dataset.place], chosen.dataset.choose);
    });
    boxParts.similar.addEventListener("click", () => findSimilar(box.dataset.place));
    box.addEventListener("click", event => { if (event.target === box) box.close(); });
    box.addEventListener("close", () => tilesAt(box.dataset.place)[0]?.focus());
    document.body.append(box);
  };
  const updateBox = () => {
    if (!box?.open) return;
    for (const button of boxParts.marks.children)
      button.setAttribute("aria-pressed", String(button.dataset.choose === (markedAt(box.dataset.place) ?? box.dataset.mark)));
  };
  const look = async place => {
    if (!box) buildBox();
    let known;
    try {
      const answer = await fetch(`/gallery/details/${place}`);
      if (!answer.ok) throw new Error(await answer.text());
      known = await answer.json();
    } catch (error) {
      say(error.message, true);
      return;
    }
    box.dataset.place = place;
    box.dataset.mark = known.mark ?? "";
    boxParts.image.hidden = !known.src;
    if (known.src) boxParts.image.src = known.src; else boxParts.image.removeAttribute("src");
    boxParts.image.alt = known.caption;
    boxParts.caption.textContent = known.caption;
    boxParts.marks.hidden = !known.markable;
    boxParts.facts.replaceChildren(...known.facts.flatMap(([name, value]) =>
      [make("dt", { textContent: name.replaceAll("_", " ") }), make("dd", { textContent: value })]));
    if (!box.open) box.showModal();
    updateBox();
  };
  const findSimilar = place => {
    if (!like) return;
    if (box?.open) box.close();
    document.querySelector("#sg-tabs [role=tab]")?.click();
    like(place);
    window.scrollTo({ top: 0 });
  };

  // -- from picture to picture -----------------------------------------------------------------------
  const neighbour = (tile, key) => {
    const tiles = [...tile.closest(".sg-found").querySelectorAll(".sg-tile")];
    const here = tiles.indexOf(tile);
    if (key === "ArrowRight") return tiles[here + 1];
    if (key === "ArrowLeft") return tiles[here - 1];
    const middle = node => { const r = node.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2, r.height]; };
    const [x, y, height] = middle(tile);
    let best, least = Infinity;
    for (const other of tiles) {
      const [ox, oy] = middle(other);
      const down = (oy - y) * (key === "ArrowDown" ? 1 : -1);
      if (down < height / 2) continue;
      const far = down * 3 + Math.abs(ox - x);
      if (far < least) { least = far; best = other; }
    }
    return best;
  };
  const step = (tile, key) => {
    const next = neighbour(tile, key);
    if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
    return next;
  };
  // One stop for Tab in a set of pictures; arrow keys go on from there.
  const oneStop = found => {
    const tiles = [...found.querySelectorAll(".sg-tile")];
    tiles.forEach((tile, number) => { tile.tabIndex = number ? -1 : 0; });
  };
  document.addEventListener("focusin", event => {
    const tile = event.target.closest?.(".sg-tile");
    if (!tile) return;
    for (const other of tile.closest(".sg-found").querySelectorAll('.sg-tile[tabindex="0"]')) other.tabIndex = -1;
    tile.tabIndex = 0;
  });

  const isTyping = node => node.closest?.("input:not([type=radio]):not([type=checkbox]), textarea, select, [contenteditable=true]");
  const current = () => document.querySelector(".sg-box[open]") ? box.dataset.place : document.activeElement?.dataset?.place;
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const tab = event.target.closest?.("[role=tab]");
    if (tab && /^Arrow(Left|Right)$/.test(event.key)) {
      const tabs = [...tab.parentElement.querySelectorAll("[role=tab]")].filter(other => other.offsetParent !== null);
      const next = tabs[(tabs.indexOf(tab) + (event.key === "ArrowRight" ? 1 : tabs.length - 1)) % tabs.length];
      next.focus();
      next.click();
      event.preventDefault();
      return;
    }
    const place = current();
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const isOpen = Boolean(box?.open);
    if (key === "/" && !isOpen) document.querySelector("#sg-search textarea, #sg-search input")?.focus();
    else if (key === "?") showKeys();
    else if (place && MARKS[key]) setMark([place], MARKS[key]);
    else if (place && key === "s") findSimilar(place);
    else if ((key === "[" || key === "]") && !isOpen) turn(key === "]");
    else if (place && /^Arrow/.test(key)) {
      const tile = isOpen ? tilesAt(place)[0] : document.activeElement;
      if (!tile) return;
      const next = isOpen ? neighbour(tile, key) : step(tile, key);
      if (isOpen && next) look(next.dataset.place);
    } else return;
    event.preventDefault();
  });
  const turn = isForward => {
    const steps = [...document.querySelectorAll(".sg-step")].filter(button => button.offsetParent !== null);
    const button = steps[isForward ? steps.length - 1 : 0];
    if (button && !button.disabled) button.click();
  };

  let keys;
  const showKeys = () => {
    if (!keys) {
      const close = make("button", { type: "button", className: "sg-close", ariaLabel: "Close" }, "×");
      keys = make("dialog", { className: "sg-keys", "aria-labelledby": "sg-keys-title" }, close,
        make("h2", { id: "sg-keys-title", textContent: "Keys" }),
        make("dl", {}, ...KEYS.flatMap(([key, what]) => [make("dt", {}, make("kbd", { textContent: key })), make("dd", { textContent: what })])));
      close.addEventListener("click", () => keys.close());
      keys.addEventListener("click", event => { if (event.target === keys) keys.close(); });
      document.body.append(keys);
    }
    if (!keys.open) keys.showModal();
  };

  // -- parts of the page -----------------------------------------------------------------------------
  const header = ({ element }) => {
    const set = isDark => {
      document.body.classList.toggle("dark", isDark);
      element.querySelector("[data-tool=dark]").setAttribute("aria-pressed", String(isDark));
    };
    const saved = localStorage.getItem("stablerep-dark");
    const isDark = () => document.body.classList.contains("dark");
    set(saved === null ? matchMedia("(prefers-color-scheme: dark)").matches : saved === "yes");
    new MutationObserver(() => { if (element.querySelector("[data-tool=dark]").getAttribute("aria-pressed") !== String(isDark())) set(isDark()); })
      .observe(element, { attributes: true, subtree: true, childList: true });  // the head is written anew on a visit
    element.addEventListener("click", event => {
      const tool = event.target.closest("[data-tool]")?.dataset.tool;
      if (tool === "keys") showKeys();
      if (tool !== "dark") return;
      set(!isDark());
      localStorage.setItem("stablerep-dark", isDark() ? "yes" : "no");
    });
    document.documentElement.lang = "en";
  };

  const pictures = (element, trigger) => {
    let again;
    const settle = () => {
      const found = element.querySelector(".sg-found");
      clearInterval(again);
      if (!found) return;
      oneStop(found);
      if ("awaited" in found.dataset) again = setInterval(() => trigger("turned", { said: 0 }), 2000);
    };
    new MutationObserver(settle).observe(element, { childList: true, subtree: true });
    settle();
    element.addEventListener("click", event => {
      const tile = event.target.closest(".sg-tile"), page = event.target.closest("[data-page]"), all = event.target.closest("[data-all]");
      if (tile) look(tile.dataset.place);
      else if (page) {
        trigger("turned", { said: Number(page.dataset.page) });
        element.scrollIntoView({ block: "start" });
      } else if (all)
        setMark([...all.closest(".sg-card").querySelectorAll(".sg-tile")].map(other => other.dataset.place), all.dataset.all);
    });
  };
  const results = ({ element, trigger, server }) => {
    mark = said => server.mark(said);
    like = place => trigger("resembles", { said: place });
    pictures(element, trigger);
  };
  const others = ({ element, trigger }) => pictures(element, trigger);

  const picker = ({ element, trigger, props, watch }) => {
    const input = make("input", { type: "file", accept: "image/*", hidden: true, ariaLabel: "Picture to search by" });
    const button = make("button", { type: "button", className: "sg-pick" });
    const show = () => { button.textContent = props.value?.like ? `Nearest to ${props.value.like} ×` : "Search by picture"; };
    const send = async file => {
      try {
        const bitmap = await createImageBitmap(file);
        const scale = Math.min(1, 512 / Math.max(bitmap.width, bitmap.height));
        const canvas = make("canvas", { width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)) });
        const context = canvas.getContext("2d");
        context.fillStyle = "white";
        context.fillRect(0, 0, canvas.width, canvas.height);
        context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
        trigger("resembles", { said: canvas.toDataURL("image/png") });
      } catch (error) {
        say("that file is no picture that this browser can read", true);
      }
    };
    button.addEventListener("click", () => { if (props.value?.like) trigger("resembles", { said: null }); else input.click(); });
    input.addEventListener("change", () => { if (input.files[0]) send(input.files[0]); input.value = ""; });
    document.addEventListener("paste", event => { const file = event.clipboardData?.files?.[0]; if (file) send(file); });
    document.addEventListener("dragover", event => event.preventDefault());
    document.addEventListener("drop", event => { event.preventDefault(); const file = event.dataTransfer?.files?.[0]; if (file) send(file); });
    element.querySelector(".sg-picker").append(button, input);
    watch("value", show);
    show();
  };

  // -- the side: how to show, and what to choose by -----------------------------------------------------
  const controls = ({ element, trigger, props, watch }) => {
    const root = element.querySelector(".sg-controls");
    const open = new Set();
    let turn = 0;  // answers to what was asked before the last change come too late
    let told = { filters: {}, view: "captions", sort: "*table", descending: false };
    const tell = change => { told = { ...told, ...change, turn: ++turn }; trigger("chosen", { said: told }); };
    const filter = (name, chosen) => {
      const filters = { ...told.filters };
      if (chosen) filters[name] = chosen; else delete filters[name];
      tell({ filters });
    };
    const select = (label, options, value, onChange) => make("label", {}, make("span", { textContent: label }),
      Object.assign(make("select", { ariaLabel: label }, ...options.map(([key, text]) => make("option", { value: key, textContent: text }))),
        { value, onchange: event => onChange(event.target.value) }));

    const shape = column => {
      const most = Math.max(1, ...column.every);
      const bars = column.every.map((every, bin) => make("i", { style: `--every:${every / most};--here:${column.here[bin] / most}`,
        title: `${column.edges[bin]} to ${column.edges[bin + 1]}: ${count(column.here[bin])} of ${count(every)}` }));
      const number = (which, text) => make("label", {}, make("span", { textContent: text }),
        make("input", { type: "number", step: "any", ariaLabel: `${column.name} ${text}`, value: column[which] ?? "", placeholder: String(which === "low" ? column.edges[0] : column.edges.at(-1)),
          onchange: event => filter(column.name, ends({ [which]: event.target.value })) }));
      const ends = change => {
        const both = { low: column.low, high: column.high, ...change };
        return both.low === null && both.high === null || both.low === "" && both.high === "" ? null : both;
      };
      const label = `${column.name}: from ${column.edges[0]} to ${column.edges.at(-1)}`;
      return [make("div", { className: "sg-bars", role: "img", ariaLabel: label }, ...bars),
        make("div", { className: "sg-ends" }, number("low", "from"), number("high", "to"))];
    };
    const choices = column => column.choices.map(choice => {
      const input = make("input", { type: "checkbox", checked: choice.picked, onchange: () => {
        const picked = column.choices.filter(other => other === choice ? input.checked : other.picked).map(other => other.name);
        filter(column.name, picked.length ? { choices: picked } : null);
      } });
      return make("label", { className: "sg-choice", style: `--part:${choice.here / Math.max(1, choice.every)}` }, input,
        make("span", { textContent: choice.name }), make("small", { textContent: choice.here === choice.every ? count(choice.every) : `${count(choice.here)} of ${count(choice.every)}` }));
    });
    const facet = column => {
      const isChosen = column.kind === "number" ? column.low !== null || column.high !== null : column.choices.some(choice => choice.picked);
      const body = column.kind === "number" ? shape(column) : choices(column);
      if (column.more) body.push(make("small", { textContent: `and ${count(column.more)} rarer values` }));
      if (column.missing) body.push(make("small", { textContent: `${count(column.missing)} without a number` }));
      const node = make("details", { className: "sg-facet", open: open.has(column.name) || isChosen, "data-column": column.name },
        make("summary", {}, make("span", { textContent: column.name.replaceAll("_", " ") }), isChosen ? make("b", { textContent: "chosen" }) : null), ...body);
      node.addEventListener("toggle", () => { if (node.open) open.add(column.name); else open.delete(column.name); });
      return node;
    };
    const show = () => {
      const value = props.value;
      if (!value?.columns?.length || value.turn < turn) return;
      const focused = document.activeElement, path = root.contains(focused) ? [...root.querySelectorAll("input, select, button, summary")].indexOf(focused) : -1;
      const filters = {};
      for (const column of value.columns) {
        if (column.kind === "number" && (column.low !== null || column.high !== null)) filters[column.name] = { low: column.low, high: column.high };
        if (column.kind === "choice" && column.choices.some(choice => choice.picked)) filters[column.name] = { choices: column.choices.filter(choice => choice.picked).map(choice => choice.name) };
      }
      turn = value.turn;
      told = { filters, view: value.view, sort: value.sort, descending: value.descending };
      const numFilters = Object.keys(filters).length;
      const views = make("fieldset", { className: "sg-views" }, make("legend", { textContent: "Show" }),
        ...["captions", "pictures"].map(name => make("label", {}, make("input", { type: "radio", name: "sg-view", value: name, checked: value.view === name, onchange: () => tell({ view: name }) }), make("span", { textContent: name }))));
      const sorts = [["*table", value.ranked ? "best match" : "table order"], ...value.columns.map(column => [column.name, column.name.replaceAll("_", " ")])];
      const order = make("div", { className: "sg-order" }, select("Sort by", sorts, value.sort, sort => tell({ sort })),
        select("Order", [["up", "ascending"], ["down", "descending"]], value.descending ? "down" : "up", way => tell({ descending: way === "down" })));
      if (value.ranked && value.sort === "*table") order.lastChild.hidden = true;  // the best always comes first
      const clear = make("button", { type: "button", className: "sg-clear", disabled: !numFilters, onclick: () => tell({ filters: {} }) },
        numFilters ? `Clear ${numFilters} ${numFilters === 1 ? "filter" : "filters"}` : "No filters");
      const wasOpen = root.querySelector(".sg-filters")?.open ?? !matchMedia("(max-width: 760px)").matches;
      root.replaceChildren(views, order, make("details", { className: "sg-filters", open: wasOpen },
        make("summary", { textContent: "Filters" }), clear, ...value.columns.map(facet)));
      if (path >= 0) [...root.querySelectorAll("input, select, button, summary")][path]?.focus({ preventScroll: true });
    };
    watch("value", show);
    show();
  };

  window.stablerepGallery = { header, results, compared: others, copied: others, painted: () => {}, picker, controls,
    map: part => window.stablerepMap(part), look, say };
})();
