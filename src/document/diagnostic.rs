//! What is wrong, where, and how to mend it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Bytes of a text.
pub type Span = Range<usize>;

/// From how many warnings of one kind on a single line stands for all of them.
const SUM_UP_MIN: usize = 3;

/// Most unknown words of one document for which a similar one is looked for.
const NEAREST_SEARCHES_MAX: usize = 50;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// Allowed, but likely not meant.
    Warning,
    /// Allowed and without effect in this version.
    Note,
}

impl Severity {
    /// The word in outputs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, as one line without a full stop.
    pub message: String,
    /// Where; none = the file as a whole.
    pub span: Option<Span>,
    /// Two or three words to stand under the place.
    pub label: String,
    /// How to mend it, as one line.
    pub help: String,
    /// Other places that belong to it, with what is there.
    pub related: Vec<(Span, String)>,
    /// What many of its kind are, as in `groups have no description`; empty = each stands alone.
    pub kind: &'static str,
}

impl Diagnostic {
    /// A problem that refuses the document.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message.into())
    }

    /// A problem that does not.
    #[must_use]
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message.into())
    }

    /// Something without effect.
    #[must_use]
    pub fn note(message: impl Into<String>) -> Self {
        Self::new(Severity::Note, message.into())
    }

    fn new(severity: Severity, message: String) -> Self {
        Self {
            severity,
            message,
            span: None,
            label: String::new(),
            help: String::new(),
            related: Vec::new(),
            kind: "",
        }
    }

    /// Says where it is.
    #[must_use]
    pub fn at(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    /// Says what stands there.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Says how to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    /// Names another place that belongs to it.
    #[must_use]
    pub fn related(mut self, span: Span, what: impl Into<String>) -> Self {
        self.related.push((span, what.into()));
        self
    }

    /// Says how many of the kind are summed up: `12 groups have no description` for
    /// `groups have no description`.
    #[must_use]
    pub fn kind(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }
}

/// Collects problems.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    /// Errors of syntax, apart from what was found in the document that was left.
    syntax: Vec<Diagnostic>,
    nearest_count: usize,
    /// Keys that other keys of a table were taken for.
    misspelled: Vec<(Span, String)>,
}

impl Diagnostics {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Adds an error of syntax: part of the document is lost from here on.
    pub fn push_syntax(&mut self, diagnostic: Diagnostic) {
        self.syntax.push(diagnostic);
    }

    /// Adds one that says that something is not there, unless a syntax error may have swallowed
    /// it: who mends that would only be misled.
    pub fn missing(&mut self, diagnostic: Diagnostic) {
        if self.syntax.is_empty() {
            self.list.push(diagnostic);
        }
    }

    /// Whether one more unknown word is worth the search for a similar one: more than are printed
    /// are not, and the search for all of a long document would take minutes.
    pub(super) fn may_look_for_nearest(&mut self) -> bool {
        self.nearest_count += 1;
        self.nearest_count <= NEAREST_SEARCHES_MAX
    }

    /// Notes that an unknown key of the table at the place was taken for `key`.
    pub(super) fn note_misspelled(&mut self, table: Span, key: &str) {
        self.misspelled.push((table, key.to_owned()));
    }

    /// Whether an unknown key of the table at the place was taken for `key`.
    pub(super) fn is_misspelled(&self, table: &Span, key: &str) -> bool {
        self.misspelled
            .iter()
            .any(|(place, misspelled)| place == table && misspelled == key)
    }

    /// Whether any of them refuses the document.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        let errors = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
        self.list.iter().chain(&self.syntax).any(errors)
    }

    /// All of them in the order of the text, with many of one kind summed up.
    #[must_use]
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.drop_consequences();
        // Stable: what stands at one place stays in the order in which it was found.
        self.list.sort_by_key(|diagnostic| {
            diagnostic
                .span
                .as_ref()
                .map_or((0, 0), |span| (span.start, span.end))
        });
        sum_up(self.list)
    }
}

impl Diagnostics {
    /// Drops what was found in a value that is broken: it was guessed, and the guess is judged.
    fn drop_consequences(&mut self) {
        let mut broken: Vec<Span> = self
            .syntax
            .iter()
            .filter_map(|diagnostic| diagnostic.span.clone())
            .collect();
        broken.sort_by_key(|span| span.start);
        self.list.retain(|diagnostic| {
            let Some(span) = diagnostic.span.as_ref() else {
                return true;
            };
            let after = broken.partition_point(|broken| broken.start <= span.end);
            let before = after.checked_sub(1).and_then(|index| broken.get(index));
            before.is_none_or(|broken| broken.end < span.start)
        });
        self.list.append(&mut self.syntax);
    }
}

/// Replaces many of one kind by the first, which then says how many they are.
fn sum_up(list: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut kinds: Vec<(&'static str, usize)> = Vec::new();
    for diagnostic in list.iter().filter(|one| !one.kind.is_empty()) {
        match kinds.iter_mut().find(|(kind, _)| *kind == diagnostic.kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((diagnostic.kind, 1)),
        }
    }
    kinds.retain(|(_, count)| *count >= SUM_UP_MIN);
    let mut seen: Vec<&'static str> = Vec::new();
    let mut kept = Vec::with_capacity(list.len());
    for mut diagnostic in list {
        if let Some((kind, count)) = kinds.iter().find(|(kind, _)| *kind == diagnostic.kind) {
            if seen.contains(kind) {
                continue;
            }
            seen.push(kind);
            diagnostic.message = format!("{count} {kind}; the first: {}", diagnostic.message);
        }
        kept.push(diagnostic);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_of_one_kind_become_one_line_that_counts_them() {
        let mut diagnostics = Diagnostics::new();
        for at in [30, 10, 20] {
            diagnostics.push(
                Diagnostic::warning(format!("w{at}"))
                    .at(at..at + 1)
                    .kind("groups are odd"),
            );
        }
        diagnostics.push(Diagnostic::warning("alone").at(15..16));
        let messages: Vec<String> = diagnostics
            .into_sorted()
            .into_iter()
            .map(|diagnostic| diagnostic.message)
            .collect();
        assert_eq!(messages, ["3 groups are odd; the first: w10", "alone"]);
    }

    #[test]
    fn two_of_one_kind_stand_for_themselves() {
        let mut diagnostics = Diagnostics::new();
        for at in [1, 2] {
            diagnostics.push(Diagnostic::warning("w").at(at..at).kind("are odd"));
        }
        assert_eq!(diagnostics.into_sorted().len(), 2);
    }

    #[test]
    fn nothing_is_missing_after_a_syntax_error() {
        let mut diagnostics = Diagnostics::new();
        diagnostics.push_syntax(Diagnostic::error("syntax"));
        diagnostics.missing(Diagnostic::error("not there"));
        assert_eq!(diagnostics.into_sorted().len(), 1);
    }

    #[test]
    fn a_broken_value_is_one_problem() {
        let mut diagnostics = Diagnostics::new();
        diagnostics.push_syntax(Diagnostic::error("syntax").at(10..13));
        for span in [8..12, 10..14, 13..20, 14..20, 0..9] {
            diagnostics.push(Diagnostic::error(format!("{span:?}")).at(span));
        }
        let left: Vec<String> = diagnostics
            .into_sorted()
            .into_iter()
            .map(|diagnostic| diagnostic.message)
            .collect();
        assert_eq!(left, ["0..9", "syntax", "14..20"]);
    }

    #[test]
    fn warnings_alone_refuse_nothing() {
        let mut diagnostics = Diagnostics::new();
        diagnostics.push(Diagnostic::warning("w"));
        diagnostics.push(Diagnostic::note("n"));
        assert!(!diagnostics.has_errors());
        diagnostics.push(Diagnostic::error("e"));
        assert!(diagnostics.has_errors());
    }
}
