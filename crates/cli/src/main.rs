//! The `mobilenet` command.
fn main() {}
