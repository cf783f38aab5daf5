//! stub
use std::io;
pub enum Outcome { Good, Bad }
pub fn run(_: &[std::path::PathBuf], _: crate::document::Style, _: &mut dyn std::io::Write) -> io::Result<Outcome> { Ok(Outcome::Good) }
