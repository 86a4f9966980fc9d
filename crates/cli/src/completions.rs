//! `mobilenet completions`: scripts that teach a shell the commands and flags.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde::Serialize;

use crate::failure::Outcome;

/// Print the completion script of a shell
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet completions bash > ~/.local/share/bash-completion/completions/mobilenet
  mobilenet completions zsh > ~/.zfunc/_mobilenet
  mobilenet completions fish > ~/.config/fish/completions/mobilenet.fish")]
pub struct Flags {
    /// The shell
    shell: Shell,
}

#[derive(Serialize)]
struct Json {
    shell: String,
    script: String,
}

/// Prints the script.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut crate::Cli::command(), "mobilenet", &mut script);
    if json {
        let script = String::from_utf8(script)?;
        return crate::json::write(out, &Json { shell: flags.shell.to_string(), script });
    }
    out.write_all(&script)?;
    Ok(())
}
