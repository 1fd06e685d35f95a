//! Every public type, and every public function that does something, has an example, or a link to one.
//!
//! A function does something if it takes more than `&self`, or may fail: what only tells of a value is
//! left out, and so are the setters of options, whose type has an example. The example may be the
//! function's own, or in the description of its type, which is on the same page; or its description links
//! to an item that has one. What `testing.rs` adds to logs and stores is for this crate's own tests.

use super::{public, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use syn::visit::Visit;

/// Types that need none, and why.
const WITHOUT: [(&str, &str); 1] = [("FailPoint", "for this crate's own tests")];

/// The text of all doc comments of an item.
fn docs(attributes: &[syn::Attribute]) -> String {
    let mut text = String::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        if let syn::Meta::NameValue(pair) = &attribute.meta
            && let syn::Expr::Lit(literal) = &pair.value
            && let syn::Lit::Str(line) = &literal.lit
        {
            text += &line.value();
            text.push('\n');
        }
    }
    text
}

/// The code of all examples in a description.
fn code(docs: &str) -> String {
    docs.split("```").skip(1).step_by(2).collect()
}

/// What a description links to: `[`Store::put`]`, `[text](Self::put)`, `[text](super::Store::put)`.
fn links(docs: &str, of: &str) -> BTreeSet<String> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
    let inside = docs.split(['[', ']', '(', ')', '`']).filter(|part| part.chars().all(is_path));
    let path = |part: &str| {
        let names: Vec<_> = part.split("::").collect();
        let names = &names[names.len().saturating_sub(2)..];
        match names {
            ["Self", name] => format!("{of}::{name}"),
            [module, name] if module.starts_with(|c: char| c.is_lowercase()) => (*name).to_owned(),
            names => names.join("::"),
        }
    };
    inside.filter(|part| !part.is_empty()).map(path).collect()
}

struct Function {
    docs: String,
    is_setter: bool,
    does_something: bool,
}

struct Api {
    /// The description of each public type.
    types: BTreeMap<String, String>,
    functions: BTreeMap<String, Function>,
}

impl Api {
    fn load() -> Self {
        let types = public::types().into_iter();
        let types = types.map(|(name, found)| (name, docs(&found.attributes))).collect();
        let mut api = Self { types, functions: BTreeMap::new() };
        let is_public = |path: &str| !path.starts_with("bin/") && !path.ends_with("testing.rs");
        for (_, text) in sources("src").iter().filter(|(path, _)| is_public(path)) {
            api.visit_file(&syn::parse_file(text).expect("it compiles"));
        }
        api
    }

    fn add(&mut self, of: &str, function: &syn::ImplItemFn) {
        let signature = &function.sig;
        let mut receiver = None;
        let mut arguments = 0;
        for argument in &signature.inputs {
            match argument {
                syn::FnArg::Receiver(found) => receiver = Some(found),
                syn::FnArg::Typed(_) => arguments += 1,
            }
        }
        let returns = |name: &str| match &signature.output {
            syn::ReturnType::Type(_, kind) => matches!(&**kind, syn::Type::Path(path)
                if path.path.segments.last().is_some_and(|last| last.ident == name)),
            syn::ReturnType::Default => false,
        };
        let consumes = receiver.is_some_and(|receiver| receiver.reference.is_none());
        let docs = docs(&function.attrs);
        let is_setter = consumes && returns("Self");
        let asks = !consumes || signature.ident.to_string().starts_with("is_");
        let is_getter = receiver.is_some() && asks && arguments == 0 && !returns("Result");
        // `new()`
        let is_plain = receiver.is_none() && arguments == 0;
        let function = Function { docs, is_setter, does_something: !is_getter && !is_plain };
        self.functions.insert(format!("{of}::{}", signature.ident), function);
    }

    fn has_own_example(&self, item: &str) -> bool {
        let of_function = self.functions.get(item).map(|function| &function.docs);
        let found = of_function.or_else(|| self.types.get(item));
        found.is_some_and(|docs| docs.contains("```"))
    }

    fn has_example_here(&self, name: &str) -> bool {
        let (of, own) = name.split_once("::").unwrap_or((name, ""));
        let on_page = self.types.get(of).map(|docs| code(docs)).unwrap_or_default();
        let called = [format!(".{own}("), format!("::{own}(")];
        self.has_own_example(name)
            || self.functions.get(name).is_some_and(|it| it.is_setter && self.has_own_example(of))
            || called.iter().any(|call| on_page.contains(call))
    }

    fn has_example(&self, name: &str, docs: &str) -> bool {
        let of = name.split("::").next().unwrap_or_default();
        self.has_example_here(name) || links(docs, of).iter().any(|to| self.has_example_here(to))
    }
}

impl<'ast> Visit<'ast> for Api {
    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let syn::Type::Path(path) = &*item.self_ty else { return };
        let Some(of) = path.path.segments.last().map(|last| last.ident.to_string()) else { return };
        if item.trait_.is_some() || !self.types.contains_key(&of) {
            return;
        }
        for function in &item.items {
            if let syn::ImplItem::Fn(function) = function
                && matches!(function.vis, syn::Visibility::Public(_))
            {
                self.add(&of, function);
            }
        }
    }
}

#[test]
fn every_public_function_that_does_something_has_an_example_or_a_link_to_one() {
    let (api, mut wrong, mut checked) = (Api::load(), String::new(), 0);
    for (name, function) in api.functions.iter().filter(|(_, function)| function.does_something) {
        checked += 1;
        if !api.has_example(name, &function.docs) {
            let _ = writeln!(wrong, "{name}");
        }
    }
    assert!(checked > 80, "the test sees the functions: {checked}");
    assert!(wrong.is_empty(), "no example, and no link to one:\n{wrong}");
}

#[test]
fn every_public_type_has_an_example_or_a_link_to_one() {
    let api = Api::load();
    assert!(api.types.len() > 70, "the test sees the types: {}", api.types.len());
    let without = api.types.iter().filter(|(name, docs)| !api.has_example(name, docs));
    let without: Vec<_> = without.map(|(name, _)| name.as_str()).collect();
    assert_eq!(without, WITHOUT.map(|(name, _)| name), "no example, and no link to one");
}
