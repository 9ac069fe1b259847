//! `/docs`, read as a browser would that has no way out: it names nothing elsewhere, and its script shows the document.

use std::process::Command;

use serde_json::Value;

use crate::support::{Books, Setup};

/// As much of a browser as the page needs. Prints what the page asked for, and what it shows.
const BROWSER: &str = r"
const base = process.env.BASE_URL, asked = [];
class Node {
  constructor(tag) { Object.assign(this, { tag, attributes: {}, children: [] }); }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  append(...nodes) { this.children.push(...nodes); }
  replaceChildren(...nodes) { this.children = nodes; }
  get all() { return [this, ...this.children.flatMap((child) => child.all ?? [])]; }
}
const parts = { nav: new Node('nav'), main: new Node('main') };
globalThis.document = { createElement: (tag) => new Node(tag), querySelector: (name) => parts[name], getElementById: () => null };
globalThis.location = { origin: base, hash: '' };
const outside = globalThis.fetch;
globalThis.fetch = (url) => { asked.push(String(new URL(url, base + '/docs'))); return outside(new URL(url, base + '/docs')); };
const html = await (await outside(base + '/docs')).text();
for (const [, script] of html.matchAll(/<script>([\s\S]*?)<\/script>/g)) (0, eval)(script);
await new Promise((resolve) => setTimeout(resolve, 1500));
const nodes = parts.main.all;
const links = [...parts.nav.all, ...nodes].map((node) => node.attributes?.href).filter(Boolean);
const ids = nodes.filter((node) => node.tag === 'section').map((node) => node.attributes.id);
console.log(JSON.stringify({ asked, links, ids, says: parts.main.children.filter((child) => typeof child === 'string') }));
";

fn node() -> String {
    std::env::var("LUMBUNG_TEST_NODE").expect("LUMBUNG_TEST_NODE is not set: run through `make test`")
}

#[tokio::test]
async fn the_page_asks_nobody_else_and_shows_the_whole_document() {
    let network = Setup::new(Books::Sqlite).start().await;
    let page = reqwest::get(format!("{}/docs", network.base)).await.expect("an answer");
    let policy = page.headers()["content-security-policy"].to_str().expect("text").to_owned();
    assert!(policy.starts_with("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(!policy.contains("http") && !policy.contains("unsafe"), "{policy}");
    let html = page.text().await.expect("text");
    for outside in ["http://", "https://", "src=", "@import", " url(", ":url(", "<link", "<iframe", "import("] {
        assert!(!html.contains(outside), "the page has {outside}");
    }

    let document: Value =
        reqwest::get(format!("{}/openapi.json", network.base)).await.expect("it").json().await.expect("JSON");
    let mut command = Command::new(node());
    command.args(["--input-type=module", "-e", BROWSER]).env("BASE_URL", &network.base);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(seen["asked"], serde_json::json!([format!("{}/openapi.json", network.base)]));
    assert_eq!(seen["says"], serde_json::json!([]), "no failure is shown");
    let list =
        |name: &str| -> Vec<&str> { seen[name].as_array().expect("a list").iter().filter_map(Value::as_str).collect() };
    let shown = list("ids");
    let mut operations = 0;
    for operation in document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .flat_map(|item| item.as_object())
        .flat_map(|item| item.values())
    {
        let Some(id) = operation["operationId"].as_str() else { continue };
        assert!(shown.contains(&id), "{id} is not shown");
        operations += 1;
    }
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    assert!(operations > 50 && shown.len() == operations + schemas.len(), "{operations} of {}", shown.len());
    for link in list("links") {
        let is_shown = link.strip_prefix('#').is_some_and(|id| shown.contains(&id));
        assert!(is_shown || link == "/openapi.json", "{link} leads elsewhere, or nowhere");
    }
    network.finish().await;
}
