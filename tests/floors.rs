//! The floors of the house, as `docs/architecture.md` draws them: imports run downward only, and no
//! file imports itself by way of others.
//!
//! An import is a `use`, or a path in the code, of this crate. It counts as one of the file that
//! defines what is named, also where a front (`mod.rs`) re-exports it; so re-exporting is no import.
//! What is compiled for tests only may use everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use syn::visit::Visit;

/// Folders in which there are still circles.
const KNOWN_CIRCLES: &[&str] = &[];

/// A path of modules, from the crate's root on.
type ModulePath = Vec<String>;

/// A module, its inline modules apart: one file, or one for each platform.
#[derive(Default)]
struct Module {
    files: BTreeSet<String>,
    children: BTreeSet<String>,
    /// What `use` makes of a name here, whatever its visibility.
    uses: BTreeMap<String, ModulePath>,
    globs: BTreeSet<ModulePath>,
}

/// The modules of a crate.
#[derive(Default)]
struct Crate {
    /// What `tailcask` is in a program.
    library: Option<Rc<Self>>,
    modules: BTreeMap<ModulePath, Module>,
    sources: Vec<Source>,
}

struct Source {
    module: ModulePath,
    file: String,
    parsed: syn::File,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All files in a folder, from `src` on.
fn files(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

/// `a/{b,c/{d,e}}.rs` as `a/b.rs`, `a/c/d.rs`, `a/c/e.rs`.
fn expand(pattern: &str) -> Vec<String> {
    let Some(open) = pattern.find('{') else { return vec![pattern.to_owned()] };
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for (at, c) in pattern.char_indices().skip(open) {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match c {
            '{' if depth == 1 => {}
            '}' if depth == 0 => {
                let (before, after) = (&pattern[..open], &pattern[at + 1..]);
                let whole = parts.iter().map(|part| format!("{before}{part}{after}"));
                return whole.flat_map(|part| expand(&part)).collect();
            }
            ',' if depth == 1 => parts.push(String::new()),
            c => parts.last_mut().unwrap().push(c),
        }
    }
    panic!("{pattern}: a brace is open");
}

/// The floor of each file, as the document has it.
fn floors() -> BTreeMap<String, u32> {
    let document = include_str!("../docs/architecture.md");
    let blocks = document.split("```").skip(1).step_by(2);
    let mut floors = BTreeMap::new();
    let mut floor = None;
    let block = blocks.into_iter().find(|block| block.contains("\nfloor "));
    for line in block.expect("a block with floors").lines().skip(1) {
        let mut words = line.split_whitespace();
        let mut word = words.next();
        if word == Some("floor") {
            floor = Some(words.next().unwrap().parse().expect("the number of a floor"));
            word = words.next();
        }
        for file in word.map(expand).unwrap_or_default() {
            let twice = floors.insert(file.clone(), floor.expect("a floor"));
            assert!(twice.is_none(), "docs/architecture.md lists {file} twice");
        }
    }
    floors
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().filter(|a| a.path().is_ident("cfg")).any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        let words = list.tokens.to_string();
        let has = |wanted| words.split(|c: char| !c.is_alphanumeric()).any(|word| word == wanted);
        has("test") && !has("not") && !has("any")
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    use syn::Item;
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// All paths of a `use`, with the names that they get here; no name: a glob.
fn used(tree: &syn::UseTree, before: &[String], all: &mut Vec<(Option<String>, ModulePath)>) {
    let with = |name: &syn::Ident| {
        let mut path = before.to_vec();
        path.push(name.to_string());
        path
    };
    let renamed = |from: &syn::Ident, to: &syn::Ident| {
        let path = if from == "self" { before.to_vec() } else { with(from) };
        (Some(if to == "self" { path.last().cloned().unwrap() } else { to.to_string() }), path)
    };
    match tree {
        syn::UseTree::Path(path) => used(&path.tree, &with(&path.ident), all),
        syn::UseTree::Name(name) => all.push(renamed(&name.ident, &name.ident)),
        syn::UseTree::Rename(rename) => all.push(renamed(&rename.ident, &rename.rename)),
        syn::UseTree::Glob(_) => all.push((None, before.to_vec())),
        syn::UseTree::Group(group) => {
            group.items.iter().for_each(|tree| used(tree, before, all));
        }
    }
}

impl Crate {
    fn load(file: &str, library: Option<Rc<Self>>) -> Self {
        let mut all = Self { library, ..Self::default() };
        all.load_file(Vec::new(), file, Path::new(file).parent().unwrap());
        all
    }

    /// Loads a file, whose modules are in `folder`.
    fn load_file(&mut self, module: ModulePath, file: &str, folder: &Path) {
        let text = std::fs::read_to_string(root().join(file)).expect(file);
        let parsed = syn::parse_file(&text).expect(file);
        self.load_items(&module, file, folder, &parsed.items);
        self.sources.push(Source { module, file: file.to_owned(), parsed });
    }

    fn load_items(&mut self, module: &[String], file: &str, folder: &Path, items: &[syn::Item]) {
        self.modules.entry(module.to_vec()).or_default().files.insert(file.to_owned());
        for item in items.iter().filter(|item| !is_for_tests(attributes(item))) {
            match item {
                syn::Item::Mod(item) => {
                    let name = item.ident.to_string();
                    let mut path = module.to_vec();
                    path.push(name.clone());
                    self.modules.get_mut(module).unwrap().children.insert(name.clone());
                    match &item.content {
                        Some((_, items)) => self.load_items(&path, file, &folder.join(name), items),
                        None => {
                            let (file, folder) = place(item, folder, &name);
                            self.load_file(path, &file, &folder);
                        }
                    }
                }
                syn::Item::Use(item) => {
                    let mut all = Vec::new();
                    used(&item.tree, &[], &mut all);
                    for (name, path) in all {
                        let path = self.absolute(module, path);
                        let here = self.modules.get_mut(module).unwrap();
                        match name {
                            Some(name) => drop(here.uses.insert(name, path)),
                            None => drop(here.globs.insert(path)),
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// A path from the root on, as far as its first name says so. Else it is one of this module.
    fn absolute(&self, module: &[String], path: ModulePath) -> ModulePath {
        let (mut base, mut rest) = (module.to_vec(), &path[..]);
        match rest.first().map(String::as_str) {
            Some("crate") => (base, rest) = (Vec::new(), &rest[1..]),
            Some("tailcask") => base = Vec::new(),
            Some("self") => rest = &rest[1..],
            _ => {}
        }
        while rest.first().is_some_and(|name| name == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        base
    }

    /// The files that define what an absolute path names. None: it is not of this crate.
    fn definition(&self, path: &[String], seen: &mut BTreeSet<ModulePath>) -> BTreeSet<String> {
        if !seen.insert(path.to_vec()) {
            return BTreeSet::new();
        }
        if let (Some(library), [first, rest @ ..]) = (&self.library, path)
            && first == "tailcask"
        {
            return library.definition(rest, &mut BTreeSet::new());
        }
        let known = (0..=path.len()).rev().find(|&len| self.modules.contains_key(&path[..len]));
        let (here, rest) = path.split_at(known.expect("the root"));
        let module = &self.modules[here];
        let Some((name, more)) = rest.split_first() else { return module.files.clone() };
        // Of another crate: `use io::io`.
        let is_other = |target: &ModulePath| {
            target.strip_prefix(here).is_some_and(|inside| {
                inside.first() == Some(name) && !module.children.contains(name)
            })
        };
        let elsewhere: Vec<_> = match module.uses.get(name).filter(|target| !is_other(target)) {
            Some(target) => vec![[target, more].concat()],
            None => {
                let globs = module.globs.iter().filter(|glob| self.modules.contains_key(*glob));
                globs.map(|target| [target, rest].concat()).collect()
            }
        };
        let found: BTreeSet<_> =
            elsewhere.iter().flat_map(|target| self.definition(target, seen)).collect();
        if found.is_empty() { module.files.clone() } else { found }
    }
}

/// Where the file of a module is, and the files of its modules.
fn place(item: &syn::ItemMod, folder: &Path, name: &str) -> (String, PathBuf) {
    let given = item.attrs.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
            _ => None,
        },
        _ => None,
    });
    let front = folder.join(name).join("mod.rs");
    let file = match given {
        Some(given) => folder.join(given),
        None if root().join(&front).exists() => front,
        None => folder.join(name).with_extension("rs"),
    };
    (file.to_str().unwrap().to_owned(), folder.join(name))
}

/// The imports of one file.
struct Imports<'c> {
    modules: &'c Crate,
    module: ModulePath,
    /// Whether re-exports are none.
    is_front: bool,
    found: BTreeSet<String>,
}

impl Imports<'_> {
    fn add(&mut self, path: ModulePath) {
        let Some(first) = path.first() else { return };
        let here = &self.modules.modules[&self.module];
        let is_ours = ["crate", "self", "super", "tailcask"].contains(&&**first)
            || here.children.contains(first)
            || path.len() > 1 && here.uses.contains_key(first);
        if !is_ours {
            return;
        }
        let path = self.modules.absolute(&self.module, path);
        self.found.extend(self.modules.definition(&path, &mut BTreeSet::new()));
    }

    fn add_tokens(&mut self, tokens: proc_macro2::TokenStream) {
        use proc_macro2::TokenTree::{Group, Ident, Punct};
        let mut path = ModulePath::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                Ident(name) if colons == 2 || path.is_empty() => path.push(name.to_string()),
                Punct(punct) if punct.as_char() == ':' && colons < 2 => {
                    colons += 1;
                    continue;
                }
                other => {
                    self.add_if_path(&mut path);
                    match other {
                        Ident(name) => path.push(name.to_string()),
                        Group(group) => self.add_tokens(group.stream()),
                        _ => {}
                    }
                }
            }
            colons = 0;
        }
        self.add_if_path(&mut path);
    }

    fn add_if_path(&mut self, path: &mut ModulePath) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.add(path);
        }
    }
}

impl<'ast> Visit<'ast> for Imports<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_for_tests(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if self.is_front && !matches!(item.vis, syn::Visibility::Inherited) {
            return;
        }
        let mut all = Vec::new();
        used(&item.tree, &[], &mut all);
        all.into_iter().for_each(|(_, path)| self.add(path));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add_if_path(&mut names);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.add_tokens(item.tokens.clone());
    }

    /// Documentation may name everything.
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// What each file imports.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let library = Rc::new(Crate::load("lib.rs", None));
    let command = Crate::load("bin/tailcask/main.rs", Some(library.clone()));
    let mut imports = BTreeMap::new();
    for modules in [&*library, &command] {
        for Source { module, file, parsed } in &modules.sources {
            let is_front = file.ends_with("mod.rs") || file == "lib.rs";
            let found = BTreeSet::new();
            let mut here = Imports { modules, module: module.clone(), is_front, found };
            here.visit_file(parsed);
            // Of a module with a file for each system, no other one is an import, either.
            modules.modules[module].files.iter().for_each(|file| drop(here.found.take(file)));
            imports.insert(file.clone(), here.found);
        }
    }
    imports
}

/// The files that can be reached from one, by imports.
fn reachable<'i>(from: &str, imports: &'i BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'i str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = imports[from].iter().map(String::as_str).collect();
    while let Some(file) = open.pop() {
        if found.insert(file) {
            open.extend(imports[file].iter().map(String::as_str));
        }
    }
    found
}

#[test]
fn the_document_lists_every_file() {
    let floors = floors();
    let mut all = BTreeSet::new();
    files(&root(), &mut all);
    let listed: BTreeSet<_> = floors.keys().cloned().collect();
    let missing: Vec<_> = all.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&all).collect();
    assert!(missing.is_empty(), "docs/architecture.md has no floor for {missing:?}");
    assert!(gone.is_empty(), "docs/architecture.md lists what is not there: {gone:?}");
}

#[test]
fn no_file_imports_upward() {
    let floors = floors();
    let mut upward = Vec::new();
    for (file, imported) in &imports() {
        for other in imported {
            // What is not listed is up to the test above.
            let (Some(here), Some(there)) = (floors.get(file), floors.get(other)) else { continue };
            let has_both =
                |folder: &&&str| file.starts_with(**folder) && other.starts_with(**folder);
            if here < there && KNOWN_CIRCLES.iter().find(has_both).is_none() {
                upward.push(format!("{file} (floor {here}) imports {other} (floor {there})"));
            }
        }
    }
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

#[test]
fn no_file_imports_itself_by_way_of_others() {
    let imports = imports();
    let count: usize = imports.values().map(BTreeSet::len).sum();
    assert!(imports.len() > 80 && count > 400, "the test sees the imports: {count}");
    let mut circles: BTreeSet<Vec<&str>> = BTreeSet::new();
    for file in imports.keys() {
        let there = reachable(file, &imports);
        if there.contains(&**file) {
            let back = |other: &&str| reachable(other, &imports).contains(&**file);
            circles.insert(there.iter().copied().filter(|other| back(other)).collect());
        }
    }
    let is_in = |circle: &[&str], folder: &&str| circle.iter().all(|f| f.starts_with(*folder));
    let is_known = |circle: &Vec<&str>| KNOWN_CIRCLES.iter().any(|folder| is_in(circle, folder));
    let new: Vec<_> = circles.iter().filter(|circle| !is_known(circle)).collect();
    let edges = new.iter().map(|circle| {
        let of = |file: &&str| {
            let inside = imports[*file].iter().filter(|other| circle.contains(&&***other));
            format!("\n    {file} imports {}", inside.cloned().collect::<Vec<_>>().join(", "))
        };
        format!("\n  a circle:{}", circle.iter().map(of).collect::<String>())
    });
    assert!(new.is_empty(), "{}", edges.collect::<String>());
    for folder in KNOWN_CIRCLES {
        let is_there = circles.iter().any(|circle| is_in(circle, folder));
        assert!(is_there, "no circle is left in {folder}: take it out of KNOWN_CIRCLES");
    }
}

#[test]
fn paths_are_found_however_they_are_written() {
    let text = "
        use crate::{a::{self, b::{C as D, E}}, f as g};
        #[cfg(test)] mod tests { use crate::only_in_tests; }
        mod inside { use super::sibling::X; fn f() { super::h::i(); } }
        fn f() { let _ = matches!(self::k::L, crate::m::N); g::o::p(); std::mem::take::<crate::q::R>() }
    ";
    let parsed = syn::parse_file(text).unwrap();
    let mut all = Crate::default();
    for name in ["a", "a/b", "f", "f/o", "sibling", "h", "k", "m", "q", "only_in_tests", "here"] {
        let path: ModulePath = name.split('/').map(str::to_owned).collect();
        let module = all.modules.entry(path).or_default();
        module.files.insert(format!("{name}.rs"));
    }
    all.modules.entry(Vec::new()).or_default().files.insert("lib.rs".into());
    let here = vec!["here".to_owned()];
    all.load_items(&here, "here.rs", Path::new("here"), &parsed.items);
    let found = BTreeSet::new();
    let mut imports = Imports { modules: &all, module: here, is_front: false, found };
    imports.visit_file(&parsed);
    let _ = imports.found.remove("here.rs");
    let wanted = ["a.rs", "a/b.rs", "f.rs", "f/o.rs", "m.rs", "q.rs"];
    assert_eq!(imports.found.into_iter().collect::<Vec<_>>(), wanted);
    assert_eq!(expand("a/{b,c/{d,e}}.rs"), ["a/b.rs", "a/c/d.rs", "a/c/e.rs"]);
}
