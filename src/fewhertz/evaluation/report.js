// Charts, choice of lines and tables work without this; it shows samples, and a point's numbers where nothing hovers.
const make = (name, text, kind) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  element.className = kind ?? "";
  return element;
};
// lengths: alternately of what is right and what is marked, in code points
const marked = (text, lengths, kind) => {
  const letters = [...text], element = make("dd");
  let at = 0;
  lengths.forEach((length, i) => {
    const part = letters.slice(at, at += length).join("");
    element.append(i % 2 ? make("mark", part, kind) : part);
  });
  return element;
};
for (const section of document.querySelectorAll("section[data-samples]")) {
  const browser = section.querySelector(".browser");
  if (!browser) continue;
  const {shared, runs} = JSON.parse(section.querySelector(".browser + script").textContent);
  const select = browser.querySelector("select"), list = browser.querySelector("ol");
  const show = () => {
    const run = runs[select.selectedIndex];
    browser.querySelector("p").textContent = run.summary;
    list.replaceChildren(...run.worst.map(([row, amount, which, missed, output, wrong]) => {
      const {id, references, said, marks} = shared[row], item = make("li"), body = make("dl");
      item.append(make("strong", amount), make("span", ` · sample ${id}`, "soft"));
      body.append(make("dt", references.length > 1 ? `nearest of ${references.length} references` : "reference"),
        marked(references[which], missed, "missed"));
      body.append(make("dt", "keep=1"), marked(said, marks[which]));
      body.append(make("dt", run.spec), marked(output, wrong));
      item.append(body);
      return item;
    }));
  };
  select.addEventListener("change", show);
  browser.hidden = false;
  show();
}
for (const legend of document.querySelectorAll("fieldset.legend")) {
  const boxes = [...legend.querySelectorAll("input:not(.bands)")], first = boxes.map((box) => box.checked);
  for (const [name, wanted] of [["all", () => true], ["none", () => false], ["as at first", (i) => first[i]]]) {
    const button = make("button", name);
    button.type = "button";
    button.addEventListener("click", () => boxes.forEach((box, i) => { box.checked = wanted(i); }));
    legend.append(button);
  }
}
for (const figure of document.querySelectorAll("figure")) {
  const said = figure.querySelector(".said");
  said.textContent = "Point at a marker, or tap it, for its numbers.";
  const tell = (event) => {
    const title = event.target.closest("use")?.querySelector("title");
    if (title) said.textContent = title.textContent;
  };
  figure.addEventListener("pointerover", tell);
  figure.addEventListener("click", tell);
}
