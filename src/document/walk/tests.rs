//! Documents walked key by key: unknown keys, wrong types, and what broken syntax leaves.

use proptest::prelude::*;

use super::*;
use crate::document::{Report, Severity, alternatives};

/// All problems of a text that a reader finds who knows `known` at the top.
fn problems(text: &str, known: &[&str]) -> Vec<String> {
    let source = Source::new("t.toml", text);
    let mut diagnostics = Diagnostics::new();
    let document = read(&source, &mut diagnostics);
    document.root().allow("the file", known, &mut diagnostics);
    Report::new(&source, diagnostics.into_sorted())
        .problems()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn an_unknown_key_is_reported_with_the_nearest() {
    assert_eq!(
        problems("a = 1\ningres = 2\n", &["a", "ingress", "egress"]),
        ["t.toml:2:1: error: unknown key `ingres` in the file (did you mean `ingress`?)"]
    );
    assert_eq!(
        problems("zzz = 2\n", &["a", "ingress"]),
        ["t.toml:1:1: error: unknown key `zzz` in the file (known: `a`, `ingress`)"]
    );
}

#[test]
fn all_syntax_errors_are_found_at_their_places() {
    let text = "a = \nb = [1, 2\nc = 3\n[x\ny = 1\n";
    let found = problems(text, &["a", "b", "c", "x", "y"]);
    assert!(found.len() >= 3, "{found:#?}");
    assert!(found[0].starts_with("t.toml:1:"), "{found:#?}");
    assert!(
        found.iter().all(|one| one.contains("not valid TOML")),
        "{found:#?}"
    );
}

#[test]
fn a_key_twice_names_both_places() {
    let source = Source::new("t.toml", "one = 1\ntwo = 2\none = 3\n");
    let mut diagnostics = Diagnostics::new();
    drop(read(&source, &mut diagnostics));
    let report = Report::new(&source, diagnostics.into_sorted());
    assert_eq!(
        report.to_string(),
        "t.toml:3:1: error: `one` is defined twice (keep one of the two, or give them different \
         names)\nt.toml:1:1: note: first here"
    );
}

#[test]
fn a_table_twice_is_reported() {
    let found = problems("[a]\nx = 1\n[b]\n[a]\ny = 2\n", &["a", "b"]);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].starts_with("t.toml:4:2: error: `a` is defined twice"),
        "{found:#?}"
    );
}

#[test]
fn a_binary_file_is_one_error() {
    let text = format!("a = 1\n{}", "\0]".repeat(10_000));
    let found = problems(&text, &["a"]);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("t.toml:2:1: error: there is a NUL byte"),
        "{found:#?}"
    );
}

#[test]
fn a_text_over_the_limit_is_one_error() {
    let found = problems(&"\n".repeat(Source::SIZE_BYTES_MAX + 1), &[]);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("longer than 64 MiB"));
}

#[test]
fn deep_nesting_is_an_error_and_no_stack_overflow() {
    for open in ["[", "{a=", "[{a="] {
        let found = problems(&format!("a = {}", open.repeat(10_000)), &["a"]);
        assert!(
            found.iter().any(|one| one.contains("less deeply than 80")),
            "{:?}",
            found.first()
        );
    }
    let found = problems(&format!("{}a = 1", "a.".repeat(1_000)), &["a"]);
    assert!(!found.is_empty());
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_are_fine() {
    let found = problems("\u{feff}a = 1\r\nzz = 2\r\n", &["a"]);
    assert_eq!(
        found,
        ["t.toml:2:1: error: unknown key `zz` in the file (known: `a`)"]
    );
    let found = problems("\u{feff}zz = 2\r\n", &["a"]);
    assert!(
        found[0].starts_with("t.toml:1:1: error: unknown key"),
        "{found:#?}"
    );
}

#[test]
fn wrong_types_say_what_was_found_and_what_is_wanted() {
    let text = "s = 1\ni = \"x\"\nb = 0\na = {}\nt = []\nhuge = 99999999999999999999\nf = 1.5\n";
    let source = Source::new("t.toml", text);
    let mut diagnostics = Diagnostics::new();
    let document = read(&source, &mut diagnostics);
    let root = document.root();
    root.value("s").unwrap().string(&mut diagnostics);
    root.value("i").unwrap().integer(&mut diagnostics);
    root.value("b").unwrap().boolean(&mut diagnostics);
    root.value("a").unwrap().array(&mut diagnostics);
    root.value("t").unwrap().table(&mut diagnostics);
    root.value("huge").unwrap().integer(&mut diagnostics);
    root.value("f").unwrap().integer(&mut diagnostics);
    let report = Report::new(&source, diagnostics.into_sorted());
    let found: Vec<(u32, String)> = report
        .problems()
        .into_iter()
        .map(|problem| (problem.line, problem.message))
        .collect();
    let wanted = [
        "`s` must be a string, not an integer",
        "`i` must be an integer, not a string",
        "`b` must be true or false, not an integer",
        "`a` must be an array, not a table",
        "`t` must be a table, not an array",
        "`huge` must be an integer, not an integer of over 64 bits",
        "`f` must be an integer, not a float",
    ];
    let wanted: Vec<(u32, String)> = (1..).zip(wanted.map(String::from)).collect();
    assert_eq!(found, wanted);
}

#[test]
fn integers_are_read_in_every_form() {
    let source = Source::new("t", "a = 1_000\nb = 0xff\nc = -7\nd = 0o600\ne = +3\n");
    let mut diagnostics = Diagnostics::new();
    let document = read(&source, &mut diagnostics);
    let values: Vec<Option<i64>> = document
        .root()
        .entries()
        .iter()
        .map(|(_, value)| value.as_integer())
        .collect();
    assert_eq!(
        values,
        [Some(1000), Some(255), Some(-7), Some(0o600), Some(3)]
    );
}

#[test]
fn entries_come_in_the_order_of_the_text() {
    // The parser puts a table that is opened by its child first in another place.
    let source = Source::new("t", "[b.x]\n[a]\n[b]\n[c]\n");
    let mut diagnostics = Diagnostics::new();
    let document = read(&source, &mut diagnostics);
    let mut places: Vec<usize> = Vec::new();
    for (key, _) in document.root().entries() {
        places.push(key.span.start);
    }
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(places.len(), 3);
}

#[test]
fn what_is_quoted_is_short_and_harmless() {
    assert_eq!(quoted("a\u{1b}[2J\u{202e}\"b"), "`a\\u{1b}[2J\\u{202e}\"b`");
    assert_eq!(quoted(&"x".repeat(1000)).chars().count(), 80 + 3);
}

#[test]
fn the_search_for_similar_words_ends() {
    let mut diagnostics = Diagnostics::new();
    let names: Vec<String> = (0..1000).map(|number| format!("group-{number}")).collect();
    let mut found = 0;
    for _ in 0..10_000 {
        let help = alternatives(
            "grup-77",
            names.iter().map(String::as_str),
            &mut diagnostics,
        );
        found += usize::from(help == "did you mean `group-77`?");
    }
    assert_eq!(found, 50);
}

/// Visits all of a table; each span has to be part of the text.
fn visit(table: &Table<'_>, text: &str) {
    assert!(text.get(table.span()).is_some(), "{:?}", table.span());
    for (key, value) in table.entries() {
        assert!(text.get(key.span.clone()).is_some());
        visit_value(&value, text);
    }
}

fn visit_value(value: &Value<'_>, text: &str) {
    assert!(text.get(value.span()).is_some());
    if let Some(table) = value.as_table() {
        visit(&table, text);
    }
    for item in value.as_array().unwrap_or_default() {
        visit_value(&item, text);
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(
        text in prop_oneof![
            any::<String>(),
            "([a-c.= \\[\\]{},\"'#\n\r\t0-9]|\\\\u|é|\u{feff}){0,80}",
        ]
    ) {
        let source = Source::new("t", text.clone());
        let mut diagnostics = Diagnostics::new();
        let document = read(&source, &mut diagnostics);
        document.root().allow("the file", &["a"], &mut diagnostics);
        visit(&document.root(), &text);
        let report = Report::new(&source, diagnostics.into_sorted());
        for style in [
            crate::document::Style::Plain,
            crate::document::Style::Graphical { color: true, width: 60 },
        ] {
            prop_assert_eq!(report.render(style).is_empty(), report.is_empty());
        }
        for problem in report.problems() {
            prop_assert!(problem.line >= 1 && problem.column >= 1);
            prop_assert_eq!(problem.severity, Severity::Error);
        }
    }
}
