//! Every atomic operation and fence says its ordering, and has a row in docs/concurrency.md.
//!
//! Rustfmt's layout is relied on: what is inside of something is indented further.

use super::{has_fn, models, quoted, read, root, rows, sources, words};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const ORDERINGS: [&str; 5] = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];

/// The source of the crate without its tests, with empty lines in their place.
fn library() -> BTreeMap<String, String> {
    let is_test = |line: &str| {
        let start = line.trim_start();
        start.starts_with("#[cfg(test)]") || start.starts_with("#[cfg(all(test,")
    };
    let mut all = sources("src");
    // Compiled for tests only, which know of no orderings.
    all.remove("scheduled.rs").expect("is there");
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

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
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
