//! What is public: the types that lib.rs exports. They stay open to additions.

use super::{read, sources};
use std::collections::{BTreeMap, BTreeSet};
use syn::visit::Visit;
use syn::{Attribute, Ident, Visibility};

/// Types that others can build and match completely, and why.
const CLOSED: [(&str, &str); 1] = [("CasMismatch", "0.1.0 had it so")];

/// A public struct or enum.
pub(super) struct PublicType {
    pub(super) attributes: Vec<Attribute>,
    /// Whether others see its variants or fields.
    shows_parts: bool,
}

/// The names that lib.rs exports.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn add(&mut self, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => self.add(&path.tree),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.add(tree)),
            syn::UseTree::Name(name) => drop(self.0.insert(name.ident.to_string())),
            syn::UseTree::Rename(_) | syn::UseTree::Glob(_) => {}
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add(&item.tree);
    }
}

struct Types {
    names: BTreeSet<String>,
    found: BTreeMap<String, PublicType>,
}

impl Types {
    fn add(
        &mut self,
        visibility: &Visibility,
        name: &Ident,
        attributes: &[Attribute],
        parts: bool,
    ) {
        let name = name.to_string();
        if matches!(visibility, Visibility::Public(_)) && self.names.contains(&name) {
            let found = PublicType { attributes: attributes.to_vec(), shows_parts: parts };
            assert!(self.found.insert(name.clone(), found).is_none(), "two types {name}");
        }
    }
}

impl<'ast> Visit<'ast> for Types {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        let is_public = |field: &syn::Field| matches!(field.vis, Visibility::Public(_));
        self.add(&item.vis, &item.ident, &item.attrs, item.fields.iter().any(is_public));
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.add(&item.vis, &item.ident, &item.attrs, true);
    }
}

/// All public structs and enums, by their names.
pub(super) fn types() -> BTreeMap<String, PublicType> {
    let parse = |text: &str| syn::parse_file(text).expect("it compiles");
    let mut names = Names::default();
    names.visit_file(&parse(&read("src/lib.rs")));
    let mut types = Types { names: names.0, found: BTreeMap::new() };
    for (_, text) in sources("src").iter().filter(|(path, _)| !path.starts_with("bin/")) {
        types.visit_file(&parse(text));
    }
    types.found
}

#[test]
fn every_public_enum_error_and_report_stays_open_to_additions() {
    let types = types();
    let parts: Vec<_> = types.iter().filter(|(_, found)| found.shows_parts).collect();
    assert!(types.len() > 70 && parts.len() > 45, "{} {}", types.len(), parts.len());
    let is_open = |found: &PublicType| {
        found.attributes.iter().any(|attribute| attribute.path().is_ident("non_exhaustive"))
    };
    let closed: Vec<_> = parts.iter().filter(|(_, found)| !is_open(found)).collect();
    let closed: Vec<_> = closed.into_iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(closed, CLOSED.map(|(name, _)| name), "are not non_exhaustive");
}
