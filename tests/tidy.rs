//! The shape of the repository, held by a test: which module may use which, where `unsafe` lives,
//! how long files and lines may be, and what no file may contain. The README draws the map.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file at most, tests included.
const LINES_MAX: usize = 800;
/// Columns of a line at most.
const COLUMNS_MAX: usize = 100;

/// Leaves that every module may use.
const LEAVES: &[&str] = &["types", "cpu", "sync", "clock"];

/// What each module may use beside itself and the leaves. Arrows point one way.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("cpu", &[]),
    ("sync", &[]),
    ("clock", &[]),
    ("document", &[]),
    ("packet", &[]),
    ("port", &[]),
    ("telemetry", &[]),
    ("policy", &["document"]),
    ("config", &["document"]),
    ("snapshot", &["packet"]),
    ("conntrack", &["packet"]),
    ("af_xdp", &["port"]),
    ("compile", &["policy", "snapshot", "packet"]),
    ("pipeline", &["packet", "conntrack", "snapshot"]),
    (
        "worker",
        &[
            "pipeline",
            "conntrack",
            "snapshot",
            "packet",
            "port",
            "telemetry",
        ],
    ),
    (
        "control",
        &[
            "document",
            "policy",
            "compile",
            "snapshot",
            "telemetry",
            "worker",
            "packet",
            "conntrack",
        ],
    ),
    (
        "replay",
        &[
            "pipeline",
            "conntrack",
            "snapshot",
            "port",
            "packet",
            "compile",
            "policy",
        ],
    ),
    (
        "gateway",
        &[
            "af_xdp",
            "compile",
            "config",
            "conntrack",
            "control",
            "pipeline",
            "policy",
            "port",
            "snapshot",
            "worker",
        ],
    ),
    (
        "cli",
        &[
            "af_xdp",
            "compile",
            "config",
            "conntrack",
            "control",
            "document",
            "gateway",
            "packet",
            "pipeline",
            "policy",
            "port",
            "replay",
            "snapshot",
            "telemetry",
            "worker",
        ],
    ),
];

/// Where `unsafe` may be written.
const UNSAFE_IN: &[&str] = &["src/af_xdp/", "src/cpu/", "src/snapshot/cell.rs"];

/// What no file may contain; in two parts, so that this one does not.
const FORBIDDEN: &[[&str; 2]] = &[["to", "do!("], ["db", "g!("], ["FIX", "ME"], ["XX", "X "]];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Rust file of the repository.
struct File {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
}

fn rust_files(folders: &[&str]) -> Vec<File> {
    let mut files = Vec::new();
    let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path
                    .strip_prefix(root())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                files.push(File { path, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!files.is_empty());
    files
}

/// A line without its comment; a crude reading that suffices for well-formatted code.
fn code(line: &str) -> &str {
    let mut quoted = false;
    let bytes = line.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'"' if at == 0 || bytes[at - 1] != b'\\' => quoted = !quoted,
            b'/' if !quoted && bytes.get(at + 1) == Some(&b'/') => return &line[..at],
            _ => {}
        }
    }
    line
}

/// The code of a file without comments and without items for tests only, and the names of the
/// modules that are for tests only.
fn production(text: &str) -> (String, Vec<String>) {
    let (mut kept, mut test_modules) = (String::new(), Vec::new());
    let mut lines = text.lines().map(code);
    while let Some(line) = lines.next() {
        if !(line.trim_start().starts_with("#[cfg(") && line.contains("test")) {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        // The item ends with a `;` or with a brace at the attribute's own depth.
        for line in lines.by_ref() {
            let is_at_depth = line.len() - line.trim_start().len() == indent;
            let name = line
                .trim()
                .trim_start_matches("pub(crate) ")
                .strip_prefix("mod ");
            if let Some(name) = name.and_then(|name| name.strip_suffix(';')) {
                test_modules.push(name.to_owned());
            }
            let ends = line.ends_with(';') || line.trim_end() == "}" || line.ends_with("},");
            if is_at_depth && ends {
                break;
            }
        }
    }
    (kept, test_modules)
}

/// The modules that some code names after `crate::`.
fn used_modules(code: &str) -> BTreeSet<String> {
    let identifier = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect()
    };
    let mut used = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            used.insert(identifier(rest));
            continue;
        };
        let mut depth = 0_usize;
        let mut expects_name = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => expects_name = true,
                c if c.is_ascii_lowercase() && expects_name => {
                    used.insert(identifier(&list[at..]));
                    expects_name = false;
                }
                _ => {}
            }
        }
    }
    // Types and macros at the root are nobody's module.
    used.retain(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
    used
}

fn module_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("src/")?.split('/').next()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (name != "lib" && name != "main").then_some(name)
}

/// Whether a file is of a module that is for tests only.
fn is_test_file(path: &str, test_files: &BTreeSet<String>) -> bool {
    path.ends_with("/tests.rs")
        || path.contains("/tests/")
        || test_files
            .iter()
            .any(|prefix| path.starts_with(prefix.as_str()))
}

/// The code that ships, by file.
fn shipped() -> Vec<(String, String)> {
    let files = rust_files(&["src"]);
    let mut test_files = BTreeSet::new();
    let mut codes = Vec::new();
    for file in &files {
        let (code, modules) = production(&file.text);
        let folder = match file.path.strip_suffix("/mod.rs") {
            Some(folder) => folder.to_owned(),
            None if file.path == "src/lib.rs" => "src".to_owned(),
            None => file.path.trim_end_matches(".rs").to_owned(),
        };
        for module in modules {
            test_files.insert(format!("{folder}/{module}.rs"));
            test_files.insert(format!("{folder}/{module}/"));
        }
        codes.push((file.path.clone(), code));
    }
    codes.retain(|(path, _)| !is_test_file(path, &test_files));
    codes
}

#[test]
fn arrows_between_modules_point_one_way() {
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, code) in shipped() {
        let Some(module) = module_of(&path) else {
            continue;
        };
        let Some(allowed) = table.get(module) else {
            wrong.push(format!("{path}: module `{module}` is not in the table"));
            continue;
        };
        for used in used_modules(&code) {
            let is_leaf = LEAVES.contains(&used.as_str()) && module != "types";
            if used != module && !is_leaf && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{path}: `{module}` may not use `{used}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_of_modules_has_no_cycle() {
    let mut done: BTreeSet<&str> = LEAVES.iter().copied().collect();
    // Bound: each turn finishes at least one module, or there is a cycle.
    for _ in MAY_USE {
        for (module, uses) in MAY_USE {
            if uses.iter().all(|used| done.contains(used)) {
                done.insert(module);
            }
        }
    }
    let left: Vec<_> = MAY_USE
        .iter()
        .filter(|(module, _)| !done.contains(module))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let modules: BTreeSet<_> = shipped()
        .iter()
        .filter_map(|(path, _)| module_of(path).map(str::to_owned))
        .collect();
    for (module, _) in MAY_USE {
        assert!(
            modules.contains(*module),
            "`{module}` is in the table and not in src/"
        );
    }
}

#[test]
fn unsafe_code_is_where_it_belongs() {
    for (path, code) in shipped() {
        let is_allowed = UNSAFE_IN.iter().any(|place| path.starts_with(place));
        for (index, line) in code.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let is_unsafe = words.any(|word| word == "unsafe");
            assert!(
                is_allowed || !is_unsafe,
                "{path}: code line {}: {line}",
                index + 1
            );
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for File { path, text } in rust_files(&["src", "tests", "bench"]) {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{path}: {lines} lines, {LINES_MAX} at most"));
        }
        if !text.starts_with("//! ") {
            wrong.push(format!(
                "{path}: does not begin with `//! ` and what it is for"
            ));
        }
        for (index, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            // A link cannot be broken.
            if columns > COLUMNS_MAX && !line.contains("https://") {
                wrong.push(format!("{path}:{}: {columns} columns", index + 1));
            }
            if line.trim_end() != line {
                wrong.push(format!("{path}:{}: ends in blanks", index + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_to_do() {
    for File { path, text } in rust_files(&["src", "tests", "bench"]) {
        for (index, line) in text.lines().enumerate() {
            for word in FORBIDDEN {
                let word = word.concat();
                assert!(!line.contains(&word), "{path}:{}: {word}", index + 1);
            }
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut section = String::new();
    let mut last = "";
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.to_owned();
        } else if section.contains("dependencies]") && line.contains(" = ") {
            assert!(last.starts_with("# "), "no line of reason above: {line}");
        }
        last = line;
    }
}

#[test]
fn the_reader_of_code_reads_it() {
    let text = "use crate::types::X; // crate::no\nuse crate::{packet::{A, b}, port, Y};\n\
                #[cfg(test)]\nmod tests {\n    use crate::worker;\n}\n#[cfg(test)]\nmod oracle;\n\
                fn f() { crate::cpu::g(\"http://x\"); crate::sync::h() }\n";
    let (code, modules) = production(text);
    assert_eq!(modules, ["oracle"]);
    let used: Vec<_> = used_modules(&code).into_iter().collect();
    assert_eq!(used, ["cpu", "packet", "port", "sync", "types"]);
}
