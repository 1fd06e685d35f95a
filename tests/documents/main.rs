//! The documents name what exists: files, functions, tests and models; and each atomic operation is
//! in the table of orderings.

mod errors;
mod examples;
mod orderings;
mod pages;
mod public;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Models are functions of loom-tests that its tests list.
fn models() -> impl Fn(&str) -> bool {
    let (listed, models) = (read("loom-tests/tests/models.rs"), sources("loom-tests/src"));
    move |name| {
        words(&listed).any(|word| word == name) && models.values().any(|text| has_fn(text, name))
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every Rust file under a directory, by its path from there.
fn sources(dir: &str) -> BTreeMap<String, String> {
    fn add(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => add(&path, found),
                Some(extension) if extension == "rs" => found.push(path),
                _ => {}
            }
        }
    }
    let (base, mut found) = (root().join(dir), Vec::new());
    add(&base, &mut found);
    let name = |path: &PathBuf| path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// What a Markdown table has between its bars; the header and the line below it are left out.
fn rows<'a>(text: &'a str, header: &str) -> Vec<Vec<&'a str>> {
    let mut rows = Vec::new();
    let mut lines = text.lines();
    while lines.by_ref().any(|line| line.starts_with(header)) {
        let table = lines.by_ref().skip(1).take_while(|line| line.starts_with('|'));
        rows.extend(table.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()));
    }
    rows
}

/// What stands between backticks, each with the prose before it. The last one has no name.
fn quoted(text: &str) -> Vec<(&str, Option<&str>)> {
    let parts: Vec<&str> = text.split('`').collect();
    parts.chunks(2).map(|pair| (pair[0], pair.get(1).copied())).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// Whether the text has a function of this name; with a `*` or `_` at its end, one that begins so.
fn has_fn(text: &str, name: &str) -> bool {
    let start = name.trim_end_matches('*');
    text.match_indices(&format!("fn {start}")).any(|(at, found)| {
        let next = text[at + found.len()..].chars().next();
        name.ends_with(['*', '_']) || matches!(next, Some('(' | '<'))
    })
}

// ---- hazards ----

/// Where a word of docs/hazards.md says that a test is: "merge" in tests/merge.rs, "log/table" in src.
fn scope(word: &str) -> Option<String> {
    let directory = format!("tests/{word}");
    if word == "loom" {
        Some(sources("loom-tests/src").into_values().collect())
    } else if root().join(&directory).is_dir() {
        Some(sources(&directory).into_values().collect())
    } else {
        let files =
            [format!("tests/{word}.rs"), format!("src/{word}.rs"), format!("src/{word}/mod.rs")];
        files.iter().find(|file| root().join(file).is_file()).map(|file| read(file))
    }
}

#[test]
fn every_hazard_names_tests_that_exist() {
    let text = read("docs/hazards.md");
    let mut wrong = String::new();
    let table: Vec<_> = ["| hazard | shown by", "| what was found | shown by"]
        .iter()
        .flat_map(|header| rows(&text, header))
        .collect();
    assert!(table.len() > 80, "the test sees the tables: {}", table.len());
    for row in table {
        let &[hazard, shown] = &row[..] else {
            let _ = writeln!(wrong, "not two columns: {row:?}");
            continue;
        };
        let mut complain = |what: String| {
            let _ = writeln!(wrong, "row {hazard}: {what}");
        };
        let (mut here, mut count) = (Vec::new(), 0);
        for (prose, name) in quoted(shown) {
            // "merge: ", "hostile_files and store_files: "
            let path = |c: char| c.is_ascii_alphanumeric() || "_/.".contains(c);
            let all: Vec<_> = prose.split_inclusive(|c| !path(c)).collect();
            let colon = all.iter().rposition(|word| word.trim_end().ends_with(':'));
            if let Some(colon) = colon {
                let mut names = vec![all[colon].trim_end_matches([':', ' '])];
                if let Some([other, and]) = colon.checked_sub(2).map(|at| &all[at..colon])
                    && *and == "and "
                {
                    names.push(other.trim());
                }
                here = names.iter().filter_map(|name| scope(name)).collect();
                if here.is_empty() && name.is_some() {
                    complain(format!("there is no file of tests {names:?}"));
                }
            }
            for word in all.iter().map(|word| word.trim_end_matches(|c| !path(c))) {
                let is_file = word.contains('_') || word.contains('/');
                count += usize::from(!word.is_empty() && scope(word).is_some());
                if is_file && scope(word).is_none() && !root().join(word).exists() {
                    complain(format!("there is no file of tests {word}"));
                }
                if word.ends_with(".md") && !root().join("docs").join(word).exists() {
                    complain(format!("there is no docs/{word}"));
                }
            }
            let Some(name) = name else { continue };
            count += 1;
            let is_type = name.starts_with(|c: char| c.is_ascii_uppercase());
            let in_it = |text: &String| match is_type {
                true => words(text).any(|word| word == name),
                false => has_fn(text, name),
            };
            if here.is_empty() || !here.iter().all(in_it) {
                complain(format!("no test {name} there"));
            }
        }
        if count == 0 {
            complain("names no test".to_owned());
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

// ---- mutations and weakened orderings ----

/// `file|what|sed expression, which may have bars|tests|why it survives`
fn split(row: &str) -> Option<[&str; 4]> {
    let (file, rest) = row.split_once('|')?;
    let (what, rest) = rest.split_once('|')?;
    let (rest, why) = rest.rsplit_once('|')?;
    let (_, tests) = rest.rsplit_once('|')?;
    Some([file, what, tests, why])
}

/// The rows of a script, and those of the table of what came of it, have to be the same ones.
fn compare(script: &str, results: &str, is_test: impl Fn(&str) -> bool) {
    let text = read(script);
    let rows = text.lines().filter(|line| line.contains(".rs|")).filter_map(split);
    let results_text = read(results);
    let mut lines: BTreeSet<String> = results_text
        .lines()
        .filter(|line| ["killed ", "survives "].iter().any(|result| line.starts_with(result)))
        .filter(|line| !line.contains(", survived "))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let (mut wrong, mut killed, mut survives) = (String::new(), 0, 0);
    for [file, what, tests, why] in rows {
        if !root().join("src").join(file).exists() {
            let _ = writeln!(wrong, "{script}: there is no src/{file} ({what})");
        }
        for test in tests.split(' ').filter(|test| !is_test(test)) {
            let _ = writeln!(wrong, "{script}: there is no test {test} ({file}: {what})");
        }
        let by: Vec<&str> = if why.is_empty() { tests.split(' ').collect() } else { vec![why] };
        let result = if why.is_empty() { "killed" } else { "survives" };
        *(if why.is_empty() { &mut killed } else { &mut survives }) += 1;
        let line = |by: &&str| format!("{result} {file} {what} {by}");
        let is_there = by
            .iter()
            .map(line)
            .any(|line| lines.remove(&line) || lines.remove(&format!("{line} (no end)")));
        if !is_there {
            let _ = writeln!(wrong, "{results}: no line {}", line(&by[0]));
        }
    }
    for line in lines {
        let _ = writeln!(wrong, "{results}: {script} has no row for: {line}");
    }
    let sum = format!("killed {killed}, survived 0, known to survive {survives}, broken 0");
    if results_text.lines().last() != Some(&sum) {
        let _ = writeln!(wrong, "{results}: does not end with: {sum}");
    }
    assert!(killed > 40, "the test sees the rows of {script}: {killed}");
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_weakened_ordering_names_a_file_and_a_model() {
    compare("scripts/weaken.sh", "docs/orderings.txt", models());
}

#[test]
fn every_mutation_names_a_file_and_tests() {
    let library: String = sources("src").into_values().collect();
    compare("scripts/mutations.txt", "docs/mutations.txt", |test| {
        // As for cargo, a part of a name is enough, and a module's will do.
        let (target, name) = test.split_once(':').unwrap_or_default();
        let text = match target {
            "lib" => Some(library.clone()),
            "schedules" => Some(sources("schedules/tests").into_values().collect()),
            file => scope(file),
        };
        text.is_some_and(|text| {
            let starts = ["fn ", "mod "].into_iter().flat_map(|kind| text.split(kind).skip(1));
            starts.filter_map(|rest| words(rest).next()).any(|found| found.contains(name))
        })
    });
}

// ---- links ----

const FRONT: [&str; 4] = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

/// The anchors of a document, as GitHub makes them of its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    headings.map(anchor).collect()
}

/// The links that a document defines by themselves, by their labels: `[label]: target`.
fn definitions(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "))
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut documents = FRONT.map(PathBuf::from).to_vec();
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            documents.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
    let (mut wrong, mut checked) = (String::new(), 0);
    for document in &documents {
        let text = read(document.to_str().unwrap());
        let inline = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in inline.chain(definitions(&text).map(|(_, to)| to)) {
            if link.starts_with("http") {
                continue;
            }
            checked += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let beside = root().join(document).parent().unwrap().join(path);
            let to = if path.is_empty() { root().join(document) } else { beside };
            let has = |text: String| anchors(&text).contains(anchor);
            let is_there =
                to.exists() && (anchor.is_empty() || std::fs::read_to_string(&to).is_ok_and(has));
            if !is_there {
                let _ = writeln!(wrong, "{}: {link} leads nowhere", document.display());
            }
        }
    }
    assert!(checked > 50, "the test sees links: {checked}");
    assert!(wrong.is_empty(), "\n{wrong}");
}

// ---- everything else that is named ----

#[test]
fn every_path_and_test_that_a_document_names_exists() {
    let mut documents = FRONT.map(str::to_owned).to_vec();
    documents.push(".ci/run".into());
    for dir in ["docs", "scripts"] {
        for entry in std::fs::read_dir(root().join(dir)).unwrap() {
            let entry = entry.unwrap();
            // Plots are no documents.
            if entry.path().is_file() {
                documents.push(format!("{dir}/{}", entry.file_name().to_str().unwrap()));
            }
        }
    }
    let mut everything = String::new();
    for dir in ["src", "tests", "loom-tests", "schedules", "benches", "examples"] {
        for (name, text) in sources(dir) {
            documents.push(format!("{dir}/{name}"));
            everything += &text;
        }
    }
    let (mut wrong, mut checked) = (String::new(), 0);
    for document in documents {
        let beside = &document[..document.rfind('/').map_or(0, |at| at + 1)];
        for (nth, line) in read(&document).replace("$root/", "").lines().enumerate() {
            let place = format!("{document}:{}", nth + 1);
            // Of sources, the comments.
            let line = match document.ends_with(".rs") {
                true => line.split_once("//").map_or("", |(_, comment)| comment),
                false => line,
            };
            let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
            for word in line.split(|c| !is_path(c)).filter(|word| !word.contains("FILE")) {
                let word = word.trim_end_matches(['.', '/', '-']);
                let is_ours = [
                    "src/",
                    "tests/",
                    "docs/",
                    "scripts/",
                    "benches/",
                    "loom-tests/",
                    "schedules/",
                ]
                .iter()
                .any(|dir| word.starts_with(dir));
                checked += usize::from(is_ours);
                let is_there = ["", "src/", "tests/", "loom-tests/", beside].iter().any(|dir| {
                    let with = |end: &str| root().join(format!("{dir}{word}{end}")).exists();
                    with("") || with(".rs")
                });
                // `a/b.rs` is an example.
                let is_file = word.ends_with(".rs") && word.find('/').is_some_and(|at| at > 1);
                if (is_file || is_ours && word.contains('/')) && !is_there {
                    let _ = writeln!(wrong, "{place}: there is no {word}");
                }
            }
            // Names with three words or more are tests, as far as the documents go.
            for name in quoted(line).iter().filter_map(|(_, name)| *name) {
                let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '*');
                // Metrics have a test of their own, in tests/metrics.rs.
                let is_metric = name.starts_with("tailcask_");
                let is_name = is_name && !is_metric && name.matches('_').count() >= 3;
                if document.ends_with(".md") && is_name {
                    checked += 1;
                    if !has_fn(&everything, name) {
                        let _ = writeln!(wrong, "{place}: there is no {name}");
                    }
                }
            }
        }
    }
    assert!(checked > 100, "the test sees what is named: {checked}");
    assert!(wrong.is_empty(), "\n{wrong}");
}
