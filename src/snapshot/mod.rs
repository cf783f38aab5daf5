//! The compiled, immutable policy that workers read, and the cell that publishes it.
#![deny(unsafe_code)]
