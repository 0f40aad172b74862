//! The structure of the source: no circles between modules, and the list of modules in docs/design.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module's path from the crate's root: `["store", "sqlite"]`. The command's modules are below `bin`.
type Module = Vec<String>;

/// Modules used by each module.
type Uses = BTreeMap<Module, BTreeSet<Module>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every module with the text of its file.
fn modules() -> BTreeMap<Module, String> {
    let mut files = Vec::new();
    rust_files(&root(), &mut files);
    let module = |file: &Path| -> Module {
        let relative = file.strip_prefix(root()).unwrap().with_extension("");
        let parts: Module = relative.iter().map(|part| part.to_str().unwrap().to_string()).collect();
        match parts[0].as_str() {
            "lib" => Vec::new(),
            "main" => vec!["bin".into()],
            "cli" | "report" => [vec!["bin".to_string()], parts].concat(),
            _ => parts,
        }
    };
    files.iter().map(|file| (module(file), std::fs::read_to_string(file).unwrap())).collect()
}

/// The code of a file without comments and unit tests.
fn code(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    code.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The paths that a `use` tree names: `a::{b, c::d}` gives `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<Module> {
    let split = |path: &str| -> Module {
        let path = path.split(" as ").next().unwrap();
        path.split("::").map(|part| part.trim().to_string()).filter(|part| !part.is_empty()).collect()
    };
    let Some((head, inner)) = tree.split_once('{') else { return vec![split(tree)] };
    let inner = &inner[..inner.rfind('}').unwrap()];
    let mut depth = 0;
    let is_end = |letter: char| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        letter == ',' && depth == 0
    };
    let parts = inner.split(is_end).filter(|part| !part.trim().is_empty());
    parts.flat_map(paths).map(|path| [split(head), path].concat()).collect()
}

/// The module that a path leads to, as seen from another one; `None` for other crates.
fn resolve(from: &Module, path: &[String], modules: &BTreeMap<Module, String>) -> Option<Module> {
    let is_command = from.first().is_some_and(|first| first == "bin");
    let mut at = match path[0].as_str() {
        "crate" if is_command => vec!["bin".to_string()],
        "crate" => Vec::new(),
        "super" | "self" => from.clone(),
        _ => return None,
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(at.pop()),
            name => {
                let deeper = [at.clone(), vec![name.to_string()]].concat();
                if !modules.contains_key(&deeper) {
                    break;
                }
                at = deeper;
            }
        }
    }
    Some(at)
}

/// The trees of the `use` items in a file's code.
fn use_trees(code: &str) -> Vec<&str> {
    let mut trees = Vec::new();
    let mut offset = 0;
    for line in code.split_inclusive('\n') {
        let item = line.trim_start();
        let item = item.strip_prefix("pub(crate) ").or_else(|| item.strip_prefix("pub ")).unwrap_or(item);
        if let Some(tree) = item.strip_prefix("use ") {
            let start = offset + line.len() - tree.len();
            trees.push(code[start..].split(';').next().unwrap());
        }
        offset += line.len();
    }
    trees
}

/// What each module names of others, in `use` lines and in paths within its code.
fn uses(modules: &BTreeMap<Module, String>) -> Uses {
    let mut uses = Uses::new();
    for (module, text) in modules {
        let code = code(text);
        let mut named: Vec<Module> = use_trees(&code).into_iter().flat_map(paths).collect();
        let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
        let inline = code.split(|letter| !is_path(letter));
        named.extend(
            inline.filter(|it| it.starts_with("crate::") || it.starts_with("super::")).flat_map(paths),
        );
        let others = named.iter().filter_map(|path| resolve(module, path, modules)).filter(|it| it != module);
        uses.insert(module.clone(), others.collect());
    }
    uses
}

/// The uses of a module's parts among each other, for every module that has parts. A module and its own parts are one
/// unit: they may use each other.
fn uses_among_siblings(uses: &Uses) -> BTreeMap<Module, BTreeSet<(String, String)>> {
    let mut levels: BTreeMap<Module, BTreeSet<(String, String)>> = BTreeMap::new();
    for (from, targets) in uses {
        for to in targets {
            let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (from.get(common), to.get(common)) {
                levels.entry(from[..common].to_vec()).or_default().insert((a.clone(), b.clone()));
            }
        }
    }
    levels
}

/// The nodes that lie on a circle.
fn on_circles(edges: &BTreeSet<(String, String)>) -> BTreeSet<String> {
    let reachable = |start: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(node) = next.pop() {
            for (_, to) in edges.iter().filter(|(from, _)| *from == node) {
                if seen.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        seen
    };
    let nodes: BTreeSet<&String> = edges.iter().flat_map(|(a, b)| [a, b]).collect();
    nodes.into_iter().filter(|node| reachable(node).contains(*node)).cloned().collect()
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    for (module, edges) in uses_among_siblings(&uses(&modules())) {
        let circle = on_circles(&edges);
        assert!(circle.is_empty(), "in {}: {circle:?}\n{edges:#?}", module.join("::"));
    }
}

/// `use` lines don't show that a method of `Manager` calls one that another file defines.
#[test]
fn no_parts_of_the_manager_call_each_other_in_a_circle() {
    let manager: Vec<(String, String)> = modules()
        .into_iter()
        .filter(|(module, _)| module.len() == 2 && module[0] == "manager")
        .map(|(module, text)| (module[1].clone(), code(&text)))
        .collect();
    let mut defined_in = BTreeMap::new();
    for (file, code) in &manager {
        for method in code.split("    pub(super) fn ").skip(1).chain(code.split("    pub fn ").skip(1)) {
            let (name, rest) = method.split_once(['(', '<']).unwrap();
            if rest.split_once(')').unwrap().0.contains("&self") {
                defined_in.insert(name.to_string(), file.clone());
            }
        }
    }
    assert!(defined_in.len() > 30, "{defined_in:?}");
    let mut edges = BTreeSet::new();
    for (file, code) in &manager {
        for call in code.split("self.").skip(1) {
            let name = call.split(['(', '.', ' ', ')', ',', ';', '?', '\n']).next().unwrap();
            if let Some(other) = defined_in.get(name).filter(|other| *other != file) {
                edges.insert((file.clone(), other.clone()));
            }
        }
    }
    let circle = on_circles(&edges);
    assert!(circle.is_empty(), "{circle:?}\n{edges:#?}");
}

#[test]
fn a_circle_is_found() {
    let edges = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    assert!(on_circles(&edges(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
    let circle = on_circles(&edges(&[("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")]));
    assert_eq!(circle.into_iter().collect::<Vec<_>>(), ["b", "c"]);
}

/// The first sentence of a file's header.
fn summary(text: &str) -> String {
    let header = text.lines().take_while(|line| line.starts_with("//!")).map(|line| line[3..].trim());
    let paragraph: Vec<&str> = header.take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ");
    paragraph.split_inclusive(". ").next().unwrap_or_default().trim().to_string()
}

/// With `TENANTRY_WRITE_MODULES=1` the list is written instead of compared.
#[test]
fn the_design_page_lists_every_module() {
    const BEGIN: &str = "<!-- modules: begin -->\n";
    const END: &str = "<!-- modules: end -->";
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("docs/design.md has the beginning of the list");
    let (list, after) = rest.split_once(END).expect("docs/design.md has the end of the list");
    let modules = modules();
    let mut expected = "\n| module | what it does |\n|---|---|\n".to_string();
    for (module, text) in &modules {
        let name = match module.as_slice() {
            [] => "lib".to_string(),
            [bin] if bin == "bin" => "main".to_string(),
            [bin, rest @ ..] if bin == "bin" => rest.join("::"),
            module => module.join("::"),
        };
        let summary = summary(text);
        assert!(summary.ends_with(['.', ':']) && summary.len() > 10, "{name} has no header: {summary:?}");
        let summary = summary.replace('|', "\\|");
        expected.extend(["| `", &name, "` | ", &summary, " |\n"]);
    }
    expected.push('\n');
    if std::env::var_os("TENANTRY_WRITE_MODULES").is_some() {
        std::fs::write(&page, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
    } else {
        assert!(list == expected, "run with TENANTRY_WRITE_MODULES=1 to write the list anew");
    }
}

/// The layers of docs/design.md from the bottom up, and left to right within a layer.
fn layers() -> Vec<String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design.md")).unwrap();
    let section = page.split("\n## Layers\n").nth(1).unwrap();
    let diagram = section.split("```").nth(1).unwrap();
    let is_layer = |line: &&str| line.contains("   ") && !line.contains("---");
    let mut layers: Vec<Vec<String>> = Vec::new();
    for line in diagram.lines().filter(is_layer) {
        let names = line.split("  ").skip(1).flat_map(str::split_whitespace);
        layers.push(names.map(String::from).collect());
    }
    layers.into_iter().rev().flatten().collect()
}

#[test]
fn modules_use_only_the_layers_below_them() {
    let layers = layers();
    let rank = |module: &Module| {
        let name = match module.as_slice() {
            [bin] if bin == "bin" => "main",
            [bin, part, ..] if bin == "bin" => part,
            [first, ..] => first,
            [] => return None,
        };
        Some(layers.iter().position(|it| it == name).unwrap_or_else(|| panic!("{name} is in no layer")))
    };
    for (module, used) in uses(&modules()) {
        for other in used {
            if let (Some(user), Some(other_rank)) = (rank(&module), rank(&other)) {
                assert!(user >= other_rank, "{} uses {}", module.join("::"), other.join("::"));
            }
        }
    }
}
