//! Errors say what happened and where, in one line and once; all of them convert into `Error`.

use super::{root, sources};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use syn::{Attribute, Fields, Item, Meta};

/// Types that are a part of another error, and never returned by themselves.
const PARTS: [&str; 1] = ["CorruptionKind"];

/// What a message need not say: it is there for the program, or of no use to a person.
const UNSAID: [&str; 2] = ["AppendError::Sync: position", "CasMismatch: current"];

/// A struct, or a variant of an enum, that is displayed.
struct Message {
    name: String,
    /// The text in `#[error(...)]`; `None` if it is transparent.
    text: Option<String>,
    fields: Vec<(String, bool)>,
}

fn is_error(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("derive")
            && matches!(&attribute.meta, Meta::List(list) if list.tokens.to_string().contains("Error"))
    })
}

fn has(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident(name))
}

impl Message {
    fn new(name: String, attributes: &[Attribute], fields: &Fields) -> Self {
        let found = attributes.iter().find(|attribute| attribute.path().is_ident("error"));
        let Some(Meta::List(list)) = found.map(|attribute| &attribute.meta) else {
            panic!("{name} has no message");
        };
        let text = list.tokens.to_string();
        let text = (text != "transparent").then_some(text);
        let field = |(nth, field): (usize, &syn::Field)| {
            let name = field.ident.as_ref().map_or(nth.to_string(), ToString::to_string);
            let is_cause =
                name == "source" || has(&field.attrs, "source") || has(&field.attrs, "from");
            (name, is_cause)
        };
        Self { name, text, fields: fields.iter().enumerate().map(field).collect() }
    }

    /// How often a field is in the text, in braces or as an argument.
    fn says(&self, field: &str) -> usize {
        let text = self.text.as_deref().unwrap_or_default();
        let braces = text.matches(&format!("{{{field}}}")).count()
            + text.matches(&format!("{{{field}:")).count();
        let (_, arguments) = text.rsplit_once('"').unwrap_or_default();
        braces + usize::from(super::words(arguments).any(|word| word == field))
    }
}

/// All errors of the library, and their messages.
fn all() -> (BTreeSet<String>, Vec<Message>) {
    let (mut types, mut messages) = (BTreeSet::new(), Vec::new());
    for (path, text) in sources("src") {
        if path.starts_with("bin") || !text.contains("thiserror::Error") {
            continue;
        }
        for item in syn::parse_file(&text).unwrap_or_else(|e| panic!("{path}: {e}")).items {
            match item {
                Item::Enum(item) if is_error(&item.attrs) => {
                    let name = item.ident.to_string();
                    for variant in &item.variants {
                        let name = format!("{name}::{}", variant.ident);
                        messages.push(Message::new(name, &variant.attrs, &variant.fields));
                    }
                    types.insert(name);
                }
                Item::Struct(item) if is_error(&item.attrs) => {
                    let name = item.ident.to_string();
                    messages.push(Message::new(name.clone(), &item.attrs, &item.fields));
                    types.insert(name);
                }
                _ => {}
            }
        }
    }
    (types, messages)
}

#[test]
fn every_error_names_its_fields_and_its_cause_in_one_line() {
    let (types, messages) = all();
    assert!(types.len() >= 16 && messages.len() > 90, "{} {}", types.len(), messages.len());
    let mut wrong = String::new();
    for message in &messages {
        let Some(text) = &message.text else {
            if message.fields.len() != 1 {
                let _ = writeln!(wrong, "{}: transparent, and more than its cause", message.name);
            }
            continue;
        };
        let literal = text.split('"').nth(1).unwrap_or_default();
        if literal.contains("\\n") || literal.ends_with(['.', ' ']) || literal.is_empty() {
            let _ = writeln!(wrong, "{}: not one line: {literal}", message.name);
        }
        for (field, is_cause) in &message.fields {
            let (said, name) = (message.says(field), format!("{}: {field}", message.name));
            let enough = if *is_cause { said == 1 } else { said > 0 || UNSAID.contains(&&*name) };
            if !enough {
                let _ = writeln!(wrong, "{name} is said {said} times in {text}");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_error_converts_into_the_one_over_all() {
    let (types, _) = all();
    let text = std::fs::read_to_string(root().join("src/error/mod.rs")).unwrap();
    let items = syn::parse_file(&text).unwrap().items;
    let over_all = items.into_iter().find_map(|item| match item {
        Item::Enum(item) if item.ident == "Error" => Some(item),
        _ => None,
    });
    let mut converted = BTreeSet::new();
    for variant in &over_all.expect("Error is in error/mod.rs").variants {
        for field in variant.fields.iter().filter(|field| has(&field.attrs, "from")) {
            if let syn::Type::Path(path) = &field.ty {
                converted.extend(path.path.segments.last().map(|last| last.ident.to_string()));
            }
        }
    }
    let apart = |name: &&String| *name != "Error" && !PARTS.contains(&name.as_str());
    let missing: Vec<_> =
        types.iter().filter(apart).filter(|name| !converted.contains(*name)).collect();
    assert!(missing.is_empty(), "without a From: {missing:?}");
}
