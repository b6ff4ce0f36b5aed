//! What the README has people type, word for word, and what it says that they see.

mod chapter;
mod same;
mod tour;

/// What is under a heading of the README.
fn section(heading: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (_, rest) = readme.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("there is no {heading}"));
    rest.split("\n## ").next().unwrap().to_owned()
}
