//! `--json`: one value on one line of standard output. The keys are documented in
//! `docs/cli-json.md`; they may grow in number but do not change.

use std::io::Write;

use serde::Serialize;

use crate::failure::Outcome;

/// Writes `value` and a line end.
pub fn write(out: &mut dyn Write, value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string(value)?;
    writeln!(out, "{text}")?;
    Ok(())
}
