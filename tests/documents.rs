//! The documents name what exists: files, functions, tests and models; and each atomic operation is
//! in the table of orderings.
//!
//! Rustfmt's layout is relied on: what is inside of something is indented further.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const ORDERINGS: [&str; 5] = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];

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

/// The source of the crate without its tests, with empty lines in their place.
fn library() -> BTreeMap<String, String> {
    let is_test = |line: &str| {
        let start = line.trim_start();
        start.starts_with("#[cfg(test)]") || start.starts_with("#[cfg(all(test,")
    };
    let mut all = sources("src");
    let mut files = Vec::new();
    for (name, text) in &mut all {
        let (mut code, mut lines) = (String::new(), text.lines());
        while let Some(line) = lines.next() {
            if !is_test(line) {
                code += line;
            } else if let Some(item) = lines.find(|line| {
                code.push('\n');
                !line.trim_start().starts_with(['#', '/'])
            }) {
                if let Some(module) = item.trim_end().strip_suffix(';') {
                    let dir = name.trim_end_matches("mod.rs").trim_end_matches(".rs");
                    let module = words(module).last().unwrap_or_default();
                    files.push(format!("{}/{module}", dir.trim_end_matches('/')));
                } else if !item.ends_with(',') {
                    let end = format!("{}}}", &item[..indent(item)]);
                    let inside = lines.by_ref().take_while(|line| !line.starts_with(&end));
                    code.extend(inside.map(|_| '\n'));
                    code.push('\n');
                }
            }
            code.push('\n');
        }
        *text = code;
    }
    all.retain(|name, _| !files.iter().any(|file| name.starts_with(file)));
    all
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

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Whether the text has a function of this name; with a `*` or `_` at its end, one that begins so.
fn has_fn(text: &str, name: &str) -> bool {
    let start = name.trim_end_matches('*');
    text.match_indices(&format!("fn {start}")).any(|(at, found)| {
        let next = text[at + found.len()..].chars().next();
        name.ends_with(['*', '_']) || matches!(next, Some('(' | '<'))
    })
}

/// `function`, or `Type::function` in an impl.
fn has_path(text: &str, path: &str) -> bool {
    match path.rsplit_once("::") {
        None => has_fn(text, path),
        Some((of, name)) => {
            let mut blocks = text.split("\nimpl").skip(1);
            blocks.any(|block| {
                let (head, body) = block.split_once('{').unwrap_or_default();
                words(head).any(|word| word == of)
                    && has_fn(body.split("\n}\n").next().unwrap_or_default(), name)
            })
        }
    }
}

// ---- atomic operations ----

/// An atomic operation, or a fence.
struct Operation {
    file: String,
    line: usize,
    /// The function around it, and the type that has the function.
    function: String,
    of: Option<String>,
    ordering: &'static str,
    /// What is wrong with the comment above it.
    complaint: Option<String>,
}

/// The name behind `fn `, and of the impl around it.
fn function_around(lines: &[&str], at: usize) -> (String, Option<String>) {
    let (mut inside, mut function) = (indent(lines[at]), None);
    for line in lines[..at].iter().rev().filter(|line| !line.trim().is_empty()) {
        let start = line.trim_start();
        if indent(line) >= inside || start.starts_with("//") {
            continue;
        }
        if let (None, Some((_, name))) = (&function, line.split_once("fn ")) {
            function = words(name).next().map(str::to_owned);
        } else if function.is_some() && start.starts_with("impl") {
            // `impl<'a> Trait for Type<'a> {`, `impl Type {`
            let head = start.rsplit(" for ").next().unwrap_or_default();
            let head = head.strip_prefix("impl").map_or(head, |rest| match rest.split_once("> ") {
                Some((parameters, rest)) if parameters.starts_with('<') => rest,
                _ => rest,
            });
            return (function.unwrap_or_default(), words(head).next().map(str::to_owned));
        }
        // The end of a signature is indented as its beginning is.
        inside = indent(line) + usize::from(start.starts_with([')', '{', '}']) || start == "where");
    }
    (function.unwrap_or_default(), None)
}

/// The `ORDERING:` comment that covers a line: right above its statement; above several, if it says
/// "both" or "all"; above the impl, if it says "throughout".
fn comment_above(lines: &[&str], at: usize) -> Result<String, &'static str> {
    let (mut ended, mut left, mut inside) = (false, false, indent(lines[at]));
    for (nth, line) in lines[..at].iter().enumerate().rev() {
        let start = line.trim_start();
        let Some((_, text)) = start.split_once("// ORDERING: ") else {
            if start.starts_with("//") || start.starts_with("#[") {
                continue;
            }
            ended |= start.ends_with([';', '}']);
            left |= start.split("(").next().is_some_and(|head| words(head).any(|w| w == "fn"));
            inside = if start.is_empty() { inside } else { inside.min(indent(line)) };
            continue;
        };
        let more = lines[nth + 1..at].iter().map_while(|line| line.trim().strip_prefix("//"));
        let text = more.fold(text.to_owned(), |all, line| all + line);
        let head = text.split([';', ':', '.']).next().unwrap_or_default();
        if words(head).any(|word| word == "throughout") && indent(line) <= inside {
            return Ok(text);
        }
        if left {
            continue;
        }
        if ended && !words(head).any(|word| ["all", "both"].contains(&word)) {
            return Err("the comment above is another statement's");
        }
        return Ok(text);
    }
    Err("no comment")
}

fn operations() -> Vec<Operation> {
    let mut found = Vec::new();
    for (file, text) in library() {
        let lines: Vec<&str> = text.lines().collect();
        let bare = text.contains("Ordering::Relaxed;") || text.contains("Ordering::Relaxed}");
        let mut imports = false;
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let start = code.trim_start();
            imports |= start.starts_with("use ") || start.starts_with("pub(crate) use ");
            let fences = ["light_barrier();", "heavy_barrier();"].contains(&start);
            let named = ORDERINGS.into_iter().flat_map(|ordering| {
                let bare = if bare {
                    [format!("({ordering}"), format!(", {ordering}")]
                } else {
                    Default::default()
                };
                let names = [format!("Ordering::{ordering}")].into_iter().chain(bare);
                let count = names
                    .filter(|name| !name.is_empty())
                    .map(|name| code.matches(&*name).count())
                    .sum();
                std::iter::repeat_n(ordering, count)
            });
            for ordering in named.chain(fences.then_some("SeqCst")) {
                if imports {
                    continue;
                }
                let (function, of) = function_around(&lines, at);
                let first = words(code).find(|word| ORDERINGS.contains(word)).unwrap_or("SeqCst");
                let complaint = match comment_above(&lines, at) {
                    Err(complaint) => Some(complaint.to_owned()),
                    Ok(comment) if ordering == first && words(&comment).next() != Some(first) => {
                        Some(format!("the comment does not begin with {ordering}: {comment}"))
                    }
                    Ok(comment) if !words(&comment).any(|word| word == ordering) => {
                        Some(format!("the comment does not say {ordering}: {comment}"))
                    }
                    Ok(_) => None,
                };
                let (file, line) = (file.clone(), at + 1);
                found.push(Operation { file, line, function, of, ordering, complaint });
            }
            imports &= !code.trim_end().ends_with(';');
        }
    }
    assert!(found.len() > 100, "the test sees the operations: {}", found.len());
    found
}

#[test]
fn every_atomic_operation_says_its_ordering() {
    let mut wrong = String::new();
    for op in operations() {
        if let Some(complaint) = op.complaint {
            let _ = writeln!(wrong, "src/{}:{} `{}`: {complaint}", op.file, op.line, op.function);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// The first column of a row: a file and its functions, perhaps of more than one file.
fn places(column: &str) -> Vec<(&str, &str)> {
    let (mut file, mut places) = ("", Vec::new());
    for (prose, name) in quoted(column) {
        let ends = |word: &&str| word.ends_with(".rs");
        file = prose.split([' ', ',']).rfind(ends).unwrap_or(file);
        places.extend(name.map(|name| (file, name)));
    }
    places
}

#[test]
fn every_atomic_operation_has_a_row_and_every_row_an_operation() {
    let (text, library) = (read("docs/concurrency.md"), library());
    let (is_model, operations) = (models(), operations());
    let is = |op: &Operation, file: &str, name: &str| {
        let (of, function) = name.rsplit_once("::").map_or((None, name), |(a, b)| (Some(a), b));
        op.file == file && op.function == function && (of.is_none() || op.of.as_deref() == of)
    };
    let mut wrong = String::new();
    let mut listed = Vec::new();
    let table = rows(&text, "| file, function | operation |");
    assert!(table.len() > 50, "the test sees the table: {}", table.len());
    for row in &table {
        let &[place, operation, ordering, pairs, model] = &row[..] else {
            let _ = writeln!(wrong, "not five columns: {row:?}");
            continue;
        };
        let ordering = words(ordering).next().unwrap_or_default();
        let mut complain = |what: String| {
            let _ = writeln!(wrong, "row {place} | {operation} | {ordering}: {what}");
        };
        if !ORDERINGS.contains(&ordering) {
            complain("no ordering".to_owned());
        }
        if places(place).is_empty() {
            complain("names no function".to_owned());
        }
        for (file, name) in places(place) {
            listed.push((file, name, ordering));
            // Other crates' operations are named in the second column.
            let foreign = quoted(operation)
                .iter()
                .any(|(_, call)| call.is_some_and(|call| call.contains("::")))
                && library.get(file).is_some_and(|text| has_path(text, name));
            if !foreign
                && !operations.iter().any(|op| is(op, file, name) && op.ordering == ordering)
            {
                complain(format!("no {ordering} operation in `{name}` of src/{file}"));
            }
        }
        for name in quoted(pairs).iter().filter_map(|(_, name)| *name) {
            if !library.values().any(|text| has_path(text, name)) {
                complain(format!("there is no function `{name}` to pair with"));
            }
        }
        let prose: String = quoted(model).iter().flat_map(|(prose, _)| [*prose, " "]).collect();
        let (files, other): (Vec<_>, Vec<_>) =
            prose.split([' ', ',', ';']).partition(|word| word.contains('/'));
        let names: Vec<_> =
            other.into_iter().flat_map(words).filter(|word| word.contains('_')).collect();
        for name in &names {
            if !is_model(name) {
                complain(format!("there is no model {name}"));
            }
        }
        for file in files.iter().filter(|file| !root().join(file).exists()) {
            complain(format!("there is no {file}"));
        }
        let reason = words(model).next().is_some_and(|word| ["weak", "none"].contains(&word));
        if names.is_empty() && !reason {
            complain("says neither a model nor why there is none".to_owned());
        }
    }
    for op in &operations {
        let is_listed = |(file, name, ordering): &(&str, &str, &str)| {
            is(op, file, name) && op.ordering == *ordering
        };
        if !listed.iter().any(is_listed) {
            let Operation { file, line, function, of, ordering, .. } = op;
            let of = of.as_deref().map(|of| format!("{of}::")).unwrap_or_default();
            let _ =
                writeln!(wrong, "no row for {ordering} in {file} `{of}{function}`, line {line}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
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
        let text = if target == "lib" { Some(library.clone()) } else { scope(target) };
        text.is_some_and(|text| {
            let starts = ["fn ", "mod "].into_iter().flat_map(|kind| text.split(kind).skip(1));
            starts.filter_map(|rest| words(rest).next()).any(|found| found.contains(name))
        })
    });
}

// ---- everything else that is named ----

#[test]
fn every_path_and_test_that_a_document_names_exists() {
    let mut documents = vec!["README.md".to_owned(), "CHANGELOG.md".into(), ".ci/run".into()];
    for dir in ["docs", "scripts"] {
        for entry in std::fs::read_dir(root().join(dir)).unwrap() {
            let name = entry.unwrap().file_name();
            documents.push(format!("{dir}/{}", name.to_str().unwrap()));
        }
    }
    let mut everything = String::new();
    for dir in ["src", "tests", "loom-tests", "benches"] {
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
                let is_ours = ["src/", "tests/", "docs/", "scripts/", "benches/", "loom-tests/"]
                    .iter()
                    .any(|dir| word.starts_with(dir));
                checked += usize::from(is_ours);
                let is_there = ["", "src/", "tests/", "loom-tests/", beside].iter().any(|dir| {
                    let with = |end: &str| root().join(format!("{dir}{word}{end}")).exists();
                    with("") || with(".rs")
                });
                let is_file = word.ends_with(".rs") && word.contains('/');
                if (is_file || is_ours && word.contains('/')) && !is_there {
                    let _ = writeln!(wrong, "{place}: there is no {word}");
                }
            }
            // Names with three words or more are tests, as far as the documents go.
            for name in quoted(line).iter().filter_map(|(_, name)| *name) {
                let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '*');
                if document.ends_with(".md") && is_name && name.matches('_').count() >= 3 {
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
