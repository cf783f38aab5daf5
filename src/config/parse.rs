//! Reads `gateway.toml`.

use std::path::Path;

use super::Config;
use crate::document::{Checked, Diagnostic, Report, Source};

/// Reads and checks the text. Relative paths in it are taken from the folder of its name.
///
/// # Errors
/// With all problems of the document, if it has any that refuse it.
pub fn parse(source: &Source) -> Result<Checked<Config>, Report> {
    Err(Report::new(source, vec![Diagnostic::error("not yet read")]))
}

/// Reads and checks the file.
///
/// # Errors
/// As [`parse`], and if the file cannot be read.
pub fn load(path: &Path) -> Result<Checked<Config>, Report> {
    parse(&Source::read(path)?)
}
