//! The `mobilenet` command: a file a subcommand. Each turns its flags into checked settings
//! (an error there exits with 2), then runs (an error there exits with 1).

#![forbid(unsafe_code)]

mod architecture_flags;
mod bench;
mod classify;
mod completions;
mod datetime;
mod embed;
mod evaluate;
mod evaluation_text;
mod explain;
mod export;
mod failure;
mod import;
mod interrupt;
mod json;
mod model_source;
mod progress;
mod style;
mod summary;
mod train;
mod train_flags;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::{Failure, Outcome};

/// Train, evaluate, inspect, time and run MobileNet v1 image classifiers
#[derive(Parser, Debug)]
#[command(name = "mobilenet", version, styles = style::HELP, max_term_width = 100, args_override_self = true)]
#[command(after_help = "Examples:
  mobilenet train                                  # learn the built-in images of clothes
  mobilenet train --data photos --out runs/photos  # a folder with a folder a class
  mobilenet classify --model runs/photos cat.jpg
  mobilenet summary --width 0.5 --resolution 160")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON value instead of text (keys: docs/cli-json.md)
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    Train(Box<train::Flags>),
    Evaluate(evaluate::Flags),
    Classify(classify::Flags),
    Explain(explain::Flags),
    Embed(embed::Flags),
    Import(import::Flags),
    Export(export::Flags),
    Summary(summary::Flags),
    Bench(bench::Flags),
    Completions(completions::Flags),
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Self::Train(_) => "train",
            Self::Evaluate(_) => "evaluate",
            Self::Classify(_) => "classify",
            Self::Explain(_) => "explain",
            Self::Embed(_) => "embed",
            Self::Import(_) => "import",
            Self::Export(_) => "export",
            Self::Summary(_) => "summary",
            Self::Bench(_) => "bench",
            Self::Completions(_) => "completions",
        }
    }

    fn run(self, json: bool, out: &mut dyn Write) -> Outcome {
        match self {
            Self::Train(flags) => train::run(*flags, json, out),
            Self::Evaluate(flags) => evaluate::run(flags, json, out),
            Self::Classify(flags) => classify::run(flags, json, out),
            Self::Explain(flags) => explain::run(flags, json, out),
            Self::Embed(flags) => embed::run(flags, json, out),
            Self::Import(flags) => import::run(flags, json, out),
            Self::Export(flags) => export::run(flags, json, out),
            Self::Summary(flags) => summary::run(flags, json, out),
            Self::Bench(flags) => bench::run(flags, json, out),
            Self::Completions(flags) => completions::run(flags, json, out),
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // Also help and version, with status 0. A closed pipe is nobody's error.
            let status = message.exit_code();
            return match message.print() {
                Ok(()) => ExitCode::from(u8::try_from(status).unwrap_or(2)),
                Err(error) => Failure::from(error).report("help"),
            };
        }
    };
    let name = cli.command.name();
    let mut out = anstream::stdout();
    let outcome = cli.command.run(cli.json, &mut out).and_then(|()| Ok(out.flush()?));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(name),
    }
}
