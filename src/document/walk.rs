//! Walks a document and says what is not as it should be.

use std::collections::HashMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::too_long;
use super::words::{Nearest, bare, find_nearest};
use super::{Diagnostic, Diagnostics, Source, Span, quoted};

/// A parsed document. Tables and values borrow from it.
#[derive(Debug)]
pub struct Document<'s> {
    root: DeTable<'s>,
}

impl Document<'_> {
    /// The table at the top.
    #[must_use]
    pub fn root(&self) -> Table<'_> {
        Table {
            raw: &self.root,
            span: 0..0,
        }
    }
}

/// A parsed value that stands alone. Tables in it borrow from it.
#[derive(Debug)]
pub struct LoneValue<'s> {
    root: Spanned<DeValue<'s>>,
    name: &'s str,
}

impl LoneValue<'_> {
    /// The value, known by the name of its text.
    #[must_use]
    pub fn value(&self) -> Value<'_> {
        Value {
            raw: &self.root,
            name: self.name,
        }
    }
}

/// Parses the text, going on after errors of syntax so that all are found.
#[must_use]
pub fn read<'s>(source: &'s Source, diagnostics: &mut Diagnostics) -> Document<'s> {
    if !is_worth_reading(source.text(), diagnostics) {
        let root = DeTable::new();
        return Document { root };
    }
    let (root, errors) = DeTable::parse_recoverable(source.text());
    let root = root.into_inner();
    push_syntax_errors(&root, source.text(), &errors, diagnostics);
    Document { root }
}

/// Parses a text that is one value, as it would stand behind `key =`.
#[must_use]
pub fn read_value<'s>(source: &'s Source, diagnostics: &mut Diagnostics) -> LoneValue<'s> {
    let (text, name) = (source.text(), source.name());
    if !is_worth_reading(text, diagnostics) {
        let root = Spanned::new(0..0, DeValue::Table(DeTable::new()));
        return LoneValue { root, name };
    }
    let (root, errors) = DeValue::parse_recoverable(text);
    let no_table = DeTable::new();
    let table = root.get_ref().as_table().unwrap_or(&no_table);
    push_syntax_errors(table, text, &errors, diagnostics);
    LoneValue { root, name }
}

/// Whether a text can be given to the parser; says why if not.
fn is_worth_reading(text: &str, diagnostics: &mut Diagnostics) -> bool {
    if text.len() > Source::SIZE_BYTES_MAX {
        diagnostics.push_syntax(too_long());
        return false;
    }
    // One clear line, where the parser would complain about each byte of a file that is no text.
    if let Some(at) = text.find('\0') {
        diagnostics.push_syntax(
            Diagnostic::error("there is a NUL byte, so this is no text file")
                .at(at..at + 1)
                .help("check that it is the right file, saved as UTF-8 text"),
        );
        return false;
    }
    true
}

fn push_syntax_errors(
    root: &DeTable<'_>,
    text: &str,
    errors: &[toml::de::Error],
    diagnostics: &mut Diagnostics,
) {
    let first_keys = first_keys_of_duplicates(root, text, errors);
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let span = span.start.min(text.len())..span.end.min(text.len());
        diagnostics.push_syntax(syntax_error(error.message(), span, text, &first_keys));
    }
}

/// Words what the parser says, with a remedy.
fn syntax_error(
    message: &str,
    span: Span,
    text: &str,
    first_keys: &HashMap<&str, Vec<Span>>,
) -> Diagnostic {
    let message = message.replace('\n', ", ");
    if message.starts_with("duplicate key") {
        let key = text.get(span.clone()).unwrap_or_default();
        let error = Diagnostic::error(format!("{} is defined twice", quoted(key)))
            .help("keep one of the two, or give them different names")
            .label("again here");
        // Which of several keys of this name is meant is not known; a wrong place would mislead.
        let error = match first_keys.get(key).map(Vec::as_slice) {
            Some([first]) if first.end <= span.start => error.related(first.clone(), "first here"),
            _ => error,
        };
        return error.at(span);
    }
    let help = if message.contains("recur") {
        "nest arrays and tables less deeply than 80"
    } else if message.contains("control") {
        "remove the character, or write it as an escape such as \\n or \\u0007"
    } else if message.contains("unclosed") || message.contains("expected") {
        "write what is expected here, or remove what is too much"
    } else {
        "correct the TOML syntax at this place"
    };
    Diagnostic::error(format!("this is not valid TOML: {message}"))
        .at(span)
        .help(help)
}

/// Where keys of the names that are defined twice stand in what was kept of the document.
fn first_keys_of_duplicates<'t>(
    root: &DeTable<'_>,
    text: &'t str,
    errors: &[toml::de::Error],
) -> HashMap<&'t str, Vec<Span>> {
    let mut keys: HashMap<&str, Vec<Span>> = errors
        .iter()
        .filter(|error| error.message().starts_with("duplicate key"))
        .filter_map(|error| text.get(error.span()?))
        .map(|key| (key, Vec::new()))
        .collect();
    if !keys.is_empty() {
        note_keys(root, text, &mut keys);
    }
    keys
}

/// The parser nests at most 80 deep, so this does too.
fn note_keys(table: &DeTable<'_>, text: &str, keys: &mut HashMap<&str, Vec<Span>>) {
    for (key, value) in table {
        if let Some(places) = text.get(key.span()).and_then(|word| keys.get_mut(word)) {
            places.push(key.span());
        }
        note_keys_of_value(value.get_ref(), text, keys);
    }
}

fn note_keys_of_value(value: &DeValue<'_>, text: &str, keys: &mut HashMap<&str, Vec<Span>>) {
    match value {
        DeValue::Table(table) => note_keys(table, text, keys),
        DeValue::Array(array) => {
            for item in array.iter() {
                note_keys_of_value(item.get_ref(), text, keys);
            }
        }
        _ => {}
    }
}

/// A string of the document and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<'d> {
    /// The string.
    pub text: &'d str,
    /// Where it stands, with its quotes.
    pub span: Span,
}

/// A table of the document.
#[derive(Clone, Debug)]
pub struct Table<'d> {
    raw: &'d DeTable<'d>,
    span: Span,
}

impl<'d> Table<'d> {
    /// Reports each key that is not among the known ones. `what` names the table, as in
    /// "security group `web`".
    pub fn allow(&self, what: &str, known: &[&str], diagnostics: &mut Diagnostics) {
        for (key, _) in self.entries() {
            if known.contains(&key.text) {
                continue;
            }
            let found = find_nearest(key.text, known.iter().copied(), diagnostics);
            if let Nearest::One(meant) = found {
                diagnostics.note_misspelled(self.span(), meant);
            }
            let help = found.remedy(known.iter().copied());
            diagnostics.push(
                Diagnostic::error(format!("unknown key {} in {what}", quoted(key.text)))
                    .at(key.span)
                    .label("not known here")
                    .help(help),
            );
        }
    }

    /// Keys and values in the order of the text.
    #[must_use]
    pub fn entries(&self) -> Vec<(Text<'d>, Value<'d>)> {
        let mut entries: Vec<(Text<'d>, Value<'d>)> = self
            .raw
            .iter()
            .map(|(key, value)| {
                let text: &'d str = key.get_ref();
                let key_text = Text {
                    text,
                    span: key.span(),
                };
                (
                    key_text,
                    Value {
                        raw: value,
                        name: text,
                    },
                )
            })
            .collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        entries
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<Value<'d>> {
        let (name, raw) = self.raw.get_key_value(key)?;
        Some(Value {
            raw,
            name: name.get_ref(),
        })
    }

    /// The value of a key that has to be there. `what` names the table.
    pub fn required(
        &self,
        key: &str,
        what: &str,
        help: &str,
        diagnostics: &mut Diagnostics,
    ) -> Option<Value<'d>> {
        let value = self.value(key);
        if value.is_none() && !self.misspells(key, diagnostics) {
            diagnostics.missing(
                Diagnostic::error(format!("{what} has no `{key}`"))
                    .at(self.span.clone())
                    .help(help),
            );
        }
        value
    }

    /// Whether an unknown key was taken for this one when [`Table::allow`] looked; then it is
    /// reported already, and is not missing.
    #[must_use]
    pub fn misspells(&self, key: &str, diagnostics: &Diagnostics) -> bool {
        diagnostics.is_misspelled(&self.span, key)
    }

    /// The string of a key, if it is there.
    pub fn string(&self, key: &str, diagnostics: &mut Diagnostics) -> Option<Text<'d>> {
        self.value(key)?.string(diagnostics)
    }

    /// The table of a key, if it is there.
    pub fn table(&self, key: &str, diagnostics: &mut Diagnostics) -> Option<Table<'d>> {
        self.value(key)?.table(diagnostics)
    }

    /// Whether it has no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Where it stands: its header, or all of it where it is written in braces.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span.clone()
    }
}

/// A value of the document, known by the key that it belongs to.
#[derive(Clone, Debug)]
pub struct Value<'d> {
    raw: &'d Spanned<DeValue<'d>>,
    name: &'d str,
}

impl<'d> Value<'d> {
    /// Its string.
    pub fn string(&self, diagnostics: &mut Diagnostics) -> Option<Text<'d>> {
        let text = self.as_string();
        if text.is_none() {
            self.wrong("a string", diagnostics);
        }
        text
    }

    /// Its integer; one that does not fit is as wrong as one that is too large.
    pub fn integer(&self, diagnostics: &mut Diagnostics) -> Option<i64> {
        let integer = self.as_integer();
        if integer.is_none() {
            self.wrong("an integer", diagnostics);
        }
        integer
    }

    /// Its truth value.
    pub fn boolean(&self, diagnostics: &mut Diagnostics) -> Option<bool> {
        let boolean = self.raw.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong("true or false", diagnostics);
        }
        boolean
    }

    /// Its items.
    pub fn array(&self, diagnostics: &mut Diagnostics) -> Option<Vec<Value<'d>>> {
        let items = self.as_array();
        if items.is_none() {
            self.wrong("an array", diagnostics);
        }
        items
    }

    /// Its table.
    pub fn table(&self, diagnostics: &mut Diagnostics) -> Option<Table<'d>> {
        let table = self.as_table();
        if table.is_none() {
            self.wrong("a table", diagnostics);
        }
        table
    }

    /// Its items, or itself where it is a single value.
    #[must_use]
    pub fn one_or_many(&self) -> Vec<Value<'d>> {
        self.as_array().unwrap_or_else(|| vec![self.clone()])
    }

    /// Reports that it is of a wrong type; `wanted` says of which it should be.
    pub fn wrong(&self, wanted: &str, diagnostics: &mut Diagnostics) {
        let found = self.found();
        diagnostics.push(
            Diagnostic::error(format!(
                "`{}` must be {wanted}, not {found}",
                bare(self.name)
            ))
            .at(self.span())
            .label(found)
            .help(format!("write {wanted} here")),
        );
    }

    /// Its string, if it is one.
    #[must_use]
    pub fn as_string(&self) -> Option<Text<'d>> {
        let raw: &'d Spanned<DeValue<'d>> = self.raw;
        raw.get_ref().as_str().map(|text| Text {
            text,
            span: self.span(),
        })
    }

    /// Its integer, if it is one that fits.
    #[must_use]
    pub fn as_integer(&self) -> Option<i64> {
        let integer = self.raw.get_ref().as_integer()?;
        let digits = integer.as_str();
        i64::from_str_radix(digits, integer.radix())
            .or_else(|_| i64::from_str_radix(&digits.replace('_', ""), integer.radix()))
            .ok()
    }

    /// Its items, if it is an array.
    #[must_use]
    pub fn as_array(&self) -> Option<Vec<Value<'d>>> {
        let raw: &'d Spanned<DeValue<'d>> = self.raw;
        let array = raw.get_ref().as_array()?;
        let name = self.name;
        Some(array.iter().map(|raw| Value { raw, name }).collect())
    }

    /// Its table, if it is one.
    #[must_use]
    pub fn as_table(&self) -> Option<Table<'d>> {
        let raw: &'d Spanned<DeValue<'d>> = self.raw;
        raw.get_ref().as_table().map(|raw| Table {
            raw,
            span: self.span(),
        })
    }

    /// The key that it belongs to.
    #[must_use]
    pub fn name(&self) -> &'d str {
        self.name
    }

    /// Where it stands.
    #[must_use]
    pub fn span(&self) -> Span {
        self.raw.span()
    }

    /// Its type, with its article.
    fn found(&self) -> &'static str {
        match self.raw.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) if self.as_integer().is_none() => "an integer of over 64 bits",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        }
    }
}

#[cfg(test)]
mod tests;
