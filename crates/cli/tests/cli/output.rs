//! Where output goes, and what happens when it cannot.

use std::io::Read;
use std::process::Stdio;

use crate::common::{Ran, mobilenet, run};

#[test]
fn no_colour_in_pipes_unless_forced_and_never_with_no_color() {
    assert!(!run(&["summary"]).stdout.contains('\x1b'));
    let forced: Ran = mobilenet().arg("summary").env("CLICOLOR_FORCE", "1").output().unwrap().into();
    assert!(forced.stdout.contains('\x1b'));
    let plain: Ran =
        mobilenet().arg("summary").env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap().into();
    assert!(!plain.stdout.contains('\x1b'));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_behind_the_output_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran: Ran = mobilenet().arg("summary").stdout(Stdio::from(full)).output().unwrap().into();
    ran.failed(1, &["error: cannot write the output: No space left on device"]);
}

#[test]
fn a_reader_who_leaves_is_no_failure() {
    let mut child = mobilenet()
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
}
