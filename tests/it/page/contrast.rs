//! Whether what stands on the page can be read, in the light and in the dark.

use serde_json::Value;

use crate::browser::Browser;

/// For each text its contrast with what is behind it, and for each line of the chart that with the paper: whatever is less
/// than the WCAG (level AA) asks for, 4.5 for text and 3 for lines.
const TOO_FAINT: &str = r#"
const parse = text => {
  const found = text.match(/rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)/);
  return found ? [...found.slice(1, 4).map(Number), found[4] === undefined ? 1 : Number(found[4])] : null;
};
const light = ([r, g, b]) => {
  const part = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
};
const over = (top, below) => [0, 1, 2].map(n => top[n] * top[3] + below[n] * (1 - top[3]));
const behind = element => {
  for (let at = element; at; at = at.parentElement) {
    const back = parse(getComputedStyle(at).backgroundColor);
    if (back && back[3] === 1) return back;
  }
  return [255, 255, 255, 1];
};
const contrast = (front, back, opacity) => {
  const [a, b] = [light(over([...front.slice(0, 3), front[3] * opacity], back)), light(back)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};
const faint = [];
let looked = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, element = node.parentElement, style = getComputedStyle(element);
  if (!node.data.trim() || ['STYLE', 'TITLE', 'title'].includes(element.tagName) || style.visibility === 'hidden') continue;
  const svg = element instanceof SVGElement;
  const found = contrast(parse(svg ? style.fill : style.color), behind(element), Number(style.opacity));
  looked += 1;
  if (found < 4.5) faint.push(`${found.toFixed(2)} ${element.className.baseVal ?? element.className} "${node.data.trim().slice(0, 40)}"`);
}
for (const line of document.querySelectorAll('svg .line, svg .hollow, .trend path, .hatch')) {
  looked += 1;
  const found = contrast(parse(getComputedStyle(line).stroke), behind(line), 1);
  if (found < 3) faint.push(`${found.toFixed(2)} ${line.className.baseVal}`);
}
return [looked, faint];
"#;

/// Everything on the page that is open stands out enough, in both themes.
pub async fn assert_readable(browser: &Browser) {
    for dark in [false, true] {
        browser.dark(dark).await;
        let found = browser.script(TOO_FAINT).await;
        assert!(found[0].as_u64().is_some_and(|looked| looked > 20), "{found}");
        assert_eq!(found[1], Value::Array(Vec::new()), "dark: {dark}");
    }
    browser.dark(false).await;
}
