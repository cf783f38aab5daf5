//! TOML with a place for every key and value, and all problems at once.
//!
//! A [`Source`] is a named text. [`read`] turns it into a [`Table`] that knows where each of its
//! keys and values stands, going on after syntax errors; the module that owns the file's meaning
//! walks the table and puts whatever is wrong into [`Diagnostics`]; these become a [`Report`] that
//! draws itself on a terminal or prints one line for each problem elsewhere.
//!
//! Two rules keep reports useful. Every problem says where it is, what is wrong and how to mend
//! it. And no problem is reported that is only a consequence of another: after a syntax error part
//! of the document is missing, so nothing is said about what is not there
//! ([`Diagnostics::missing`]).
//!
//! A leaf: it knows nothing of policies or gateways.

mod diagnostic;
mod report;
mod source;
mod walk;
mod words;

pub use diagnostic::{Diagnostic, Diagnostics, Severity, Span};
pub use report::{Problem, Report, Style};
pub use source::{Position, Source};
pub use walk::{Document, LoneValue, Table, Text, Value, read, read_value};
pub use words::{alternatives, nearest, quoted};

/// Something read from a document that had no errors.
#[derive(Clone, Debug)]
pub struct Checked<T> {
    /// What the document says.
    pub value: T,
    /// What is allowed but likely not meant.
    pub warnings: Report,
    /// What was asked for and has no effect in this version.
    pub notes: Report,
}
