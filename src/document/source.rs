//! A named text, and where its lines are.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::{Diagnostic, Report};

/// The byte order mark that some editors put first.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// A text and the name by which people know it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Source {
    name: Arc<str>,
    text: Arc<str>,
}

/// A place in a text, counted from 1 as editors do; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The character in the line.
    pub column: u32,
}

impl Source {
    /// Longest text that is read, so that a wrong file (a disk image, a log) is refused before it
    /// takes the memory; a million prefixes take half of it.
    pub const SIZE_BYTES_MAX: usize = 64 * 1024 * 1024;

    /// A text that is at hand.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into().into(),
            text: text.into().into(),
        }
    }

    /// Reads a file; its name is the path as given.
    ///
    /// # Errors
    /// If it cannot be read, is longer than [`Source::SIZE_BYTES_MAX`] or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, Report> {
        let name = path.display().to_string();
        let limit = u64::try_from(Self::SIZE_BYTES_MAX).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        // One byte more than is allowed tells a file of just the limit from a longer one, also
        // where the length is not known before (a pipe, /dev/zero).
        let outcome =
            File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
        match outcome {
            Ok(_) => Self::from_bytes(name, bytes),
            Err(error) => {
                let problem = Diagnostic::error(format!("cannot read the file: {error}"))
                    .help("check the path and its permissions");
                Err(Report::new(&Self::new(name, ""), vec![problem]))
            }
        }
    }

    /// Takes bytes that have to be UTF-8 text.
    ///
    /// # Errors
    /// If they are more than [`Source::SIZE_BYTES_MAX`] or not UTF-8.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Result<Self, Report> {
        let name = name.into();
        if bytes.len() > Self::SIZE_BYTES_MAX {
            return Err(Report::new(&Self::new(name, ""), vec![too_long()]));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(name, text)),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let bad = error.as_bytes().get(at).copied().unwrap_or_default();
                // What comes before the bad byte is unchanged in the lossy text, so the place is
                // right in it.
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let problem = Diagnostic::error(format!("byte 0x{bad:02x} is not UTF-8"))
                    .at(at..at)
                    .help("save the file as UTF-8 text");
                Err(Report::new(&Self::new(name, text), vec![problem]))
            }
        }
    }

    /// What people call it; the path of a file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Refusal of a text over the limit.
pub(super) fn too_long() -> Diagnostic {
    Diagnostic::error(format!(
        "the file is longer than {} MiB, the most that is read",
        Source::SIZE_BYTES_MAX / (1024 * 1024)
    ))
    .help("check that it is the right file")
}

/// Where the lines of a text begin.
#[derive(Clone, Debug)]
pub(super) struct LineIndex {
    starts: Vec<usize>,
}

impl LineIndex {
    /// Looks at the whole text once.
    pub(super) fn new(text: &str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self { starts }
    }

    /// The place of a byte; one past the end is the end. A byte inside of a character is the
    /// character.
    pub(super) fn position(&self, text: &str, offset: usize) -> Position {
        let offset = char_start(text, offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.line_start(line);
        let before = text.get(start..offset).unwrap_or_default();
        let before = before.strip_prefix(BYTE_ORDER_MARK).unwrap_or(before);
        Position {
            line: to_u32(line),
            column: to_u32(before.chars().count() + 1),
        }
    }

    /// Bytes of the line that has the byte, its end included.
    pub(super) fn line_bytes(&self, text: &str, offset: usize) -> usize {
        let line = self.starts.partition_point(|start| *start <= offset);
        let end = self.starts.get(line).copied().unwrap_or(text.len());
        end.saturating_sub(self.line_start(line))
    }

    /// First byte of a line, counted from 1.
    fn line_start(&self, line: usize) -> usize {
        line.checked_sub(1)
            .and_then(|index| self.starts.get(index))
            .copied()
            .unwrap_or_default()
    }
}

/// First byte of the character that has the byte; the end for what is past it.
pub(super) fn char_start(text: &str, offset: usize) -> usize {
    let mut start = offset.min(text.len());
    // At most three steps: a character has no more than four bytes.
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    start
}

/// Texts are bounded far below 4 Gi; a count that is not stays at the top.
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, offset: usize) -> (u32, u32) {
        let position = LineIndex::new(text).position(text, offset);
        (position.line, position.column)
    }

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "ab\nçd\r\n\nx";
        assert_eq!(place(text, 0), (1, 1));
        assert_eq!(place(text, 2), (1, 3));
        assert_eq!(place(text, 3), (2, 1));
        assert_eq!(place(text, 4), (2, 1), "inside of a character");
        assert_eq!(place(text, 5), (2, 2));
        assert_eq!(place(text, 8), (3, 1));
        assert_eq!(place(text, 9), (4, 1));
        assert_eq!(place(text, 99), (4, 2), "past the end");
        assert_eq!(place("", 0), (1, 1));
        assert_eq!(
            place("\u{feff}a", 3),
            (1, 1),
            "a byte order mark has no column"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let report = Source::read(Path::new("/nonexistent/policy.toml")).unwrap_err();
        assert!(
            report
                .to_string()
                .starts_with("/nonexistent/policy.toml: error: cannot read")
        );
    }

    #[test]
    fn a_byte_that_is_not_utf8_is_located() {
        let report = Source::from_bytes("p.toml", b"a = 1\nb = \"\xff\"".to_vec()).unwrap_err();
        assert!(
            report
                .to_string()
                .starts_with("p.toml:2:6: error: byte 0xff is not UTF-8")
        );
    }

    #[test]
    fn a_text_over_the_limit_is_refused() {
        let bytes = vec![b'#'; Source::SIZE_BYTES_MAX + 1];
        let report = Source::from_bytes("big.toml", bytes).unwrap_err();
        assert!(report.to_string().contains("longer than 64 MiB"));
        let endless = Source::read(Path::new("/dev/zero")).unwrap_err();
        assert!(endless.to_string().contains("longer than 64 MiB"));
    }
}
