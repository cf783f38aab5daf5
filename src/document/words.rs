//! Words of a document in messages: quoted without harm, and the known word most like one.

use super::Diagnostics;

/// Longest part of a document that is quoted in a message.
const QUOTED_CHARS_MAX: usize = 80;

/// Longest word for which a similar one is looked for; the cost grows with its square.
const NEAREST_WORD_BYTES_MAX: usize = 64;

/// Most words that are compared with one.
const NEAREST_CANDIDATES_MAX: usize = 10_000;

/// How alike two words must be, from 0 (nothing) to 1 (the same), to be taken for one another.
const NEAREST_ALIKE_MIN: f64 = 0.6;

/// Most words that are listed where none is alike.
const LISTED_MAX: usize = 16;

/// A part of the document in backquotes, shortened, with nothing that a terminal would obey.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("`{}`", bare(text))
}

/// The same without the backquotes.
pub(super) fn bare(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(QUOTED_CHARS_MAX));
    for (count, character) in text.chars().enumerate() {
        if count == QUOTED_CHARS_MAX {
            safe.push('…');
            break;
        }
        match character {
            '"' | '\'' | '\\' => safe.push(character),
            _ => safe.extend(character.escape_debug()),
        }
    }
    safe
}

/// The remedy for an unknown word: the nearest known one, or all that there are.
#[must_use]
pub fn alternatives<'a>(
    word: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    diagnostics: &mut Diagnostics,
) -> String {
    find_nearest(word, known.clone(), diagnostics).remedy(known)
}

/// What a search for a similar word found.
#[derive(Clone, Copy)]
pub(super) enum Nearest<'a> {
    /// This one is likely meant.
    One(&'a str),
    /// None is alike.
    None,
    /// It was not looked for: the document has too many unknown words.
    Unknown,
}

/// Looks for the word most like one, as long as the document is worth it.
pub(super) fn find_nearest<'a>(
    word: &str,
    known: impl Iterator<Item = &'a str>,
    diagnostics: &mut Diagnostics,
) -> Nearest<'a> {
    if !diagnostics.may_look_for_nearest() {
        return Nearest::Unknown;
    }
    nearest(word, known).map_or(Nearest::None, Nearest::One)
}

impl Nearest<'_> {
    /// How to mend the word.
    pub(super) fn remedy<'a>(self, known: impl Iterator<Item = &'a str> + Clone) -> String {
        match self {
            Self::One(found) => format!("did you mean {}?", quoted(found)),
            Self::None => listed(known),
            Self::Unknown => "write a name that is known here".to_owned(),
        }
    }
}

/// All known words, as far as a line has room.
fn listed<'a>(known: impl Iterator<Item = &'a str> + Clone) -> String {
    let mut words: Vec<String> = known.clone().take(LISTED_MAX).map(quoted).collect();
    if words.is_empty() {
        return "none is defined: add it".to_owned();
    }
    let more = known.count().saturating_sub(LISTED_MAX);
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    format!("known: {}", words.join(", "))
}

/// Words of which one is over twice as long as the other cannot be alike enough; most candidates
/// end here, before the costly comparison.
fn lengths_are_alike(one: &str, other: &str) -> bool {
    let (short, long) = (one.len().min(other.len()), one.len().max(other.len()));
    short.saturating_mul(2) >= long
}

/// The candidate most like the word, ignoring case, if any is alike.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > NEAREST_WORD_BYTES_MAX {
        return None;
    }
    let word = word.to_lowercase();
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates.take(NEAREST_CANDIDATES_MAX) {
        if candidate.len() > NEAREST_WORD_BYTES_MAX || !lengths_are_alike(&word, candidate) {
            continue;
        }
        let alike = strsim::normalized_damerau_levenshtein(&word, &candidate.to_lowercase());
        if alike >= NEAREST_ALIKE_MIN && best.is_none_or(|(most, _)| alike > most) {
            best = Some((alike, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}
