//! Flags of a benchmark's own, beside those of its harness.

/// What follows a flag on the command line; empty where nothing does.
pub(crate) fn after(flag: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != flag);
    arguments.next()?;
    Some(arguments.next().unwrap_or_default())
}
