//! Problems of one document, for people (drawn, or a line each) and for programs.

use std::fmt;
use std::io::IsTerminal;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceSpan};
use serde::{Deserialize, Serialize};

use super::source::{LineIndex, char_start};
use super::{Diagnostic, Position, Severity, Source, Span};

/// Most problems that are printed; the rest are counted.
const RENDERED_MAX: usize = 50;

/// Longest line of a document that is drawn; a problem in a longer one is printed as a line.
const DRAWN_LINE_BYTES_MAX: usize = 400;

/// Width of a drawing where the terminal does not say.
const WIDTH_DEFAULT: usize = 100;

/// Narrowest and widest drawing: narrower has no room for a message, wider is hard to read.
const WIDTH_RANGE: std::ops::RangeInclusive<usize> = 40..=140;

/// Most bytes of one message or help of a [`Problem`]; a document may have a key of megabytes.
const TEXT_BYTES_MAX: usize = 400;

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One line for each problem, in the form that editors jump from; for files, pipes and logs.
    Plain,
    /// With the lines of the document, for a terminal.
    Graphical {
        /// Whether with colors.
        color: bool,
        /// Columns of the terminal.
        width: usize,
    },
}

impl Style {
    /// What suits standard output: graphical on a terminal, in color unless `NO_COLOR` is set.
    #[must_use]
    pub fn for_stdout() -> Self {
        Self::for_terminal(std::io::stdout().is_terminal())
    }

    /// What suits standard error, likewise.
    #[must_use]
    pub fn for_stderr() -> Self {
        Self::for_terminal(std::io::stderr().is_terminal())
    }

    fn for_terminal(is_terminal: bool) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if !is_terminal || variable("TERM").as_deref() == Some("dumb") {
            return Self::Plain;
        }
        let width = variable("COLUMNS")
            .and_then(|columns| columns.parse().ok())
            .unwrap_or(WIDTH_DEFAULT);
        Self::Graphical {
            // https://no-color.org: set and not empty, whatever its value.
            color: variable("NO_COLOR").is_none(),
            width,
        }
    }
}

/// One problem with its place resolved: what logs, the control socket and `--json` carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// Name of the document.
    pub file: String,
    /// Line, from 1; 0 = the document as a whole.
    pub line: u32,
    /// Character in the line, from 1; 0 = the document as a whole.
    pub column: u32,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// How to mend it; may be empty.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}: {}", self.severity.name(), self.message)?;
        if !self.help.is_empty() {
            write!(f, " ({})", self.help)?;
        }
        Ok(())
    }
}

/// All problems of one document, in the order of its text.
#[derive(Clone, Debug)]
pub struct Report {
    source: Source,
    lines: LineIndex,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Joins a document and what was found in it.
    #[must_use]
    pub fn new(source: &Source, diagnostics: Vec<Diagnostic>) -> Self {
        // Nothing to place, nothing to index: the common case of a good document costs nothing.
        let lines = LineIndex::new(if diagnostics.is_empty() {
            ""
        } else {
            source.text()
        });
        Self {
            source: source.clone(),
            lines,
            diagnostics,
        }
    }

    /// The problems as text: all, or the first fifty and how many more there are.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let mut text = String::new();
        let drawing = match style {
            Style::Plain => None,
            Style::Graphical { color, width } => Some(Drawing::new(&self.source, color, width)),
        };
        // Errors first: the list is cut, and warnings must not hide what refuses the document.
        let mut shown: Vec<&Diagnostic> = self.diagnostics.iter().collect();
        shown.sort_by_key(|diagnostic| diagnostic.severity != Severity::Error);
        for diagnostic in shown.iter().take(RENDERED_MAX) {
            match &drawing {
                Some(drawing) if self.can_be_drawn(diagnostic) => {
                    // A drawing is many lines; an empty one tells where the next begins.
                    text.push_str(if text.is_empty() { "" } else { "\n" });
                    drawing.draw(diagnostic, &self.problem(diagnostic), &mut text);
                }
                Some(_) | None => self.print(diagnostic, &mut text),
            }
        }
        let more = shown.len().saturating_sub(RENDERED_MAX);
        if more > 0 {
            text.push_str(&format!("{}: and {more} more\n", self.source.name()));
        }
        text
    }

    /// The problems with their places, all of them.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.diagnostics
            .iter()
            .map(|diagnostic| self.problem(diagnostic))
            .collect()
    }

    /// The problems as they were found.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// How many refuse the document.
    #[must_use]
    pub fn errors_count(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many are likely not meant.
    #[must_use]
    pub fn warnings_count(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity)
            .count()
    }

    fn problem(&self, diagnostic: &Diagnostic) -> Problem {
        let place = diagnostic.span.as_ref().map(|span| self.place(span));
        Problem {
            file: self.source.name().to_owned(),
            line: place.map_or(0, |place| place.line),
            column: place.map_or(0, |place| place.column),
            severity: diagnostic.severity,
            message: shortened(&diagnostic.message),
            help: shortened(&diagnostic.help),
        }
    }

    fn place(&self, span: &Span) -> Position {
        self.lines.position(self.source.text(), span.start)
    }

    /// One line for the problem and one for each place that belongs to it.
    fn print(&self, diagnostic: &Diagnostic, text: &mut String) {
        text.push_str(&format!("{}\n", self.problem(diagnostic)));
        for (span, what) in &diagnostic.related {
            let place = self.place(span);
            text.push_str(&format!(
                "{}:{}:{}: note: {}\n",
                self.source.name(),
                place.line,
                place.column,
                shortened(what)
            ));
        }
    }

    /// Whether its lines are short enough to be shown.
    fn can_be_drawn(&self, diagnostic: &Diagnostic) -> bool {
        let text = self.source.text();
        let short = |span: &Span| self.lines.line_bytes(text, span.start) <= DRAWN_LINE_BYTES_MAX;
        diagnostic.span.as_ref().is_some_and(short)
            && diagnostic.related.iter().all(|(span, _)| short(span))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(Style::Plain).trim_end())
    }
}

impl std::error::Error for Report {}

/// Draws problems with their lines.
struct Drawing {
    handler: GraphicalReportHandler,
    source: NamedSource<String>,
}

impl Drawing {
    fn new(source: &Source, color: bool, width: usize) -> Self {
        let theme = if color {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let width = width.clamp(*WIDTH_RANGE.start(), *WIDTH_RANGE.end());
        Self {
            handler: GraphicalReportHandler::new_themed(theme)
                .with_width(width)
                .with_links(false)
                .without_syntax_highlighting(),
            source: NamedSource::new(source.name(), harmless(source.text())),
        }
    }

    /// Draws one; where that fails, its line stands for it.
    fn draw(&self, diagnostic: &Diagnostic, problem: &Problem, text: &mut String) {
        let drawn = Drawn {
            diagnostic,
            problem,
            source: &self.source,
        };
        let mut drawing = String::new();
        if self.handler.render_report(&mut drawing, &drawn).is_err() {
            drawing = format!("{problem}\n");
        }
        text.push_str(&drawing);
    }
}

/// One problem as the drawing library wants it.
#[derive(Debug)]
struct Drawn<'a> {
    diagnostic: &'a Diagnostic,
    problem: &'a Problem,
    source: &'a NamedSource<String>,
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Drawn<'_> {}

impl miette::Diagnostic for Drawn<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
            Severity::Note => miette::Severity::Advice,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = &self.problem.help;
        (!help.is_empty()).then(|| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let text = self.source.inner();
        let primary = self.diagnostic.span.iter().map(|span| {
            let label = &self.diagnostic.label;
            let label = (!label.is_empty()).then(|| shortened(label));
            LabeledSpan::new_primary_with_span(label, one_line(text, span))
        });
        let related = self.diagnostic.related.iter().map(|(span, what)| {
            LabeledSpan::new_with_span(Some(shortened(what)), one_line(text, span))
        });
        Some(Box::new(primary.chain(related)))
    }
}

/// The part of a span that is in its first line: a table of many lines is pointed at, not shown.
fn one_line(text: &str, span: &Span) -> SourceSpan {
    let start = char_start(text, span.start);
    let end = char_start(text, span.end.max(start));
    let line = text.get(start..end).and_then(|part| part.lines().next());
    SourceSpan::new(start.into(), line.map_or(0, str::len))
}

/// The text with each character that a terminal might obey replaced by one of as many bytes, so
/// that a document can neither move the cursor nor hide text, and every place stays right.
fn harmless(text: &str) -> String {
    let replaced = |character: char| match character {
        '\n' | '\t' | '\r' => character,
        _ if !is_control(character) => character,
        _ => match character.len_utf8() {
            1 => '?',
            2 => '\u{bf}',
            _ => char::REPLACEMENT_CHARACTER,
        },
    };
    text.chars().map(replaced).collect()
}

/// Control characters and those that change the direction or the visibility of text.
pub(super) fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

/// A message that fits a line.
fn shortened(message: &str) -> String {
    if message.len() <= TEXT_BYTES_MAX {
        return message.to_owned();
    }
    let end = char_start(message, TEXT_BYTES_MAX);
    format!("{}…", message.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "first = 1\nsecond = [\n  2,\n]\n";

    fn report() -> Report {
        let source = Source::new("a.toml", TEXT);
        let one = Diagnostic::error("`second` is wrong")
            .at(10..16)
            .label("this one")
            .help("write a number")
            .related(0..5, "as here");
        Report::new(&source, vec![one])
    }

    #[test]
    fn plain_form_has_place_problem_and_remedy_in_a_line() {
        assert_eq!(
            report().render(Style::Plain),
            "a.toml:2:1: error: `second` is wrong (write a number)\na.toml:1:1: note: as here\n"
        );
    }

    #[test]
    fn drawing_has_place_problem_remedy_and_lines() {
        let text = report().render(Style::Graphical {
            color: false,
            width: 80,
        });
        for part in [
            "a.toml:2:1",
            "`second` is wrong",
            "write a number",
            "this one",
            "as here",
            "second = [",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "no color was asked for\n{text}");
    }

    #[test]
    fn color_is_there_only_when_asked_for() {
        let text = report().render(Style::Graphical {
            color: true,
            width: 80,
        });
        assert!(text.contains("\u{1b}["));
    }

    #[test]
    fn a_document_cannot_speak_to_the_terminal() {
        let text = "a = 1 # \u{1b}[2J \u{9b}2J \u{202e}txet\n";
        let source = Source::new("a.toml", text);
        let report = Report::new(&source, vec![Diagnostic::error("bad").at(0..1)]);
        let drawn = report.render(Style::Graphical {
            color: false,
            width: 80,
        });
        assert!(drawn.contains("a = 1"), "{drawn}");
        assert!(
            !drawn.chars().any(|one| one != '\n' && is_control(one)),
            "{drawn:?}"
        );
        assert_eq!(harmless(text).len(), text.len());
    }

    #[test]
    fn the_list_is_cut_and_says_so_and_errors_come_first() {
        let source = Source::new("a.toml", TEXT);
        let mut list: Vec<Diagnostic> = (0..RENDERED_MAX + 6)
            .map(|_| Diagnostic::warning("meh").at(0..1))
            .collect();
        list.push(Diagnostic::error("the error").at(10..11));
        let report = Report::new(&source, list);
        let text = report.render(Style::Plain);
        assert_eq!(text.lines().count(), RENDERED_MAX + 1);
        assert!(text.starts_with("a.toml:2:1: error: the error"));
        assert!(text.ends_with("a.toml: and 7 more\n"));
        assert_eq!(report.problems().len(), RENDERED_MAX + 7);
    }

    #[test]
    fn an_endless_line_is_not_drawn() {
        let text = format!("a = \"{}\"\n", "x".repeat(1_000_000));
        let source = Source::new("a.toml", text);
        let report = Report::new(&source, vec![Diagnostic::error("bad").at(0..1)]);
        let drawn = report.render(Style::Graphical {
            color: false,
            width: 80,
        });
        assert_eq!(drawn, "a.toml:1:1: error: bad\n");
    }

    #[test]
    fn a_problem_survives_json() {
        let problem = report().problems().remove(0);
        let json = serde_json::to_string(&problem).unwrap();
        assert!(json.contains(r#""severity":"error""#), "{json}");
        assert_eq!(serde_json::from_str::<Problem>(&json).unwrap(), problem);
    }
}
