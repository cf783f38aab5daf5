//! The `portcullis` command: a thin dispatcher.

use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis::cli::main()
}
