//! Modules of one folder do not import each other in cycles.

use std::collections::{BTreeMap, BTreeSet};

use crate::{code, in_group, paths, place, sources};

/// The module that a path leads to from another one, as far as it names modules, or what a
/// module re-exports of those below it.
fn target(from: &[&str], path: &str, known: &Known<'_>) -> Vec<String> {
    let mut place: Vec<String> = from.iter().map(|word| (*word).to_owned()).collect();
    for (at, word) in path.split("::").enumerate() {
        match word {
            "crate" if at == 0 => place.clear(),
            "self" => {}
            "super" => drop(place.pop()),
            word => {
                let below = known.reexported(&place, word).unwrap_or(word).to_owned();
                place.push(below);
                if !known.is_module(&place) {
                    place.pop();
                    break;
                }
            }
        }
    }
    place
}

/// The modules, and the names that each re-exports of modules below it.
struct Known<'a> {
    modules: BTreeSet<Vec<&'a str>>,
    reexported: BTreeMap<(Vec<String>, String), String>,
}

impl<'a> Known<'a> {
    fn of(sources: &'a BTreeMap<String, String>) -> Self {
        let modules: BTreeSet<Vec<&str>> = sources.keys().map(|path| place(path)).collect();
        let mut reexported = BTreeMap::new();
        for (path, text) in sources {
            for line in code(text).split("pub use ").skip(1) {
                let tree = line.split(';').next().unwrap().trim().trim_start_matches("self::");
                let all = match tree.split_once('{') {
                    Some((before, group)) => in_group(before, group),
                    None => vec![tree.to_owned()],
                };
                for one in all {
                    if let (Some((below, _)), Some(name)) = (one.split_once("::"), one.rsplit("::").next()) {
                        let at = place(path).into_iter().map(str::to_owned).collect();
                        reexported.insert((at, name.to_owned()), below.to_owned());
                    }
                }
            }
        }
        Self { modules, reexported }
    }

    fn is_module(&self, place: &[String]) -> bool {
        self.modules.iter().any(|module| module.iter().eq(place.iter()))
    }

    fn reexported(&self, place: &[String], name: &str) -> Option<&str> {
        self.reexported.get(&(place.to_vec(), name.to_owned())).map(String::as_str)
    }
}

/// Who imports whom among the modules of one folder, each with all that is below it. So an
/// inner folder has rows too: a file below a module that imports a sibling of that module is
/// an import by the module, and where there is no cycle, all of them go in one direction.
fn siblings(sources: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let known = Known::of(sources);
    let mut found: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for (path, text) in sources {
        let from = place(path);
        if from.contains(&"tests") {
            continue;
        }
        for named in paths(&code(text)) {
            let to = target(&from, &named, &known);
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if common < from.len() && common < to.len() {
                let edge = (from[common].to_owned(), to[common].clone());
                found.entry(from[..common].join("/")).or_default().insert(edge);
            }
        }
    }
    found
}

/// Some modules that import each other in a cycle, if there are any.
fn cycle(edges: &BTreeSet<(String, String)>) -> Option<Vec<&str>> {
    let mut left: BTreeSet<&str> = edges.iter().map(|(from, _)| from.as_str()).collect();
    loop {
        let imports = |module: &str, left: &BTreeSet<&str>| {
            edges.iter().any(|(from, to)| *from == module && left.contains(to.as_str()))
        };
        let free: Vec<&str> = left.iter().copied().filter(|module| !imports(module, &left)).collect();
        if free.is_empty() {
            return Some(left.into_iter().collect()).filter(|cycle: &Vec<&str>| !cycle.is_empty());
        }
        left.retain(|module| !free.contains(module));
    }
}

#[test]
fn modules_of_a_folder_do_not_import_each_other_in_cycles() {
    for (folder, edges) in siblings(&sources()) {
        assert_eq!(cycle(&edges), None, "in src/{folder}");
    }
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = [
        file("src/a.rs", "pub mod b; pub mod c; pub use self::b::{B, Other};"),
        file("src/a/b.rs", "use crate::a::{c::d::D, e};"),
        file("src/a/c.rs", "use super::B;"),
    ];
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let edges = siblings(&files.into()).remove("a").unwrap();
    assert_eq!(edges, [edge("b", "c"), edge("c", "b")].into());
    assert_eq!(cycle(&edges), Some(vec!["b", "c"]));
    assert_eq!(cycle(&[edge("a", "b"), edge("b", "c")].into()), None);
    let deep = [
        file("src/a.rs", ""),
        file("src/a/b.rs", ""),
        file("src/a/b/inner.rs", "use super::super::c::C;"),
        file("src/a/c.rs", ""),
        file("src/a/c/inner.rs", "use crate::a::b::inner::B;"),
    ];
    let edges = siblings(&deep.into()).remove("a").unwrap();
    assert_eq!(cycle(&edges), Some(vec!["b", "c"]), "imports of files below count for their folders");
}
