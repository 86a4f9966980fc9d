//! Running the binary, and small data sets for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The command, with a clean environment for colours and terminals.
pub fn mobilenet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mobilenet"));
    command.env_remove("CLICOLOR_FORCE").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

/// How a process ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; none if a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// The one JSON value on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.succeeded();
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub fn succeeded(&self) -> &Self {
        assert_eq!(self.status, Some(0), "{self:?}");
        self
    }

    /// Ended with this status and said all of these on standard error.
    #[track_caller]
    pub fn failed(&self, status: i32, parts: &[&str]) -> &Self {
        assert_eq!(self.status, Some(status), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {self:?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }
}

/// Runs `mobilenet` with these arguments.
pub fn run(arguments: &[&str]) -> Ran {
    run_in(Path::new("."), arguments)
}

/// Runs `mobilenet` in a folder.
pub fn run_in(folder: &Path, arguments: &[&str]) -> Ran {
    mobilenet().args(arguments).current_dir(folder).output().unwrap().into()
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes `folder/class/<n>.png` for each class: squares of a colour of their own on grey noise,
/// so that a small network learns them in a few steps.
pub fn squares(folder: &Path, classes: &[&str], each: usize) -> PathBuf {
    for (class, name) in classes.iter().enumerate() {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for n in 0..each {
            let mut state = (class * 1000 + n) as u32;
            let image = image::RgbImage::from_fn(32, 32, |x, y| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = (state >> 26) as u8;
                let inside = (8..24).contains(&x) && (8..24).contains(&y);
                let mut pixel = [90 + noise; 3];
                if inside {
                    pixel[class % 3] = 190 + noise;
                    pixel[(class + 1) % 3] = 30 + noise;
                }
                image::Rgb(pixel)
            });
            image.save(folder.join(format!("{n:03}.png"))).unwrap();
        }
    }
    folder.to_owned()
}
