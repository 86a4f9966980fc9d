//! What a command can end in besides success, and the one place that reports it.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::style;

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// A flag, a name or a combination of them that cannot be meant: exit status 2.
    Usage(Box<dyn Error + Send + Sync>),
    /// The work itself failed: exit status 1.
    Failed(Box<dyn Error + Send + Sync>),
    /// Part of the work failed and was reported as it happened: exit status 1.
    Incomplete,
    /// The user asked it to stop, and it said so itself: exit status 130.
    Interrupted,
}

/// Result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A usage error with this message (or typed error).
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Usage(error.into())
    }

    /// A failure with this message (or typed error).
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }

    /// Prints the error and its causes, once, and gives the exit status.
    pub fn report(self, command: &str) -> ExitCode {
        let (error, status) = match &self {
            Self::Usage(error) => (error, 2),
            Self::Failed(error) => (error, 1),
            Self::Incomplete => return ExitCode::from(1),
            Self::Interrupted => return ExitCode::from(crate::interrupt::STATUS),
        };
        // Errors of reading and writing files carry their path; a bare one is the output's.
        let output = error.downcast_ref::<io::Error>();
        if output.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS; // Whoever read the output has had enough.
        }
        let mut text = match output {
            Some(error) => format!("cannot write the output: {error}"),
            None => chain(error.as_ref()),
        };
        if status == 2 {
            text.push_str(&format!("\n\nFor all flags, see `mobilenet {command} --help`."));
        }
        complain(text);
        ExitCode::from(status)
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// The error and its causes, a line each, without those that the line before already says.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        if !last.contains(&message) {
            text.push_str(&format!("\n  caused by: {message}"));
            last = message;
        }
        source = cause.source();
    }
    text
}

/// A usage error unless the value of a flag is between 1 and `most`.
pub fn within(flag: &str, value: usize, most: usize) -> Outcome {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Failure::usage(format!("{flag}: found {value}, expected 1 to {most}")))
}

/// More threads than any machine should be asked for.
pub const MOST_THREADS: usize = 1024;

/// An error on standard error that does not end the command.
pub fn complain(error: impl Display) {
    let red = style::ERROR;
    // Nothing is left to be done if even standard error is closed.
    let _ = writeln!(anstream::stderr(), "{red}error:{red:#} {error}");
}

/// A remark on standard error that does not end the command.
pub fn warn(message: impl Display) {
    let yellow = style::WARNING;
    let _ = writeln!(anstream::stderr(), "{yellow}warning:{yellow:#} {message}");
}

/// What the user should know but need not act on, on standard error.
pub fn note(message: impl Display) {
    let faint = style::FAINT;
    let _ = writeln!(anstream::stderr(), "{faint}note:{faint:#} {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Level(&'static str, Option<Box<Level>>);

    impl Display for Level {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Level {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|level| level as _)
        }
    }

    #[test]
    fn the_chain_says_each_thing_once() {
        let root = Level("no space left", None);
        let middle = Level("a/b: cannot write: no space left", Some(Box::new(root)));
        let top = Level("the checkpoint was not saved", Some(Box::new(middle)));
        assert_eq!(
            chain(&top),
            "the checkpoint was not saved\n  caused by: a/b: cannot write: no space left"
        );
    }
}
