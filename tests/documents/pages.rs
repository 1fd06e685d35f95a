//! The pages that are part of the crate's documentation, and what the documents say only once.

use super::{FRONT, definitions, read, root, sources};
use std::collections::BTreeSet;

/// Where docs.rs has the files of the package.
const PACKAGE: &str = "https://docs.rs/crate/tailcask/latest/source/";

/// Those that lib.rs includes.
const PAGES: [&str; 2] = ["guide", "async"];

/// Figures, and the document that has each. The others link to it.
const FIGURES: [(&str, &str); 2] =
    [("15 to 30 bytes", "docs/store.md"), ("1 to 65,535 bytes", "docs/store.md")];

/// A relative link would lead nowhere on docs.rs. So a page has a definition for each, and lib.rs has, in
/// front of the page, another one of the same name: of two definitions the first one counts.
#[test]
fn links_of_the_included_pages_lead_somewhere_there_too() {
    let lib = read("src/lib.rs");
    for page in PAGES {
        let text = read(&format!("docs/{page}.md"));
        let include = format!("include_str!(\"../docs/{page}.md\")");
        let (before, _) = lib.split_once(&include).expect(page);
        let item = before.rsplit("\n\n").next().unwrap_or_default();
        let item: Vec<_> = item.lines().filter_map(|line| line.strip_prefix("/// ")).collect();
        let item = item.join("\n");
        let replaced: BTreeSet<_> = definitions(&item).map(|(label, _)| label).collect();
        let defined: BTreeSet<_> = definitions(&text).map(|(label, _)| label).collect();
        assert_eq!(replaced, defined, "lib.rs has other definitions than docs/{page}.md");
        let used: BTreeSet<_> =
            text.split("][").skip(1).filter_map(|rest| rest.split(']').next()).collect();
        assert_eq!(used, defined, "docs/{page}.md uses other definitions than it has");
        // A link into the same page is as good there.
        let inline = text
            .split("](")
            .skip(1)
            .filter(|rest| !rest.starts_with("http") && !rest.starts_with('#'));
        let inline: Vec<_> = inline.filter_map(|rest| rest.split(')').next()).collect();
        assert!(inline.is_empty(), "docs/{page}.md: give these a definition: {inline:?}");
    }
}

#[test]
fn every_link_into_the_package_names_a_file_of_it() {
    let mut checked = 0;
    for (name, text) in sources("src") {
        for link in text.split(PACKAGE).skip(1) {
            let end = link.find(|c: char| c.is_whitespace() || ")>\"".contains(c));
            let path = &link[..end.unwrap_or(link.len())];
            let is_packaged = path.starts_with("docs/") && path.ends_with(".md");
            assert!(is_packaged && root().join(path).is_file(), "{name}: {path} is not packaged");
            checked += 1;
        }
    }
    assert!(checked > 10, "the test sees links: {checked}");
}

#[test]
fn a_figure_is_given_once() {
    let mut documents = FRONT.map(str::to_owned).to_vec();
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        documents.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    for (figure, home) in FIGURES {
        let has = |document: &&String| read(document).contains(figure);
        let found: Vec<_> = documents.iter().filter(has).collect();
        assert_eq!(found, [home], "{figure}");
    }
}
