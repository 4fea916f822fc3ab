//! The document of the admin API has each route, and each schema by a name of its own.

use std::collections::BTreeMap;

use crate::sources;

/// What the admin listener has beside its pages and what is documented.
const UNDOCUMENTED: &[&str] = &["/metrics", "/livez", "/readyz", "/openapi.json"];

/// The paths that are routed by hand, and so are in no document.
fn routed_by_hand(text: &str) -> Vec<&str> {
    let after = text.split(".route(").skip(1);
    after.map(|rest| rest.trim_start().trim_start_matches('"').split('"').next().unwrap()).collect()
}

#[test]
fn every_route_of_the_admin_api_is_in_its_document() {
    for (path, text) in sources() {
        if path.starts_with("src/admin") && !path.starts_with("src/admin/dashboard") {
            let stray = routed_by_hand(&text).into_iter().find(|route| !UNDOCUMENTED.contains(route));
            assert_eq!(stray, None, "{path}: name its handler in routes!(..)");
        }
    }
    assert_eq!(routed_by_hand("a.route(\n    \"/x\", get(x))"), ["/x"]);
}

/// The names that types have in the document.
fn schema_names(text: &str) -> Vec<String> {
    let named = |rest: &str| {
        let head = rest.split('{').next().unwrap();
        let given = head.split("schema(as = ").nth(1).and_then(|rest| rest.split([')', ',']).next());
        let own = || head.split("struct ").nth(1).or_else(|| head.split("enum ").nth(1)).unwrap_or(head);
        given.unwrap_or_else(own).split('<').next().unwrap().trim().to_owned()
    };
    let derived = text.match_indices("ToSchema)]\n").map(|(at, word)| named(&text[at + word.len()..]));
    let written = text.match_indices("impl ToSchema for ").map(|(at, word)| named(&text[at + word.len()..]));
    derived.chain(written).collect()
}

#[test]
fn no_two_schemas_of_the_document_have_one_name() {
    let mut seen = BTreeMap::new();
    for (path, text) in sources() {
        for name in schema_names(&text) {
            let other = seen.insert(name.clone(), path.clone());
            assert_eq!(other, None, "{path}: {name} is in the document already; say #[schema(as = …)]");
        }
    }
    assert!(seen.len() > 50, "{seen:?}");
    let text =
        "ToSchema)]\n#[schema(as = A)]\nstruct B {\nimpl ToSchema for C {}\nToSchema)]\npub enum D<T> {";
    assert_eq!(schema_names(text), ["A", "D", "C"]);
}
