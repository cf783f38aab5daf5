//! One table of `gateway.toml`: reads its keys, checks their ranges, fills in defaults.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::document::{Diagnostic, Diagnostics, Table, Text, Value, alternatives, quoted};

/// Longest path that is accepted: the kernel's `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4_096;

/// A table of the file, or its absence, in which case every key has its default.
pub(super) struct Section<'d, 'c> {
    table: Option<Table<'d>>,
    what: String,
    diagnostics: &'c mut Diagnostics,
}

impl<'d, 'c> Section<'d, 'c> {
    /// A table that is at hand. Reports keys that are not among the known ones.
    pub(super) fn new(
        table: Option<Table<'d>>,
        what: impl Into<String>,
        known: &[&str],
        diagnostics: &'c mut Diagnostics,
    ) -> Self {
        let what = what.into();
        if let Some(table) = &table {
            table.allow(&what, known, diagnostics);
        }
        Self {
            table,
            what,
            diagnostics,
        }
    }

    /// The table of a key of `parent`.
    pub(super) fn open(
        parent: &Table<'d>,
        key: &str,
        known: &[&str],
        diagnostics: &'c mut Diagnostics,
    ) -> Self {
        let table = parent.table(key, diagnostics);
        Self::new(table, format!("[{key}]"), known, diagnostics)
    }

    /// Where problems go.
    pub(super) fn diagnostics(&mut self) -> &mut Diagnostics {
        self.diagnostics
    }

    /// The value of a key, if it is there.
    pub(super) fn value(&self, key: &str) -> Option<Value<'d>> {
        self.table.as_ref()?.value(key)
    }

    /// The value of a key that has to be there, if the table is.
    pub(super) fn required(&mut self, key: &str, help: &str) -> Option<Value<'d>> {
        let table = self.table.as_ref()?;
        table.required(key, &self.what, help, self.diagnostics)
    }

    /// Notes that a value has no effect in this version.
    pub(super) fn not_active(&mut self, key: &str, what: &str) {
        if let Some(value) = self.value(key) {
            self.diagnostics.push(no_effect(what).at(value.span()));
        }
    }

    /// Notes that the whole table, where it is there, has no effect in this version.
    pub(super) fn not_active_at_all(&mut self, what: &str) {
        if let Some(table) = &self.table {
            self.diagnostics.push(no_effect(what).at(table.span()));
        }
    }

    /// One of the words, or the default.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)], default: T) -> T {
        let Some(text) = self.string(key) else {
            return default;
        };
        match words.iter().find(|(word, _)| *word == text.text) {
            Some((_, choice)) => *choice,
            None => {
                let known = words.iter().map(|(word, _)| *word);
                let help = alternatives(text.text, known.clone(), self.diagnostics);
                let known: Vec<String> = known.map(|word| format!("\"{word}\"")).collect();
                let problem = Diagnostic::error(format!(
                    "`{key}` is one of {}, not {}",
                    known.join(", "),
                    quoted(text.text)
                ));
                self.diagnostics.push(problem.at(text.span).help(help));
                default
            }
        }
    }

    /// A number in the range, or the default.
    pub(super) fn number<T>(&mut self, key: &str, range: RangeInclusive<T>, default: T) -> T
    where
        T: Copy + Into<u64> + TryFrom<i64> + PartialOrd,
    {
        let Some(value) = self.value(key) else {
            return default;
        };
        let Some(integer) = value.integer(self.diagnostics) else {
            return default;
        };
        match T::try_from(integer) {
            Ok(number) if range.contains(&number) => number,
            Ok(_) | Err(_) => {
                let (low, high): (u64, u64) = ((*range.start()).into(), (*range.end()).into());
                let problem =
                    Diagnostic::error(format!("`{key}` is from {low} to {high}, not {integer}"));
                let help = format!("the default is {}", default.into());
                self.diagnostics.push(problem.at(value.span()).help(help));
                default
            }
        }
    }

    /// Yes or no, or the default.
    pub(super) fn boolean(&mut self, key: &str, default: bool) -> bool {
        self.value(key)
            .and_then(|value| value.boolean(self.diagnostics))
            .unwrap_or(default)
    }

    /// A time in the range (whole seconds), or the default.
    pub(super) fn duration(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
        default: Duration,
    ) -> Duration {
        let Some(value) = self.value(key) else {
            return default;
        };
        let Some(seconds) = seconds(&value) else {
            let problem = Diagnostic::error(format!("`{key}` is not a time"))
                .at(value.span())
                .help("write whole seconds as a number, or \"30s\", \"5m\", \"2h\"");
            self.diagnostics.push(problem);
            return default;
        };
        if range.contains(&seconds) {
            return Duration::from_secs(seconds);
        }
        let (low, high) = (range.start(), range.end());
        let problem = Diagnostic::error(format!(
            "`{key}` is from {low} to {high} seconds, not {seconds}"
        ));
        let help = format!("the default is {} seconds", default.as_secs());
        self.diagnostics.push(problem.at(value.span()).help(help));
        default
    }

    /// A string, if it is there.
    pub(super) fn string(&mut self, key: &str) -> Option<Text<'d>> {
        self.table.as_ref()?.string(key, self.diagnostics)
    }

    /// A path, if it is there; a relative one is taken from `base`.
    pub(super) fn path(&mut self, key: &str, base: &Path) -> Option<PathBuf> {
        let text = self.string(key)?;
        let wrong = if text.text.is_empty() {
            "is empty"
        } else if text.text.contains(char::is_control) {
            "has a control character"
        } else if text.text.len() > PATH_BYTES_MAX {
            "is longer than 4096 bytes"
        } else {
            return Some(base.join(text.text));
        };
        let problem = Diagnostic::error(format!("the path `{key}` {wrong}"))
            .at(text.span)
            .help("write the path of a file");
        self.diagnostics.push(problem);
        None
    }

    /// The items of an array; none if it is not there.
    pub(super) fn items(&mut self, key: &str) -> Vec<Value<'d>> {
        self.value(key)
            .and_then(|value| value.array(self.diagnostics))
            .unwrap_or_default()
    }
}

fn no_effect(what: &str) -> Diagnostic {
    Diagnostic::note(format!("{what} is not active yet"))
        .label("no effect in this version")
        .help("leave it out until a later version, or keep it: it is checked already")
}

/// Whole seconds: a number, or a number and its unit.
fn seconds(value: &Value<'_>) -> Option<u64> {
    if let Some(integer) = value.as_integer() {
        return u64::try_from(integer).ok();
    }
    let text = value.as_string()?.text;
    let split = text.find(|character: char| !character.is_ascii_digit())?;
    let (digits, unit) = text.split_at(split);
    let unit_seconds = match unit.trim_start() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit_seconds)
}
