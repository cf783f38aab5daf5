//! The commands, one file each; `main.rs` only dispatches.

pub mod check;
